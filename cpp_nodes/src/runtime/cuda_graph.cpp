// SPDX-License-Identifier: Apache-2.0
// A loaded model as one CUDA graph: no launch overhead per kernel, at the price of fixed sizes and fixed buffers.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <utility>

#include "aot_perception/device_memory.hpp"
#include "runner.hpp"
#include "torch_tensor.hpp"

namespace aot_perception {
namespace {

constexpr int kWarmupRuns = 3;

class GraphRunner final : public Runner {
 public:
  /// Takes the runner, whose memory the graph uses.
  GraphRunner(std::unique_ptr<Runner> runner, const Device& device, std::vector<Tensor> inputs)
      : runner_(std::move(runner)), device_(device), inputs_(std::move(inputs)) {}

  ~GraphRunner() override {
    outputs_.clear();
    try {
      graph_.reset();
    } catch (const std::exception&) {
      // The driver is gone already, at the end of a process.
    }
  }

  Result<void> capture() {
    return guarded("a network that a CUDA graph can hold", [&]() -> Result<void> {
      const c10::InferenceMode inference;
      const c10::cuda::CUDAGuard on(torch_device(device_));
      // A capture needs a stream that is not the default one, and what ran before has to be finished.
      const c10::cuda::CUDAStream stream =
          c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device_.index));
      c10::cuda::getCurrentCUDAStream().synchronize();
      const c10::cuda::CUDAStreamGuard queue(stream);
      for (int i = 0; i < kWarmupRuns; ++i) {
        if (Result<std::vector<Tensor>> warm = runner_->run(inputs_); !warm) return warm.error();
      }
      stream.synchronize();
      graph_.capture_begin();
      Result<std::vector<Tensor>> outputs = runner_->run(inputs_);
      graph_.capture_end();
      stream.synchronize();
      if (!outputs) return outputs.error();
      outputs_ = std::move(*outputs);
      return {};
    });
  }

  Result<std::vector<Tensor>> run(const std::vector<Tensor>& inputs) override {
    return guarded("a replay of a CUDA graph", [&]() -> Result<std::vector<Tensor>> {
      const c10::cuda::CUDAGuard on(torch_device(device_));
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (inputs[i].shape() != inputs_[i].shape()) {
          return Error{"expected the captured shape " + shape_text(inputs_[i].shape()) + ", found " +
                           shape_text(inputs[i].shape()),
                       "capture another graph for this size"};
        }
        if (inputs[i].data() == inputs_[i].data()) continue;
        if (Result<void> copied = copy_elements(inputs[i], inputs_[i]); !copied) return copied.error();
      }
      graph_.replay();
      return outputs_;
    });
  }

  bool capturable() const override { return false; }
  bool graphed() const override { return true; }
  std::unique_ptr<Runner> release() { return std::move(runner_); }

 private:
  std::unique_ptr<Runner> runner_;
  Device device_;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace

OpenedRunner capture_graph(std::unique_ptr<Runner>& runner, const Device& device, std::vector<Tensor> inputs) {
  auto graph = std::make_unique<GraphRunner>(std::move(runner), device, std::move(inputs));
  if (Result<void> captured = graph->capture(); !captured) {
    runner = graph->release();  // still good without a graph
    return Error{captured.error().reason, "set cuda_graph to false"};
  }
  return OpenedRunner(std::move(graph));
}

}  // namespace aot_perception
