// SPDX-License-Identifier: Apache-2.0
// Heads on F3 features: what they say about themselves, checked against the F3 in use.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "aot_perception/perception.hpp"
#include "runtime/python_text.hpp"

namespace aot_perception {
namespace {

std::string exporter(const std::string& family) {
  return family == "depth" ? "export_dav2_to_pt2" : "export_flowhead_to_pt2";
}

std::string file_name(const Model& model) {
  return std::filesystem::path(model.path()).filename().string();
}

std::string repr_of(const nlohmann::json& told, const char* name) {
  return told.contains(name) ? python_repr(told[name], 200) : "None";
}

std::optional<std::string> text_of(const nlohmann::json& told, const char* name) {
  if (!told.contains(name) || !told[name].is_string()) return std::nullopt;
  return told[name].get<std::string>();
}

std::optional<double> number_of(const nlohmann::json& told, const char* name) {
  if (!told.contains(name) || !told[name].is_number()) return std::nullopt;
  return told[name].get<double>();
}

std::optional<std::int64_t> integer_of(const nlohmann::json& value) {
  if (!value.is_number() || std::abs(value.get<double>()) > 1e9) return std::nullopt;
  return value.get<std::int64_t>();
}

std::string spec_text(const TensorSpec& spec) {
  return size_text(spec.shape) + " " + dtype_name(spec.dtype);
}

}  // namespace

Result<std::unique_ptr<Head>> Head::open(const std::string& path, const std::string& family, const F3Pipeline& f3,
                                         const LoadOptions& options, Verdict* verdict) {
  Result<std::unique_ptr<Model>> model = load_model(path, options, verdict);
  if (!model) return model.error();
  std::unique_ptr<Head> head(new Head(*std::move(model)));
  if (Result<void> read = head->read_info(family); !read) return read.error();
  if (Result<void> fits = head->check(f3); !fits) return fits.error();
  return Result<std::unique_ptr<Head>>(std::move(head));
}

Result<void> Head::read_info(const std::string& family) {
  const Manifest& manifest = model_->manifest();
  const std::string& path = model_->path();
  const nlohmann::json& told = manifest.preprocessing;
  const std::string command = exporter(family);
  if (manifest.family != family) {
    return Error{"expected an artifact of the family " + family + ", found " + manifest.family + " in " + path,
                 "export one with " + command};
  }
  if (text_of(told, "input") != "f3_features" || manifest.inputs.size() != 1 || manifest.inputs[0].name != "features" ||
      manifest.outputs.empty()) {
    return Error{"expected a " + family + " head that runs on F3 features, found input " + repr_of(told, "input") +
                     " in " + path,
                 "export one with " + command + " --input-channels C; depth from images is depth_node's"};
  }
  const nlohmann::json size = told.contains("size") ? told["size"] : nlohmann::json();
  const bool has_size = size.is_array() && size.size() == 2;
  const auto height = has_size ? integer_of(size[0]) : std::nullopt, width = has_size ? integer_of(size[1]) : height;
  const auto channels = told.contains("input_channels") ? integer_of(told["input_channels"]) : std::nullopt;
  const auto interval = told.contains("interval_us") ? integer_of(told["interval_us"]) : std::nullopt;
  const auto kind = family == "depth" ? text_of(told, "kind") : std::optional<std::string>("flow");
  if (!height || !width || !channels || !kind || (family == "flow" && !interval)) {
    return Error{"expected size, input_channels and " + std::string(family == "depth" ? "kind" : "interval_us") +
                     " in the manifest's preprocessing, found " + python_repr(told, 2000) + " in " + path,
                 "export it again with " + command};
  }
  info_ = {family,
           static_cast<int>(*width),
           static_cast<int>(*height),
           static_cast<int>(*channels),
           *kind,
           number_of(told, "focal_baseline"),
           number_of(told, "max_depth"),
           family == "flow" ? interval : std::nullopt,
           text_of(told, "backbone_digest")};

  // The shapes, the resize rule and the kind must be ones that the pipeline can serve.
  const Size rows{std::int64_t{info_.height}}, columns{std::int64_t{info_.width}};
  const std::vector<Size> taken = {Size{1}, Size{std::int64_t{info_.channels}}, rows, columns};
  std::vector<Size> given = {Size{1}, rows, columns};
  if (family == "flow") given.insert(given.begin() + 1, Size{2});
  const TensorSpec& input = manifest.inputs[0];
  const TensorSpec& output = manifest.outputs[0];
  if (input.shape != taken || input.dtype != DType::kFloat32 || output.shape != given ||
      output.dtype != DType::kFloat32) {
    return Error{"expected features " + size_text(taken) + " float32 in and " + family + " " + size_text(given) +
                     " float32 out, found " + spec_text(input) + " and " + spec_text(output) + " in " + path,
                 "export it again with " + command};
  }
  const bool stretched = !told.contains("resize") || told["resize"] == "stretch";
  const bool bilinear = !told.contains("interpolation") || told["interpolation"] == "bilinear";
  const bool aligned = !told.contains("align_corners") || told["align_corners"] == true;
  if (!stretched || !bilinear || !aligned) {
    return Error{"expected features resized by stretch, bilinear, align_corners, found " + repr_of(told, "resize") +
                     ", " + repr_of(told, "interpolation") + ", " + repr_of(told, "align_corners") + " in " + path,
                 ""};
  }
  if (family == "depth" && info_.kind != "relative" && info_.kind != "metric" && info_.kind != "disparity") {
    return Error{"expected a depth relative or metric or disparity, found " + python_repr(info_.kind) + " in " + path,
                 ""};
  }
  if (info_.kind == "disparity" && info_.focal_baseline &&
      !(*info_.focal_baseline > 0 && std::isfinite(*info_.focal_baseline))) {
    return Error{
        "expected focal_baseline above 0 beside a disparity, found " + repr_of(told, "focal_baseline") + " in " + path,
        "export it again with " + command};
  }
  return {};
}

Result<void> Head::check(const F3Pipeline& f3) {
  if (f3.channels() != info_.channels) {
    return Error{"expected a " + info_.family + " head for the " + std::to_string(f3.channels()) + " channels of " +
                     file_name(f3.model()) + ", found one for " + std::to_string(info_.channels) + " channels in " +
                     model_->path(),
                 "export the head of this F3 with " + exporter(info_.family) + " --input-channels " +
                     std::to_string(f3.channels())};
  }
  const auto used = text_of(f3.model().manifest().preprocessing, "weights_digest");
  if (info_.backbone_digest && used && *info_.backbone_digest != *used) {
    warnings_.push_back("the " + info_.family + " head " + file_name(*model_) + " was trained on other F3 weights (" +
                        info_.backbone_digest->substr(0, 12) + ") than those of " + file_name(f3.model()) + " (" +
                        used->substr(0, 12) +
                        "): its output means nothing; export F3 from the checkpoint that belongs to the head");
  }
  return {};
}

Result<Tensor> Head::run(const Tensor& features) {
  Result<Tensors> outputs = model_->run({{"features", features}});
  if (!outputs) return outputs.error();
  return outputs->at(model_->manifest().outputs[0].name);
}

}  // namespace aot_perception
