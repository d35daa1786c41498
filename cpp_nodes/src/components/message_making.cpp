// SPDX-License-Identifier: Apache-2.0
// See message_making.hpp.
#include "message_making.hpp"

#include <cstring>

namespace aot_perception {
namespace {

bool big_endian() {
  const std::uint16_t one = 1;
  std::uint8_t first = 0;
  std::memcpy(&first, &one, 1);
  return first == 0;
}

std::unique_ptr<sensor_msgs::msg::Image> image(const std_msgs::msg::Header& header, int height, int width,
                                               std::string encoding, std::size_t pixel_bytes) {
  auto message = std::make_unique<sensor_msgs::msg::Image>();
  message->header = header;
  message->height = static_cast<std::uint32_t>(height);
  message->width = static_cast<std::uint32_t>(width);
  message->encoding = std::move(encoding);
  message->is_bigendian = big_endian();
  message->step = static_cast<std::uint32_t>(static_cast<std::size_t>(width) * pixel_bytes);
  return message;
}

}  // namespace

std::unique_ptr<sensor_msgs::msg::Image> float_image(const std_msgs::msg::Header& header, int height, int width,
                                                     int channels, const float* values) {
  const std::size_t pixel_bytes = static_cast<std::size_t>(channels) * sizeof(float);
  auto message = image(header, height, width, "32FC" + std::to_string(channels), pixel_bytes);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(values);
  message->data.assign(bytes, bytes + static_cast<std::size_t>(message->step) * message->height);
  return message;
}

std::unique_ptr<sensor_msgs::msg::Image> picture_image(const std_msgs::msg::Header& header, const cv::Mat& picture) {
  auto message = image(header, picture.rows, picture.cols, "bgr8", 3);
  message->data.reserve(static_cast<std::size_t>(message->step) * message->height);
  for (int row = 0; row < picture.rows; ++row) {
    const auto* first = picture.ptr<std::uint8_t>(row);
    message->data.insert(message->data.end(), first, first + message->step);
  }
  return message;
}

std::unique_ptr<sensor_msgs::msg::PointCloud2> cloud(const std_msgs::msg::Header& header, int height, int width,
                                                     const std::vector<CloudField>& fields, const void* rows,
                                                     bool dense) {
  auto message = std::make_unique<sensor_msgs::msg::PointCloud2>();
  message->header = header;
  message->height = static_cast<std::uint32_t>(height);
  message->width = static_cast<std::uint32_t>(width);
  for (const CloudField& told : fields) {
    sensor_msgs::msg::PointField field;
    field.name = told.name;
    field.offset = message->point_step;
    field.datatype = told.datatype;
    field.count = told.count;
    message->point_step += 4 * told.count;
    message->fields.push_back(std::move(field));
  }
  message->is_bigendian = big_endian();
  message->row_step = message->point_step * message->width;
  message->is_dense = dense;
  const auto* bytes = static_cast<const std::uint8_t*>(rows);
  const std::size_t size = static_cast<std::size_t>(message->row_step) * message->height;
  if (size > 0) message->data.assign(bytes, bytes + size);
  return message;
}

}  // namespace aot_perception
