// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/golden.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

#include "half.hpp"
#include "python_text.hpp"

namespace aot_perception {
namespace {

// SplitMix64 (Steele, Lea and Flood 2014) started at a key; see aot_runtime/golden.py.
constexpr std::uint64_t kStreamStep = 0xD1342543DE82EF95U;
constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15U;
constexpr std::uint64_t kMix1 = 0xBF58476D1CE4E5B9U;
constexpr std::uint64_t kMix2 = 0x94D049BB133111EBU;
constexpr std::uint64_t kSampleStream = std::uint64_t{1} << 32;

std::uint64_t finalise(std::uint64_t z) {
  z = (z ^ (z >> 30)) * kMix1;
  z = (z ^ (z >> 27)) * kMix2;
  return z ^ (z >> 31);
}

Error bad_law(const nlohmann::json& law, const Shape& shape, const std::string& why) {
  return Error{"expected a law uniform, grid, integer or ramp that fits shape " + shape_text(shape) + ", found " +
                   first_characters(python_repr(law, 400), 100) + " (" + why + ")",
               "export the artifact again"};
}

/// A number of a law that float32 can hold.
std::optional<float> float_of(const nlohmann::json& law, const char* name) {
  if (!law.contains(name) || !law[name].is_number()) return std::nullopt;
  const double value = law[name].get<double>();
  if (!(std::abs(value) <= static_cast<double>(std::numeric_limits<float>::max()))) return std::nullopt;
  return static_cast<float>(value);
}

std::optional<std::int64_t> integer_of(const nlohmann::json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{1} << 62) return std::nullopt;
  return value.get<std::int64_t>();
}

Result<Tensor> draw_uniform(const nlohmann::json& law, const Shape& shape, const WordStream& words) {
  const std::optional<float> low = float_of(law, "low"), high = float_of(law, "high");
  if (!low || !high) return bad_law(law, shape, "low and high are no numbers of float32");
  const double start = *low;
  const double span_exact = static_cast<double>(*high) - start;
  if (std::abs(span_exact) > static_cast<double>(std::numeric_limits<float>::max())) {
    return bad_law(law, shape, "the range is wider than float32");
  }
  const double span = static_cast<float>(span_exact);
  Tensor tensor = Tensor::zeros(DType::kFloat32, shape);
  const std::int64_t count = tensor.numel();
  for (std::int64_t i = 0; i < count; ++i) {
    const double unit = static_cast<double>(words.word(static_cast<std::uint64_t>(i)) >> 40) * 0x1p-24;
    tensor.data_as<float>()[i] = static_cast<float>(start + span * unit);
  }
  return tensor;
}

Result<Tensor> draw_grid(const nlohmann::json& law, const Shape& shape, const WordStream& words) {
  if (!law.contains("columns") || !law["columns"].is_array() || shape.empty() ||
      law["columns"].size() != static_cast<std::size_t>(shape.back())) {
    return bad_law(law, shape, "one column for each of the last axis");
  }
  std::vector<std::pair<std::uint64_t, double>> columns;
  for (const nlohmann::json& column : law["columns"]) {
    if (!column.is_array() || column.size() != 2 || !column[0].is_number_unsigned() ||
        !column[1].is_number_unsigned() || column[0] == 0U || column[1] == 0U) {
      return bad_law(law, shape, "columns of two numbers above 0");
    }
    columns.emplace_back(column[0].get<std::uint64_t>(), static_cast<double>(column[1].get<std::uint64_t>()));
  }
  Tensor tensor = Tensor::zeros(DType::kFloat32, shape);
  const std::int64_t count = tensor.numel();
  for (std::int64_t i = 0; i < count; ++i) {
    const auto& [size, divisor] = columns[static_cast<std::size_t>(i) % columns.size()];
    tensor.data_as<float>()[i] =
        static_cast<float>(static_cast<double>(words.word(static_cast<std::uint64_t>(i)) % size) / divisor);
  }
  return tensor;
}

Result<Tensor> draw_integer(const nlohmann::json& law, const Shape& shape, const WordStream& words) {
  const nlohmann::json none;
  const auto low = integer_of(law.contains("low") ? law["low"] : none);
  const auto high = integer_of(law.contains("high") ? law["high"] : none);
  if (!low || !high || *high <= *low) return bad_law(law, shape, "low and high, low below high");
  const std::uint64_t range = static_cast<std::uint64_t>(*high) - static_cast<std::uint64_t>(*low);
  Tensor tensor = Tensor::zeros(DType::kInt64, shape);
  const std::int64_t count = tensor.numel();
  for (std::int64_t i = 0; i < count; ++i) {
    tensor.data_as<std::int64_t>()[i] =
        static_cast<std::int64_t>(words.word(static_cast<std::uint64_t>(i)) % range + static_cast<std::uint64_t>(*low));
  }
  return tensor;
}

Result<Tensor> draw_ramp(const nlohmann::json& law, const Shape& shape) {
  const nlohmann::json none;
  const auto low = integer_of(law.contains("low") ? law["low"] : none);
  const auto high = integer_of(law.contains("high") ? law["high"] : none);
  // Sums of 32-bit numbers and products with a count of elements fit 64 bits.
  constexpr std::int64_t kLimit = std::int64_t{1} << 31;
  if (!low || !high || *high < *low || *low < -kLimit || *high > kLimit) {
    return bad_law(law, shape, "low and high of 32 bits, low not above high");
  }
  Tensor tensor = Tensor::zeros(DType::kInt64, shape);
  const std::int64_t count = tensor.numel();
  if (count >= kLimit) return bad_law(law, shape, "fewer than 2^31 elements");
  for (std::int64_t i = 0; i < count; ++i) {
    tensor.data_as<std::int64_t>()[i] = *low + i * (*high - *low) / std::max<std::int64_t>(count - 1, 1);
  }
  return tensor;
}

template <class From, class To>
void cast(const Tensor& from, Tensor& to) {
  const std::int64_t count = from.numel();
  for (std::int64_t i = 0; i < count; ++i)
    to.data_as<To>()[i] = static_cast<To>(from.data_as<From>()[i]);
}

template <class From>
void convert(const Tensor& from, Tensor& to) {
  const std::int64_t count = from.numel();
  const From* values = from.data_as<From>();
  switch (to.dtype()) {
    case DType::kFloat32:
      return cast<From, float>(from, to);
    case DType::kFloat64:
      return cast<From, double>(from, to);
    case DType::kInt64:
      return cast<From, std::int64_t>(from, to);
    case DType::kInt32:
      return cast<From, std::int32_t>(from, to);
    case DType::kInt16:
      return cast<From, std::int16_t>(from, to);
    case DType::kInt8:
      return cast<From, std::int8_t>(from, to);
    case DType::kUInt8:
      return cast<From, std::uint8_t>(from, to);
    case DType::kBool:
      for (std::int64_t i = 0; i < count; ++i)
        to.data_as<std::uint8_t>()[i] = values[i] != From{} ? 1 : 0;
      return;
    case DType::kFloat16:
      for (std::int64_t i = 0; i < count; ++i) {
        to.data_as<std::uint16_t>()[i] = float_to_float16(static_cast<float>(values[i]));
      }
      return;
    case DType::kBFloat16:
      for (std::int64_t i = 0; i < count; ++i) {
        to.data_as<std::uint16_t>()[i] = float_to_bfloat16(static_cast<float>(values[i]));
      }
      return;
  }
}

/// What draw() gave, in the dtype of an input.
Tensor converted(Tensor drawn, DType dtype) {
  if (drawn.dtype() == dtype) return drawn;
  Tensor result = Tensor::zeros(dtype, drawn.shape());
  drawn.dtype() == DType::kInt64 ? convert<std::int64_t>(drawn, result) : convert<float>(drawn, result);
  return result;
}

/// Element `index` as a double.
double element(const Tensor& tensor, std::int64_t index) {
  switch (tensor.dtype()) {
    case DType::kFloat32:
      return static_cast<double>(tensor.data_as<float>()[index]);
    case DType::kFloat16:
      return static_cast<double>(float16_to_float(tensor.data_as<std::uint16_t>()[index]));
    case DType::kBFloat16:
      return static_cast<double>(bfloat16_to_float(tensor.data_as<std::uint16_t>()[index]));
    case DType::kFloat64:
      return tensor.data_as<double>()[index];
    case DType::kInt64:
      return static_cast<double>(tensor.data_as<std::int64_t>()[index]);
    case DType::kInt32:
      return tensor.data_as<std::int32_t>()[index];
    case DType::kInt16:
      return tensor.data_as<std::int16_t>()[index];
    case DType::kInt8:
      return tensor.data_as<std::int8_t>()[index];
    case DType::kUInt8:
    case DType::kBool:
      return tensor.data_as<std::uint8_t>()[index];
  }
  return 0.0;
}

/// The first difference of one output.
std::optional<std::string> difference(const GoldenOutput& expected, const Tensor& tensor, std::uint64_t seed,
                                      std::uint64_t position, bool& non_finite) {
  if (tensor.shape() != expected.shape) {
    return "shape " + shape_text(expected.shape) + ", found " + shape_text(tensor.shape());
  }
  const Statistics numbers = statistics(tensor);
  if (numbers.finite_fraction < expected.finite_fraction) {
    non_finite = true;
    return "finite numbers, found " + general(100.0 * (1.0 - numbers.finite_fraction), 3) + " % NaN or infinite";
  }
  const std::vector<std::int64_t> indices = sample_indices(seed, position, tensor.numel());
  if (indices.size() != expected.values.size()) {
    return std::to_string(expected.values.size()) + " samples, found " + std::to_string(indices.size());
  }
  double largest = -1.0;
  std::size_t worst = 0;
  for (std::size_t i = 0; i < indices.size(); ++i) {
    const double error = std::abs(element(tensor, indices[i]) - expected.values[i]);
    // A golden has no NaN, so that one is wrong however few are allowed.
    if (std::isnan(error) || error > largest) {
      largest = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
      worst = i;
    }
  }
  const std::string bound = " +- " + general(expected.tolerance, 3);
  if (!indices.empty() && largest > expected.tolerance) {
    return general(expected.values[worst], 6) + bound + " at sample " + std::to_string(worst) + ", found " +
           general(element(tensor, indices[worst]), 6);
  }
  struct Named {
    const char* name;
    double want;
    double found;
  };
  for (const Named& item : {Named{"mean", expected.mean, numbers.mean}, Named{"std", expected.std, numbers.std},
                            Named{"min", expected.min, numbers.min}, Named{"max", expected.max, numbers.max}}) {
    // The standard deviation is a difference of large sums; it moves no more than the elements do.
    if (std::abs(item.want - item.found) > expected.tolerance + 1e-6 * std::abs(item.want)) {
      return std::string(item.name) + " " + general(item.want, 6) + bound + ", found " + general(item.found, 6);
    }
  }
  return std::nullopt;
}

}  // namespace

WordStream::WordStream(std::uint64_t seed, std::uint64_t stream) : key_(finalise(seed + (stream + 1) * kStreamStep)) {}

std::uint64_t WordStream::word(std::uint64_t index) const {
  return finalise(key_ + (index + 1) * kGamma);
}

Result<Tensor> draw(const nlohmann::json& law, const Shape& shape, std::uint64_t seed, std::uint64_t stream) {
  const WordStream words(seed, stream);
  const bool told = law.is_object() && law.contains("kind") && law["kind"].is_string();
  const std::string kind = told ? law["kind"].get<std::string>() : "";
  try {
    if (kind == "uniform") return draw_uniform(law, shape, words);
    if (kind == "grid") return draw_grid(law, shape, words);
    if (kind == "integer") return draw_integer(law, shape, words);
    if (kind == "ramp") return draw_ramp(law, shape);
  } catch (const std::bad_alloc&) {
    return Error{"expected memory for an input of shape " + shape_text(shape) + ", found none left", ""};
  }
  return bad_law(law, shape, "kind " + python_repr(kind));
}

Result<std::map<std::string, Tensor>> golden_inputs(const Manifest& manifest,
                                                    const std::map<std::string, std::int64_t>& sizes) {
  std::map<std::string, Tensor> inputs;
  for (std::size_t i = 0; i < manifest.inputs.size(); ++i) {
    const TensorSpec& spec = manifest.inputs[i];
    Shape shape = manifest.golden.inputs[i].shape;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      const auto* name = std::get_if<std::string>(&spec.shape[axis]);
      if (name != nullptr && sizes.count(*name) != 0) shape[axis] = sizes.at(*name);
    }
    Result<Tensor> drawn = draw(manifest.golden.inputs[i].law, shape, manifest.golden.seed, i);
    if (!drawn) return drawn.error();
    try {
      inputs[spec.name] = converted(std::move(*drawn), spec.dtype);
    } catch (const std::bad_alloc&) {
      return Error{"expected memory for input " + spec.name + ", found none left", ""};
    }
  }
  return inputs;
}

std::vector<std::int64_t> sample_indices(std::uint64_t seed, std::uint64_t output, std::int64_t elements) {
  std::vector<std::int64_t> indices;
  if (elements <= 0) return indices;
  const WordStream words(seed, kSampleStream + output);
  for (std::int64_t i = 0; i < std::min(kMaxSamples, elements); ++i) {
    indices.push_back(
        static_cast<std::int64_t>(words.word(static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(elements)));
  }
  return indices;
}

Statistics statistics(const Tensor& tensor) {
  const std::int64_t total = tensor.numel();
  std::int64_t finite = 0;
  double sum = 0.0, squares = 0.0;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  // Blocks, so that rounding grows with the number of blocks and not of elements.
  for (std::int64_t start = 0; start < total; start += 4096) {
    double block_sum = 0.0, block_squares = 0.0;
    for (std::int64_t i = start; i < std::min(total, start + 4096); ++i) {
      const double value = element(tensor, i);
      if (!std::isfinite(value)) continue;
      ++finite;
      block_sum += value;
      block_squares += value * value;
      low = std::min(low, value);
      high = std::max(high, value);
    }
    sum += block_sum;
    squares += block_squares;
  }
  if (finite == 0) return {0.0, 0.0, 0.0, 0.0, total == 0 ? 1.0 : 0.0};
  const auto count = static_cast<double>(finite);
  const double mean = sum / count;
  return {mean, std::sqrt(std::max(squares / count - mean * mean, 0.0)), low, high, count / static_cast<double>(total)};
}

std::optional<Mismatch> compare_golden(const Golden& golden, const std::map<std::string, Tensor>& outputs) {
  for (std::size_t i = 0; i < golden.outputs.size(); ++i) {
    const GoldenOutput& expected = golden.outputs[i];
    const auto found = outputs.find(expected.name);
    if (found == outputs.end()) return Mismatch{expected.name, false, "there, found none of this name"};
    bool non_finite = false;
    const auto text = difference(expected, found->second, golden.seed, i, non_finite);
    if (text) return Mismatch{expected.name, non_finite, *text};
  }
  return std::nullopt;
}

}  // namespace aot_perception
