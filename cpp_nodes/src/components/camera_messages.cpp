// SPDX-License-Identifier: Apache-2.0
// See camera_messages.hpp.
#include "camera_messages.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "stamps.hpp"

namespace aot_perception {
namespace {

template <std::size_t N>
bool any(const std::array<double, N>& values) {
  return std::any_of(values.begin(), values.end(), [](double value) { return value != 0.0; });
}

/// Error: numbers that are not finite, or focal lengths that are not above 0. `columns` of the row-major matrix.
Result<void> check_matrix(const double* matrix, std::size_t columns, const char* name) {
  bool good = matrix[0] > 0 && matrix[columns + 1] > 0;
  std::ostringstream text;
  for (std::size_t row = 0; row < 3; ++row) {
    text << (row == 0 ? "[[" : ", [");
    for (std::size_t column = 0; column < 3; ++column) {
      const double value = matrix[row * columns + column];
      good = good && std::isfinite(value);
      text << (column == 0 ? "" : ", ") << value;
    }
    text << "]";
  }
  if (good) return {};
  return Error{
      std::string("expected finite numbers and focal lengths above 0 in ") + name + ", found " + text.str() + "]",
      "repair the camera's calibration"};
}

std::string size_text(PixelSize size) {
  return std::to_string(size.width) + "x" + std::to_string(size.height);
}

int or_else(std::uint32_t value, std::uint32_t otherwise) {
  return static_cast<int>(value != 0 ? value : otherwise);
}

}  // namespace

Result<Camera> camera_from_info(const sensor_msgs::msg::CameraInfo& info, PixelSize image, bool rectified) {
  const PixelSize full{or_else(info.roi.width, info.width), or_else(info.roi.height, info.height)};
  const PixelSize binning{or_else(info.binning_x, 1), or_else(info.binning_y, 1)};
  const PixelSize told{full.width / binning.width, full.height / binning.height};
  if (told != image) {
    return Error{
        "expected a camera_info for the image's " + size_text(image) + " pixels, found one for " + size_text(told),
        "publish the camera_info of this image, or remap ~/camera_info"};
  }
  Camera camera;
  camera.matrix = info.k;
  camera.projection = info.p;
  if (!any(camera.matrix)) {
    return Error{"expected a calibrated camera, found K = 0 in camera_info", "calibrate the camera"};
  }
  if (const auto checked = check_matrix(camera.matrix.data(), 3, "K"); !checked) return checked.error();
  if (any(camera.projection)) {
    if (const auto checked = check_matrix(camera.projection.data(), 4, "P"); !checked) return checked.error();
  } else {
    const auto& k = camera.matrix;
    camera.projection = {k[0], k[1], k[2], 0, k[3], k[4], k[5], 0, k[6], k[7], k[8], 0};
  }
  camera.distortion = info.d;
  if (!info.distortion_model.empty()) camera.model = info.distortion_model;
  if (any(info.r)) camera.rectification = info.r;
  camera.rectified = rectified;
  const PixelMap region =
      PixelMap::moved(-static_cast<double>(info.roi.x_offset), -static_cast<double>(info.roi.y_offset));
  return camera.on(region.then(PixelMap::half_pixel(binning, {1, 1})));
}

sensor_msgs::msg::CameraInfo info_of_camera(const Camera& camera, PixelSize size, const std_msgs::msg::Header& header) {
  sensor_msgs::msg::CameraInfo info;
  info.header = header;
  info.width = static_cast<std::uint32_t>(size.width);
  info.height = static_cast<std::uint32_t>(size.height);
  info.distortion_model = camera.model;
  info.d = camera.distortion;
  info.k = camera.matrix;
  info.r = camera.rectification;
  info.p = camera.projection;
  return info;
}

void CameraInfos::add(Info info) {
  const std::lock_guard<std::mutex> lock(mutex_);
  latest_ = info;
  // A publisher that latches is heard twice.
  const auto same = [&info](const Info& known) { return known->header.stamp == info->header.stamp; };
  recent_.erase(std::remove_if(recent_.begin(), recent_.end(), same), recent_.end());
  recent_.push_back(std::move(info));
  if (recent_.size() > kKept) recent_.pop_front();
}

CameraInfos::Info CameraInfos::of(std::int64_t stamp_ns) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto same = [stamp_ns](const Info& info) {
    const auto stamp = stamp_to_ns(info->header.stamp);
    return stamp && *stamp == stamp_ns;
  };
  const auto found = std::find_if(recent_.rbegin(), recent_.rend(), same);
  if (found != recent_.rend()) {
    source_ = "of the image's stamp";
    return *found;
  }
  source_ = latest_ ? "latest" : "none";
  return latest_;
}

void CameraInfos::forget_stamps() {
  const std::lock_guard<std::mutex> lock(mutex_);
  recent_.clear();
}

void CameraInfos::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  recent_.clear();
  latest_.reset();
  source_ = "none";
}

std::string CameraInfos::source() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return source_;
}

}  // namespace aot_perception
