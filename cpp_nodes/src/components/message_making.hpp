// SPDX-License-Identifier: Apache-2.0
// Outgoing messages: float images, pictures, clouds. Each is a unique_ptr, which intra-process subscribers get without
// a copy. As to_image and to_cloud of aot_runtime/ros.
#pragma once

#include <cstdint>
#include <memory>
#include <opencv2/core.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <sensor_msgs/msg/point_cloud2.hpp>
#include <std_msgs/msg/header.hpp>
#include <string>
#include <vector>

namespace aot_perception {

/// An image 32FC<channels> with a copy of (height, width, channels) numbers, channels last.
std::unique_ptr<sensor_msgs::msg::Image> float_image(const std_msgs::msg::Header& header, int height, int width,
                                                     int channels, const float* values);

/// An image bgr8 with a copy of a CV_8UC3 picture.
std::unique_ptr<sensor_msgs::msg::Image> picture_image(const std_msgs::msg::Header& header, const cv::Mat& picture);

/// A field of a cloud's points: one or more numbers of 4 bytes.
struct CloudField {
  std::string name;
  std::uint8_t datatype = sensor_msgs::msg::PointField::FLOAT32;
  std::uint32_t count = 1;
};

/// A cloud of height x width points with a copy of its rows, whose fields lie one behind the other.
std::unique_ptr<sensor_msgs::msg::PointCloud2> cloud(const std_msgs::msg::Header& header, int height, int width,
                                                     const std::vector<CloudField>& fields, const void* rows,
                                                     bool dense);

}  // namespace aot_perception
