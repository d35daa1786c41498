// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/model.hpp"

#include <set>
#include <utility>

#include "aot_perception/device_memory.hpp"
#include "aot_perception/golden.hpp"
#include "python_text.hpp"
#include "runner.hpp"

namespace aot_perception {
namespace {

/// Loaders unpack to temporary folders and run static initialisers of shared libraries; two at once have crashed.
std::mutex& load_mutex() {
  static std::mutex mutex;
  return mutex;
}

/// "(n, 4)".
std::string plain_shape(const std::vector<Size>& shape) {
  std::vector<std::string> sizes;
  for (const Size& size : shape) {
    const auto* name = std::get_if<std::string>(&size);
    sizes.push_back(name != nullptr ? *name : std::to_string(std::get<std::int64_t>(size)));
  }
  return "(" + join(sizes) + ")";
}

Error input_error(const TensorSpec& spec, const std::string& expected, const std::string& found, const char* remedy) {
  return Error{"input " + spec.name + ": expected " + expected + ", found " + found, remedy};
}

Result<void> check_shape(const TensorSpec& spec, const Shape& shape, const Manifest& manifest,
                         std::map<std::string, std::int64_t>& sizes) {
  const std::string text = "shape " + plain_shape(spec.shape);
  if (shape.size() != spec.shape.size()) return input_error(spec, text, "shape " + shape_text(shape), "");
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const std::int64_t size = shape[axis];
    if (const auto* name = std::get_if<std::string>(&spec.shape[axis])) {
      const DynamicDim* dim = manifest.dim(*name);
      const std::string found = *name + " = " + std::to_string(size);
      if (dim == nullptr || size < dim->min || size > dim->max) {
        const std::string range = dim == nullptr ? "" : std::to_string(dim->min) + " .. " + std::to_string(dim->max);
        return input_error(spec, text + " with " + *name + " in " + range, found, "");
      }
      const auto known = sizes.emplace(*name, size).first;
      if (known->second != size) {
        return input_error(spec,
                           text + " with " + *name + " = " + std::to_string(known->second) + " as in an earlier input",
                           found, "");
      }
    } else if (size != std::get<std::int64_t>(spec.shape[axis])) {
      return input_error(
          spec, text,
          "shape " + shape_text(shape) + " (axis " + std::to_string(axis) + " is " + std::to_string(size) + ")", "");
    }
  }
  return {};
}

}  // namespace

Model::Model(std::string path, Manifest manifest, Verdict verdict, Device device, std::unique_ptr<Runner> runner)
    : path_(std::move(path)),
      manifest_(std::move(manifest)),
      verdict_(std::move(verdict)),
      device_(device),
      runner_(std::move(runner)) {}

Model::~Model() = default;

bool Model::graphed() const {
  return runner_->graphed();
}

bool Model::capturable() const {
  return runner_->capturable();
}

Result<void> Model::check_input(const TensorSpec& spec, const Tensor& tensor,
                                std::map<std::string, std::int64_t>& sizes) const {
  if (tensor.dtype() != spec.dtype) {
    return input_error(spec, std::string("dtype ") + dtype_name(spec.dtype), dtype_name(tensor.dtype()), "convert it");
  }
  if (Result<void> fits = check_shape(spec, tensor.shape(), manifest_, sizes); !fits) return fits;
  if (tensor.device() != device_) {
    return input_error(spec, "device " + device_.name(), tensor.device().name(), "move it with to_device()");
  }
  if (tensor.data() == nullptr && tensor.numel() != 0) return input_error(spec, "memory", "none", "");
  return {};
}

Result<std::vector<Tensor>> Model::check_inputs(const Tensors& inputs) const {
  std::vector<std::string> wanted;
  for (const TensorSpec& spec : manifest_.inputs)
    wanted.push_back(spec.name);
  const std::string expected = "expected inputs " + join(wanted) + ", found ";
  for (const std::string& name : wanted) {
    if (inputs.count(name) == 0) return Error{expected + "no input " + name + " for " + path_, ""};
  }
  const std::set<std::string> known(wanted.begin(), wanted.end());
  for (const auto& item : inputs) {
    if (known.count(item.first) == 0) {
      return Error{expected + "an unknown input " + item.first + " for " + path_, ""};
    }
  }
  std::vector<Tensor> ordered;
  std::map<std::string, std::int64_t> sizes;
  for (const TensorSpec& spec : manifest_.inputs) {
    const Tensor& tensor = inputs.at(spec.name);
    if (Result<void> good = check_input(spec, tensor, sizes); !good) return good.error();
    ordered.push_back(tensor);
  }
  return ordered;
}

Result<Tensors> Model::run(const Tensors& inputs) {
  const Result<std::vector<Tensor>> ordered = check_inputs(inputs);
  if (!ordered) return ordered.error();
  Result<std::vector<Tensor>> outputs = run_positional(*ordered);
  if (!outputs) return outputs.error();
  Tensors named;
  for (std::size_t i = 0; i < outputs->size(); ++i)
    named[manifest_.outputs[i].name] = std::move((*outputs)[i]);
  return named;
}

Result<std::vector<Tensor>> Model::run_positional(const std::vector<Tensor>& inputs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Result<std::vector<Tensor>> outputs = runner_->run(inputs);
  if (!outputs) return Error{outputs.error().reason + " in " + path_, outputs.error().remedy};
  if (outputs->size() != manifest_.outputs.size()) {
    return Error{"expected " + std::to_string(manifest_.outputs.size()) + " outputs, found " +
                     std::to_string(outputs->size()) + " from " + path_,
                 "export the artifact again"};
  }
  return outputs;
}

Result<Tensors> Model::golden_inputs(const std::map<std::string, std::int64_t>& sizes) const {
  Result<Tensors> inputs = aot_perception::golden_inputs(manifest_, sizes);
  if (!inputs) return inputs;
  for (auto& item : *inputs) {
    Result<Tensor> moved = to_device(item.second, device_);
    if (!moved) return moved.error();
    item.second = std::move(*moved);
  }
  return inputs;
}

Result<void> Model::self_test(Verdict* verdict) {
  const Result<Tensors> inputs = golden_inputs();
  if (!inputs) return inputs.error();
  Result<Tensors> outputs = run(*inputs);
  if (!outputs) return outputs.error();
  for (auto& item : *outputs) {
    Result<Tensor> host = to_host(item.second);
    if (!host) return host.error();
    item.second = std::move(*host);
  }
  const std::optional<Mismatch> mismatch = compare_golden(manifest_.golden, *outputs);
  if (!mismatch) return {};
  const Verdict found = self_test_verdict(manifest_, path_, mismatch->output, mismatch->text, mismatch->non_finite);
  if (verdict != nullptr) *verdict = found;
  return found.error();
}

Result<void> Model::capture_cuda_graph(const std::map<std::string, std::int64_t>& sizes) {
  if (!device_.cuda) {
    return Error{"expected a model on CUDA to capture, found " + path_ + " on " + device_.name(),
                 "load it with device cuda"};
  }
  if (!capturable()) {
    return Error{"expected a .pt2 or .engine to capture, found " + path_, "use it without a graph"};
  }
  std::set<std::string> dynamic;
  for (const TensorSpec& spec : manifest_.inputs) {
    for (const Size& size : spec.shape) {
      if (const auto* name = std::get_if<std::string>(&size)) dynamic.insert(*name);
    }
  }
  std::string problem;
  for (const std::string& name : dynamic) {
    if (sizes.count(name) == 0 && problem.empty()) problem = "no size for " + name;
  }
  for (const auto& item : sizes) {
    if (dynamic.count(item.first) == 0 && problem.empty()) problem = "a size for " + item.first;
  }
  if (!problem.empty()) {
    return Error{"expected sizes of the dynamic dims [" +
                     join(std::vector<std::string>(dynamic.begin(), dynamic.end())) + "] to capture " + path_ +
                     ", found " + problem,
                 "a CUDA graph has fixed sizes: give graph_sizes"};
  }
  const Result<Tensors> drawn = golden_inputs(sizes);
  if (!drawn) return drawn.error();
  Result<std::vector<Tensor>> ordered = check_inputs(*drawn);
  if (!ordered) return ordered.error();
  const std::lock_guard<std::mutex> lock(mutex_);
  OpenedRunner captured = capture_graph(runner_, device_, std::move(*ordered));
  if (!captured) return captured.error();
  runner_ = std::move(*captured);
  return {};
}

Result<std::unique_ptr<Model>> load_model(const std::string& path, const LoadOptions& options, Verdict* verdict) {
  const std::lock_guard<std::mutex> lock(load_mutex());
  try {
    JudgeOptions judging;
    judging.allow_list = options.allow_list;
    Verdict found = judge(path, options.device, judging);
    if (verdict != nullptr) *verdict = found;
    if (!found.ok()) return found.error();
    Result<Manifest> manifest = read_manifest(path);
    if (!manifest) return manifest.error();
    OpenedRunner runner = open_runner(path, *manifest, options.device, verdict);
    if (!runner) return runner.error();
    auto model =
        std::make_unique<Model>(path, std::move(*manifest), std::move(found), options.device, std::move(*runner));
    if (options.self_test) {
      if (Result<void> passed = model->self_test(verdict); !passed) return passed.error();
    }
    if (options.cuda_graph) {
      if (Result<void> captured = model->capture_cuda_graph(options.graph_sizes); !captured) return captured.error();
    }
    return Result<std::unique_ptr<Model>>(std::move(model));
  } catch (const std::exception& error) {
    return Error{"expected to load " + path + ", found " + error.what(), ""};
  }
}

}  // namespace aot_perception
