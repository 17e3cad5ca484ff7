// What a model says of itself in its metadata `dcgan.spec`, and its values as pixels. Needs the standard library alone.

#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace dcgan {

struct Spec {
  std::int64_t latent_dim = 0, classes = 0;
  std::vector<std::string> class_names;  // none: classes are called by their numbers
  std::size_t channels = 0, height = 0, width = 0;
  double low = -1, high = 1;  // the values of black and of white
};

// Where the value of a key stands in canonical JSON. In a string a quote has a backslash, so no string looks like a key.
inline std::size_t value_at(const std::string& json, const std::string& key) {
  const std::size_t at = json.find('"' + key + "\":");
  if (at == std::string::npos) throw std::runtime_error("the file does not say its " + key + "; give one of dcgan-export");
  return at + key.size() + 3;
}

// The numbers of a list, or a single one.
inline std::vector<double> numbers_at(const std::string& json, const std::string& key) {
  std::vector<double> numbers;
  const char* at = json.c_str() + value_at(json, key);
  at += std::strspn(at, " ");
  const bool list = *at == '[';
  do {
    at += std::strspn(at, "[, ");
    char* end = nullptr;
    numbers.push_back(std::strtod(at, &end));
    if (end == at) throw std::runtime_error("the file's " + key + " is no number");
    at = end;
  } while (list && *at == ',');
  return numbers;
}

// A character as UTF-8.
inline void append(std::string& text, unsigned code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
  text += static_cast<char>((0xFF00U >> (more + 1) & 0xFFU) | code >> 6 * more);
  for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80U | (code >> 6 * i & 0x3FU));
}

// A list of strings; \u escapes, of which surrogates come in pairs, become UTF-8.
inline std::vector<std::string> strings_at(const std::string& json, const std::string& key) {
  std::vector<std::string> strings;
  const auto unit = [&](std::size_t at) { return static_cast<unsigned>(std::strtoul(json.substr(at, 4).c_str(), nullptr, 16)); };
  for (std::size_t at = value_at(json, key) + 1; at < json.size() && json[at] != ']'; ++at) {
    if (json[at] != '"') continue;
    std::string text;
    for (++at; at < json.size() && json[at] != '"'; ++at) {
      if (json[at] != '\\') {
        text += json[at];
      } else if (json[++at] != 'u') {
        text += json[at];  // a quote, a backslash: names are printable
      } else {
        unsigned code = unit(at + 1);
        at += 4;
        if (code >> 10 == 0x36 && json.compare(at + 1, 2, "\\u") == 0) {
          code = 0x10000 + ((code & 0x3FF) << 10) + (unit(at + 3) & 0x3FF);
          at += 6;
        }
        append(text, code);
      }
    }
    strings.push_back(text);
  }
  return strings;
}

inline Spec read_spec(const std::string& json) {
  Spec spec;
  spec.latent_dim = static_cast<std::int64_t>(numbers_at(json, "latent_dim")[0]);
  spec.classes = static_cast<std::int64_t>(numbers_at(json, "num_classes")[0]);
  if (json.find("\"class_names\":") != std::string::npos) spec.class_names = strings_at(json, "class_names");  // not in 0.1
  const std::vector<double> shape = numbers_at(json, "image_shape"), range = numbers_at(json, "value_range");
  spec.channels = static_cast<std::size_t>(shape.at(0));
  spec.height = static_cast<std::size_t>(shape.at(1));
  spec.width = static_cast<std::size_t>(shape.at(2));
  spec.low = range.at(0);
  spec.high = range.at(1);
  return spec;
}

// The number of a class, from its name or its number; -1 for "-1", which is what the seed draws.
inline std::int64_t class_of(const Spec& spec, std::string_view text) {
  const auto& names = spec.class_names;
  const auto named = std::find(names.begin(), names.end(), text);
  if (named != names.end()) return named - names.begin();
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc{} && end == text.data() + text.size() && number >= -1 && number < spec.classes) return number;
  std::string listed;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 12); ++i) listed += (i ? ", " : " or ") + names[i];
  if (names.size() > 12) listed += ", ...";
  throw std::invalid_argument("--class takes 0 to " + std::to_string(spec.classes - 1) + listed +
                              ", and -1 for what the seed draws, found " + std::string(text));
}

// The level of a value; a runtime may give 1.0000002.
inline std::uint8_t level(const Spec& spec, double value) {
  return static_cast<std::uint8_t>(std::lrint((std::clamp(value, spec.low, spec.high) - spec.low) * (255 / (spec.high - spec.low))));
}

}  // namespace dcgan
