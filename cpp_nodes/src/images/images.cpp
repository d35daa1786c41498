// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/images.hpp"

#include <cstdlib>
#include <map>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>

#include "exotic.hpp"

namespace aot_perception {
namespace {

const std::map<std::string, PixelFormat>& named_formats() {
  static const std::map<std::string, PixelFormat> formats = {
      {"mono8", {CV_8U, 1}},   {"mono16", {CV_16U, 1}}, {"bgr8", {CV_8U, 3}},   {"rgb8", {CV_8U, 3}},
      {"bgra8", {CV_8U, 4}},   {"rgba8", {CV_8U, 4}},   {"bgr16", {CV_16U, 3}}, {"rgb16", {CV_16U, 3}},
      {"bgra16", {CV_16U, 4}}, {"rgba16", {CV_16U, 4}},
  };
  return formats;
}

std::size_t element_bytes(const PixelFormat& format) {
  return CV_ELEM_SIZE1(format.depth);
}

Error bad_encoding(const std::string& expected, const std::string& encoding, const std::string& remedy) {
  return Error{"expected " + expected + ", found '" + encoding + "'", remedy};
}

/// Calls what may throw as OpenCV does.
template <class Function>
auto without_exceptions(const ImageFields& image, Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::exception& error) {
    return Error{"expected a " + std::to_string(image.width) + "x" + std::to_string(image.height) + " image of " +
                     image.encoding + " that OpenCV converts, found " + error.what(),
                 ""};
  }
}

/// The plain 8 or 16 bit encoding that a typed one stands for.
std::string plain_name(const std::string& encoding) {
  static const std::map<std::string, std::string> names = {{"8UC1", "mono8"}, {"8UC", "mono8"},    {"8UC3", "bgr8"},
                                                           {"8UC4", "bgra8"}, {"16UC1", "mono16"}, {"16UC", "mono16"}};
  const auto found = names.find(encoding);
  return found == names.end() ? encoding : found->second;
}

bool starts_with(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

/// Reorders channels and reduces 16 to 8 bits; `pixels` has the layout of the plain `encoding`.
Result<cv::Mat> convert(cv::Mat pixels, const std::string& encoding, const std::string& desired) {
  const std::string source = plain_name(encoding);
  if ((desired != "mono8" && desired != "bgr8" && desired != "rgb8") || named_formats().count(source) == 0) {
    return Error{"expected an image that converts to " + desired + ", found encoding '" + encoding + "'", ""};
  }
  if (pixels.depth() == CV_16U) {
    // The upper byte: convertTo would round.
    cv::Mat reduced(pixels.size(), CV_MAKETYPE(CV_8U, pixels.channels()));
    for (int row = 0; row < pixels.rows; ++row) {
      const auto* from = pixels.ptr<std::uint16_t>(row);
      std::uint8_t* to = reduced.ptr(row);
      for (int i = 0; i < pixels.cols * pixels.channels(); ++i)
        to[i] = static_cast<std::uint8_t>(from[i] >> 8);
    }
    pixels = reduced;
  }
  const bool is_mono = starts_with(source, "mono"), is_bgr = starts_with(source, "bgr");
  const bool four = pixels.channels() == 4, wants_bgr = desired == "bgr8";
  if (is_mono && desired == "mono8") return pixels;
  cv::Mat result;
  if (is_mono) {
    cv::cvtColor(pixels, result, cv::COLOR_GRAY2BGR);
  } else if (desired == "mono8") {
    cv::cvtColor(
        pixels, result,
        is_bgr ? (four ? cv::COLOR_BGRA2GRAY : cv::COLOR_BGR2GRAY) : (four ? cv::COLOR_RGBA2GRAY : cv::COLOR_RGB2GRAY));
  } else if (is_bgr == wants_bgr) {
    if (!four) return pixels;
    cv::cvtColor(pixels, result, cv::COLOR_BGRA2BGR);
  } else {
    cv::cvtColor(pixels, result, four ? cv::COLOR_BGRA2RGB : cv::COLOR_BGR2RGB);
  }
  return result;
}

}  // namespace

std::optional<PixelFormat> pixel_format(const std::string& encoding) {
  const auto named = named_formats().find(encoding);
  if (named != named_formats().end()) return named->second;
  static const std::map<std::string, int> kinds = {{"8U", CV_8U},   {"8S", CV_8S},   {"16U", CV_16U}, {"16S", CV_16S},
                                                   {"32S", CV_32S}, {"32F", CV_32F}, {"64F", CV_64F}};
  const std::size_t c = encoding.find('C');
  if (c == std::string::npos) return std::nullopt;
  const auto kind = kinds.find(encoding.substr(0, c));
  const std::string digits = encoding.substr(c + 1);
  const bool is_number = digits.size() <= 4 && digits.find_first_not_of("0123456789") == std::string::npos &&
                         (digits.empty() || digits[0] != '0');
  if (kind == kinds.end() || !is_number) return std::nullopt;
  return PixelFormat{kind->second, digits.empty() ? 1 : std::atoi(digits.c_str())};
}

Result<cv::Mat> image_view(const ImageFields& image, bool allow_nan) {
  const std::optional<PixelFormat> format = pixel_format(image.encoding);
  if (!format) {
    return bad_encoding("a plain image encoding", image.encoding,
                        "publish mono8, bgr8, rgb8, 16UC1, 32FC1 or another of sensor_msgs/image_encodings");
  }
  if (image.height == 0 || image.width == 0) {
    return Error{
        "expected a non-empty image, found " + std::to_string(image.width) + "x" + std::to_string(image.height),
        "repair the publisher"};
  }
  const std::size_t element = element_bytes(*format);
  const std::size_t row_bytes = std::size_t{image.width} * element * static_cast<std::size_t>(format->channels);
  if (image.step < row_bytes) {
    return Error{"expected step >= " + std::to_string(row_bytes) + " (" + std::to_string(image.width) + " pixels of " +
                     image.encoding + "), found " + std::to_string(image.step),
                 "set step to the bytes of one row"};
  }
  const std::size_t wanted = std::size_t{image.step} * image.height;
  if (image.size != wanted) {
    return Error{"expected " + std::to_string(wanted) + " bytes of data (step " + std::to_string(image.step) +
                     " x height " + std::to_string(image.height) + "), found " + std::to_string(image.size),
                 "fill data with step * height bytes"};
  }
  if (format->channels > CV_CN_MAX) {
    return Error{"expected at most " + std::to_string(CV_CN_MAX) + " channels, found '" + image.encoding + "'", ""};
  }
  return without_exceptions(image, [&]() -> Result<cv::Mat> {
    const int height = static_cast<int>(image.height), width = static_cast<int>(image.width);
    const int type = CV_MAKETYPE(format->depth, format->channels);
    auto* data = const_cast<std::uint8_t*>(image.data);
    cv::Mat pixels;
    if (image.step % element != 0 || reinterpret_cast<std::uintptr_t>(data) % element != 0) {
      pixels.create(height, width, type);
      const cv::Mat bytes(height, static_cast<int>(row_bytes), CV_8UC1, data, image.step);
      bytes.copyTo(cv::Mat(height, static_cast<int>(row_bytes), CV_8UC1, pixels.data, pixels.step));
    } else {
      pixels = cv::Mat(height, width, type, data, image.step);
    }
    if (element > 1 && image.is_bigendian != big_endian_machine()) pixels = byte_swapped(pixels);
    if (!allow_nan && (format->depth == CV_32F || format->depth == CV_64F) &&
        !cv::checkRange(pixels.reshape(1), /*quiet=*/true)) {
      return Error{"expected finite pixels in a " + image.encoding + " image, found NaN or infinity", ""};
    }
    return pixels;
  });
}

Result<cv::Mat> convert_image(const ImageFields& image, const std::string& desired) {
  if (pixel_format(image.encoding)) {
    const Result<cv::Mat> pixels = image_view(image);
    if (!pixels) return pixels;
    return without_exceptions(image, [&] { return convert(*pixels, image.encoding, desired); });
  }
  if (!is_exotic(image.encoding)) {
    return bad_encoding("an encoding of sensor_msgs/image_encodings", image.encoding,
                        "publish mono8, bgr8, rgb8, a Bayer, YUV or typed (32FC1) encoding");
  }
  return without_exceptions(image, [&]() -> Result<cv::Mat> {
    const Result<Decoded> decoded = decode_exotic(image);
    if (!decoded) return decoded.error();
    return convert(decoded->pixels, decoded->encoding, desired);
  });
}

Result<cv::Mat> convert_compressed(const std::string& format, const std::uint8_t* data, std::size_t size,
                                   const std::string& desired) {
  try {
    const Result<Decoded> decoded = decode_compressed(format, data, size);
    if (!decoded) return decoded.error();
    return convert(decoded->pixels, decoded->encoding, desired);
  } catch (const std::exception& error) {
    return Error{std::string("expected a compressed image, found data that OpenCV refuses: ") + error.what(), ""};
  }
}

}  // namespace aot_perception
