// SPDX-License-Identifier: Apache-2.0
// Image messages as pixels, without ROS: the checks, conversions and words of aot_runtime/ros/messages.py and
// exotic.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <opencv2/core/mat.hpp>
#include <optional>
#include <string>

#include "aot_perception/error.hpp"

namespace aot_perception {

/// The fields of a sensor_msgs/Image; the data are somebody else's.
struct ImageFields {
  std::string encoding;
  std::uint32_t height = 0;
  std::uint32_t width = 0;
  std::uint32_t step = 0;  ///< bytes from row to row
  bool is_bigendian = false;
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;  ///< bytes
};

/// What an encoding string means: OpenCV's depth (CV_8U, ...) and the channels of a pixel.
struct PixelFormat {
  int depth = 0;
  int channels = 1;
};

/// The pixel format of a plain encoding (mono8 ... rgba16, 8UCn ... 64FCn), or nothing for any other.
std::optional<PixelFormat> pixel_format(const std::string& encoding);

/// The pixels of a plainly encoded image, in this machine's byte order.
///
/// They lie in the message's memory, which has to live as long, unless bytes have to be swapped or rows start off the
/// element grid.
/// @param allow_nan  whether float images may hold NaN or infinity (REP-117 uses them for "invalid").
/// Error: encoding unknown, zero size, step too small, data size other than step * height, NaN.
Result<cv::Mat> image_view(const ImageFields& image, bool allow_nan = true);

/// The pixels of any image as "mono8" (CV_8UC1), "bgr8" or "rgb8" (CV_8UC3); they may lie in the message's memory.
///
/// Error: malformed message, unknown encoding, or no conversion.
Result<cv::Mat> convert_image(const ImageFields& image, const std::string& desired);

/// The same for the data of a sensor_msgs/CompressedImage (jpeg, png, ...); `format` is for errors only.
Result<cv::Mat> convert_compressed(const std::string& format, const std::uint8_t* data, std::size_t size,
                                   const std::string& desired);

}  // namespace aot_perception
