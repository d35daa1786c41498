// SPDX-License-Identifier: Apache-2.0
// From what F3's heads compute to what is published: units, validity and resolution; as f3_ros/head_outputs.py and
// f3_ros/sensor_grid.py. No ROS.
//
// All grids follow align_corners=True: the centres of the corner pixels of F3's frame and of a head's grid coincide. A
// smaller sensor is centred on the frame.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "aot_perception/camera.hpp"
#include "aot_perception/events.hpp"

namespace aot_perception {

/// Where a head's output lies and where it is wanted.
struct HeadGrid {
  PixelSize grid;          ///< the head's own
  PixelSize frame;         ///< of F3, which the grid covers
  PixelSize sensor;        ///< centred on the frame
  bool at_sensor = false;  ///< published in the sensor's pixels, else on the grid

  [[nodiscard]] PixelSize published() const { return at_sensor ? sensor : grid; }
};

/// What the numbers of a depth head mean.
struct DepthMeaning {
  bool disparity = false;
  bool metric = false;                  ///< metres can be published
  std::optional<float> focal_baseline;  ///< pixel metres, of a disparity
};

/// A depth as it is published: NaN where invalid. Invalid are pixels that the sensor does not see, what is not finite,
/// and metres that would not be above 0. A disparity with a focal_baseline becomes metres after the resize.
std::vector<float> finish_depth(const float* raw, const HeadGrid& where, const DepthMeaning& meaning);

/// A flow at the published resolution, in its pixels, and where it is valid.
struct FinishedFlow {
  PixelSize size;
  std::vector<float> dx;
  std::vector<float> dy;
  std::vector<std::uint8_t> valid;

  /// (H, W, 2) as the message holds it: NaN where invalid.
  [[nodiscard]] std::vector<float> interleaved() const;
};

/// `raw`: (2, H, W) dx, dy. With `only_events` a pixel is valid only where an event of the window fell.
FinishedFlow finish_flow(const float* raw, const EventsView& events, const HeadGrid& where, bool only_events);

/// Where events fell among the published pixels; on a head's grid each event marks the pixel nearest to it.
std::vector<std::uint8_t> event_mask(const EventsView& events, const HeadGrid& where);

/// Pixels of the grid whose centres lie on a pixel of the sensor.
std::vector<std::uint8_t> seen_by_sensor(const HeadGrid& where);

/// Values of the grid sampled bilinearly at the sensor's pixels; NaN where the sensor exceeds the frame.
std::vector<float> resize_to_sensor(const float* raw, const HeadGrid& where);

/// Where a sensor's pixel (0, 0) lies on the frame that it is centred on.
PixelSize centring_offset(PixelSize sensor, PixelSize frame);

}  // namespace aot_perception
