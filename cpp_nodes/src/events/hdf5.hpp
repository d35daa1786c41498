// SPDX-License-Identifier: Apache-2.0
// The little of the HDF5 library that reading columns of integers needs, with handles that close themselves.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aot_perception/error.hpp"

namespace aot_perception {

/// An identifier of the library, closed at the end.
class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);

  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, Close close) : id_(id), close_(close) {}
  Hdf5Handle(Hdf5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Hdf5Handle() {
    if (id_ >= 0 && close_ != nullptr) close_(id_);
  }

  [[nodiscard]] hid_t id() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

/// A file open for reading. The library's own messages go nowhere: ours say what was found.
class Hdf5File {
 public:
  static Result<Hdf5File> open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] bool is_group(const std::string& name) const;
  [[nodiscard]] bool is_dataset(const std::string& name) const;
  /// Names of the links in a group, in the library's order.
  [[nodiscard]] std::vector<std::string> children(const std::string& group) const;
  /// The first data sets below the root with their shapes, for messages.
  [[nodiscard]] std::string contents() const;
  /// An integer attribute of an object; none if it is absent or no number.
  [[nodiscard]] std::optional<std::int64_t> integer_attribute(const std::string& object, const std::string& name) const;
  [[nodiscard]] Hdf5Handle dataset(const std::string& name) const;

 private:
  std::filesystem::path path_;
  Hdf5Handle file_;
};

/// Extent of a data set.
std::vector<std::uint64_t> hdf5_shape(hid_t dataset);

/// "i", "u", "f", "b" (enumerated booleans), or "?"; as numpy's kinds.
char hdf5_kind(hid_t dataset);

/// Elements first..first + n of a one-dimensional data set, converted to the type of `out`.
/// Error: damaged data, or a compression filter that the library does not have.
Result<void> hdf5_read(const Hdf5File& file, const std::string& name, hid_t dataset, std::uint64_t first,
                       std::uint64_t n, hid_t memory_type, void* out);

/// Make the library read chunks compressed with "lzf".
void register_lzf_filter();

/// Unpack one such chunk into `out`; returns the number of bytes, 0 if it is damaged or does not fit.
std::size_t lzf_decompress(const std::uint8_t* in, std::size_t n_in, std::uint8_t* out, std::size_t n_out);

}  // namespace aot_perception
