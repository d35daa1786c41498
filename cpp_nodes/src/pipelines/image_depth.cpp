// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/image_depth.hpp"

#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <opencv2/core.hpp>
#include <utility>

#include "images/resize_cubic.hpp"
#include "network_input.hpp"
#include "runtime/python_text.hpp"
#include "runtime/torch_tensor.hpp"

namespace aot_perception {
namespace {

constexpr char kExportAgain[] = "export it again with export_dav2_to_pt2 of this version";

struct Rule {
  const char* name;
  std::vector<std::string> known;
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> all = {{"colour_order", {"RGB"}},
                                        {"interpolation", {"cubic"}},
                                        {"resize", {"stretch", "keep_aspect"}},
                                        {"kind", {"relative", "metric", "disparity"}}};
  return all;
}

std::string text_of(const nlohmann::json& told, const char* name) {
  return told.contains(name) && told[name].is_string() ? told[name].get<std::string>() : "";
}

std::string repr_of(const nlohmann::json& told, const char* name) {
  return told.contains(name) ? python_repr(told[name], 200) : "None";
}

/// `count` finite numbers of a list.
std::optional<std::vector<double>> numbers(const nlohmann::json& told, const char* name, std::size_t count) {
  if (!told.contains(name) || !told[name].is_array() || told[name].size() != count) return std::nullopt;
  std::vector<double> values;
  for (const nlohmann::json& value : told[name]) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) return std::nullopt;
    values.push_back(value.get<double>());
  }
  return values;
}

}  // namespace

ImageLayout ImageLayout::of(PixelSize image, PixelSize network, bool keep_aspect) {
  if (!keep_aspect) return {image, network, {0, 0}};
  const double scale =
      std::min(static_cast<double>(network.width) / image.width, static_cast<double>(network.height) / image.height);
  // Halves to even, as Python rounds.
  const PixelSize inner = {std::max(1, static_cast<int>(std::nearbyint(image.width * scale))),
                           std::max(1, static_cast<int>(std::nearbyint(image.height * scale)))};
  return {image, inner, {(network.width - inner.width) / 2, (network.height - inner.height) / 2}};
}

ImageDepthPipeline::ImageDepthPipeline(std::unique_ptr<Model> model, const ImageDepthOptions& options)
    : model_(std::move(model)), options_(options) {}

ImageDepthPipeline::~ImageDepthPipeline() = default;

Result<std::unique_ptr<ImageDepthPipeline>> ImageDepthPipeline::open(const std::string& path,
                                                                     const ImageDepthOptions& options,
                                                                     Verdict* verdict) {
  if (options.output_resolution != "image" && options.output_resolution != "grid") {
    return Error{"expected output_resolution to be image or grid, found " + python_repr(options.output_resolution), ""};
  }
  Result<std::unique_ptr<Model>> model = load_model(
      path, load_options(path, options.device, options.allow_list, options.self_test, options.cuda_graph), verdict);
  if (!model) return model.error();
  std::unique_ptr<ImageDepthPipeline> pipeline(new ImageDepthPipeline(std::move(*model), options));
  if (Result<void> read = pipeline->read_manifest(); !read) return read.error();
  if (Result<void> made = make_buffers(*pipeline->model_, pipeline->staging_, pipeline->input_); !made) {
    return made.error();
  }
  return Result<std::unique_ptr<ImageDepthPipeline>>(std::move(pipeline));
}

Result<void> ImageDepthPipeline::read_manifest() {
  const Manifest& manifest = model_->manifest();
  const std::string& path = model_->path();
  const nlohmann::json& told = manifest.preprocessing;
  if (manifest.family != "depth") {
    return Error{"expected an artifact of the family depth, found " + manifest.family + " in " + path,
                 "export one with export_dav2_to_pt2"};
  }
  if (text_of(told, "input") != "rgb_image") {
    return Error{"expected a depth network for RGB images, found one for " +
                     (text_of(told, "input").empty() ? "None" : text_of(told, "input")) + " in " + path,
                 "export one with export_dav2_to_pt2 --input-channels 3, or use this one in f3_node"};
  }
  for (const Rule& rule : rules()) {
    if (std::find(rule.known.begin(), rule.known.end(), text_of(told, rule.name)) == rule.known.end()) {
      return Error{std::string("expected preprocessing ") + rule.name + " to be " + join(rule.known, " or ") +
                       ", found " + repr_of(told, rule.name) + " in " + path,
                   kExportAgain};
    }
  }
  const auto size = numbers(told, "size", 2), mean = numbers(told, "mean", 3), std = numbers(told, "std", 3);
  const bool has_scale = told.contains("scale") && told["scale"].is_number();
  const bool has_size = size && *std::min_element(size->begin(), size->end()) >= 1.0 &&
                        *std::max_element(size->begin(), size->end()) <= std::numeric_limits<int>::max();
  if (!has_size || !mean || !std || !has_scale || *std::min_element(std->begin(), std->end()) <= 0.0) {
    return Error{"expected size, scale, mean and std in the manifest's preprocessing, found " +
                     first_characters(python_repr(told, 2000), 500) + " in " + path,
                 kExportAgain};
  }
  network_ = {static_cast<int>((*size)[1]), static_cast<int>((*size)[0])};
  const std::vector<Size> shape = {Size{1}, Size{3}, Size{network_.height}, Size{network_.width}};
  if (manifest.inputs[0].shape != shape || manifest.inputs[0].dtype != DType::kFloat32) {
    return Error{"expected an input of shape " + size_text(shape) + " as the preprocessing says, found " +
                     size_text(manifest.inputs[0].shape) + " in " + path,
                 kExportAgain};
  }
  if (options_.focal_baseline == 0.0 && told.contains("focal_baseline") && told["focal_baseline"].is_number()) {
    options_.focal_baseline = told["focal_baseline"].get<double>();
  }
  network_kind_ = text_of(told, "kind");
  kind_ = network_kind_ == "disparity" && options_.focal_baseline != 0.0 ? "metric" : network_kind_;
  keep_aspect_ = text_of(told, "resize") == "keep_aspect";
  const double scale = told["scale"].get<double>();
  for (std::size_t c = 0; c < 3; ++c) {
    gain_[c] = static_cast<float>(scale / (*std)[c]);
    bias_[c] = static_cast<float>(-(*mean)[c] / (*std)[c]);
  }
  return {};
}

Result<Tensor> ImageDepthPipeline::prepare(const cv::Mat& rgb, ImageLayout& layout) {
  if (rgb.type() != CV_8UC3 || rgb.empty()) {
    return Error{"expected an RGB image (height, width, 3) uint8, found " + std::to_string(rgb.cols) + "x" +
                     std::to_string(rgb.rows) + " " + cv::typeToString(rgb.type()),
                 "convert the image"};
  }
  layout = ImageLayout::of({rgb.cols, rgb.rows}, network_, keep_aspect_);
  try {
    // In float, as the official code: a cubic kernel overshoots, which 8 bits would clip and round.
    const cv::Mat resized = resize_cubic(rgb, {layout.inner.width, layout.inner.height});
    const cv::Rect window(layout.offset.x, layout.offset.y, layout.inner.width, layout.inner.height);
    float* pixels = staging_.data_as<float>();
    if (window != filled_) {
      std::fill(pixels, pixels + staging_.numel(), 0.0F);  // the mean colour
      filled_ = window;
    }
    for (std::size_t c = 0; c < 3; ++c) {
      for (int row = 0; row < window.height; ++row) {
        const float* from = resized.ptr<float>(row) + c;
        float* to = pixels +
                    (c * static_cast<std::size_t>(network_.height) + static_cast<std::size_t>(window.y + row)) *
                        static_cast<std::size_t>(network_.width) +
                    window.x;
        for (int column = 0; column < window.width; ++column)
          to[column] = from[3 * column] * gain_[c] + bias_[c];
      }
    }
  } catch (const cv::Exception& error) {
    return Error{std::string("expected memory for an image, found ") + error.what(), ""};
  }
  return staging_;
}

Result<cv::Mat> ImageDepthPipeline::run_network(const ImageLayout& layout) {
  const Result<Tensors> outputs = run_staged(*model_, staging_, input_);
  if (!outputs) return outputs.error();
  const Tensor& output = outputs->at(model_->manifest().outputs[0].name);
  return guarded("depth of " + shape_text(output.shape()), [&]() -> Result<cv::Mat> {
    const c10::InferenceMode inference;
    const Shape& shape = output.shape();
    if (shape != Shape{1, network_.height, network_.width}) {
      return Error{"expected depth of shape " + shape_text({1, network_.height, network_.width}) + ", found " +
                       shape_text(shape) + " from " + model_->path(),
                   "export it again with export_dav2_to_pt2"};
    }
    at::Tensor inner = as_torch(output)
                           .to(at::kFloat)
                           .narrow(1, layout.offset.y, layout.inner.height)
                           .narrow(2, layout.offset.x, layout.inner.width);
    if (options_.output_resolution == "image") {
      inner = at::upsample_bilinear2d(inner.unsqueeze(0), {layout.image.height, layout.image.width},
                                      /*align_corners=*/true)
                  .squeeze(0);
    }
    const at::Tensor host = inner.squeeze(0).to(at::kCPU).contiguous();
    const cv::Mat view(static_cast<int>(host.size(0)), static_cast<int>(host.size(1)), CV_32FC1, host.data_ptr());
    return view.clone();
  });
}

DepthResult ImageDepthPipeline::interpret(cv::Mat raw) const {
  DepthResult result;
  result.kind = kind_;
  result.valid = cv::Mat(raw.size(), CV_8UC1);
  const auto focal_baseline = static_cast<float>(options_.focal_baseline);
  const bool metric = kind_ == "metric", inverse = metric && network_kind_ == "disparity";
  const auto range = static_cast<float>(options_.max_range);
  std::size_t bad = 0;
  for (int row = 0; row < raw.rows; ++row) {
    float* depth = raw.ptr<float>(row);
    std::uint8_t* valid = result.valid.ptr(row);
    for (int column = 0; column < raw.cols; ++column) {
      const bool finite = std::isfinite(depth[column]);
      bad += finite ? 0 : 1;
      bool good = finite && (!metric || depth[column] > 0.0F);
      if (inverse && good) {
        depth[column] = focal_baseline / depth[column];
        good = std::isfinite(depth[column]);
      }
      if (metric && options_.max_range != 0.0) good = good && depth[column] <= range;
      if (!good) depth[column] = std::numeric_limits<float>::quiet_NaN();
      valid[column] = good ? 255 : 0;
    }
  }
  if (bad != 0) {
    result.warnings.push_back("not finite: " + std::to_string(bad) + " of " + std::to_string(raw.total()) +
                              " pixels of the network's output");
  }
  result.depth = std::move(raw);
  return result;
}

Result<DepthResult> ImageDepthPipeline::process(const cv::Mat& rgb,
                                                const std::optional<std::array<double, 9>>& camera_matrix) {
  const std::lock_guard<std::mutex> lock(mutex_);
  ImageLayout layout;
  if (Result<Tensor> prepared = prepare(rgb, layout); !prepared) return prepared.error();
  Result<cv::Mat> raw = run_network(layout);
  if (!raw) return raw.error();
  Result<DepthResult> done = guarded("memory for depth", [&]() -> Result<DepthResult> { return interpret(*raw); });
  if (!done) return done;
  DepthResult& result = *done;
  result.grid = PixelMap::half_pixel(layout.image, layout.inner);
  if (options_.output_resolution == "image") {
    result.grid = result.grid.then(PixelMap::align_corners(layout.inner, layout.image));
  }
  if (camera_matrix) result.camera_matrix = result.grid.applied_to(*camera_matrix);
  return done;
}

}  // namespace aot_perception
