// SPDX-License-Identifier: Apache-2.0
// AOTInductor: a `.pt2` through AOTIModelPackageLoader. A loaded package checks nothing about its inputs.
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdint>
#include <utility>

#include "exact_float32.hpp"
#include "runner.hpp"
#include "torch_tensor.hpp"

namespace aot_perception {
namespace {

constexpr char kModelName[] = "model";
// Inductor's kernels read inputs with vector loads; PyTorch's own allocations are aligned at least so.
constexpr std::uintptr_t kAlignment = 64;

class AotiRunner final : public Runner {
 public:
  // Without thread synchronisation a CUDA graph can capture the call; Model holds a lock then.
  AotiRunner(const std::string& path, const Device& device, bool exact)
      : device_(device),
        exact_(exact && device.cuda),
        loader_(path, kModelName, /*run_single_threaded=*/device.cuda, /*num_runners=*/1,
                static_cast<c10::DeviceIndex>(device.cuda ? device.index : -1)) {}

  Result<std::vector<Tensor>> run(const std::vector<Tensor>& inputs) override {
    return guarded("a run of the network", [&]() -> Result<std::vector<Tensor>> {
      const c10::InferenceMode inference;
      const c10::OptionalDeviceGuard on(torch_device(device_));
      const ExactFloat32 exact(exact_);
      std::vector<at::Tensor> tensors;
      for (const Tensor& input : inputs) {
        at::Tensor tensor = as_torch(input);
        const bool aligned = reinterpret_cast<std::uintptr_t>(input.data()) % kAlignment == 0;
        tensors.push_back(aligned ? tensor : tensor.clone());
      }
      std::vector<Tensor> outputs;
      for (at::Tensor& output : loader_.run(tensors)) {
        Result<Tensor> tensor = from_torch(std::move(output));
        if (!tensor) return tensor.error();
        outputs.push_back(std::move(*tensor));
      }
      return outputs;
    });
  }

  bool capturable() const override { return true; }

 private:
  Device device_;
  bool exact_;
  torch::inductor::AOTIModelPackageLoader loader_;
};

}  // namespace

OpenedRunner open_aoti(const std::string& path, const Manifest& manifest, const Device& device) {
  try {
    return OpenedRunner(std::make_unique<AotiRunner>(path, device, manifest.precision == "fp32"));
  } catch (const std::exception& error) {
    return Error{"expected a package that torch " + this_host().torch + " can load, found " + path +
                     " rejected: " + first_line(error),
                 "export the model again on this machine"};
  }
}

}  // namespace aot_perception
