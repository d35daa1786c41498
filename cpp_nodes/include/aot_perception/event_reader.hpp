// SPDX-License-Identifier: Apache-2.0
// Readers of recorded events: Prophesee RAW (EVT2, EVT2.1, EVT3), and HDF5 in the layouts of M3ED, DSEC and TartanAir.
// As f3_ros/events/readers.
//
//     auto reader = open_events("recording.raw");
//     if (!reader) return reader.error();
//     while (true) {
//       auto events = (*reader)->next();
//       if (!events) return events.error();
//       if (events->empty()) break;
//       use(*events);
//     }
//
// HDF5 files are read through the HDF5 library of the system, which may be built without locks: use readers of HDF5
// files from one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/events.hpp"

namespace aot_perception {

/// What a recording says about itself.
struct RecordingInfo {
  std::filesystem::path path;
  std::string format;    ///< "raw", "hdf5 m3ed", "hdf5 dsec" or "hdf5 tartanair"
  std::string encoding;  ///< of a raw file's words; "evt3" for arrays, as Python's readers encode them
  int width = 0;         ///< sensor size, pixels
  int height = 0;
  std::string geometry_source;                  ///< where the size comes from
  std::optional<std::int64_t> n_events;         ///< if the container states it
  std::optional<std::int64_t> t_first_us;       ///< sensor time of the first event; none if there is no event
  std::optional<std::int64_t> t_last_us;        ///< of the last event, where it is cheap to know
  std::map<std::string, std::string> metadata;  ///< header fields, camera, word order, ...
  std::vector<std::string> notices;             ///< assumptions made while opening the file, for people
};

/// What reading met since the last `seek`.
struct ReadStats {
  std::int64_t triggers = 0;                    ///< external trigger edges
  std::map<std::string, std::int64_t> dropped;  ///< words or events left out, by cause
};

/// A recording of events.
class EventReader {
 public:
  static constexpr std::size_t kDefaultChunk = 1'000'000;

  virtual ~EventReader() = default;
  EventReader(const EventReader&) = delete;
  EventReader& operator=(const EventReader&) = delete;

  [[nodiscard]] const RecordingInfo& info() const { return info_; }
  [[nodiscard]] const ReadStats& stats() const { return stats_; }

  /// Read this part next: `start_us` after the first event, for `duration_us` (half-open); none = to the end. A new
  /// reader reads everything. Error: a negative argument.
  Result<void> seek(std::int64_t start_us, std::optional<std::int64_t> duration_us = std::nullopt);

  /// The next events in file order with absolute sensor time in microseconds, at most `max_events`; none at the end.
  /// Memory that the next call overwrites.
  /// Error: the file turns out to be damaged.
  Result<EventsView> next(std::size_t max_events = kDefaultChunk);

 protected:
  EventReader() = default;

  /// Continue from the start of the part.
  virtual Result<void> rewind() = 0;
  /// The next events of the file, before cutting; false at the end. May overshoot the part at both ends.
  virtual Result<bool> read_block(EventArrays& out) = 0;
  /// Whether nothing of the part can follow after this block.
  [[nodiscard]] virtual bool is_past(std::int64_t end_us, const EventsView& block) const = 0;

  [[nodiscard]] std::int64_t start_us() const { return start_; }

  RecordingInfo info_;
  ReadStats stats_;

 private:
  /// Keep the events of the part that lie in the sensor, in place; the others are counted.
  void cut(EventArrays& block);

  EventArrays block_{0};
  std::size_t given_ = 0;  // events of the block that were put out
  std::int64_t start_ = 0;
  bool from_first_ = true;  // the part begins with the recording
  std::optional<std::int64_t> end_;
  bool started_ = false;
  bool done_ = false;
};

/// How to open a recording.
struct ReaderOptions {
  std::string camera = "left";                     ///< "left" or "right", for HDF5 files with two cameras
  std::optional<std::pair<int, int>> sensor_size;  ///< (width, height), for files that do not say it themselves
};

/// Open a recording; its kind follows from its first bytes, not from its name.
/// Error: the file is absent, empty, damaged or of an unknown kind; the reason says what was found.
Result<std::unique_ptr<EventReader>> open_events(const std::filesystem::path& path, const ReaderOptions& options = {});

}  // namespace aot_perception
