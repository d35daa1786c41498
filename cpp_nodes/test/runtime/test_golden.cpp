// SPDX-License-Identifier: Apache-2.0
// Golden inputs: the same bits as Python draws (test/data/golden_cases.json), and what a comparison finds.
#include <cmath>
#include <cstring>
#include <limits>

#include "aot_perception/golden.hpp"
#include "cases.hpp"
#include "runtime/half.hpp"

namespace aot_perception {
namespace {

using nlohmann::json;
using testing::plain_manifest;
using testing::says;

TEST(Golden, TableSharedWithPython) {
  const json table = testing::table("golden_cases.json");
  for (const json& item : table.at("draws")) {
    const std::uint64_t seed = std::stoull(item.at("seed").get<std::string>());
    const Result<Tensor> tensor =
        draw(item.at("law"), item.at("shape").get<Shape>(), seed, item.at("stream").get<std::uint64_t>());
    ASSERT_TRUE(tensor) << tensor.error().message();
    if (item.contains("integers")) {
      ASSERT_EQ(tensor->dtype(), DType::kInt64);
      const std::int64_t* values = tensor->data_as<std::int64_t>();
      EXPECT_EQ(std::vector<std::int64_t>(values, values + tensor->numel()),
                item["integers"].get<std::vector<std::int64_t>>());
      continue;
    }
    ASSERT_EQ(tensor->dtype(), DType::kFloat32);
    ASSERT_EQ(static_cast<std::size_t>(tensor->numel()), item.at("float32_bits").size());
    for (std::size_t i = 0; i < item["float32_bits"].size(); ++i) {
      const auto bits = static_cast<std::uint32_t>(std::stoul(item["float32_bits"][i].get<std::string>(), nullptr, 16));
      EXPECT_EQ(float_bits(tensor->data_as<float>()[i]), bits) << item.at("law") << " " << i;
    }
  }
  for (const json& item : table.at("samples")) {
    EXPECT_EQ(sample_indices(std::stoull(item.at("seed").get<std::string>()), item.at("output").get<std::uint64_t>(),
                             item.at("elements").get<std::int64_t>()),
              item.at("indices").get<std::vector<std::int64_t>>());
  }
}

TEST(Golden, LawsThatDoNotFitAreErrors) {
  const Shape shape = {2, 4};
  for (const char* text :
       {R"(null)", R"({})", R"({"kind": "normal"})", R"({"kind": "uniform", "low": "0", "high": 1})",
        R"({"kind": "uniform", "low": -3e38, "high": 3e38})", R"({"kind": "uniform", "low": 0, "high": 1e300})",
        R"({"kind": "grid", "columns": [[1, 1]]})", R"({"kind": "grid", "columns": [[1, 1], [0, 1], [1, 1], [1, 1]]})",
        R"({"kind": "grid", "columns": [[1, 1], [1, 0], [1, 1], [1, 1]]})", R"({"kind": "grid", "columns": 4})",
        R"({"kind": "grid", "columns": [[1, 1], [1, -1], [1, 1], [1, 1]]})",
        R"({"kind": "integer", "low": 3, "high": 3})", R"({"kind": "integer", "low": 3})",
        R"({"kind": "ramp", "low": 3, "high": 2})", R"({"kind": "ramp", "high": 3})",
        R"({"kind": "ramp", "low": 0, "high": 2147483649})"}) {
    const Result<Tensor> tensor = draw(json::parse(text), shape, 1, 0);
    ASSERT_FALSE(tensor) << text;
    EXPECT_TRUE(
        says(tensor.error().message(), "expected a law uniform, grid, integer or ramp that fits shape (2, 4), found"));
  }
  EXPECT_FALSE(draw(json::parse(R"({"kind": "grid", "columns": []})"), {}, 1, 0));
  EXPECT_FALSE(draw(json::parse(R"({"kind": "uniform", "low": 0, "high": 1})"), {std::int64_t{1} << 62, 8}, 1, 0));
}

TEST(Golden, HalfPrecisionRoundsToNearestEven) {
  // Every float16 survives the way to float32 and back, and so does every bfloat16.
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = float16_to_float(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(float16_to_float(float_to_float16(value))));
    } else {
      EXPECT_EQ(float_to_float16(value), half);
    }
    const float wide = bfloat16_to_float(half);
    if (!std::isnan(wide)) {
      EXPECT_EQ(float_to_bfloat16(wide), half);
    }
  }
  EXPECT_EQ(float16_to_float(0x3C00), 1.0F);
  EXPECT_EQ(float16_to_float(0x0001), 0x1p-24F);
  EXPECT_EQ(float_to_float16(65519.0F), 0x7BFF);  // below the middle of 65504 and 65536
  EXPECT_EQ(float_to_float16(65520.0F), 0x7C00);
  EXPECT_EQ(float_to_float16(0x1p-25F), 0);  // the middle of 0 and the smallest: to even
  EXPECT_EQ(float_to_float16(0x1.8p-25F), 1);
  EXPECT_EQ(float_to_float16(0x1.8p-24F), 2);  // the middle of 1 and 2 of the smallest
  EXPECT_EQ(float_to_float16(1.0F + 0x1p-11F), 0x3C00);
  EXPECT_EQ(float_to_float16(1.0F + 0x3p-11F), 0x3C02);
  EXPECT_EQ(float_to_bfloat16(1.0F + 0x1p-8F), 0x3F80);
  EXPECT_EQ(float_to_bfloat16(1.0F + 0x3p-8F), 0x3F82);
}

Manifest tiny() {
  json document = plain_manifest();
  document["golden"]["outputs"][0]["tolerance"] = 0.5;
  return Manifest::from_json(document.dump()).value();
}

TEST(Golden, InputsComeInTheirDtypeAndSize) {
  Manifest manifest = tiny();
  EXPECT_EQ(golden_inputs(manifest)->at("x").shape(), (Shape{3, 4}));
  EXPECT_EQ(golden_inputs(manifest, {{"n", 7}})->at("x").shape(), (Shape{7, 4}));
  const Tensor wide = golden_inputs(manifest)->at("x");
  manifest.inputs[0].dtype = DType::kFloat16;
  const Tensor half = golden_inputs(manifest)->at("x");
  for (std::int64_t i = 0; i < wide.numel(); ++i) {
    EXPECT_EQ(half.data_as<std::uint16_t>()[i], float_to_float16(wide.data_as<float>()[i]));
  }
  manifest.inputs[0].dtype = DType::kUInt8;
  manifest.golden.inputs[0].law = {{"kind", "integer"}, {"low", 0}, {"high", 256}};
  EXPECT_EQ(golden_inputs(manifest)->at("x").dtype(), DType::kUInt8);
}

TEST(Golden, StatisticsAreOfTheFiniteElements) {
  Tensor tensor = Tensor::zeros(DType::kFloat32, {5});
  const float values[] = {1.0F, 2.0F, std::numeric_limits<float>::quiet_NaN(), 3.0F,
                          -std::numeric_limits<float>::infinity()};
  std::memcpy(tensor.data(), values, sizeof(values));
  const Statistics found = statistics(tensor);
  EXPECT_DOUBLE_EQ(found.mean, 2.0);
  EXPECT_NEAR(found.std, std::sqrt(2.0 / 3.0), 1e-12);
  EXPECT_EQ(found.min, 1.0);
  EXPECT_EQ(found.max, 3.0);
  EXPECT_DOUBLE_EQ(found.finite_fraction, 0.6);
  EXPECT_EQ(statistics(Tensor::zeros(DType::kFloat32, {0})).finite_fraction, 1.0);
}

TEST(Golden, DifferencesAreTold) {
  const Manifest manifest = tiny();
  const auto compare = [&](const Tensor& tensor) { return compare_golden(manifest.golden, {{"y", tensor}}); };
  Tensor good = Tensor::zeros(DType::kFloat32, {3, 2});
  EXPECT_FALSE(compare(good));
  Tensor wrong = Tensor::zeros(DType::kFloat32, {3, 2});
  for (int i = 0; i < 6; ++i)
    wrong.data_as<float>()[i] = 0.75F;
  ASSERT_TRUE(compare(wrong));
  EXPECT_EQ(compare(wrong)->text, "0 +- 0.5 at sample 0, found 0.75");
  EXPECT_FALSE(compare(wrong)->non_finite);
  wrong.data_as<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(compare(wrong)->non_finite);
  EXPECT_EQ(compare(wrong)->text, "finite numbers, found 16.7 % NaN or infinite");
  EXPECT_EQ(compare(Tensor::zeros(DType::kFloat32, {2, 2}))->text, "shape (3, 2), found (2, 2)");
}

TEST(Golden, ALargeElementThatIsNotSampledIsSeenInTheStatistics) {
  Manifest manifest = tiny();
  manifest.golden.outputs[0].shape = {1000};
  manifest.golden.outputs[0].values.assign(256, 0.0);
  Tensor tensor = Tensor::zeros(DType::kFloat32, {1000});
  std::vector<bool> sampled(1000, false);
  for (const std::int64_t i : sample_indices(manifest.golden.seed, 0, 1000))
    sampled[static_cast<std::size_t>(i)] = true;
  std::size_t free = 0;
  while (sampled[free])
    ++free;
  tensor.data_as<float>()[free] = 9.0F;
  const auto found = compare_golden(manifest.golden, {{"y", tensor}});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->text, "max 0 +- 0.5, found 9");
}

}  // namespace
}  // namespace aot_perception
