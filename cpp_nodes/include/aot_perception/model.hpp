// SPDX-License-Identifier: Apache-2.0
// Load an artifact and run it: verdict first, then the self-test, then inputs that are checked every time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/files.hpp"
#include "aot_perception/manifest.hpp"
#include "aot_perception/tensor.hpp"
#include "aot_perception/verdict.hpp"

namespace aot_perception {

/// Tensors by name.
using Tensors = std::map<std::string, Tensor>;

struct LoadOptions {
  Device device;
  /// Digests that may run (AllowList::read() reads them from a file); none given: all.
  std::optional<AllowList> allow_list;
  /// Rerun the golden and refuse an artifact that computes something else.
  bool self_test = true;
  /// On CUDA: capture the network as one graph, which run() replays. Its inputs are copied into the graph's own; its
  /// outputs are overwritten by the next run. Not for `.onnx`, whose runtime synchronises.
  bool cuda_graph = false;
  /// The size of every dynamic dim of an input, which a CUDA graph fixes.
  std::map<std::string, std::int64_t> graph_sizes;
};

class Runner;  // the backend of one file; src/runtime/runner.hpp

/// A loaded artifact. Calls of run() wait for each other.
class Model {
 public:
  Model(std::string path, Manifest manifest, Verdict verdict, Device device, std::unique_ptr<Runner> runner);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  const Verdict& verdict() const { return verdict_; }
  const Device& device() const { return device_; }

  /// Runs on checked inputs, by name; outputs are on the model's device, by name, and new unless a CUDA graph is
  /// replayed. On CUDA the work is queued on the calling thread's current stream; see to_host() in device_memory.hpp.
  ///
  /// Error: an input is missing, unknown, or has the wrong dtype, shape or device (it names the input), or the runtime
  /// failed.
  Result<Tensors> run(const Tensors& inputs);

  /// The inputs in the artifact's order, each checked as run() does.
  Result<std::vector<Tensor>> check_inputs(const Tensors& inputs) const;

  /// Runs **unchecked** inputs in the artifact's order. Wrong ones read foreign memory: see check_inputs().
  Result<std::vector<Tensor>> run_positional(const std::vector<Tensor>& inputs);

  /// The inputs of the self-test, on the model's device; also good for warming up and measuring.
  Result<Tensors> golden_inputs(const std::map<std::string, std::int64_t>& sizes = {}) const;

  /// Runs the golden inputs and compares.
  ///
  /// @param verdict  set to the verdict that a failed test gives.
  Result<void> self_test(Verdict* verdict = nullptr);

  /// Replaces run() by the replay of a CUDA graph; see LoadOptions::cuda_graph. Once.
  ///
  /// Error: not on CUDA, no CUDA graphs in this build, a runtime that cannot be captured, or a size is missing.
  Result<void> capture_cuda_graph(const std::map<std::string, std::int64_t>& sizes = {});
  bool graphed() const;
  /// Whether a CUDA graph can hold the runtime's calls.
  bool capturable() const;

 private:
  Result<void> check_input(const TensorSpec& spec, const Tensor& tensor,
                           std::map<std::string, std::int64_t>& sizes) const;

  std::string path_;
  Manifest manifest_;
  Verdict verdict_;
  Device device_;
  std::mutex mutex_;
  std::unique_ptr<Runner> runner_;
};

/// Loads a `.pt2`, `.onnx` or `.engine` that may run here. One load at a time in a process.
///
/// @param verdict  set to the verdict, of the file or of the self-test, where one was reached.
/// Error: it may not run here ("REBUILD TORCH_VERSION: ..."), or the runtime rejects the file.
Result<std::unique_ptr<Model>> load_model(const std::string& path, const LoadOptions& options = {},
                                          Verdict* verdict = nullptr);

}  // namespace aot_perception
