// SPDX-License-Identifier: Apache-2.0
#include "exotic.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>

namespace aot_perception {
namespace {

struct Bayer {
  int code;
  int element_bytes;
};

/// "bayer_rggb8" and its kin. OpenCV names a mosaic after the second row's second and third pixel, ROS after the first
/// row's first two.
std::optional<Bayer> bayer_of(const std::string& encoding) {
  static const std::map<std::string, int> codes = {{"bayer_rggb", cv::COLOR_BayerBG2BGR},
                                                   {"bayer_bggr", cv::COLOR_BayerRG2BGR},
                                                   {"bayer_gbrg", cv::COLOR_BayerGR2BGR},
                                                   {"bayer_grbg", cv::COLOR_BayerGB2BGR}};
  for (const auto& [name, code] : codes) {
    if (encoding == name + "8") return Bayer{code, 1};
    if (encoding == name + "16") return Bayer{code, 2};
  }
  return std::nullopt;
}

/// Packed 4:2:2 has 2 bytes a pixel, semi-planar 4:2:0 height * 3 / 2 rows of one byte a pixel.
struct Yuv {
  int code;
  bool packed;
};

std::optional<Yuv> yuv_of(const std::string& encoding) {
  static const std::map<std::string, Yuv> codes = {
      {"yuv422", {cv::COLOR_YUV2BGR_UYVY, true}},      {"uyvy", {cv::COLOR_YUV2BGR_UYVY, true}},
      {"yuv422_yuy2", {cv::COLOR_YUV2BGR_YUY2, true}}, {"yuyv", {cv::COLOR_YUV2BGR_YUY2, true}},
      {"nv12", {cv::COLOR_YUV2BGR_NV12, false}},       {"nv21", {cv::COLOR_YUV2BGR_NV21, false}}};
  const auto found = codes.find(encoding);
  return found == codes.end() ? std::nullopt : std::optional<Yuv>(found->second);
}

std::string size_of(const ImageFields& image) {
  return std::to_string(image.width) + "x" + std::to_string(image.height);
}

/// Checks the sizes of `rows` rows of `row_bytes`.
Result<void> check_rows(const ImageFields& image, std::size_t rows, std::size_t row_bytes) {
  if (image.width == 0 || image.height == 0) {
    return Error{"expected a non-empty image, found " + size_of(image), "repair the publisher"};
  }
  if (image.step < row_bytes) {
    return Error{"expected step >= " + std::to_string(row_bytes) + " (" + std::to_string(image.width) + " pixels of " +
                     image.encoding + "), found " + std::to_string(image.step),
                 ""};
  }
  if (image.size != image.step * rows) {
    return Error{"expected " + std::to_string(image.step * rows) + " bytes of data for " + image.encoding + ", found " +
                     std::to_string(image.size),
                 ""};
  }
  return {};
}

/// Rows of the message's memory as a matrix; OpenCV's own checks see no more than the image's width.
cv::Mat rows_of(const ImageFields& image, int rows, int columns, int type) {
  return {rows, columns, type, const_cast<std::uint8_t*>(image.data), image.step};
}

}  // namespace

bool big_endian_machine() {
  const std::uint16_t one = 1;
  std::uint8_t first = 0;
  std::memcpy(&first, &one, 1);
  return first == 0;
}

cv::Mat byte_swapped(const cv::Mat& pixels) {
  cv::Mat swapped = pixels.clone();
  const std::size_t element = pixels.elemSize1();
  for (int row = 0; row < swapped.rows; ++row) {
    std::uint8_t* bytes = swapped.ptr(row);
    const std::size_t count = static_cast<std::size_t>(swapped.cols) * swapped.elemSize();
    for (std::size_t at = 0; at < count; at += element)
      std::reverse(bytes + at, bytes + at + element);
  }
  return swapped;
}

bool is_exotic(const std::string& encoding) {
  return bayer_of(encoding) || yuv_of(encoding);
}

Result<Decoded> decode_exotic(const ImageFields& image) {
  if (image.width % 2 != 0 || image.height % 2 != 0) {
    return Error{"expected even width and height for " + image.encoding + ", found " + size_of(image), ""};
  }
  const std::optional<Bayer> bayer = bayer_of(image.encoding);
  const std::optional<Yuv> yuv = yuv_of(image.encoding);
  const bool packed = yuv && yuv->packed;
  const std::size_t pixel = bayer ? static_cast<std::size_t>(bayer->element_bytes) : packed ? 2 : 1;
  const std::size_t rows = bayer || packed ? image.height : std::size_t{image.height} * 3 / 2;
  if (Result<void> good = check_rows(image, rows, image.width * pixel); !good) return good.error();
  const int height = static_cast<int>(rows), width = static_cast<int>(image.width);
  cv::Mat pixels;
  if (!bayer) {
    cv::cvtColor(rows_of(image, height, width, packed ? CV_8UC2 : CV_8UC1), pixels, yuv->code);
    return Decoded{pixels, "bgr8"};
  }
  if (bayer->element_bytes == 1) {
    cv::cvtColor(rows_of(image, height, width, CV_8UC1), pixels, bayer->code);
    return Decoded{pixels, "bgr8"};
  }
  // Rows may start at odd addresses: copied as bytes first.
  const cv::Mat bytes = rows_of(image, height, 2 * width, CV_8UC1).clone();
  const cv::Mat mosaic(height, width, CV_16UC1, bytes.data, bytes.step);
  cv::cvtColor(image.is_bigendian == big_endian_machine() ? mosaic : byte_swapped(mosaic), pixels, bayer->code);
  return Decoded{pixels, "bgr16"};
}

Result<Decoded> decode_compressed(const std::string& format, const std::uint8_t* data, std::size_t size) {
  if (size == 0) return Error{"expected a compressed image, found no data", "repair the publisher"};
  if (size > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    return Error{"expected a compressed image, found " + std::to_string(size) + " bytes", ""};
  }
  const cv::Mat bytes(1, static_cast<int>(size), CV_8UC1, const_cast<std::uint8_t*>(data));
  const cv::Mat pixels = cv::imdecode(bytes, cv::IMREAD_UNCHANGED);
  if (pixels.empty()) {
    return Error{"expected a compressed image ('" + format + "'), found " + std::to_string(size) + " undecodable bytes",
                 ""};
  }
  const std::string bits = pixels.depth() == CV_8U ? "8" : pixels.depth() == CV_16U ? "16" : "";
  const int channels = pixels.channels();
  if (bits.empty() || channels == 2 || channels > 4) {
    return Error{"expected 8 or 16 bits and 1, 3 or 4 channels, found " + cv::typeToString(pixels.type()), ""};
  }
  return Decoded{pixels, (channels == 1 ? "mono" : channels == 3 ? "bgr" : "bgra") + bits};
}

}  // namespace aot_perception
