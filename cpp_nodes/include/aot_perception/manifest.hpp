// SPDX-License-Identifier: Apache-2.0
// What an artifact says about itself; the same JSON, the same checks and the same words as aot_runtime/manifest.py.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/tensor.hpp"

namespace aot_perception {

constexpr int kSchemaVersion = 1;
constexpr char kMetadataKey[] = "aot_perception.manifest";

/// A dimension whose size is chosen at run time, min <= size <= max.
struct DynamicDim {
  std::string name;
  std::int64_t min = 0;
  std::int64_t max = 0;
};

/// A fixed size, or the name of a dynamic dim.
using Size = std::variant<std::int64_t, std::string>;

/// One input or output.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<Size> shape;
  std::string meaning;
  std::string unit;
};

/// Where the weights come from: an official file, or a seed.
struct CheckpointInfo {
  std::string file;
  std::string sha256;
  std::string licence;
  /// A number of any size, as JSON writes it; set for random weights.
  std::optional<std::int64_t> random_seed;

  bool is_random() const { return random_seed.has_value(); }
};

/// The machine and the libraries an artifact was compiled for; see aot_runtime.manifest.Target.
struct Target {
  std::string device;
  std::string os;
  std::string machine;
  std::string torch;
  std::string cpu_isa;
  std::vector<std::string> cpu_flags;
  std::string compute_capability;
  std::string cuda;
  std::string device_name;
  /// What runs the file: "" AOTInductor, "onnxruntime", "tensorrt" or "tensorrt_rtx".
  std::string runtime;
  std::string runtime_version;
};

/// Compiled against eager at export.
struct OutputParity {
  std::string name;
  double max_abs = 0.0;
  double max_rel = 0.0;
  std::optional<double> cosine;
  double tolerance = 0.0;
};

/// How golden.hpp draws one input.
struct GoldenInput {
  std::string name;
  Shape shape;
  nlohmann::json law;
};

/// What eager computes from the golden inputs; `values` are the elements at sample_indices().
struct GoldenOutput {
  std::string name;
  Shape shape;
  std::vector<double> values;
  double mean = 0.0;
  double std = 0.0;
  double min = 0.0;
  double max = 0.0;
  double finite_fraction = 1.0;
  std::string sha256;
  double tolerance = 0.0;
};

/// The self-test: a seed, the laws of the inputs and the expected outputs.
struct Golden {
  std::uint64_t seed = 0;
  std::vector<GoldenInput> inputs;
  std::vector<GoldenOutput> outputs;
};

/// The whole contract of one artifact.
struct Manifest {
  std::string family;
  std::string variant;
  std::string task;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::string precision;
  Target target;
  CheckpointInfo checkpoint;
  std::string exporter;
  Golden golden;
  std::vector<DynamicDim> dims;
  nlohmann::json preprocessing = nlohmann::json::object();
  std::vector<OutputParity> parity;
  std::vector<std::string> rebuild_command;
  std::string created;
  std::string file_sha256;
  std::string source_sha256;
  std::string parity_of;

  /// Parses and checks.
  ///
  /// @param source        names the file in errors.
  /// @param other_schema  set to whether the error is another schema version.
  /// Error: not JSON, another schema version, or a field is missing, unknown or of the wrong type; it names the field.
  /// Integers are 64 bits wide here; Python's are not.
  static Result<Manifest> from_json(const std::string& text, const std::string& source = "the manifest",
                                    bool* other_schema = nullptr);

  /// The dynamic dim of this name, or nullptr.
  const DynamicDim* dim(const std::string& name) const;
};

/// "('n', 4)": a shape of sizes and dims, as Python prints it.
std::string size_text(const std::vector<Size>& shape);

}  // namespace aot_perception
