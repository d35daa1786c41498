// SPDX-License-Identifier: Apache-2.0
// See points.hpp.
#include "points.hpp"

#include <cmath>
#include <cstring>
#include <opencv2/imgproc.hpp>

namespace aot_perception {
namespace {

constexpr int kMostSteps = 50;
constexpr double kCloseEnough = 1e-12;

double coefficient(const Camera& camera, std::size_t index) {
  return index < camera.distortion.size() ? camera.distortion[index] : 0.0;
}

bool known_model(const std::string& model) {
  return model == "plumb_bob" || model == "rational_polynomial" || model == "equidistant";
}

/// Radial factor and tangential shift of OpenCV's model: k1 k2 p1 p2 k3 [k4 k5 k6 [s1 s2 s3 s4]].
struct Bend {
  double factor;
  double x;
  double y;
};

Bend polynomial_bend(const Camera& camera, double x, double y) {
  const auto k = [&camera](std::size_t index) { return coefficient(camera, index); };
  const double r2 = x * x + y * y;
  const double factor = (1 + ((k(4) * r2 + k(1)) * r2 + k(0)) * r2) / (1 + ((k(7) * r2 + k(6)) * r2 + k(5)) * r2);
  const double dx = 2 * k(2) * x * y + k(3) * (r2 + 2 * x * x) + k(8) * r2 + k(9) * r2 * r2;
  const double dy = k(2) * (r2 + 2 * y * y) + 2 * k(3) * x * y + k(10) * r2 + k(11) * r2 * r2;
  return {factor, dx, dy};
}

/// Angle in the image of an angle of incidence, in OpenCV's fisheye model.
double fisheye_angle(const Camera& camera, double theta) {
  const double t2 = theta * theta;
  double sum = 1.0;
  double power = 1.0;
  for (std::size_t i = 0; i < 4; ++i) {
    power *= t2;
    sum += coefficient(camera, i) * power;
  }
  return theta * sum;
}

double fisheye_slope(const Camera& camera, double theta) {
  const double t2 = theta * theta;
  double sum = 1.0;
  double power = 1.0;
  for (std::size_t i = 0; i < 4; ++i) {
    power *= t2;
    sum += (2.0 * static_cast<double>(i) + 3.0) * coefficient(camera, i) * power;
  }
  return sum;
}

/// The ideal (x, y) that the camera shows at the distorted (x, y).
std::array<double, 2> undistort(const Camera& camera, double seen_x, double seen_y) {
  if (camera.model == "equidistant") {
    const double seen = std::min(std::hypot(seen_x, seen_y), CV_PI / 2);
    if (seen < 1e-8) return {seen_x, seen_y};
    double theta = seen;
    for (int i = 0; i < kMostSteps; ++i) {
      const double step = (fisheye_angle(camera, theta) - seen) / fisheye_slope(camera, theta);
      theta -= step;
      if (std::abs(step) < kCloseEnough) break;
    }
    const double scale = std::tan(theta) / seen;
    return {seen_x * scale, seen_y * scale};
  }
  double x = seen_x;
  double y = seen_y;
  for (int i = 0; i < kMostSteps; ++i) {
    const Bend bend = polynomial_bend(camera, x, y);
    const double next_x = (seen_x - bend.x) / bend.factor;
    const double next_y = (seen_y - bend.y) / bend.factor;
    const double step = std::hypot(next_x - x, next_y - y);
    x = next_x;
    y = next_y;
    if (!(step > kCloseEnough)) break;
  }
  return {x, y};
}

float packed(const cv::Vec3b& rgb) {
  const std::uint32_t bits =
      static_cast<std::uint32_t>(rgb[0]) << 16 | static_cast<std::uint32_t>(rgb[1]) << 8 | rgb[2];
  float value = 0.0F;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

std::array<double, 2> distort(const Camera& camera, double x, double y) {
  if (camera.model == "equidistant") {
    const double radius = std::hypot(x, y);
    if (radius < 1e-12) return {x, y};
    const double scale = fisheye_angle(camera, std::atan(radius)) / radius;
    return {x * scale, y * scale};
  }
  const Bend bend = polynomial_bend(camera, x, y);
  return {x * bend.factor + bend.x, y * bend.factor + bend.y};
}

Result<Rays> camera_rays(const Camera& camera, PixelSize size) {
  const bool bent = camera.rays_bend();
  if (bent && !known_model(camera.model)) {
    return Error{
        "expected the distortion model plumb_bob, rational_polynomial, equidistant, found '" + camera.model + "'",
        "rectify the image first, or publish a camera_info of such a model"};
  }
  const auto k = camera.intrinsics();
  Rays rays{size, {}, {}};
  const auto count = static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height);
  rays.x.reserve(count);
  rays.y.reserve(count);
  for (int row = 0; row < size.height; ++row) {
    for (int column = 0; column < size.width; ++column) {
      const double y = (row - k[5]) / k[4];
      double x = (column - k[2]) / k[0];
      if (k[1] != 0.0 && !bent) x -= y * (k[1] / k[0]);
      if (!bent) {
        rays.x.push_back(static_cast<float>(x));
        rays.y.push_back(static_cast<float>(y));
        continue;
      }
      const auto ideal = undistort(camera, x, y);
      rays.x.push_back(static_cast<float>(ideal[0]));
      rays.y.push_back(static_cast<float>(ideal[1]));
    }
  }
  return rays;
}

bool PointMaker::fits(const Camera& camera, PixelSize size) const {
  return made_ && rays_.size == size && camera.intrinsics() == camera_.intrinsics() &&
         camera.rays_bend() == camera_.rays_bend() &&
         (!camera.rays_bend() || (camera.model == camera_.model && camera.distortion == camera_.distortion));
}

Result<std::vector<float>> PointMaker::points(const cv::Mat& depth, const Camera& camera, const cv::Mat& rgb) {
  const PixelSize size{depth.cols, depth.rows};
  if (!fits(camera, size)) {
    Result<Rays> rays = camera_rays(camera, size);
    if (!rays) return rays.error();
    rays_ = *std::move(rays);
    camera_ = camera;
    made_ = true;
  }
  cv::Mat colours = rgb;
  if (!rgb.empty() && rgb.size() != depth.size()) cv::resize(rgb, colours, depth.size(), 0, 0, cv::INTER_LINEAR);
  const std::size_t fields = rgb.empty() ? 3 : 4;
  std::vector<float> cloud(rays_.x.size() * fields);
  float* point = cloud.data();
  std::size_t i = 0;
  for (int row = 0; row < depth.rows; ++row) {
    for (int column = 0; column < depth.cols; ++column, ++i, point += fields) {
      const float z = depth.at<float>(row, column);
      point[0] = z * rays_.x[i];
      point[1] = z * rays_.y[i];
      point[2] = z;
      if (fields == 4) point[3] = packed(colours.at<cv::Vec3b>(row, column));
    }
  }
  return cloud;
}

}  // namespace aot_perception
