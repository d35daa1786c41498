// SPDX-License-Identifier: Apache-2.0
// What resizing, cropping and shifting an image does to its camera matrix; as aot_runtime/camera.py. No ROS.
//
// A pixel's centre has integer coordinates: pixel (0, 0) covers [-0.5, 0.5) x [-0.5, 0.5). So it is in OpenCV and in
// sensor_msgs/CameraInfo.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace aot_perception {

/// Width and height in pixels.
struct PixelSize {
  int width = 0;
  int height = 0;
  friend bool operator==(const PixelSize& a, const PixelSize& b) { return a.width == b.width && a.height == b.height; }
  friend bool operator!=(const PixelSize& a, const PixelSize& b) { return !(a == b); }
};

/// Where a pixel of one grid lies on another: u' = scale_x * u + shift_x, v' = scale_y * v + shift_y.
struct PixelMap {
  double scale_x = 1.0;
  double scale_y = 1.0;
  double shift_x = 0.0;
  double shift_y = 0.0;

  /// A resize that keeps the image's outer edges: u' + 1/2 = (u + 1/2) * W' / W.
  static PixelMap half_pixel(PixelSize source, PixelSize target) {
    const double x = static_cast<double>(target.width) / source.width;
    const double y = static_cast<double>(target.height) / source.height;
    return {x, y, 0.5 * x - 0.5, 0.5 * y - 0.5};
  }

  /// A resize that keeps the centres of the corner pixels: u' = u * (W' - 1) / (W - 1); scale 1 where there is one
  /// pixel.
  static PixelMap align_corners(PixelSize source, PixelSize target) {
    const auto scale = [](int from, int to) {
      return from > 1 && to > 1 ? static_cast<double>(to - 1) / (from - 1) : 1.0;
    };
    return {scale(source.width, target.width), scale(source.height, target.height), 0.0, 0.0};
  }

  /// A pixel of the first grid has coordinates greater by (x, y) on the second.
  static PixelMap moved(double x, double y) { return {1.0, 1.0, x, y}; }

  /// This map followed by another.
  [[nodiscard]] PixelMap then(const PixelMap& other) const {
    return {scale_x * other.scale_x, scale_y * other.scale_y, shift_x * other.scale_x + other.shift_x,
            shift_y * other.scale_y + other.shift_y};
  }

  /// The camera matrix (3, 3), row-major, of the second grid from that of the first.
  [[nodiscard]] std::array<double, 9> applied_to(std::array<double, 9> matrix) const {
    apply_to(matrix.data(), 3);
    return matrix;
  }

  /// The same for the rows of a (3, columns) matrix, in place.
  void apply_to(double* rows, int columns) const {
    for (int c = 0; c < columns; ++c) {
      const double last = rows[2 * columns + c];
      rows[c] = scale_x * rows[c] + shift_x * last;
      rows[columns + c] = scale_y * rows[columns + c] + shift_y * last;
    }
  }
};

/// A calibrated camera on a pixel grid: the part of sensor_msgs/CameraInfo that geometry needs. Row-major matrices.
struct Camera {
  std::array<double, 9> matrix{};       ///< K, of the raw image
  std::array<double, 12> projection{};  ///< P, of the rectified image
  std::vector<double> distortion;       ///< D
  std::string model = "plumb_bob";
  std::array<double, 9> rectification{1, 0, 0, 0, 1, 0, 0, 0, 1};
  bool rectified = true;  ///< points follow from P, else from K with the distortion undone

  /// The matrix (3, 3) that the image's pixels obey.
  [[nodiscard]] std::array<double, 9> intrinsics() const {
    if (!rectified) return matrix;
    const auto& p = projection;
    return {p[0], p[1], p[2], p[4], p[5], p[6], p[8], p[9], p[10]};
  }

  /// Whether pixels and rays are related by more than `intrinsics`.
  [[nodiscard]] bool rays_bend() const {
    return !rectified && std::any_of(distortion.begin(), distortion.end(), [](double value) { return value != 0.0; });
  }

  /// The same camera on another pixel grid.
  [[nodiscard]] Camera on(const PixelMap& grid) const {
    Camera camera = *this;
    grid.apply_to(camera.matrix.data(), 3);
    grid.apply_to(camera.projection.data(), 4);
    return camera;
  }
};

}  // namespace aot_perception
