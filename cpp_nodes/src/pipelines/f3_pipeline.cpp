// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/f3_pipeline.hpp"

#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <utility>

#include "aot_perception/device_memory.hpp"
#include "runtime/python_text.hpp"
#include "runtime/torch_tensor.hpp"

namespace aot_perception {
namespace {

constexpr std::uint64_t kThinningSeed = 42;
// Value of the columns of a row that is no event: the network ignores rows whose time is below 0.
constexpr float kPadding = -1.0F;
constexpr std::size_t kColumns = 4;

}  // namespace

Result<std::unique_ptr<F3Pipeline>> F3Pipeline::open(const std::string& path, LoadOptions options, Verdict* verdict) {
  const bool wants_graph = std::exchange(options.cuda_graph, false);
  Result<std::unique_ptr<Model>> model = load_model(path, options, verdict);
  if (!model) return model.error();
  std::unique_ptr<F3Pipeline> pipeline(new F3Pipeline(*std::move(model)));
  if (Result<void> read = pipeline->read_manifest(); !read) return read.error();
  if (wants_graph && !pipeline->variable_events_ && pipeline->model_->capturable()) {
    if (Result<void> captured = pipeline->model_->capture_cuda_graph(); !captured) return captured.error();
  }
  return Result<std::unique_ptr<F3Pipeline>>(std::move(pipeline));
}

Result<void> F3Pipeline::read_manifest() {
  const Manifest& manifest = model_->manifest();
  const nlohmann::json& told = manifest.preprocessing;
  if (manifest.family != "f3") {
    return Error{"expected an artifact of the family f3, found " + manifest.family + " in " + model_->path(),
                 "export one with export_f3_to_pt2"};
  }
  const auto positive = [&told](const char* name) -> std::int64_t {
    return told.contains(name) && told[name].is_number() ? told[name].get<std::int64_t>() : 0;
  };
  std::array<std::int64_t, 3> shape{};  // width, height, channels
  const nlohmann::json listed = told.contains("feature_shape") ? told["feature_shape"] : nlohmann::json();
  if (listed.is_array() && listed.size() == shape.size()) {
    for (std::size_t i = 0; i < shape.size(); ++i)
      shape[i] = listed[i].is_number() ? listed[i].get<std::int64_t>() : 0;
  }
  constexpr std::int64_t kMost = 1 << 20;
  const std::array<std::int64_t, 8> all = {
      positive("width"),     positive("height"), positive("bins"), positive("bin_us"),
      positive("window_us"), shape[0],           shape[1],         shape[2]};
  const bool usable = std::all_of(all.begin(), all.end(), [](std::int64_t value) { return value > 0; }) &&
                      std::max({all[0], all[1], all[2], shape[0], shape[1], shape[2]}) <= kMost;
  if (!usable || manifest.inputs.size() != 1 || manifest.inputs[0].shape.size() != 2 || manifest.outputs.empty()) {
    return Error{
        "expected width, height, bins, bin_us, window_us and feature_shape in the manifest's preprocessing, found " +
            python_repr(told, 2000) + " in " + model_->path(),
        "export it again with export_f3_to_pt2"};
  }
  width_ = static_cast<int>(all[0]);
  height_ = static_cast<int>(all[1]);
  bins_ = static_cast<int>(all[2]);
  bin_us_ = all[3];
  window_us_ = all[4];
  feature_width_ = static_cast<int>(shape[0]);
  feature_height_ = static_cast<int>(shape[1]);
  channels_ = static_cast<int>(shape[2]);
  const Size& count = manifest.inputs[0].shape[0];
  variable_events_ = std::holds_alternative<std::string>(count);
  const DynamicDim* const dim = variable_events_ ? manifest.dim(std::get<std::string>(count)) : nullptr;
  const std::int64_t most = dim != nullptr ? dim->max : variable_events_ ? 0 : std::get<std::int64_t>(count);
  if (most <= 0) {
    return Error{"expected a largest number of events, found " + std::to_string(most) + " in " + model_->path(),
                 "export it again with export_f3_to_pt2"};
  }
  max_events_ = static_cast<std::size_t>(most);
  return {};
}

/// Room for this many rows; page-locked for CUDA.
Result<void> F3Pipeline::reserve(std::size_t rows) {
  const auto wanted = static_cast<std::int64_t>(rows);
  if (staging_.shape().size() == 2 && staging_.shape()[0] >= wanted) return {};
  const std::int64_t grown = std::min(std::max<std::int64_t>(2 * wanted, 1024), static_cast<std::int64_t>(max_events_));
  Result<Tensor> made = staging_zeros(DType::kFloat32, {std::max(wanted, grown), kColumns}, model_->device());
  if (!made) return made.error();
  staging_ = *std::move(made);
  return {};
}

/// Rows that are no events. On CUDA they are spread over the frame: they add zeros to the field, and at one and the
/// same pixel those additions would wait for each other.
void F3Pipeline::pad(float* rows, std::size_t first, std::size_t end) const {
  std::fill(rows + kColumns * first, rows + kColumns * end, kPadding);
  if (!model_->device().cuda) return;
  const auto width = static_cast<std::size_t>(width_), height = static_cast<std::size_t>(height_);
  for (std::size_t i = first; i < end; ++i) {
    rows[kColumns * i] = static_cast<float>(i % width) / static_cast<float>(width);
    rows[kColumns * i + 1] = static_cast<float>(i / width % height) / static_cast<float>(height);
  }
}

Result<F3Rows> F3Pipeline::prepare(const EventWindow& window, int sensor_width, int sensor_height) {
  BinningConfig config;
  config.sensor_width = sensor_width == 0 ? width_ : sensor_width;
  config.sensor_height = sensor_height == 0 ? height_ : sensor_height;
  config.model_width = width_;
  config.model_height = height_;
  config.bins = bins_;
  config.bin_us = bin_us_;
  if (!binning_ || binning_->config().sensor_width != config.sensor_width ||
      binning_->config().sensor_height != config.sensor_height) {
    Result<EventBinning> made = EventBinning::create(config);
    if (!made) return made.error();
    binning_ = *std::move(made);
  }
  const std::size_t n_events = window.events.size;
  const bool may_thin = n_events > max_events_;
  if (Result<void> room = reserve(variable_events_ ? std::min(n_events, max_events_) : max_events_); !room) {
    return room.error();
  }
  if (may_thin) unthinned_.resize(kColumns * n_events);
  float* const rows = staging_.data_as<float>();
  const std::size_t n_rows = binning_->fill(window.events, window.end_us, may_thin ? unthinned_.data() : rows);
  F3Rows result;
  result.n_used = std::min(n_rows, max_events_);
  if (may_thin) {
    // Every row is equally likely to stay, in order; the same ones every time.
    const auto kept = thinning_indices(n_rows, max_events_, "random", {kThinningSeed});
    float* to = rows;
    for (const std::size_t i : *kept)
      to = std::copy_n(unthinned_.data() + kColumns * i, kColumns, to);
  }
  if (result.n_used < n_rows) {
    result.warnings.push_back("thinned " + std::to_string(n_rows) + " events to the artifact's " +
                              std::to_string(result.n_used));
  }
  if (const std::size_t outside = n_events - n_rows; outside > 0) {
    result.warnings.push_back("left out " + std::to_string(outside) + " of " + std::to_string(n_events) +
                              " events outside the network's " + std::to_string(width_) + "x" +
                              std::to_string(height_) + " pixels or " + std::to_string(window_us_) + " us");
  }
  const std::size_t count = variable_events_ ? result.n_used : max_events_;
  pad(rows, result.n_used, count);
  result.events = Tensor::view(DType::kFloat32, {static_cast<std::int64_t>(count), kColumns}, rows, {},
                               std::make_shared<Tensor>(staging_));
  return result;
}

Result<Tensor> F3Pipeline::upload(const F3Rows& rows) const {
  return to_device(rows.events, model_->device());
}

Result<Tensor> F3Pipeline::run(const Tensor& events) {
  const Manifest& manifest = model_->manifest();
  Result<Tensors> outputs = model_->run({{manifest.inputs[0].name, events}});
  if (!outputs) return outputs.error();
  const Tensor& features = outputs->at(manifest.outputs[0].name);
  const Shape expected = {1, feature_width_, feature_height_, channels_};
  if (features.shape() != expected) {
    return Error{"expected features of shape " + shape_text(expected) + ", found " + shape_text(features.shape()) +
                     " from " + model_->path(),
                 "export it again with export_f3_to_pt2"};
  }
  return features;
}

Result<Tensor> resize_features(const Tensor& features, int width, int height) {
  return guarded("features that can be resized to " + std::to_string(width) + "x" + std::to_string(height),
                 [&]() -> Result<Tensor> {
                   const c10::InferenceMode inference;
                   at::Tensor image = as_torch(features).permute({0, 3, 2, 1});
                   if (image.size(2) != height || image.size(3) != width) {
                     image = at::upsample_bilinear2d(image, {height, width}, /*align_corners=*/true);
                   }
                   // The copy that a permuted view needs owns its memory; a view would outlive `features`.
                   at::Tensor result = image.to(at::kFloat).contiguous();
                   if (result.data_ptr() == features.data()) result = result.clone();
                   return from_torch(std::move(result));
                 });
}

}  // namespace aot_perception
