// SPDX-License-Identifier: Apache-2.0
// A file that is read at any place, and SHA-256 of a part of it. Errors have the system's word as reason.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "aot_perception/error.hpp"

namespace aot_perception {

class FileReader {
 public:
  static Result<FileReader> open(const std::string& path);
  ~FileReader();
  FileReader(FileReader&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)), size_(other.size_) {}
  FileReader& operator=(FileReader&&) = delete;

  std::uint64_t size() const { return size_; }
  /// Up to `count` bytes from `position` on; fewer only at the end of the file.
  Result<std::string> read(std::uint64_t position, std::size_t count) const;
  /// SHA-256 of the first `count` bytes (fewer where the file ends), as 64 lower-case hexadecimal digits.
  Result<std::string> sha256(std::uint64_t count) const;

 private:
  FileReader(int descriptor, std::uint64_t size) : descriptor_(descriptor), size_(size) {}

  int descriptor_;
  std::uint64_t size_;
};

}  // namespace aot_perception
