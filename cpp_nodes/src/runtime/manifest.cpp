// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/manifest.hpp"

#include "json_fields.hpp"
#include "manifest_checks.hpp"
#include "python_text.hpp"

namespace aot_perception {

// Found by read_value of vectors through argument-dependent lookup: these types live in this namespace.
static void read_value(const nlohmann::json& value, const std::string& where, DynamicDim& out, Problem& problem) {
  Fields(value, where, {"name", "min", "max"}, problem)
      .required("name", out.name)
      .required("min", out.min)
      .required("max", out.max);
}

static void read_value(const nlohmann::json& value, const std::string& where, TensorSpec& out, Problem& problem) {
  std::string dtype;
  Fields(value, where, {"name", "dtype", "shape", "meaning", "unit"}, problem)
      .required("name", out.name)
      .required("dtype", dtype)  // check_manifest() says which there are
      .required("shape", out.shape)
      .optional("meaning", out.meaning)
      .optional("unit", out.unit);
  out.dtype = dtype_of(dtype).value_or(DType::kFloat32);
}

static void read_value(const nlohmann::json& value, const std::string& where, CheckpointInfo& out, Problem& problem) {
  Fields(value, where, {"file", "sha256", "licence", "random_seed"}, problem)
      .required("file", out.file)
      .required("sha256", out.sha256)
      .required("licence", out.licence)
      .optional("random_seed", out.random_seed);
}

static void read_value(const nlohmann::json& value, const std::string& where, Target& out, Problem& problem) {
  Fields(value, where,
         {"device", "os", "machine", "torch", "cpu_isa", "cpu_flags", "compute_capability", "cuda", "device_name",
          "runtime", "runtime_version"},
         problem)
      .required("device", out.device)
      .required("os", out.os)
      .required("machine", out.machine)
      .required("torch", out.torch)
      .optional("cpu_isa", out.cpu_isa)
      .optional("cpu_flags", out.cpu_flags)
      .optional("compute_capability", out.compute_capability)
      .optional("cuda", out.cuda)
      .optional("device_name", out.device_name)
      .optional("runtime", out.runtime)
      .optional("runtime_version", out.runtime_version);
}

static void read_value(const nlohmann::json& value, const std::string& where, OutputParity& out, Problem& problem) {
  Fields fields(value, where, {"name", "max_abs", "max_rel", "cosine", "tolerance"}, problem);
  fields.required("name", out.name).required("max_abs", out.max_abs).required("max_rel", out.max_rel);
  fields.required("cosine", out.cosine).required("tolerance", out.tolerance);
}

static void read_value(const nlohmann::json& value, const std::string& where, GoldenInput& out, Problem& problem) {
  Fields(value, where, {"name", "shape", "law"}, problem)
      .required("name", out.name)
      .required("shape", out.shape)
      .required("law", out.law);
}

static void read_value(const nlohmann::json& value, const std::string& where, GoldenOutput& out, Problem& problem) {
  Fields(value, where,
         {"name", "shape", "values", "mean", "std", "min", "max", "finite_fraction", "sha256", "tolerance"}, problem)
      .required("name", out.name)
      .required("shape", out.shape)
      .required("values", out.values)
      .required("mean", out.mean)
      .required("std", out.std)
      .required("min", out.min)
      .required("max", out.max)
      .required("finite_fraction", out.finite_fraction)
      .required("sha256", out.sha256)
      .required("tolerance", out.tolerance);
}

static void read_value(const nlohmann::json& value, const std::string& where, Golden& out, Problem& problem) {
  // 64 bits without a sign; check_manifest() refuses negative ones.
  Fields fields(value, where, {"seed", "inputs", "outputs"}, problem);
  if (problem.found()) return;
  const auto seed = value.find("seed");
  if (seed != value.end() && seed->is_number_integer()) {
    out.seed = seed->get<std::uint64_t>();
  } else {
    std::int64_t unused = 0;
    fields.required("seed", unused);  // tells what is wrong with it
  }
  fields.required("inputs", out.inputs).required("outputs", out.outputs);
}

Result<Manifest> Manifest::from_json(const std::string& text, const std::string& source, bool* other_schema) {
  if (other_schema != nullptr) *other_schema = false;
  const nlohmann::json data = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (data.is_discarded()) {
    return Error{"expected JSON, found text that is none in " + source, "export the artifact again"};
  }
  if (!data.is_object()) {
    return Error{"expected a JSON object, found " + first_characters(python_repr(data, 60), 60) + " in " + source,
                 "export the artifact again"};
  }
  const auto version = data.find("schema_version");
  if (version == data.end() || !version->is_number_integer()) {
    const std::string found = version == data.end() ? "None" : first_characters(python_repr(*version, 60), 60);
    return Error{"expected an integer schema_version, found " + found + " in " + source, "export the artifact again"};
  }
  if (*version != kSchemaVersion) {
    if (other_schema != nullptr) *other_schema = true;
    return Error{"expected manifest schema version " + std::to_string(kSchemaVersion) + ", found " +
                     python_repr(*version) + " in " + source,
                 "export the artifact again with this version of aot_perception"};
  }
  Problem problem(source);
  Manifest manifest;
  std::int64_t schema = 0;
  Fields(data, "manifest",
         {"family", "variant", "task", "inputs", "outputs", "precision", "target", "checkpoint", "exporter", "golden",
          "dims", "preprocessing", "parity", "rebuild_command", "created", "schema_version", "file_sha256",
          "source_sha256", "parity_of"},
         problem)
      .required("family", manifest.family)
      .required("variant", manifest.variant)
      .required("task", manifest.task)
      .required("inputs", manifest.inputs)
      .required("outputs", manifest.outputs)
      .required("precision", manifest.precision)
      .required("target", manifest.target)
      .required("checkpoint", manifest.checkpoint)
      .required("exporter", manifest.exporter)
      .required("golden", manifest.golden)
      .optional("dims", manifest.dims)
      .optional("preprocessing", manifest.preprocessing)
      .optional("parity", manifest.parity)
      .optional("rebuild_command", manifest.rebuild_command)
      .optional("created", manifest.created)
      .required("schema_version", schema)
      .optional("file_sha256", manifest.file_sha256)
      .optional("source_sha256", manifest.source_sha256)
      .optional("parity_of", manifest.parity_of);
  if (!problem.found()) check_manifest(manifest, data, problem);
  if (problem.found()) return problem.error();
  return manifest;
}

const DynamicDim* Manifest::dim(const std::string& name) const {
  for (const DynamicDim& dim : dims) {
    if (dim.name == name) return &dim;
  }
  return nullptr;
}

std::string size_text(const std::vector<Size>& shape) {
  std::vector<std::string> items;
  for (const Size& size : shape) {
    const auto* name = std::get_if<std::string>(&size);
    items.push_back(name != nullptr ? python_repr(*name) : std::to_string(std::get<std::int64_t>(size)));
  }
  return tuple_text(items);
}

}  // namespace aot_perception
