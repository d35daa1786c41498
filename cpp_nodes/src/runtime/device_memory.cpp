// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/device_memory.hpp"

#include <ATen/Context.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "torch_tensor.hpp"

namespace aot_perception {
namespace {

/// Whether a device is there; asking PyTorch for one that is not would end in a long text.
Result<void> require(const Device& device) {
  if (!device.cuda) return {};
  return guarded("CUDA device " + device.name(), [&]() -> Result<void> {
    const int count = at::hasCUDA() ? static_cast<int>(at::getNumGPUs()) : 0;
    if (device.index < count) return {};
    return Error{"expected CUDA device " + std::to_string(device.index) + ", found " + std::to_string(count) +
                     " CUDA devices that torch can use",
                 "check the driver with nvidia-smi, and that torch is built with CUDA"};
  });
}

}  // namespace

Result<Tensor> zeros_on(DType dtype, Shape shape, const Device& device) {
  if (Result<void> there = require(device); !there) return there.error();
  const std::string what = "memory for a tensor of shape " + shape_text(shape) + " on " + device.name();
  return guarded(what, [&]() -> Result<Tensor> {
    if (!device.cuda) return Tensor::zeros(dtype, shape);
    return from_torch(at::zeros(shape, at::TensorOptions().dtype(scalar_type(dtype)).device(torch_device(device))));
  });
}

Result<Tensor> staging_zeros(DType dtype, Shape shape, const Device& consumer) {
  if (!consumer.cuda) return zeros_on(dtype, std::move(shape), consumer);
  if (Result<void> there = require(consumer); !there) return there.error();
  return guarded("page-locked memory for a tensor of shape " + shape_text(shape), [&]() -> Result<Tensor> {
    return from_torch(at::zeros(shape, at::TensorOptions().dtype(scalar_type(dtype)).pinned_memory(true)));
  });
}

Result<Tensor> to_device(const Tensor& tensor, const Device& device) {
  if (tensor.device() == device) return tensor;
  if (Result<void> there = require(device); !there) return there.error();
  return guarded("a copy of a tensor of shape " + shape_text(tensor.shape()) + " on " + device.name(),
                 [&]() -> Result<Tensor> { return from_torch(as_torch(tensor).to(torch_device(device))); });
}

Result<Tensor> to_host(const Tensor& tensor) {
  return to_device(tensor, Device{});
}

Result<Tensor> to_host_float32(const Tensor& tensor) {
  const Result<Tensor> host = to_host(tensor);
  return host ? host->to_float32() : host;
}

Result<void> copy_elements(const Tensor& from, Tensor& to) {
  if (from.dtype() != to.dtype() || from.numel() != to.numel()) {
    return Error{std::string("expected ") + dtype_name(to.dtype()) + " " + shape_text(to.shape()) + ", found " +
                     dtype_name(from.dtype()) + " " + shape_text(from.shape()),
                 ""};
  }
  return guarded("a copy of a tensor of shape " + shape_text(from.shape()), [&]() -> Result<void> {
    at::Tensor target = as_torch(to);
    target.copy_(as_torch(from).view(target.sizes()), /*non_blocking=*/to.device().cuda);
    return {};
  });
}

Result<void> synchronise(const Device& device) {
  if (!device.cuda) return {};
  if (Result<void> there = require(device); !there) return there;
  return guarded("that " + device.name() + " finishes", [&]() -> Result<void> {
    c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(torch_device(device)).synchronize();
    return {};
  });
}

}  // namespace aot_perception
