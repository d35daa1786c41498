// SPDX-License-Identifier: Apache-2.0
// From windows of events to what F3 takes: rows of normalised events. As f3_ros/events/binning.py.
//
// A row is `x / W, y / H, k / T, p` in float32 with k = age of the event in time bins: bin 0 is the newest. By the
// deployment rule, that of the nodes, a window ends exclusively: k = (end - 1 - t) / bin rounded down; by the training
// rule k = (end - t) / bin rounded down.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/events.hpp"

namespace aot_perception {

/// Which rows to make.
struct BinningConfig {
  int sensor_width = 0;  ///< pixels
  int sensor_height = 0;
  /// Frame that the network was built for, with the sensor in its centre; 0 = the sensor's.
  int model_width = 0;
  int model_height = 0;
  int bins = 20;                    ///< number of time bins T; older (or newer) events are left out
  std::int64_t bin_us = 1000;       ///< length of a time bin, microseconds
  std::string rule = "deployment";  ///< "deployment" or "training"
  bool with_polarity = true;        ///< four columns, else three
};

/// Writes rows of normalised events; holds the tables of all quotients that occur.
class EventBinning {
 public:
  /// Error: unknown rule, or a number that is not positive.
  static Result<EventBinning> create(const BinningConfig& config);

  [[nodiscard]] const BinningConfig& config() const { return config_; }
  [[nodiscard]] std::size_t columns() const { return config_.with_polarity ? 4 : 3; }

  /// Write the rows of `events` (t in microseconds) of a window that ends at `end_us` into `rows`, which has room for
  /// `events.size` rows of `columns()` numbers; returns how many rows were written, in the events' order. Fewer than
  /// events where some lie outside the bins or the model's frame.
  std::size_t fill(const EventsView& events, std::int64_t end_us, float* rows) const;

 private:
  explicit EventBinning(const BinningConfig& config);

  template <bool kPolarity>
  std::size_t fill_columns(const EventsView& events, std::int64_t newest, float* rows) const;

  BinningConfig config_;
  std::int64_t offset_x_ = 0, offset_y_ = 0;  // of the sensor's pixel (0, 0) on the model's frame
  std::vector<float> x_table_, y_table_, k_table_;
};

}  // namespace aot_perception
