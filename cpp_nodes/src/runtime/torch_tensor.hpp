// SPDX-License-Identifier: Apache-2.0
// Tensors of this package as tensors of PyTorch and back, without copies. Not for public headers.
#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <string>
#include <utility>

#include "aot_perception/error.hpp"
#include "aot_perception/tensor.hpp"

namespace aot_perception {

at::ScalarType scalar_type(DType dtype);
c10::Device torch_device(const Device& device);

/// The same memory; the tensor has to live as long.
at::Tensor as_torch(const Tensor& tensor);

/// The same memory (a copy of it where it is not contiguous), which the result keeps alive.
///
/// Error: a dtype that no artifact has.
Result<Tensor> from_torch(at::Tensor tensor);

/// The first line of an exception's text: PyTorch adds a stack trace.
std::string first_line(const std::exception& error);

/// Calls a function that may throw as PyTorch does; "expected <what>, found <the exception>" is the error then.
template <class Function>
auto guarded(const std::string& what, Function&& function) -> decltype(function()) {
  try {
    return std::forward<Function>(function)();
  } catch (const std::exception& error) {
    return Error{"expected " + what + ", found " + first_line(error), ""};
  }
}

}  // namespace aot_perception
