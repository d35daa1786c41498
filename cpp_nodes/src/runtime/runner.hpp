// SPDX-License-Identifier: Apache-2.0
// The one interface of the three runtimes, and what opens them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/manifest.hpp"
#include "aot_perception/tensor.hpp"
#include "aot_perception/verdict.hpp"

namespace aot_perception {

/// A loaded artifact that takes and gives tensors by position, unchecked. One call at a time.
class Runner {
 public:
  virtual ~Runner() = default;
  /// Outputs as new tensors on the model's device; on CUDA the work is queued on the current stream.
  virtual Result<std::vector<Tensor>> run(const std::vector<Tensor>& inputs) = 0;
  /// Whether a CUDA graph can hold run().
  virtual bool capturable() const = 0;
  /// Whether run() replays a CUDA graph.
  virtual bool graphed() const { return false; }
};

using OpenedRunner = Result<std::unique_ptr<Runner>>;

/// Loads an artifact whose verdict is OK, with the runtime of its suffix.
///
/// @param verdict  set where the runtime's refusal has a verdict of its own (an engine).
OpenedRunner open_runner(const std::string& path, const Manifest& manifest, const Device& device, Verdict* verdict);

// One for each runtime; a runtime that this build lacks says what to install.
OpenedRunner open_aoti(const std::string& path, const Manifest& manifest, const Device& device);
OpenedRunner open_onnx(const std::string& path, const Manifest& manifest, const Device& device);
OpenedRunner open_engine(const std::string& path, const Manifest& manifest, const Device& device, Verdict* verdict);

/// The version of the runtime that this program was built with, or "".
std::string onnxruntime_version();
std::string tensorrt_version();
/// "tensorrt" or "tensorrt_rtx": which of the two it is.
std::string tensorrt_name();

/// A runner that replays `runner` as a CUDA graph at the sizes of `inputs`, which lie on the device.
///
/// Error: this build has no CUDA graphs, or the capture failed.
OpenedRunner capture_graph(std::unique_ptr<Runner>& runner, const Device& device, std::vector<Tensor> inputs);

}  // namespace aot_perception
