// SPDX-License-Identifier: Apache-2.0
// Reads a hot pixel mask from an .npz file (a zip of .npy arrays) or a picture.
#include <zip.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <opencv2/imgcodecs.hpp>
#include <regex>

#include "event_filters.hpp"

namespace aot_perception {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 27;

/// The bytes of one member of a zip file, or nothing.
std::string zip_member(const std::string& path, const char* name) {
  int code = 0;
  const std::unique_ptr<zip_t, decltype(&zip_discard)> archive(zip_open(path.c_str(), ZIP_RDONLY, &code), &zip_discard);
  zip_stat_t stat{};
  if (archive == nullptr || zip_stat(archive.get(), name, 0, &stat) != 0 || stat.size > kMostBytes) return {};
  const std::unique_ptr<zip_file_t, decltype(&zip_fclose)> file(zip_fopen(archive.get(), name, 0), &zip_fclose);
  std::string bytes(stat.size, '\0');
  if (file == nullptr || zip_fread(file.get(), bytes.data(), bytes.size()) != static_cast<zip_int64_t>(bytes.size())) {
    return {};
  }
  return bytes;
}

/// A mask out of a two-dimensional .npy array in C order with little-endian or single-byte elements.
bool read_npy(const std::string& bytes, HotPixelMask& mask) {
  constexpr std::size_t kPrefix = 10;  // magic, version 1, length of the header
  if (bytes.size() < kPrefix || bytes.compare(0, 7, std::string("\x93NUMPY\x01", 7)) != 0) return false;
  const auto byte = [&bytes](std::size_t i) { return static_cast<std::size_t>(static_cast<std::uint8_t>(bytes[i])); };
  const std::size_t start = kPrefix + (byte(8) | byte(9) << 8);
  if (start > bytes.size()) return false;
  const std::string header = bytes.substr(kPrefix, start - kPrefix);
  static const std::regex kHeader(
      R"(\{'descr': '[|<][a-z](\d)', 'fortran_order': False, 'shape': \((\d{1,5}), (\d{1,5})\), \}\s*)");
  std::smatch found;
  if (!std::regex_match(header, found, kHeader)) return false;
  const std::size_t element = std::stoul(found[1]);
  mask.height = std::stoi(found[2]);
  mask.width = std::stoi(found[3]);
  const std::size_t count = static_cast<std::size_t>(mask.width) * static_cast<std::size_t>(mask.height);
  if (count == 0 || element == 0 || bytes.size() - start != count * element) return false;
  mask.hot.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto* first = bytes.data() + start + i * element;
    mask.hot[i] = std::any_of(first, first + element, [](char part) { return part != 0; });
  }
  return true;
}

}  // namespace

Result<HotPixelMask> HotPixelMask::load(const std::string& path) {
  HotPixelMask mask;
  if (!std::filesystem::is_regular_file(path)) return Error{"expected a mask file, found nothing at " + path, ""};
  if (std::filesystem::path(path).extension() == ".npz") {
    if (!read_npy(zip_member(path, "mask.npy"), mask)) {
      return Error{"expected an array `mask` (H, W), found none in " + path,
                   "write it with numpy.savez(FILE, mask=MASK)"};
    }
    return mask;
  }
  cv::Mat picture;
  try {
    picture = cv::imread(path, cv::IMREAD_GRAYSCALE);
  } catch (const cv::Exception&) {  // the picture stays empty
  }
  if (picture.empty()) return Error{"expected a picture or .npz, found something else in " + path, ""};
  mask.width = picture.cols;
  mask.height = picture.rows;
  for (int row = 0; row < picture.rows; ++row) {
    for (int column = 0; column < picture.cols; ++column) {
      mask.hot.push_back(picture.at<std::uint8_t>(row, column) != 0);
    }
  }
  return mask;
}

}  // namespace aot_perception
