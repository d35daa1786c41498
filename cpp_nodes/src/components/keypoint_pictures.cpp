// SPDX-License-Identifier: Apache-2.0
// See pictures.hpp: keypoints and tracks drawn into images.
#include <algorithm>
#include <cmath>
#include <opencv2/imgproc.hpp>

#include "pictures.hpp"

namespace aot_perception {
namespace {

const cv::Vec3b kGreen(0, 255, 0);
const cv::Vec3b kRed(0, 0, 255);

/// Sets a pixel, if it lies in the picture.
void paint(cv::Mat& picture, double x, double y, const cv::Vec3b& colour) {
  if (x >= 0 && x < picture.cols && y >= 0 && y < picture.rows) {
    picture.at<cv::Vec3b>(static_cast<int>(y), static_cast<int>(x)) = colour;
  }
}

/// One of the five pixels of the plus that marks a point.
struct Arm {
  int right;
  int down;
};
constexpr Arm kPlus[] = {{0, 1}, {1, 0}, {0, -1}, {-1, 0}, {0, 0}};

/// One arm of the plus around a point (x, y).
void paint_arm(cv::Mat& picture, const float* point, const Arm& arm, const cv::Vec3b& colour) {
  const double x = point[0];
  const double y = point[1];
  paint(picture, std::nearbyint(x) + arm.right, std::nearbyint(y) + arm.down, colour);
}

void line(cv::Mat& picture, const float* from, const float* to, const cv::Vec3b& colour) {
  const double dx = static_cast<double>(to[0]) - from[0];
  const double dy = static_cast<double>(to[1]) - from[1];
  const double longest = std::max(std::abs(dx), std::abs(dy));
  if (!std::isfinite(longest)) return;
  const int last = static_cast<int>(longest) + 1;
  for (int i = 0; i <= last; ++i) {
    const double x = i == last ? to[0] : i * (dx / last) + from[0];
    const double y = i == last ? to[1] : i * (dy / last) + from[1];
    paint(picture, std::nearbyint(x), std::nearbyint(y), colour);
  }
}

cv::Mat canvas(const cv::Mat& rgb) {
  cv::Mat picture;
  cv::cvtColor(rgb, picture, cv::COLOR_RGB2BGR);
  return picture;
}

}  // namespace

cv::Mat keypoints_picture(const cv::Mat& rgb, const float* points, const float* scores, std::size_t count) {
  cv::Mat picture = canvas(rgb);
  for (const Arm& arm : kPlus) {
    for (std::size_t i = count; i-- > 0;) {  // backwards, so that the strongest, which come first, lie on top
      const double share = std::isnan(scores[i]) ? 0.0 : std::clamp(static_cast<double>(scores[i]), 0.0, 1.0);
      cv::Vec3b colour;
      for (int c = 0; c < 3; ++c)
        colour[c] = static_cast<std::uint8_t>(share * kGreen[c] + (1 - share) * kRed[c]);
      paint_arm(picture, points + 2 * i, arm, colour);
    }
  }
  return picture;
}

cv::Mat tracks_picture(const cv::Mat& rgb, const float* before, const float* now, std::size_t count) {
  cv::Mat picture = canvas(rgb);
  for (std::size_t i = 0; i < count; ++i)
    line(picture, before + 2 * i, now + 2 * i, kGreen);
  for (const Arm& arm : kPlus) {
    for (std::size_t i = 0; i < count; ++i)
      paint_arm(picture, now + 2 * i, arm, kRed);
  }
  return picture;
}

}  // namespace aot_perception
