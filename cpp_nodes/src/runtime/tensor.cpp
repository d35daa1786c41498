// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/tensor.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "half.hpp"
#include "python_text.hpp"

namespace aot_perception {
namespace {

struct DTypeInfo {
  DType dtype;
  const char* name;
  std::size_t size;
};

// In the manifest's order of DTYPES.
constexpr std::array<DTypeInfo, 10> kDTypes = {{{DType::kFloat32, "float32", 4},
                                                {DType::kFloat16, "float16", 2},
                                                {DType::kBFloat16, "bfloat16", 2},
                                                {DType::kFloat64, "float64", 8},
                                                {DType::kInt64, "int64", 8},
                                                {DType::kInt32, "int32", 4},
                                                {DType::kInt16, "int16", 2},
                                                {DType::kInt8, "int8", 1},
                                                {DType::kUInt8, "uint8", 1},
                                                {DType::kBool, "bool", 1}}};
// Inductor's kernels read inputs with vector loads.
constexpr std::size_t kAlignment = 64;

template <class T>
void widen(const void* from, std::int64_t count, float* to) {
  const T* values = static_cast<const T*>(from);
  for (std::int64_t i = 0; i < count; ++i)
    to[i] = static_cast<float>(values[i]);
}

}  // namespace

const char* dtype_name(DType dtype) {
  return kDTypes[static_cast<std::size_t>(dtype)].name;
}

std::optional<DType> dtype_of(const std::string& name) {
  for (const DTypeInfo& info : kDTypes) {
    if (name == info.name) return info.dtype;
  }
  return std::nullopt;
}

std::size_t element_size(DType dtype) {
  return kDTypes[static_cast<std::size_t>(dtype)].size;
}

Result<Device> Device::parse(const std::string& text) {
  if (text == "cpu") return Device{};
  if (text == "cuda") return Device{true, 0};
  const std::string digits = text.rfind("cuda:", 0) == 0 ? text.substr(5) : "";
  if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos) {
    return Error{"expected a device cpu, cuda or cuda:N, found " + first_characters(python_repr(text), 60), ""};
  }
  return Device{true, std::atoi(digits.c_str())};
}

std::string Device::name() const {
  return cuda ? "cuda:" + std::to_string(index) : "cpu";
}

std::string shape_text(const Shape& shape) {
  std::vector<std::string> sizes;
  for (const std::int64_t size : shape)
    sizes.push_back(std::to_string(size));
  return tuple_text(sizes);
}

Tensor::Tensor() : shape_{0} {}

Tensor Tensor::zeros(DType dtype, Shape shape) {
  for (std::int64_t& size : shape)
    size = std::max<std::int64_t>(size, 0);
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  // Rounded up, as aligned_alloc asks; never nothing, since backends want an address for empty tensors too.
  const std::size_t bytes = tensor.bytes();
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) throw std::bad_alloc();
  const std::size_t rounded = std::max<std::size_t>(1, (bytes + kAlignment - 1) / kAlignment) * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  tensor.owner_ = std::shared_ptr<void>(memory, std::free);
  std::memset(memory, 0, rounded);
  tensor.data_ = memory;
  return tensor;
}

Tensor Tensor::view(DType dtype, Shape shape, void* data, Device device, std::shared_ptr<const void> owner) {
  Tensor tensor;
  tensor.dtype_ = dtype;
  tensor.shape_ = std::move(shape);
  tensor.device_ = device;
  tensor.data_ = data;
  tensor.owner_ = std::move(owner);
  return tensor;
}

std::int64_t Tensor::numel() const {
  std::int64_t count = 1;
  bool huge = false;
  for (const std::int64_t size : shape_) {
    if (size <= 0) return 0;
    huge = huge || __builtin_mul_overflow(count, size, &count);
  }
  return huge ? std::numeric_limits<std::int64_t>::max() : count;
}

std::size_t Tensor::bytes() const {
  std::size_t total = 0;
  const bool huge = __builtin_mul_overflow(static_cast<std::size_t>(numel()), element_size(dtype_), &total);
  return huge ? std::numeric_limits<std::size_t>::max() : total;
}

Result<Tensor> Tensor::reshaped(Shape shape) const {
  Tensor other = *this;
  other.shape_ = std::move(shape);
  if (other.numel() != numel()) {
    return Error{"expected a shape of " + std::to_string(numel()) + " elements, found " + shape_text(other.shape_), ""};
  }
  return other;
}

Result<Tensor> Tensor::to_float32() const {
  if (device_.cuda) return Error{"expected a tensor in host memory, found one on " + device_.name(), "copy it first"};
  try {
    Tensor result = zeros(DType::kFloat32, shape_);
    float* to = result.data_as<float>();
    const std::int64_t count = numel();
    switch (dtype_) {
      case DType::kFloat32:
        if (count > 0) std::memcpy(to, data_, bytes());
        break;
      case DType::kFloat16:
        for (std::int64_t i = 0; i < count; ++i)
          to[i] = float16_to_float(data_as<std::uint16_t>()[i]);
        break;
      case DType::kBFloat16:
        for (std::int64_t i = 0; i < count; ++i)
          to[i] = bfloat16_to_float(data_as<std::uint16_t>()[i]);
        break;
      case DType::kFloat64:
        widen<double>(data_, count, to);
        break;
      case DType::kInt64:
        widen<std::int64_t>(data_, count, to);
        break;
      case DType::kInt32:
        widen<std::int32_t>(data_, count, to);
        break;
      case DType::kInt16:
        widen<std::int16_t>(data_, count, to);
        break;
      case DType::kInt8:
        widen<std::int8_t>(data_, count, to);
        break;
      case DType::kUInt8:
      case DType::kBool:
        widen<std::uint8_t>(data_, count, to);
        break;
    }
    return result;
  } catch (const std::bad_alloc&) {
    return Error{"expected memory for a tensor of shape " + shape_text(shape_) + ", found none left", ""};
  }
}

}  // namespace aot_perception
