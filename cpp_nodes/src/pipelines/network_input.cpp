// SPDX-License-Identifier: Apache-2.0
#include "network_input.hpp"

#include "runtime/container.hpp"

namespace aot_perception {

Result<void> make_buffers(const Model& model, Tensor& staging, Tensor& input) {
  const TensorSpec& spec = model.manifest().inputs[0];
  const Shape& shape = model.manifest().golden.inputs[0].shape;  // these networks have fixed sizes
  Result<Tensor> host = staging_zeros(spec.dtype, shape, model.device());
  if (!host) return host.error();
  staging = std::move(*host);
  if (!model.device().cuda) {
    input = staging;
    return {};
  }
  Result<Tensor> device = zeros_on(spec.dtype, shape, model.device());
  if (!device) return device.error();
  input = std::move(*device);
  return {};
}

Result<Tensors> run_staged(Model& model, const Tensor& staging, Tensor& input) {
  if (model.device().cuda) {
    if (Result<void> copied = copy_elements(staging, input); !copied) return copied.error();
  }
  return model.run({{model.manifest().inputs[0].name, input}});
}

LoadOptions load_options(const std::string& path, const Device& device, const std::optional<AllowList>& allow_list,
                         bool self_test, bool cuda_graph) {
  LoadOptions options;
  options.device = device;
  options.allow_list = allow_list;
  options.self_test = self_test;
  options.cuda_graph = cuda_graph && device.cuda && container_of(path) != Container::kOnnx;
  return options;
}

}  // namespace aot_perception
