// SPDX-License-Identifier: Apache-2.0
// Depth and a camera -> organised points in the optical frame (REP-103: x right, y down, z forward).
// As depth_ros/points.py. No ROS.
#pragma once

#include <cstdint>
#include <opencv2/core.hpp>
#include <vector>

#include "aot_perception/camera.hpp"
#include "aot_perception/error.hpp"

namespace aot_perception {

/// x / z and y / z of each pixel's ray.
struct Rays {
  PixelSize size;
  std::vector<float> x;
  std::vector<float> y;
};

/// The rays of a camera's pixels.
///
/// Error: the camera is raw and its distortion model is none of plumb_bob, rational_polynomial, equidistant.
Result<Rays> camera_rays(const Camera& camera, PixelSize size);

/// Where a raw camera sees a ray: distorted (x, y) of the ideal (x, y), before the camera matrix.
std::array<double, 2> distort(const Camera& camera, double x, double y);

/// Makes organised clouds; keeps the rays of the last camera, since they rarely change.
class PointMaker {
 public:
  /// One point for each pixel: rows of x, y, z in metres, and with an image the colour, as floats.
  ///
  /// `depth`: CV_32F, z in metres, NaN where unknown; `rgb`: CV_8UC3 of any size that shows the same, resized to the
  /// depth's, or empty. The colour's bits are 0x00RRGGBB, as point clouds carry it.
  Result<std::vector<float>> points(const cv::Mat& depth, const Camera& camera, const cv::Mat& rgb);

 private:
  bool fits(const Camera& camera, PixelSize size) const;

  bool made_ = false;
  Camera camera_;
  Rays rays_;
};

}  // namespace aot_perception
