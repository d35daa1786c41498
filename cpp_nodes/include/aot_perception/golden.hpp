// SPDX-License-Identifier: Apache-2.0
// Inputs from a seed, and what a network must compute from them: bit for bit as aot_runtime/golden.py draws them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/manifest.hpp"
#include "aot_perception/tensor.hpp"

namespace aot_perception {

constexpr std::int64_t kMaxSamples = 256;

/// Word i (from 0) of a stream, by the formulas in golden.py.
class WordStream {
 public:
  WordStream(std::uint64_t seed, std::uint64_t stream);
  std::uint64_t word(std::uint64_t index) const;

 private:
  std::uint64_t key_;
};

/// Elements of `shape` by a law, in host memory: float32, or int64 for the law `integer`.
///
/// Error: the law is unknown, malformed or does not fit the shape.
Result<Tensor> draw(const nlohmann::json& law, const Shape& shape, std::uint64_t seed, std::uint64_t stream);

/// The golden inputs by name, in host memory and in the manifest's dtypes.
///
/// @param sizes  dynamic dim -> size, instead of the golden's own shapes where given.
Result<std::map<std::string, Tensor>> golden_inputs(const Manifest& manifest,
                                                    const std::map<std::string, std::int64_t>& sizes = {});

/// Flat positions (C order) at which output number `output` is compared; some may repeat.
std::vector<std::int64_t> sample_indices(std::uint64_t seed, std::uint64_t output, std::int64_t elements);

/// Numbers over the finite elements of an output (0 where there is none), and the share that is finite.
struct Statistics {
  double mean = 0.0;
  double std = 0.0;
  double min = 0.0;
  double max = 0.0;
  double finite_fraction = 1.0;
};

/// Statistics of a tensor in host memory, summed in double.
Statistics statistics(const Tensor& tensor);

/// Why an output fails the self-test; `non_finite` tells NaN or infinity from a wrong number.
struct Mismatch {
  std::string output;
  bool non_finite = false;
  std::string text;
};

/// The first output (in host memory) that differs from what the golden expects, or nothing.
std::optional<Mismatch> compare_golden(const Golden& golden, const std::map<std::string, Tensor>& outputs);

}  // namespace aot_perception
