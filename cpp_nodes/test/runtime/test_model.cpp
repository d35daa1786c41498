// SPDX-License-Identifier: Apache-2.0
// What stops a model before a runtime is asked, and memory. Real artifacts run in test/cpp/test_runtime.py.
#include <thread>

#include "aot_perception/device_memory.hpp"
#include "aot_perception/model.hpp"
#include "cases.hpp"
#include "runtime/runner.hpp"

namespace aot_perception {
namespace {

using testing::plain_manifest;
using testing::says;

/// Twice the first two columns of x, or an error.
class Doubler final : public Runner {
 public:
  explicit Doubler(bool fails) : fails_(fails) {}
  Result<std::vector<Tensor>> run(const std::vector<Tensor>& inputs) override {
    if (fails_) return Error{"expected luck, found none", "try again"};
    Tensor output = Tensor::zeros(DType::kFloat32, {inputs[0].shape()[0], 2});
    for (std::int64_t row = 0; row < inputs[0].shape()[0]; ++row) {
      for (std::int64_t i = 0; i < 2; ++i) {
        output.data_as<float>()[2 * row + i] = 2 * inputs[0].data_as<float>()[4 * row + i];
      }
    }
    return std::vector<Tensor>{output};
  }
  bool capturable() const override { return false; }

 private:
  bool fails_;
};

std::unique_ptr<Model> model(bool fails = false) {
  Manifest manifest = Manifest::from_json(plain_manifest().dump()).value();
  return std::make_unique<Model>("a.pt2", std::move(manifest), Verdict{"OK", "OK", "", ""}, Device{},
                                 std::make_unique<Doubler>(fails));
}

std::string error_of(const Tensors& inputs) {
  const Result<Tensors> outputs = model()->run(inputs);
  return outputs ? "" : outputs.error().message();
}

TEST(Model, RunsByName) {
  Tensor x = Tensor::zeros(DType::kFloat32, {2, 4});
  x.data_as<float>()[5] = 4.0F;
  const Result<Tensors> outputs = model()->run({{"x", x}});
  ASSERT_TRUE(outputs) << outputs.error().message();
  EXPECT_EQ(outputs->at("y").shape(), (Shape{2, 2}));
  EXPECT_EQ(outputs->at("y").data_as<float>()[3], 8.0F);
}

TEST(Model, InputsAreChecked) {
  const Tensor good = Tensor::zeros(DType::kFloat32, {2, 4});
  EXPECT_EQ(error_of({}), "expected inputs x, found no input x for a.pt2");
  EXPECT_EQ(error_of({{"x", good}, {"z", good}}), "expected inputs x, found an unknown input z for a.pt2");
  EXPECT_TRUE(says(error_of({{"x", Tensor::zeros(DType::kFloat64, {2, 4})}}),
                   "input x: expected dtype float32, found float64"));
  EXPECT_EQ(error_of({{"x", Tensor::zeros(DType::kFloat32, {2, 5})}}),
            "input x: expected shape (n, 4), found shape (2, 5) (axis 1 is 5)");
  EXPECT_EQ(error_of({{"x", Tensor::zeros(DType::kFloat32, {8})}}), "input x: expected shape (n, 4), found shape (8,)");
  EXPECT_EQ(error_of({{"x", Tensor::zeros(DType::kFloat32, {101, 4})}}),
            "input x: expected shape (n, 4) with n in 0 .. 100, found n = 101");
  float memory[8] = {};
  EXPECT_TRUE(says(error_of({{"x", Tensor::view(DType::kFloat32, {2, 4}, memory, Device{true, 0})}}),
                   "input x: expected device cpu, found cuda:0"));
  EXPECT_TRUE(says(error_of({{"x", Tensor::view(DType::kFloat32, {2, 4}, nullptr)}}), "expected memory, found none"));
}

TEST(Model, TheSelfTestFindsWrongNumbers) {
  Verdict verdict;
  const Result<void> passed = model()->self_test(&verdict);
  ASSERT_FALSE(passed);  // the table's golden says zeros
  EXPECT_EQ(verdict.kind, "REFUSE");
  EXPECT_EQ(verdict.code, "SELF_TEST_WRONG");
  EXPECT_TRUE(
      says(passed.error().message(), "REFUSE SELF_TEST_WRONG: self-test of a.pt2: expected output y to be 0 +- 0.001"));
  EXPECT_TRUE(says(passed.error().message(), "rebuild it on this machine: export_tiny"));
}

TEST(Model, ErrorsOfTheRuntimeNameTheFile) {
  const auto failing = model(true);
  const Result<Tensors> outputs = failing->run({{"x", Tensor::zeros(DType::kFloat32, {2, 4})}});
  ASSERT_FALSE(outputs);
  EXPECT_EQ(outputs.error().message(), "expected luck, found none in a.pt2; try again");
}

TEST(Model, ACudaGraphNeedsCuda) {
  const Result<void> captured = model()->capture_cuda_graph();
  ASSERT_FALSE(captured);
  EXPECT_TRUE(says(captured.error().message(), "expected a model on CUDA to capture, found a.pt2 on cpu"));
}

TEST(Model, AMissingFileIsRefused) {
  Verdict verdict;
  const auto loaded = load_model("/nowhere/m.pt2", {}, &verdict);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(verdict.code, "MISSING_FILE");
  EXPECT_TRUE(says(loaded.error().message(), "REFUSE MISSING_FILE: expected an artifact, found no file"));
}

TEST(Memory, CopiesOnTheHost) {
  Tensor from = Tensor::zeros(DType::kInt32, {4});
  from.data_as<std::int32_t>()[2] = 7;
  EXPECT_EQ(to_host(from)->data(), from.data());
  EXPECT_EQ(to_host_float32(from)->data_as<float>()[2], 7.0F);
  Tensor to = staging_zeros(DType::kInt32, {2, 2}, Device{}).value();
  ASSERT_TRUE(copy_elements(from, to));
  EXPECT_EQ(to.data_as<std::int32_t>()[2], 7);
  Tensor wide = zeros_on(DType::kInt64, {4}, Device{}).value();
  EXPECT_FALSE(copy_elements(from, wide));
  EXPECT_FALSE(zeros_on(DType::kFloat32, {1}, Device{true, 99}));
  EXPECT_TRUE(synchronise(Device{}));
  EXPECT_FALSE(from.reshaped({5}));
  EXPECT_EQ(from.reshaped({2, 2})->data(), from.data());
}

TEST(Memory, OwnersLiveAsLongAsTensors) {
  auto owner = std::make_shared<std::vector<float>>(4);
  const std::weak_ptr<std::vector<float>> watched = owner;
  Tensor tensor = Tensor::view(DType::kFloat32, {4}, owner->data(), {}, owner);
  owner.reset();
  EXPECT_FALSE(watched.expired());
  tensor = Tensor();
  EXPECT_TRUE(watched.expired());
}

}  // namespace
}  // namespace aot_perception
