// SPDX-License-Identifier: Apache-2.0
// What is wrong with a manifest is named, in the words of test/aot_runtime/test_manifest.py.
#include <random>

#include "aot_perception/manifest.hpp"
#include "cases.hpp"

namespace aot_perception {
namespace {

using nlohmann::json;
using testing::plain_manifest;
using testing::says;

std::string error_of(const json& document, const std::string& source = "a.pt2") {
  const Result<Manifest> manifest = Manifest::from_json(document.dump(), source);
  return manifest ? "" : manifest.error().message();
}

TEST(Manifest, IsReadWhole) {
  const Result<Manifest> manifest = Manifest::from_json(plain_manifest().dump());
  ASSERT_TRUE(manifest) << manifest.error().message();
  EXPECT_EQ(manifest->family, "tiny");
  ASSERT_EQ(manifest->inputs.size(), 1U);
  EXPECT_EQ(std::get<std::string>(manifest->inputs[0].shape[0]), "n");
  EXPECT_EQ(std::get<std::int64_t>(manifest->inputs[0].shape[1]), 4);
  EXPECT_EQ(manifest->inputs[0].dtype, DType::kFloat32);
  EXPECT_EQ(manifest->dim("n")->max, 100);
  EXPECT_EQ(manifest->dim("m"), nullptr);
  EXPECT_EQ(manifest->golden.seed, 7U);
  EXPECT_EQ(manifest->golden.outputs[0].values.size(), 6U);
  EXPECT_FALSE(manifest->checkpoint.is_random());
  EXPECT_EQ(manifest->target.cpu_flags, (std::vector<std::string>{"avx", "avx2", "fma"}));
  EXPECT_EQ(manifest->rebuild_command.back(), "a b.pt2");
}

TEST(Manifest, FieldsThatCameLaterAreRead) {
  json document = plain_manifest();
  document["file_sha256"] = "ab";
  document["target"]["runtime"] = "tensorrt";
  document["target"]["runtime_version"] = "10.3.0";
  const Result<Manifest> manifest = Manifest::from_json(document.dump());
  ASSERT_TRUE(manifest) << manifest.error().message();
  EXPECT_EQ(manifest->file_sha256, "ab");
  EXPECT_EQ(manifest->target.runtime_version, "10.3.0");
}

struct Wrong {
  const char* path;
  json value;
  const char* expected;
};

TEST(Manifest, WhatIsWrongIsNamed) {
  const std::vector<Wrong> cases = {
      {"/family", 3, "expected a string at manifest.family, found 3 in a.pt2; export the artifact again"},
      {"/inputs", json::array(), "one or more tensors of different names at manifest.inputs, found [] in"},
      {"/inputs/0/dtype", "float33", "uint8, bool at manifest.inputs x.dtype, found 'float33' in"},
      {"/inputs/0/shape", {"m", 4}, "names of dims at manifest.inputs x.shape, found ('m', 4) in"},
      {"/inputs/0/shape", {-1, 4}, "sizes >= 0 or names of dims at manifest.inputs x.shape, found (-1, 4) in"},
      {"/inputs/0/shape", {1.5}, "an integer or a string at manifest.inputs[0].shape[0], found 1.5 in"},
      {"/inputs/0/shape", {true, 4}, "at manifest.inputs[0].shape[0], found True in"},
      {"/dims/0/min", 200, "0 <= min <= max at manifest.dims n, found (200, 100) in"},
      {"/precision", "fp4", "one of fp32, fp16, bf16, int8, fp8 at manifest.precision, found 'fp4' in"},
      {"/target/runtime", "tvm", "one of onnxruntime, tensorrt, tensorrt_rtx at manifest.target.runtime, found 'tvm'"},
      {"/target/device", "tpu", "cpu or cuda at manifest.target.device, found 'tpu' in"},
      {"/target/cpu_flags", "avx", "a list at manifest.target.cpu_flags, found 'avx' in"},
      {"/golden/seed", -1, "an unsigned 64-bit integer at manifest.golden.seed, found -1 in"},
      {"/golden/inputs/0/shape",
       {101, 4},
       "a shape that fits ('n', 4) at manifest.golden.inputs x.shape, found (101, 4)"},
      {"/golden/inputs/0/name", "z", "the manifest's names in order at manifest.golden.inputs, found ['z'] in"},
      {"/golden/outputs/0/mean", "0", "a finite number at manifest.golden.outputs[0].mean, found '0' in"},
      {"/preprocessing", json::array(), "an object at manifest.preprocessing, found [] in"},
      {"/surprise", 1, "only the fields of schema version 1 at manifest, found ['surprise'] in"},
      {"/schema_version", "1", "an integer schema_version, found '1' in a.pt2"},
      {"/schema_version", true, "an integer schema_version, found True in"},
      {"/checkpoint/random_seed", "x", "an integer or null at manifest.checkpoint.random_seed, found 'x' in"},
      {"/variant",
       {{"a", {1, nullptr, 0.25, 1e22, 1e-5, 3.0}}},
       "a string at manifest.variant, found {'a': [1, None, 0.25, 1e+22, 1e-05, 3.0]} in"},
  };
  for (const Wrong& wrong : cases) {
    json document = plain_manifest();
    document[json::json_pointer(wrong.path)] = wrong.value;
    EXPECT_TRUE(says(error_of(document), wrong.expected)) << wrong.path;
  }
}

TEST(Manifest, MissingFieldIsNamed) {
  json document = plain_manifest();
  document["target"].erase("torch");
  EXPECT_TRUE(says(error_of(document), "expected a value at manifest.target.torch, found 'nothing' in a.pt2"));
}

TEST(Manifest, LongValuesAreShortened) {
  json document = plain_manifest();
  document["family"] = std::vector<int>(1000, 7);
  const std::string error = error_of(document);
  EXPECT_TRUE(says(error, "7, 7,... in a.pt2"));
  EXPECT_LT(error.size(), 200U);
}

TEST(Manifest, AnotherSchemaVersionIsItsOwnError) {
  json document = plain_manifest();
  document["schema_version"] = 2;
  document["a field of the future"] = 1;
  bool other = false;
  const Result<Manifest> manifest = Manifest::from_json(document.dump(), "x.pt2", &other);
  ASSERT_FALSE(manifest);
  EXPECT_TRUE(other);
  EXPECT_TRUE(says(manifest.error().message(), "schema version 1, found 2 in x.pt2; export the artifact again"));
  (void)Manifest::from_json("{}", "x.pt2", &other);
  EXPECT_FALSE(other);
}

TEST(Manifest, TextThatIsNoJson) {
  for (const std::string& text : {std::string(), std::string("{"), std::string("[]"), std::string("NaN"),
                                  std::string("{\"schema_version\": NaN}"), std::string(100000, '['),
                                  std::string("\xff\xfe"), std::string("{\"schema_version\": 1e999}")}) {
    EXPECT_FALSE(Manifest::from_json(text));
  }
}

/// One random change somewhere in the document.
void mutate(json& document, std::mt19937& random) {
  const std::vector<json> values = {nullptr,
                                    true,
                                    -1,
                                    0,
                                    1.5,
                                    1e300,
                                    "",
                                    "x",
                                    json::array(),
                                    json::object(),
                                    {1, 2},
                                    {{"a", 1}},
                                    std::uint64_t{1} << 63,
                                    std::numeric_limits<std::int64_t>::min()};
  json* place = &document;
  while (true) {
    auto item = place->begin();
    std::advance(item, std::uniform_int_distribution<std::size_t>(0, place->size() - 1)(random));
    if (item->is_structured() && !item->empty() && random() % 2 == 0) {
      place = &*item;
      continue;
    }
    if (random() % 2 == 0) {
      *item = values[random() % values.size()];
    } else {
      place->erase(item);
    }
    return;
  }
}

TEST(Manifest, MutatedOnesParseOrAreErrors) {
  std::mt19937 random(1);
  int parsed = 0;
  for (int i = 0; i < 3000; ++i) {
    json document = plain_manifest();
    mutate(document, random);
    parsed += Manifest::from_json(document.dump()) ? 1 : 0;
  }
  EXPECT_GT(parsed, 50);  // optional fields, texts
  EXPECT_LT(parsed, 2000);
}

TEST(Manifest, MutatedTextIsAManifestOrAnError) {
  std::mt19937 random(2);
  const std::string whole = plain_manifest().dump();
  for (int i = 0; i < 3000; ++i) {
    std::string text = whole;
    for (unsigned n = 0; n < 1 + random() % 4; ++n) {
      const std::size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 40);
          break;
        default:
          text.insert(at, 1 + random() % 3, static_cast<char>(random()));
      }
      if (text.empty()) break;
    }
    const Result<Manifest> manifest = Manifest::from_json(text);
    if (!manifest) {
      EXPECT_FALSE(manifest.error().reason.empty());
    }
  }
}

}  // namespace
}  // namespace aot_perception
