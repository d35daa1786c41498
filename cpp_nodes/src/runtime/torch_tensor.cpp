// SPDX-License-Identifier: Apache-2.0
#include "torch_tensor.hpp"

#include <ATen/ops/from_blob.h>

#include <array>
#include <memory>
#include <typeinfo>

namespace aot_perception {
namespace {

// In the order of DType.
constexpr std::array<at::ScalarType, 10> kScalarTypes = {at::kFloat, at::kHalf,  at::kBFloat16, at::kDouble, at::kLong,
                                                         at::kInt,   at::kShort, at::kChar,     at::kByte,   at::kBool};

}  // namespace

at::ScalarType scalar_type(DType dtype) {
  return kScalarTypes[static_cast<std::size_t>(dtype)];
}

c10::Device torch_device(const Device& device) {
  return device.cuda ? c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device.index)) : c10::Device(c10::kCPU);
}

at::Tensor as_torch(const Tensor& tensor) {
  const c10::Device device = torch_device(tensor.device());
  const at::TensorOptions options = at::TensorOptions().dtype(scalar_type(tensor.dtype())).device(device);
  return at::for_blob(const_cast<void*>(tensor.data()), tensor.shape())
      .options(options)
      .target_device(device)
      .make_tensor();
}

Result<Tensor> from_torch(at::Tensor tensor) {
  return guarded("a tensor that can be read", [&]() -> Result<Tensor> {
    for (std::size_t i = 0; i < kScalarTypes.size(); ++i) {
      if (tensor.scalar_type() != kScalarTypes[i]) continue;
      const auto kept = std::make_shared<at::Tensor>(tensor.contiguous());
      const Device device{kept->is_cuda(), kept->is_cuda() ? kept->get_device() : 0};
      return Tensor::view(static_cast<DType>(i), kept->sizes().vec(), kept->data_ptr(), device, kept);
    }
    return Error{
        std::string("expected a tensor of a dtype that artifacts have, found ") + toString(tensor.scalar_type()),
        "export the artifact again"};
  });
}

std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  const std::size_t start = text.find_first_not_of("\r\n ");
  if (start == std::string::npos) return typeid(error).name();
  return text.substr(start, text.find_first_of("\r\n", start) - start);
}

}  // namespace aot_perception
