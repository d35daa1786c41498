// SPDX-License-Identifier: Apache-2.0
// Noise filters for event streams; as f3_ros/events/filters.py. No ROS.
//
// Each keeps its state from call to call in memory of fixed size. All are optional: they change the statistics that a
// network was trained on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/events.hpp"

namespace aot_perception {

/// A filter on a stream of events of one sensor; events outside of the sensor are taken out.
class EventFilter {
 public:
  virtual ~EventFilter() = default;
  /// Whether an event passes; called once for each, in order of time.
  virtual bool keeps(std::uint16_t x, std::uint16_t y, std::int64_t t_us) = 0;
};

/// Pixels that fire all the time.
struct HotPixelMask {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> hot;  ///< row by row, 1 = hot

  /// From an .npz file (array `mask`) or a picture (hot = not black). Error: the file is missing or holds no mask.
  static Result<HotPixelMask> load(const std::string& path);
};

/// Takes out the events of hot pixels.
std::unique_ptr<EventFilter> make_hot_pixel_filter(HotPixelMask mask);

/// Takes out an event that follows the last kept one of its pixel by less than `refractory_us`.
std::unique_ptr<EventFilter> make_refractory_filter(int width, int height, std::int64_t refractory_us);

/// Keeps an event only if one of its eight neighbours fired within `support_us` before it: edges have company
/// (Delbruck, "Frame-free dynamic digital vision", 2008).
std::unique_ptr<EventFilter> make_noise_filter(int width, int height, std::int64_t support_us);

}  // namespace aot_perception
