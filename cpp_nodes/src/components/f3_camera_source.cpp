// SPDX-License-Identifier: Apache-2.0
// See f3_camera_source.hpp.
#include "f3_camera_source.hpp"

#include <utility>

#include "camera_messages.hpp"
#include "head_outputs.hpp"

namespace aot_perception {

PixelMap grid_map(PixelSize sensor, PixelSize frame, PixelSize grid) {
  const PixelSize offset = centring_offset(sensor, frame);
  return PixelMap::moved(offset.width, offset.height).then(PixelMap::align_corners(frame, grid));
}

Result<void> F3CameraSource::read(const std::string& url) {
  if (url.empty()) return {};
  const auto info = read_calibration(url);
  if (!info) return info.error();
  const std::lock_guard<std::mutex> lock(mutex_);
  info_ = std::make_shared<sensor_msgs::msg::CameraInfo>(*info);
  return {};
}

void F3CameraSource::start() {
  const auto take = node_.guarded<Info>("receive", [this](Info info) {
    const std::lock_guard<std::mutex> lock(mutex_);
    info_ = std::move(info);
  });
  const std::string topic = "~/event_camera_info";
  using sensor_msgs::msg::CameraInfo;
  subscriptions_ = {node_.create_subscription<CameraInfo>(topic, image_input_qos(), take, overridable_subscription()),
                    node_.create_subscription<CameraInfo>(topic, latched_qos(), take, latched_subscription())};
}

std::optional<sensor_msgs::msg::CameraInfo> F3CameraSource::info(const std_msgs::msg::Header& header,
                                                                 const ImageGrid& image) {
  Info source;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    source = info_;
  }
  if (source == nullptr) return std::nullopt;
  const Result<Camera> camera = camera_from_info(*source, image.sensor);
  if (!camera) {
    node_.health().failed("publish", camera.error().message());
    node_.warn_throttled("camera_info", "no ~/camera_info is published: " + camera.error().message());
    return std::nullopt;
  }
  const PixelMap grid = image.on_sensor ? PixelMap() : grid_map(image.sensor, image.frame, image.grid);
  return info_of_camera(camera->on(grid), image.grid, header);
}

}  // namespace aot_perception
