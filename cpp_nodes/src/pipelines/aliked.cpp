// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/aliked.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <utility>

#include "network_input.hpp"
#include "runtime/python_text.hpp"

namespace aot_perception {
namespace {

constexpr const char* kOutputs[] = {"keypoints", "scores", "peak_scores", "descriptors"};

std::string size_text(PixelSize size) {
  return std::to_string(size.width) + "x" + std::to_string(size.height);
}

Result<void> check_threshold(double threshold) {
  if (threshold < 1.0) return {};
  return Error{"expected a threshold below 1, found " + general(threshold, 17),
               "scores are probabilities; 0.2 is usual"};
}

std::optional<int> count_of(const nlohmann::json& told, const char* name) {
  if (!told.contains(name) || !told[name].is_number_integer()) return std::nullopt;
  const auto value = told[name].get<std::int64_t>();
  if (value < 1 || value > 1 << 20) return std::nullopt;
  return static_cast<int>(value);
}

/// Whether every element of row `index` of an array with `columns` is finite.
bool row_is_finite(const Tensor& tensor, std::size_t index, std::size_t columns) {
  const float* row = tensor.data_as<float>() + index * columns;
  return std::all_of(row, row + columns, [](float value) { return std::isfinite(value); });
}

}  // namespace

Placement Placement::fit(PixelSize size, PixelSize frame) {
  const double scale =
      std::min(static_cast<double>(frame.height) / size.height, static_cast<double>(frame.width) / size.width);
  // Halves to even, as Python rounds.
  const auto scaled = [scale](int length, int limit) {
    return std::min(limit, std::max(1, static_cast<int>(std::nearbyint(length * scale))));
  };
  return {size, {scaled(size.width, frame.width), scaled(size.height, frame.height)}};
}

void Placement::to_image(float& x, float& y) const {
  if (inner == size) return;
  const double factor_x = static_cast<double>(size.width) / inner.width;
  const double factor_y = static_cast<double>(size.height) / inner.height;
  x = static_cast<float>((static_cast<double>(x) + 0.5) * factor_x - 0.5);
  y = static_cast<float>((static_cast<double>(y) + 0.5) * factor_y - 0.5);
}

bool Placement::contains(float x, float y) const {
  return static_cast<double>(x) <= inner.width - 0.5 && static_cast<double>(y) <= inner.height - 0.5;
}

AlikedPipeline::AlikedPipeline(std::unique_ptr<Model> model, const AlikedOptions& options)
    : model_(std::move(model)), options_(options) {}

AlikedPipeline::~AlikedPipeline() = default;

Result<std::unique_ptr<AlikedPipeline>> AlikedPipeline::open(const std::string& path, const AlikedOptions& options,
                                                             Verdict* verdict) {
  if (Result<void> good = check_threshold(options.threshold); !good) return good.error();
  Result<std::unique_ptr<Model>> model = load_model(
      path, load_options(path, options.device, options.allow_list, options.self_test, options.cuda_graph), verdict);
  if (!model) return model.error();
  std::unique_ptr<AlikedPipeline> pipeline(new AlikedPipeline(std::move(*model), options));
  if (Result<void> read = pipeline->read_manifest(); !read) return read.error();
  if (Result<void> made = make_buffers(*pipeline->model_, pipeline->staging_, pipeline->input_); !made) {
    return made.error();
  }
  return Result<std::unique_ptr<AlikedPipeline>>(std::move(pipeline));
}

Result<void> AlikedPipeline::read_manifest() {
  const Manifest& manifest = model_->manifest();
  const std::string& path = model_->path();
  if (manifest.family != "aliked") {
    return Error{"expected an artifact of the family aliked, found " + manifest.family + " in " + path,
                 "export one with export_aliked"};
  }
  const nlohmann::json& told = manifest.preprocessing;
  const auto width = count_of(told, "width"), height = count_of(told, "height");
  const auto top_k = count_of(told, "top_k"), dim = count_of(told, "descriptor_dim");
  bool good = width && height && top_k && dim;
  if (good) {
    frame_ = {*width, *height};
    top_k_ = *top_k;
    descriptor_dim_ = *dim;
    const TensorSpec& input = manifest.inputs[0];
    good = manifest.inputs.size() == 1 && input.dtype == DType::kUInt8 &&
           input.shape == std::vector<Size>{Size{1}, Size{*height}, Size{*width}, Size{3}};
  }
  if (!good) {
    return Error{"expected width, height, top_k and descriptor_dim in the manifest's preprocessing, found " +
                     first_characters(python_repr(told, 2000), 500) + " in " + path,
                 "export it again with export_aliked"};
  }
  if (options_.max_keypoints < 0 || options_.max_keypoints > top_k_) {
    const std::string count = std::to_string(options_.max_keypoints);
    return Error{"expected max_keypoints from 0 to " + std::to_string(top_k_) + ", the artifact's top_k, found " +
                     count + " for " + path,
                 options_.max_keypoints > 0 ? "export another with export_aliked --top_k " + count : "give 0 for all"};
  }
  return {};
}

Result<cv::Mat> AlikedPipeline::place(const cv::Mat& image, Placement& placement) const {
  if (image.type() != CV_8UC3 && image.type() != CV_8UC1) {
    return Error{"expected an image (H, W, 3) or (H, W) of uint8, found " + cv::typeToString(image.type()),
                 "scale it to 0 .. 255 and convert it"};
  }
  const PixelSize size = {image.cols, image.rows};
  if (image.empty()) return Error{"expected an image with pixels, found " + size_text(size), ""};
  placement = Placement::fit(size, frame_);
  if (!options_.resize && size != frame_) {
    return Error{"expected images of " + size_text(frame_) + " as the artifact takes, found " + size_text(size) +
                     " for " + model_->path(),
                 "export one with export_aliked --width " + std::to_string(size.width) + " --height " +
                     std::to_string(size.height) + ", or allow resizing"};
  }
  try {
    cv::Mat rgb = image;
    if (image.channels() == 1) cv::cvtColor(image, rgb, cv::COLOR_GRAY2RGB);
    const PixelSize inner = placement.inner;
    if (inner != size) {
      // Averaged when it shrinks, bilinear when it grows.
      cv::Mat resized;
      cv::resize(rgb, resized, {inner.width, inner.height}, 0, 0,
                 inner.height <= size.height ? cv::INTER_AREA : cv::INTER_LINEAR);
      rgb = resized;
    }
    if (inner != frame_) {
      cv::Mat padded;
      cv::copyMakeBorder(rgb, padded, 0, frame_.height - inner.height, 0, frame_.width - inner.width,
                         cv::BORDER_REPLICATE);
      rgb = padded;
    }
    return rgb;
  } catch (const cv::Exception& error) {
    return Error{std::string("expected an image that OpenCV resizes, found ") + error.what(), ""};
  }
}

Result<Tensors> AlikedPipeline::run_network(const cv::Mat& canvas) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto row_bytes = static_cast<std::size_t>(frame_.width) * 3;
  for (int row = 0; row < frame_.height; ++row) {
    std::memcpy(staging_.data_as<std::uint8_t>() + static_cast<std::size_t>(row) * row_bytes, canvas.ptr(row),
                row_bytes);
  }
  Result<Tensors> outputs = run_staged(*model_, staging_, input_);
  if (!outputs) return outputs;
  Tensors host;
  for (const char* name : kOutputs) {
    const auto found = outputs->find(name);
    if (found == outputs->end()) {
      return Error{std::string("expected an output ") + name + ", found none from " + model_->path(),
                   "export it again with export_aliked"};
    }
    Result<Tensor> copied = to_host_float32(found->second);
    if (!copied) return copied.error();
    const bool wide = found->first == "keypoints" || found->first == "descriptors";
    const std::int64_t columns = !wide ? 1 : found->first == "keypoints" ? 2 : descriptor_dim_;
    if (copied->numel() != top_k_ * columns) {
      return Error{std::string("expected ") + std::to_string(top_k_) + " rows of " + name + ", found " +
                       shape_text(copied->shape()) + " from " + model_->path(),
                   "export it again with export_aliked"};
    }
    host[name] = std::move(*copied);
  }
  return host;
}

Result<AlikedResult> AlikedPipeline::process(const cv::Mat& image, std::optional<double> threshold) {
  const double limit = threshold.value_or(options_.threshold);
  if (Result<void> good = check_threshold(limit); !good) return good.error();
  Placement placement;
  const Result<cv::Mat> canvas = place(image, placement);
  if (!canvas) return canvas.error();
  const Result<Tensors> outputs = run_network(*canvas);
  if (!outputs) return outputs.error();
  try {
    return select(*outputs, placement, limit);
  } catch (const std::bad_alloc&) {
    return Error{"expected memory for keypoints, found none left", ""};
  }
}

AlikedResult AlikedPipeline::select(const Tensors& outputs, const Placement& placement, double limit) const {
  const Tensor &points = outputs.at("keypoints"), &scores = outputs.at("scores");
  const Tensor &peaks = outputs.at("peak_scores"), &descriptors = outputs.at("descriptors");
  const auto dim = static_cast<std::size_t>(descriptor_dim_);
  const auto lowest = static_cast<float>(std::max(0.0, limit));
  AlikedResult result;
  result.descriptor_dim = descriptor_dim_;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(top_k_); ++i) {
    const float peak = peaks.data_as<float>()[i];
    const bool strong = peak > lowest;
    const bool finite = row_is_finite(points, i, 2) && row_is_finite(scores, i, 1) && row_is_finite(peaks, i, 1) &&
                        row_is_finite(descriptors, i, dim);
    if (!finite) result.not_finite += strong || std::isnan(peak) ? 1 : 0;
    float x = points.data_as<float>()[2 * i], y = points.data_as<float>()[2 * i + 1];
    if (!strong || !finite || !placement.contains(x, y)) continue;
    ++kept;
    // The artifact sorts by peak score.
    if (options_.max_keypoints != 0 && kept > static_cast<std::size_t>(options_.max_keypoints)) continue;
    placement.to_image(x, y);
    result.keypoints.insert(result.keypoints.end(), {x, y});
    result.scores.push_back(scores.data_as<float>()[i]);
    result.peak_scores.push_back(peak);
    const float* row = descriptors.data_as<float>() + i * dim;
    result.descriptors.insert(result.descriptors.end(), row, row + dim);
  }
  const std::string all = std::to_string(top_k_);
  if (result.not_finite != 0) {
    result.warnings.push_back("not finite: " + std::to_string(result.not_finite) + " of " + all +
                              " keypoints of the network's output");
  } else if (kept == 0) {
    result.warnings.push_back("no keypoint above " + general(limit, 6) + ": the image is dark, blank or out of focus");
  } else if (limit > 0 && options_.max_keypoints == 0 && kept == static_cast<std::size_t>(top_k_)) {
    result.warnings.push_back("all " + all + " keypoints are above " + general(limit, 6) +
                              ", there may be more: export a larger --top_k");
  }
  return result;
}

}  // namespace aot_perception
