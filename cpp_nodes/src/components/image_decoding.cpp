// SPDX-License-Identifier: Apache-2.0
// See image_decoding.hpp.
#include "image_decoding.hpp"

#include "aot_perception/images.hpp"

namespace aot_perception {

Result<cv::Mat> decode_rgb(const sensor_msgs::msg::Image& message) {
  ImageFields fields;
  fields.encoding = message.encoding;
  fields.height = message.height;
  fields.width = message.width;
  fields.step = message.step;
  fields.is_bigendian = message.is_bigendian != 0;
  fields.data = message.data.data();
  fields.size = message.data.size();
  return convert_image(fields, "rgb8");
}

Result<cv::Mat> decode_rgb(const sensor_msgs::msg::CompressedImage& message) {
  return convert_compressed(message.format, message.data.data(), message.data.size(), "rgb8");
}

}  // namespace aot_perception
