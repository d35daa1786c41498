// SPDX-License-Identifier: Apache-2.0
// Cameras from and to sensor_msgs/CameraInfo, and which CameraInfo belongs to an image.
// As aot_runtime/camera.py and depth_ros/camera_infos.py.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <sensor_msgs/msg/camera_info.hpp>
#include <std_msgs/msg/header.hpp>
#include <string>

#include "aot_perception/camera.hpp"
#include "aot_perception/error.hpp"

namespace aot_perception {

/// The camera of an image of this size. CameraInfo's matrices belong to the full image; its region of interest and
/// binning are applied here, a binned pixel being taken to lie at the centre of those that it sums.
///
/// Error: the camera is not calibrated (K is 0), a matrix is no camera's, or the sizes disagree.
Result<Camera> camera_from_info(const sensor_msgs::msg::CameraInfo& info, PixelSize image, bool rectified = true);

/// The message of a camera with a grid of this size, without region of interest or binning.
sensor_msgs::msg::CameraInfo info_of_camera(const Camera& camera, PixelSize size, const std_msgs::msg::Header& header);

/// A calibration in the YAML form of ROS's camera_calibration; `url` is a path or file:// URL.
///
/// Error: the file cannot be read, or is no calibration.
Result<sensor_msgs::msg::CameraInfo> read_calibration(const std::string& url);

/// The latest CameraInfo and a few before it, by stamp. May be used from any thread.
class CameraInfos {
 public:
  using Info = sensor_msgs::msg::CameraInfo::ConstSharedPtr;

  void add(Info info);
  /// The message of this stamp, else the latest, else null; `source` tells which.
  Info of(std::int64_t stamp_ns);
  /// Time went back: the same stamps may come again with other content. The latest stays.
  void forget_stamps();
  /// Forgets everything.
  void clear();
  [[nodiscard]] std::string source() const;

 private:
  static constexpr std::size_t kKept = 10;

  mutable std::mutex mutex_;
  std::string source_ = "none";
  Info latest_;
  std::deque<Info> recent_;
};

}  // namespace aot_perception
