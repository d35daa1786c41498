// SPDX-License-Identifier: Apache-2.0
// A block of numbers in host or device memory: what goes into a model and comes out of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"

namespace aot_perception {

/// Element types an artifact may have, by the manifest's names ("float32", ...).
enum class DType : std::uint8_t {
  kFloat32,
  kFloat16,
  kBFloat16,
  kFloat64,
  kInt64,
  kInt32,
  kInt16,
  kInt8,
  kUInt8,
  kBool,
};

const char* dtype_name(DType dtype);
std::optional<DType> dtype_of(const std::string& name);
std::size_t element_size(DType dtype);  ///< bytes

/// Where memory lies, or where a model runs.
struct Device {
  bool cuda = false;
  int index = 0;

  /// "cpu", "cuda" or "cuda:N".
  static Result<Device> parse(const std::string& text);
  /// "cpu" or "cuda:N".
  std::string name() const;
  friend bool operator==(const Device& a, const Device& b) { return a.cuda == b.cuda && a.index == b.index; }
  friend bool operator!=(const Device& a, const Device& b) { return !(a == b); }
};

using Shape = std::vector<std::int64_t>;

/// "(1, 3, 480, 640)", "(7,)", "()": as Python prints it.
std::string shape_text(const Shape& shape);

/// Elements in C order (row-major, no gaps). Copies share the memory.
///
/// Memory on a CUDA device cannot be read here; see device_memory.hpp for copies.
class Tensor {
 public:
  /// No elements, float32, shape (0,).
  Tensor();
  /// New zeros in host memory, aligned to 64 bytes. Sizes below 0 count as 0.
  ///
  /// As every container it throws std::bad_alloc where there is no memory; zeros_on() of device_memory.hpp does not.
  static Tensor zeros(DType dtype, Shape shape);
  /// Memory of somebody else.
  ///
  /// @param data   at least numel() elements in C order, on `device`.
  /// @param owner  keeps the memory alive as long as a copy of the tensor lives; without one the
  ///               caller does.
  static Tensor view(DType dtype, Shape shape, void* data, Device device = {}, std::shared_ptr<const void> owner = {});

  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  const Device& device() const { return device_; }
  std::int64_t numel() const;
  std::size_t bytes() const;

  void* data() { return data_; }
  const void* data() const { return data_; }
  /// The elements as T; the caller knows that dtype() is T's.
  template <class T>
  T* data_as() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* data_as() const {
    return static_cast<const T*>(data_);
  }

  /// The same memory with another shape of as many elements.
  Result<Tensor> reshaped(Shape shape) const;
  /// A copy in host memory as float32, converted from whatever the dtype is.
  ///
  /// Error: the memory is on a device (see device_memory.hpp).
  Result<Tensor> to_float32() const;

 private:
  DType dtype_ = DType::kFloat32;
  Shape shape_;
  Device device_;
  void* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

}  // namespace aot_perception
