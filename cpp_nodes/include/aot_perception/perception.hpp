// SPDX-License-Identifier: Apache-2.0
// From an event window to features, depth and flow, without ROS: F3 and its heads on one device. As
// f3_ros/perception.py and f3_ros/heads.py.
//
// Nothing leaves the device between the models: the feature field is resized once for all heads of one size, and only
// what is wanted is copied to the host. A head that nobody wants does not run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/event_window.hpp"
#include "aot_perception/f3_pipeline.hpp"
#include "aot_perception/files.hpp"
#include "aot_perception/model.hpp"

namespace aot_perception {

/// Which outputs somebody wants.
struct Wanted {
  bool features = false;
  bool depth = false;
  bool flow = false;

  [[nodiscard]] bool any() const { return features || depth || flow; }
};

/// What a head computes.
struct HeadInfo {
  std::string family;  ///< "depth" or "flow"
  int width = 0;       ///< of the grid that it runs on
  int height = 0;
  int channels = 0;  ///< of the features that it takes
  /// Of a depth: "relative" (larger is nearer, up to scale and shift), "metric" (metres) or "disparity" (pixels, larger
  /// is nearer; metres = focal_baseline / value); "flow" of a flow.
  std::string kind;
  std::optional<double> focal_baseline;        ///< pixel metres, of a disparity, if it is known
  std::optional<double> max_depth;             ///< metres, of a metric depth that is bounded
  std::optional<std::int64_t> interval_us;     ///< of a flow: the time over which pixels move by it
  std::optional<std::string> backbone_digest;  ///< of the F3 weights that it was trained on, if they are known

  /// Whether metres can be published.
  [[nodiscard]] bool is_metric() const { return kind == "metric" || (kind == "disparity" && focal_baseline); }
};

/// A loaded depth or flow artifact that runs on F3 features.
class Head {
 public:
  /// Loads it beside `f3`, on the same device.
  /// Error: it may not run here, is of another family, does not run on F3 features, or takes features of another number
  /// of channels than this F3 gives.
  static Result<std::unique_ptr<Head>> open(const std::string& path, const std::string& family, const F3Pipeline& f3,
                                            const LoadOptions& options, Verdict* verdict = nullptr);

  [[nodiscard]] const HeadInfo& info() const { return info_; }
  /// Sentences for a log: a head that was trained on another backbone computes something, but nothing sensible.
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }
  [[nodiscard]] Model& model() { return *model_; }
  [[nodiscard]] const Model& model() const { return *model_; }

  /// The output for features (1, C, H, W) float32 of its own size, on the device.
  Result<Tensor> run(const Tensor& features);

 private:
  explicit Head(std::unique_ptr<Model> model) : model_(std::move(model)) {}
  Result<void> read_info(const std::string& family);
  Result<void> check(const F3Pipeline& f3);

  std::unique_ptr<Model> model_;
  HeadInfo info_;
  std::vector<std::string> warnings_;
};

/// What became of one event window; what was not wanted, or has no head, is absent. Host memory of its own.
struct PerceptionResult {
  std::optional<Tensor> features;  ///< (H', W', C) float32
  std::optional<Tensor> depth;     ///< (H, W) float32 as the head gives it; HeadInfo::kind says what it is
  std::optional<Tensor> flow;      ///< (2, H, W) float32: dx and dy in pixels of its own grid over the head's interval
  std::size_t n_received = 0;      ///< events in the window before any thinning
  std::size_t n_events_used = 0;   ///< events that the network saw, after thinning
  std::vector<std::string> warnings;  ///< sentences for a log
};

struct PerceptionOptions {
  Device device;
  std::string depth;  ///< path of a depth head; empty: none
  std::string flow;   ///< path of a flow head; empty: none
  /// On CUDA, replay models of fixed size as graphs; not a `.onnx`, nor an F3 that takes any number of events.
  bool cuda_graph = true;
  std::optional<AllowList> allow_list;
  bool self_test = true;
};

/// Runs F3 and, on its features, a depth head and a flow head. Not for use from two threads at once.
class PerceptionPipeline {
 public:
  /// Error: an artifact may not run here (`verdict` says why), or does not fit the others.
  static Result<std::unique_ptr<PerceptionPipeline>> open(const std::string& f3_path,
                                                          const PerceptionOptions& options = {},
                                                          Verdict* verdict = nullptr);

  [[nodiscard]] F3Pipeline& f3() { return *f3_; }
  [[nodiscard]] const F3Pipeline& f3() const { return *f3_; }
  /// The heads; null where there is none.
  [[nodiscard]] Head* depth() { return depth_.get(); }
  [[nodiscard]] const Head* depth() const { return depth_.get(); }
  [[nodiscard]] Head* flow() { return flow_.get(); }
  [[nodiscard]] const Head* flow() const { return flow_.get(); }
  /// Sentences for a log about models that do not belong together, or that run without a CUDA graph.
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }
  /// The loaded artifacts: "f3", "depth", "flow".
  [[nodiscard]] std::map<std::string, const Model*> models() const;
  /// Features, and the outputs of the heads that there are.
  [[nodiscard]] Wanted everything() const { return {true, depth_ != nullptr, flow_ != nullptr}; }

  /// What is wanted of one window of a sensor of width x height pixels (0: the model's frame).
  /// Error: a model failed.
  Result<PerceptionResult> process(const EventWindow& window, int width, int height, const Wanted& wanted);

  /// Reruns the goldens of all artifacts. Error: one computes something else than when it was exported.
  Result<void> self_test();

 private:
  PerceptionPipeline() = default;

  std::unique_ptr<F3Pipeline> f3_;
  std::unique_ptr<Head> depth_, flow_;
  std::vector<std::string> warnings_;
};

}  // namespace aot_perception
