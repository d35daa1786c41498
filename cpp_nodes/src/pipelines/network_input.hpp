// SPDX-License-Identifier: Apache-2.0
// The one image input of a network: a buffer in host memory, its copy on the device, and the run.
#pragma once

#include "aot_perception/device_memory.hpp"
#include "aot_perception/model.hpp"

namespace aot_perception {

/// Buffers for the first input of a model: `staging` in host memory, `input` on the device (the same on a CPU).
Result<void> make_buffers(const Model& model, Tensor& staging, Tensor& input);

/// Uploads `staging` and runs; outputs are on the model's device.
Result<Tensors> run_staged(Model& model, const Tensor& staging, Tensor& input);

/// Options of load_model() for a pipeline: a CUDA graph where there can be one.
LoadOptions load_options(const std::string& path, const Device& device, const std::optional<AllowList>& allow_list,
                         bool self_test, bool cuda_graph);

}  // namespace aot_perception
