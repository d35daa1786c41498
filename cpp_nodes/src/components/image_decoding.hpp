// SPDX-License-Identifier: Apache-2.0
// Image messages as RGB pixels; what decodes is in aot_perception/images.hpp.
#pragma once

#include <opencv2/core.hpp>
#include <sensor_msgs/msg/compressed_image.hpp>
#include <sensor_msgs/msg/image.hpp>

#include "aot_perception/error.hpp"

namespace aot_perception {

/// The pixels as CV_8UC3 in the order RGB. They may lie in the message's memory, which has to live as long.
///
/// Error: a malformed message, an unknown encoding, or one that does not convert to rgb8.
Result<cv::Mat> decode_rgb(const sensor_msgs::msg::Image& message);
Result<cv::Mat> decode_rgb(const sensor_msgs::msg::CompressedImage& message);

}  // namespace aot_perception
