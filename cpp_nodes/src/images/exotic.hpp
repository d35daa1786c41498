// SPDX-License-Identifier: Apache-2.0
// The image encodings that need more than a view: Bayer mosaics, YUV and compressed images.
#pragma once

#include <opencv2/core/mat.hpp>
#include <string>

#include "aot_perception/error.hpp"
#include "aot_perception/images.hpp"

namespace aot_perception {

/// Pixels and their plain encoding ("bgr8", "mono16", ...).
struct Decoded {
  cv::Mat pixels;
  std::string encoding;
};

bool is_exotic(const std::string& encoding);

/// Pixels of a Bayer or YUV image.
///
/// Error: malformed message or odd size.
Result<Decoded> decode_exotic(const ImageFields& image);

/// Pixels of a jpeg, png, ...
///
/// Error: the data is empty or is no image that OpenCV reads.
Result<Decoded> decode_compressed(const std::string& format, const std::uint8_t* data, std::size_t size);

/// Whether this machine stores the most significant byte first.
bool big_endian_machine();

/// A copy with the bytes of every element of `element_bytes` reversed.
cv::Mat byte_swapped(const cv::Mat& pixels);

}  // namespace aot_perception
