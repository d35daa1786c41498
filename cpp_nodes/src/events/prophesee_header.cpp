// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cctype>

#include "readers.hpp"

namespace aot_perception {

namespace {

constexpr std::size_t kMaxLine = 4096;
constexpr int kMaxSide = 1 << 15;

struct Sensor {
  const char* name;
  int width, height;
};

// plugin_name and similar values name the sensor; the size follows from the sensor's generation.
constexpr std::array<Sensor, 6> kSensors{{{"genx320", 320, 320},
                                          {"imx636", 1280, 720},
                                          {"gen41", 1280, 720},
                                          {"gen4", 1280, 720},
                                          {"gen31", 640, 480},
                                          {"gen3", 640, 480}}};

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

std::string strip(std::string_view text) {
  while (!text.empty() && is_space(text.front()))
    text.remove_prefix(1);
  while (!text.empty() && is_space(text.back()))
    text.remove_suffix(1);
  return std::string(text);
}

std::string changed(std::string text, int (*change)(int)) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [change](unsigned char c) { return static_cast<char>(change(c)); });
  return text;
}

std::string lower(std::string text) {
  return changed(std::move(text), std::tolower);
}

/// Whether a line is text: no control characters, and UTF-8 where it is not ASCII.
bool is_text(std::string_view line) {
  std::size_t follow = 0;
  for (const char c : line) {
    const auto byte = static_cast<unsigned char>(c);
    if (follow > 0) {
      if ((byte & 0xC0) != 0x80) return false;
      --follow;
    } else if (byte >= 0x80) {
      follow = byte >= 0xF0 && byte < 0xF5 ? 3 : byte >= 0xE0 ? 2 : byte >= 0xC2 ? 1 : 0;
      if (follow == 0 || byte >= 0xF5) return false;
    } else if (byte < 0x20 || byte == 0x7F) {
      return false;
    }
  }
  return follow == 0;
}

std::vector<std::string> split(const std::string& text, char mark) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (true) {
    const std::size_t end = text.find(mark, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

std::optional<int> side(const std::string& text) {
  if (text.empty() || text.size() >= 9) return std::nullopt;
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  const int value = std::stoi(text);
  if (value < 1 || value > kMaxSide) return std::nullopt;
  return value;
}

std::string get(const std::map<std::string, std::string>& values, const std::string& key) {
  const auto found = values.find(key);
  return found == values.end() ? std::string() : found->second;
}

}  // namespace

std::string PropheseeHeader::format_name() const {
  return changed(strip(split(get(fields, "format"), ';').front()), std::toupper);
}

std::map<std::string, std::string> PropheseeHeader::format_options() const {
  std::map<std::string, std::string> options;
  const std::vector<std::string> parts = split(get(fields, "format"), ';');
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::size_t equals = parts[i].find('=');
    if (equals == std::string::npos) continue;
    options[lower(strip(parts[i].substr(0, equals)))] = lower(strip(parts[i].substr(equals + 1)));
  }
  return options;
}

std::optional<std::pair<int, int>> PropheseeHeader::geometry() const {
  const std::map<std::string, std::string> options = format_options();
  std::vector<std::pair<std::string, std::string>> candidates{{get(options, "width"), get(options, "height")}};
  const std::vector<std::string> geometry = split(lower(get(fields, "geometry")), 'x');
  if (geometry.size() == 2) candidates.emplace_back(strip(geometry[0]), strip(geometry[1]));
  candidates.emplace_back(get(fields, "width"), get(fields, "height"));
  for (const auto& [width, height] : candidates) {
    if (side(width) && side(height)) return std::pair<int, int>{*side(width), *side(height)};
  }
  return std::nullopt;
}

std::optional<std::pair<std::string, std::pair<int, int>>> PropheseeHeader::sensor_guess() const {
  for (const char* key : {"plugin_name", "sensor_name", "sensor_generation", "camera_integrator_name"}) {
    const std::string value = lower(get(fields, key));
    for (const Sensor& sensor : kSensors) {
      if (value.find(sensor.name) != std::string::npos) {
        return std::pair{value, std::pair<int, int>{sensor.width, sensor.height}};
      }
    }
  }
  return std::nullopt;
}

PropheseeHeader parse_prophesee_header(std::string_view data) {
  PropheseeHeader header;
  std::size_t pos = 0;
  while (data.substr(pos, 2) == "% ") {
    const std::size_t stop = data.substr(pos, kMaxLine).find('\n');
    if (stop == std::string_view::npos) break;
    std::string text(data.substr(pos + 1, stop - 1));
    std::replace(text.begin(), text.end(), '\t', ' ');
    text = strip(text);
    if (!is_text(text)) break;
    pos += stop + 1;
    std::size_t gap = text.find(' ');
    if (gap == std::string::npos) gap = text.find(':');
    std::string key = lower(text.substr(0, gap));
    const std::string value = gap == std::string::npos ? std::string() : strip(text.substr(gap + 1));
    if (key == "end" && value.empty()) break;
    while (!key.empty() && key.back() == ':')
      key.pop_back();
    header.fields[key] = value;
  }
  header.size = pos;
  return header;
}

}  // namespace aot_perception
