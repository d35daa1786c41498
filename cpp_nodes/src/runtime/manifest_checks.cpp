// SPDX-License-Identifier: Apache-2.0
#include "manifest_checks.hpp"

#include <algorithm>
#include <set>

#include "python_text.hpp"

namespace aot_perception {
namespace {

const std::vector<std::string> kDTypeNames = {"float32", "float16", "bfloat16", "float64", "int64",
                                              "int32",   "int16",   "int8",     "uint8",   "bool"};
const std::vector<std::string> kPrecisions = {"fp32", "fp16", "bf16", "int8", "fp8"};
const std::vector<std::string> kRuntimes = {"onnxruntime", "tensorrt", "tensorrt_rtx"};

bool contains(const std::vector<std::string>& items, const std::string& item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

template <class T>
nlohmann::json names_of(const std::vector<T>& items) {
  nlohmann::json names = nlohmann::json::array();
  for (const T& item : items)
    names.push_back(item.name);
  return names;
}

template <class T>
bool all_differ(const std::vector<T>& items) {
  std::set<std::string> names;
  for (const T& item : items)
    names.insert(item.name);
  return names.size() == items.size();
}

void check_specs(const std::string& group, const std::vector<TensorSpec>& specs, const Manifest& manifest,
                 const nlohmann::json& data, Problem& problem) {
  const std::string where = "manifest." + group;
  if (specs.empty() || !all_differ(specs)) {
    problem.tell(where, "one or more tensors of different names", python_repr(names_of(specs)));
  }
  for (std::size_t i = 0; i < specs.size() && !problem.found(); ++i) {
    const TensorSpec& spec = specs[i];
    const auto dtype = data[group][i]["dtype"].get<std::string>();
    if (!contains(kDTypeNames, dtype)) {
      problem.tell(where + " " + spec.name + ".dtype", "one of " + join(kDTypeNames), python_repr(dtype));
    }
    for (const Size& size : spec.shape) {
      const auto* name = std::get_if<std::string>(&size);
      if (name != nullptr ? manifest.dim(*name) == nullptr : std::get<std::int64_t>(size) < 0) {
        problem.tell(where + " " + spec.name + ".shape", "sizes >= 0 or names of dims", size_text(spec.shape));
      }
    }
  }
}

bool shape_fits(const Shape& shape, const std::vector<Size>& wanted, const Manifest& manifest) {
  if (shape.size() != wanted.size()) return false;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (const auto* name = std::get_if<std::string>(&wanted[i])) {
      const DynamicDim* dim = manifest.dim(*name);
      if (dim == nullptr || shape[i] < dim->min || shape[i] > dim->max) return false;
    } else if (shape[i] != std::get<std::int64_t>(wanted[i])) {
      return false;
    }
  }
  return true;
}

template <class T>
void check_golden(const std::string& group, const std::vector<T>& golden, const std::vector<TensorSpec>& specs,
                  const Manifest& manifest, Problem& problem) {
  const std::string where = "manifest.golden." + group;
  if (names_of(golden) != names_of(specs)) {
    return problem.tell(where, "the manifest's names in order", python_repr(names_of(golden)));
  }
  for (std::size_t i = 0; i < golden.size(); ++i) {
    if (!shape_fits(golden[i].shape, specs[i].shape, manifest)) {
      return problem.tell(where + " " + golden[i].name + ".shape", "a shape that fits " + size_text(specs[i].shape),
                          shape_text(golden[i].shape));
    }
  }
}

}  // namespace

void check_manifest(const Manifest& manifest, const nlohmann::json& data, Problem& problem) {
  if (!all_differ(manifest.dims)) {
    problem.tell("manifest.dims", "dims of different names", python_repr(names_of(manifest.dims)));
  }
  for (const DynamicDim& dim : manifest.dims) {
    if (dim.min < 0 || dim.min > dim.max) {
      problem.tell("manifest.dims " + dim.name, "0 <= min <= max", shape_text({dim.min, dim.max}));
    }
  }
  check_specs("inputs", manifest.inputs, manifest, data, problem);
  check_specs("outputs", manifest.outputs, manifest, data, problem);
  if (!contains(kPrecisions, manifest.precision)) {
    problem.tell("manifest.precision", "one of " + join(kPrecisions), python_repr(manifest.precision));
  }
  const Target& target = manifest.target;
  if (target.device != "cpu" && target.device != "cuda") {
    problem.tell("manifest.target.device", "cpu or cuda", python_repr(target.device));
  }
  if (!target.runtime.empty() && !contains(kRuntimes, target.runtime)) {
    problem.tell("manifest.target.runtime", "one of " + join(kRuntimes), python_repr(target.runtime));
  }
  const nlohmann::json& seed = data["golden"]["seed"];
  if (!seed.is_number_unsigned()) {
    problem.tell("manifest.golden.seed", "an unsigned 64-bit integer", python_repr(seed));
  }
  if (problem.found()) return;
  check_golden("inputs", manifest.golden.inputs, manifest.inputs, manifest, problem);
  if (!problem.found()) check_golden("outputs", manifest.golden.outputs, manifest.outputs, manifest, problem);
}

}  // namespace aot_perception
