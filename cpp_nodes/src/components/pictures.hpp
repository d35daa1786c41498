// SPDX-License-Identifier: Apache-2.0
// Pictures for people: events, features, depth, flow, keypoints, tracks; as f3_ros/pictures.py,
// f3_ros/flow_pictures.py, depth_ros/pictures.py and aliked_ros/pictures.py. No ROS. All pictures are CV_8UC3 in the
// order BGR.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <string>

namespace aot_perception {

/// Where events fell: blue for positive, red for negative; of several in a pixel the last one shows.
///
/// `x`, `y`, `p`: `count` events in order of time; those outside the picture are left out.
cv::Mat event_picture(const std::uint16_t* x, const std::uint16_t* y, const std::uint8_t* p, std::size_t count,
                      int width, int height);

/// The first three principal components of features as colours, whose meaning is kept from one frame to the next.
class FeaturePainter {
 public:
  /// `features`: (height, width, channels) float32, channels last. Values that are not finite count as 0.
  cv::Mat paint(const float* features, int height, int width, int channels);

 private:
  cv::Mat components_;  // (3, C) CV_64F of the frame before, to keep the signs
};

/// Depth in colours: bright is near for relative depth and disparity (magma), blue is near for metres (jet).
///
/// `depth`: CV_32F; what is not finite is black. `valid`: CV_8U, 0 where it is black too; may be empty.
cv::Mat colour_depth(const cv::Mat& depth, const cv::Mat& valid, const std::string& kind);

/// Flow in colours: the hue is the direction, the brightness the displacement, black where `valid` (CV_8U) is 0.
///
/// `dx`, `dy`: CV_32F, pixels; what is not finite counts as at rest.
cv::Mat colour_flow(const cv::Mat& dx, const cv::Mat& dy, const cv::Mat& valid);

/// A dot on each keypoint of an RGB image (CV_8UC3): green for score 1 to red for score 0, the first on top.
///
/// `points`: `count` pairs x, y in pixels; `scores`: `count` numbers.
cv::Mat keypoints_picture(const cv::Mat& rgb, const float* points, const float* scores, std::size_t count);

/// An RGB image (CV_8UC3) with a line from where each keypoint was to where it is, and a dot there.
///
/// `before`, `now`: `count` pairs x, y in pixels.
cv::Mat tracks_picture(const cv::Mat& rgb, const float* before, const float* now, std::size_t count);

}  // namespace aot_perception
