// SPDX-License-Identifier: Apache-2.0
// The event camera's calibration for F3Component: received or read from a file, and carried over to the depth's grid.
// As f3_ros/node_camera.py.
#pragma once

#include <mutex>
#include <optional>
#include <sensor_msgs/msg/camera_info.hpp>
#include <string>
#include <vector>

#include "aot_perception/camera.hpp"
#include "lifecycle_model_node.hpp"

namespace aot_perception {

/// From sensor pixels to a grid over the whole frame, in which the sensor is centred.
PixelMap grid_map(PixelSize sensor, PixelSize frame, PixelSize grid);

/// Where an image lies: the sensor, F3's frame that it is centred on, and the image's own size.
struct ImageGrid {
  PixelSize sensor;
  PixelSize frame;
  PixelSize grid;
  bool on_sensor = false;  ///< the image has the sensor's pixels; otherwise it is a grid over the frame
};

/// Keeps the newest calibration of the event camera. Messages on `~/event_camera_info` win over the file.
class F3CameraSource {
 public:
  explicit F3CameraSource(LifecycleModelNode& node) : node_(node) {}

  /// Reads a calibration file in ROS's YAML form. Error: it cannot be read, or is no calibration.
  Result<void> read(const std::string& url);
  /// Subscribes: once as images are, and once for a publisher that speaks only at its start and latches.
  void start();
  /// Unsubscribes; what was received is kept.
  void stop() { subscriptions_.clear(); }

  /// The calibration of a published image, or nothing where none fits; says why, throttled.
  std::optional<sensor_msgs::msg::CameraInfo> info(const std_msgs::msg::Header& header, const ImageGrid& image);

 private:
  using Info = sensor_msgs::msg::CameraInfo::ConstSharedPtr;

  LifecycleModelNode& node_;
  std::mutex mutex_;
  Info info_;
  std::vector<rclcpp::SubscriptionBase::SharedPtr> subscriptions_;
};

}  // namespace aot_perception
