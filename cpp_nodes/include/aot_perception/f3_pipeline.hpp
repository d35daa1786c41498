// SPDX-License-Identifier: Apache-2.0
// From an event window to what F3 takes, and F3 on it. As f3_ros/pipeline.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/event_binning.hpp"
#include "aot_perception/event_window.hpp"
#include "aot_perception/model.hpp"

namespace aot_perception {

/// The rows of a window that the network will see.
struct F3Rows {
  Tensor events;           ///< float32 (N, 4) in host memory, with padding where the artifact takes a fixed number
  std::size_t n_used = 0;  ///< rows that are events
  std::vector<std::string> warnings;  ///< on what was left out
};

/// Runs an F3 artifact. Not for use from two threads at once.
class F3Pipeline {
 public:
  /// @param cuda_graph  on CUDA, replay an artifact that takes a fixed number of events as one graph.
  /// Error: the file may not run here (`verdict` says why), or is not one of F3.
  static Result<std::unique_ptr<F3Pipeline>> open(const std::string& path, LoadOptions options,
                                                  Verdict* verdict = nullptr);

  /// The sensor frame in pixels that the network was made for; smaller sensors are centred in it.
  [[nodiscard]] int width() const { return width_; }
  [[nodiscard]] int height() const { return height_; }
  /// Time bins of a window, and their and its length in microseconds.
  [[nodiscard]] int bins() const { return bins_; }
  [[nodiscard]] std::int64_t bin_us() const { return bin_us_; }
  [[nodiscard]] std::int64_t window_us() const { return window_us_; }
  /// Of the feature field.
  [[nodiscard]] int channels() const { return channels_; }
  [[nodiscard]] int feature_width() const { return feature_width_; }
  [[nodiscard]] int feature_height() const { return feature_height_; }
  /// Most events that one run can take, and whether it takes any number up to that, or exactly that many with padding.
  [[nodiscard]] std::size_t max_events() const { return max_events_; }
  [[nodiscard]] bool variable_events() const { return variable_events_; }
  [[nodiscard]] Model& model() { return *model_; }
  [[nodiscard]] const Model& model() const { return *model_; }

  /// The window's rows x/W, y/H, k/T, p with k = 0 the newest bin, at most `max_events` of them, in memory that the
  /// next call overwrites (page-locked for CUDA).
  /// @param sensor_width, sensor_height  of the window's sensor, pixels; 0: the model's frame.
  Result<F3Rows> prepare(const EventWindow& window, int sensor_width = 0, int sensor_height = 0);

  /// Rows on the model's device.
  Result<Tensor> upload(const F3Rows& rows) const;

  /// The feature field (1, W', H', C) on the device, in the artifact's precision; on CUDA the work is only queued.
  Result<Tensor> run(const Tensor& events);

 private:
  explicit F3Pipeline(std::unique_ptr<Model> model) : model_(std::move(model)) {}
  Result<void> read_manifest();
  Result<void> reserve(std::size_t rows);
  void pad(float* rows, std::size_t first, std::size_t end) const;

  std::unique_ptr<Model> model_;
  int width_ = 0, height_ = 0, bins_ = 0;
  std::int64_t bin_us_ = 0, window_us_ = 0;
  int channels_ = 0, feature_width_ = 0, feature_height_ = 0;
  std::size_t max_events_ = 0;
  bool variable_events_ = false;
  std::optional<EventBinning> binning_;
  Tensor staging_;
  std::vector<float> unthinned_;
};

/// A field (1, W', H', C) as heads take it: (1, C, H, W) float32, contiguous, on the field's device. Bilinear with
/// align_corners=True in the field's own precision, as in the official deployment;
/// that leaves a field that has the size already exactly as it is.
Result<Tensor> resize_features(const Tensor& features, int width, int height);

}  // namespace aot_perception
