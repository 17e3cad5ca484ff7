// What generate_ort and generate_torch have in common: options in, a file out. Not needed to embed a model.

#pragma once

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "latents.hpp"
#include "spec.hpp"

struct Options {
  std::string model, out;
  std::uint64_t seed = 0;
  std::uint32_t n = 16;
  std::vector<std::string> classes;  // names or numbers, in turn; -1 or none: as the seed draws
  std::size_t latent_dim = 100;      // of the word latents
  int threads = 0;                   // of the runtime; 0: as many as it wants
  int repeat = 0;                    // how often to run, to see how fast it is
};

// What a model gives: the values as bytes, and whether they are floats (n, C, H, W) or levels (n, H, W) or (n, H, W, 3).
struct Images {
  std::vector<char> bytes;
  bool floats;
};

using Run = std::function<Images()>;
using Load = std::function<Run(const Options&, dcgan::Spec&)>;  // reads a model and makes its inputs; Run runs it

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The classes that are asked for, as the model's numbers.
inline std::vector<std::int64_t> asked_of(const Options& options, const dcgan::Spec& spec) {
  if (spec.classes == 0 && !options.classes.empty()) throw UsageError("--class is for models with classes, and this one has none");
  std::vector<std::int64_t> result;
  try {
    for (const std::string& text : options.classes) result.push_back(dcgan::class_of(spec, text));
  } catch (const std::invalid_argument& error) {
    throw UsageError(error.what());
  }
  return result;
}

// The labels of all images: the ones asked for in turn, and the seed's own where that is -1.
inline std::vector<std::int64_t> labels_of(const Options& options, const dcgan::Spec& spec) {
  const std::vector<std::int64_t> asked = asked_of(options, spec);
  std::vector<std::int64_t> result;
  for (std::uint32_t i = 0; i < options.n; ++i) {
    const std::int64_t one = asked.empty() ? -1 : asked[i % asked.size()];
    result.push_back(one < 0 ? dcgan::label(options.seed, i, static_cast<std::uint32_t>(spec.classes)) : one);
  }
  return result;
}

template <typename Number>
Number whole(std::string_view name, std::string_view text, Number least, Number most) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < least || number > most) {
    throw UsageError(std::string(name) + " takes " + std::to_string(least) + " to " + std::to_string(most) + ", found " +
                     std::string(text));
  }
  return number;
}

inline Options read_options(const std::vector<std::string>& arguments) {
  Options options;
  for (std::size_t at = 0; at < arguments.size(); ++at) {
    const std::string& argument = arguments[at];
    if (argument.compare(0, 2, "--") != 0) {
      if (!options.model.empty()) throw UsageError("one model at a time, found " + argument + " too");
      options.model = argument;
      continue;
    }
    const std::size_t equals = argument.find('=');  // --name=value, or --name value
    const std::string name = argument.substr(0, equals);
    if (equals == std::string::npos && at + 1 == arguments.size()) throw UsageError(name + " needs a value");
    const std::string value = equals == std::string::npos ? arguments[++at] : argument.substr(equals + 1);
    if (name == "--seed") {
      options.seed = whole<std::uint64_t>(name, value, 0, std::numeric_limits<std::int64_t>::max());
    } else if (name == "--n") {
      options.n = whole<std::uint32_t>(name, value, 1, std::numeric_limits<std::uint32_t>::max());
    } else if (name == "--class") {
      for (std::size_t from = 0; !value.empty() && from <= value.size(); from = std::min(value.find(',', from), value.size()) + 1) {
        options.classes.push_back(value.substr(from, value.find(',', from) - from));
      }
    } else if (name == "--latent-dim") {
      options.latent_dim = whole<std::size_t>(name, value, 1, 65536);
    } else if (name == "--out") {
      options.out = value;
    } else if (name == "--threads") {
      options.threads = whole(name, value, 0, 1024);
    } else if (name == "--repeat") {
      options.repeat = whole(name, value, 0, 1'000'000);
    } else {
      throw UsageError("unknown option " + name);
    }
  }
  if (options.model.empty() || options.out.empty()) {
    throw UsageError("give MODEL --seed S --n N [--class A,B,...] --out FILE, or the word latents as MODEL");
  }
  return options;
}

// A PGM file of grey images, a PPM file of colour, ten images a row.
inline std::vector<char> picture(const Images& images, const dcgan::Spec& spec, std::size_t n) {
  if (spec.channels != 1 && spec.channels != 3) {
    throw std::runtime_error("a picture is grey or in colour, and these images have " + std::to_string(spec.channels) + " channels");
  }
  const auto* numbers = reinterpret_cast<const float*>(images.bytes.data());
  const std::size_t columns = std::min<std::size_t>(n, 10), rows = (n + columns - 1) / columns;
  const std::size_t line = columns * spec.width, size = spec.height * spec.width;
  const std::string header = (spec.channels == 1 ? "P5 " : "P6 ") + std::to_string(line) + " " +
                             std::to_string(rows * spec.height) + " 255\n";
  std::vector<char> file(header.begin(), header.end());
  file.resize(header.size() + rows * spec.height * line * spec.channels);
  for (std::size_t at = 0; at < n * size * spec.channels; ++at) {
    const std::size_t image = at / (size * spec.channels), rest = at % (size * spec.channels);
    const std::size_t pixel = images.floats ? rest % size : rest / spec.channels;  // planes, or channels side by side
    const std::size_t channel = images.floats ? rest / size : rest % spec.channels;
    const std::size_t y = image / columns * spec.height + pixel / spec.width;
    const std::size_t x = image % columns * spec.width + pixel % spec.width;
    file[header.size() + (y * line + x) * spec.channels + channel] =
        images.floats ? static_cast<char>(dcgan::level(spec, static_cast<double>(numbers[at]))) : images.bytes[at];
  }
  return file;
}

inline std::vector<char> generate(const Load& load, const Options& options) {
  if (!std::filesystem::is_regular_file(options.model)) throw std::runtime_error("no file " + options.model);
  dcgan::Spec spec;
  const Run run = load(options, spec);
  Images images;
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < std::max(options.repeat, 1); ++i) {
    const auto start = std::chrono::steady_clock::now();
    images = run();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  if (options.repeat) {
    std::cout << std::lround(options.n / best) << " images/s, best of " << options.repeat << " runs of " << options.n
              << '\n';
  }
  const std::string suffix = std::filesystem::path(options.out).extension().string();
  return suffix == ".pgm" || suffix == ".ppm" ? picture(images, spec, options.n) : images.bytes;
}

inline std::vector<char> bytes_of(const std::vector<float>& numbers) {
  const auto* first = reinterpret_cast<const char*>(numbers.data());  // little-endian on x86 and ARM
  return {first, first + numbers.size() * sizeof(float)};
}

// The whole program; its exit status: 0 done, 1 the work failed, 2 wrong usage.
inline int run_program(int argc, char** argv, const Load& load) {
  const std::string name = std::filesystem::path(argv[0]).stem().string();
  try {
    const Options options = read_options({argv + 1, argv + argc});
    const std::vector<char> content = options.model == "latents"
                                          ? bytes_of(dcgan::latents(options.seed, options.n, options.latent_dim))
                                          : generate(load, options);
    std::ofstream file(options.out, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    file.close();
    if (!file) throw std::runtime_error("can't write " + options.out);
    return 0;
  } catch (const std::exception& error) {
    const std::string text = error.what();
    std::cerr << name << ": " << text.substr(0, text.find('\n')) << '\n';
    return dynamic_cast<const UsageError*>(&error) ? 2 : 1;
  }
}
