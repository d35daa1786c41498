// SPDX-License-Identifier: Apache-2.0
// The readers of single formats, for open_events, and the text header of Prophesee's files.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "aot_perception/event_reader.hpp"

namespace aot_perception {

/// The "% key value" lines at the start of a RAW file. The header ends at "% end" or at the first line of another form;
/// a data byte may be "%" too, so a line only counts if it is short printable text.
struct PropheseeHeader {
  std::map<std::string, std::string> fields;  ///< lower-case key -> value (the last one of a key wins)
  std::size_t size = 0;                       ///< bytes, i.e. where the data begins; 0 if there is none

  /// First part of the `format` line in upper case, as "EVT3"; empty if there is none.
  [[nodiscard]] std::string format_name() const;
  /// The "name=value" parts of the `format` line, lower case.
  [[nodiscard]] std::map<std::string, std::string> format_options() const;
  /// (width, height) from `format`, `geometry` or `width`/`height` lines; none if absent or absurd.
  [[nodiscard]] std::optional<std::pair<int, int>> geometry() const;
  /// (name as found, size) of the sensor that a line names.
  [[nodiscard]] std::optional<std::pair<std::string, std::pair<int, int>>> sensor_guess() const;
};

PropheseeHeader parse_prophesee_header(std::string_view data);

Result<std::unique_ptr<EventReader>> open_raw(const std::filesystem::path& path, const ReaderOptions& options);
Result<std::unique_ptr<EventReader>> open_hdf5(const std::filesystem::path& path, const ReaderOptions& options);

}  // namespace aot_perception
