// SPDX-License-Identifier: Apache-2.0
// Memory of a CUDA device, and copies to and from it. On a CPU these are plain memory and memcpy.
#pragma once

#include "aot_perception/error.hpp"
#include "aot_perception/tensor.hpp"

namespace aot_perception {

/// Zeros on a device.
///
/// Error: no such device, or no memory left.
Result<Tensor> zeros_on(DType dtype, Shape shape, const Device& device);

/// Zeros in host memory that `consumer` can fetch without another copy: page-locked for CUDA.
Result<Tensor> staging_zeros(DType dtype, Shape shape, const Device& consumer);

/// A copy on `device`, or the tensor itself where it lies there. Copies to the host are finished on return.
Result<Tensor> to_device(const Tensor& tensor, const Device& device);

/// A finished copy in host memory, or the tensor itself where it lies there.
Result<Tensor> to_host(const Tensor& tensor);

/// to_host() as float32.
Result<Tensor> to_host_float32(const Tensor& tensor);

/// Copies elements; dtype and number of elements must be equal. From page-locked memory to a device the copy is only
/// queued on the calling thread's current stream; `from` must not change until synchronise().
Result<void> copy_elements(const Tensor& from, Tensor& to);

/// Waits for the calling thread's current stream of a device; nothing to do on a CPU.
Result<void> synchronise(const Device& device);

}  // namespace aot_perception
