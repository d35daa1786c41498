// SPDX-License-Identifier: Apache-2.0
// Options of recordings that several tools take, and tables for a terminal.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "aot_perception/event_reader.hpp"
#include "command_line.hpp"

namespace aot_perception {

/// --camera and --sensor_size.
inline std::vector<Option> reader_options() {
  return {{"camera", 1, "left", "camera of a file with two: left or right"},
          {"sensor_size", 2, "", "width and height in pixels, if the file does not say"}};
}

/// What they were given. Error: a size that is no number.
inline Result<ReaderOptions> read_reader_options(const CommandLine& line) {
  ReaderOptions options;
  options.camera = line.text("camera");
  const std::vector<std::string> size = line.all("sensor_size");
  if (size.empty()) return options;
  Result<long> width = parse_integer(size[0], 1, "--sensor_size"), height = parse_integer(size[1], 1, "--sensor_size");
  if (!width) return width.error();
  if (!height) return height.error();
  constexpr long kMost = 1 << 16;
  options.sensor_size = {static_cast<int>(std::min(*width, kMost)), static_cast<int>(std::min(*height, kMost))};
  return options;
}

/// Rows of equally many cells under a heading; the first `left` columns are set left, the others right.
inline std::string table_text(const std::vector<std::vector<std::string>>& rows, std::size_t left = 1) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string gap(widths[i] - row[i].size(), ' ');
      line += (i > 0 ? "  " : "") + (i < left ? row[i] + gap : gap + row[i]);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

}  // namespace aot_perception
