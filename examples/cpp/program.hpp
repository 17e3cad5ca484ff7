// What digits_ort and digits_torch have in common: options in, a file out. Not needed to embed a model.

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

struct Options {
  std::string model, out;
  std::uint64_t seed = 0;
  std::uint32_t n = 16;
  std::vector<std::int64_t> label;  // in turn; -1 or none: as the seed draws
  int threads = 0;                  // of the runtime; 0: as many as it wants
  int repeat = 0;                   // how often to run, to see how fast it is
};

// What a model gives: the values as bytes, and whether they are floats from -1 to 1 or grey levels.
struct Images {
  std::vector<char> bytes;
  bool floats;
};

using Run = std::function<Images()>;
using Load = std::function<Run(const Options&)>;  // reads a model and makes its inputs; Run runs it

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A whole number of the model's metadata `dcgan.spec`, which is JSON; 0 if there is none.
inline std::int64_t number_in(const std::string& spec, const std::string& key) {
  const std::size_t at = spec.find('"' + key + '"');
  const std::size_t digit = at == std::string::npos ? at : spec.find_first_of("0123456789", at + key.size() + 2);
  return digit == std::string::npos ? 0 : std::strtoll(spec.c_str() + digit, nullptr, 10);
}

// The labels of a conditional model: the ones asked for in turn, and the seed's own where that is -1.
inline std::vector<std::int64_t> labels_of(const Options& options, std::int64_t classes) {
  std::vector<std::int64_t> result;
  for (std::uint32_t i = 0; i < options.n; ++i) {
    const std::int64_t asked = options.label.empty() ? -1 : options.label[i % options.label.size()];
    result.push_back(asked < 0 ? dcgan::label(options.seed, i, static_cast<std::uint32_t>(classes)) : asked);
  }
  return result;
}

inline void check_labels(const Options& options, std::int64_t classes) {
  if (classes == 0 && !options.label.empty()) {
    throw UsageError("--label is for conditional models, and this one makes any digit");
  }
  for (const std::int64_t one : options.label) {
    if (one < classes) continue;
    throw UsageError("--label takes 0 to " + std::to_string(classes - 1) + ", or -1 for what the seed draws, found " +
                     std::to_string(one));
  }
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
    } else if (name == "--label") {
      for (std::size_t from = 0; from <= value.size(); from = std::min(value.find(',', from), value.size()) + 1) {
        const std::string_view one = std::string_view(value).substr(from, value.find(',', from) - from);
        options.label.push_back(whole<std::int64_t>(name, one, -1, std::numeric_limits<std::int32_t>::max()));
      }
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
    throw UsageError("give MODEL --seed S --n N [--label 0,1,...] --out FILE, or the word latents as MODEL");
  }
  return options;
}

// A PGM file, ten digits a row.
inline std::vector<char> picture(const Images& images) {
  const auto* numbers = reinterpret_cast<const float*>(images.bytes.data());
  const std::size_t pixels = images.floats ? images.bytes.size() / sizeof(float) : images.bytes.size();
  const std::size_t n = pixels / 784, columns = std::min<std::size_t>(n, 10), width = 28 * columns;
  const std::size_t height = 28 * ((n + columns - 1) / columns);
  const std::string header = "P5 " + std::to_string(width) + " " + std::to_string(height) + " 255\n";
  std::vector<char> file(header.begin(), header.end());
  file.resize(header.size() + width * height);
  for (std::size_t at = 0; at < pixels; ++at) {
    const std::size_t digit = at / 784, row = at % 784 / 28, column = at % 28;
    const std::size_t y = 28 * (digit / columns) + row, x = 28 * (digit % columns) + column;
    // -1 is black; a runtime may give 1.0000002
    file[header.size() + y * width + x] =
        images.floats ? static_cast<char>(std::lrint((std::clamp(numbers[at], -1.0F, 1.0F) + 1.0F) * 127.5F))
                      : images.bytes[at];
  }
  return file;
}

inline std::vector<char> generate(const Load& load, const Options& options) {
  if (!std::filesystem::is_regular_file(options.model)) throw std::runtime_error("no file " + options.model);
  const Run run = load(options);
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
  return std::filesystem::path(options.out).extension() == ".pgm" ? picture(images) : images.bytes;
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
                                          ? bytes_of(dcgan::latents(options.seed, options.n, 100))
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
