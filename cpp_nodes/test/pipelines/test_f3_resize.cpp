// SPDX-License-Identifier: Apache-2.0
// resize_features: bilinear with align_corners, from (1, W', H', C) to (1, C, H, W).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "aot_perception/f3_pipeline.hpp"

namespace aot_perception {
namespace {

constexpr int kWidth = 7, kHeight = 5, kChannels = 3;

float value(int x, int y, int c) {
  return std::sin(static_cast<float>(x * 37 + y * 11 + c * 5));
}

Tensor field() {
  Tensor tensor = Tensor::zeros(DType::kFloat32, {1, kWidth, kHeight, kChannels});
  float* to = tensor.data_as<float>();
  for (int x = 0; x < kWidth; ++x) {
    for (int y = 0; y < kHeight; ++y) {
      for (int c = 0; c < kChannels; ++c)
        *to++ = value(x, y, c);
    }
  }
  return tensor;
}

TEST(ResizeFeatures, IsBilinearWithAlignedCorners) {
  const int width = 12, height = 4;
  const Tensor from = field();
  const auto resized = resize_features(from, width, height);
  ASSERT_TRUE(resized) << resized.error().message();
  ASSERT_EQ(resized->shape(), (Shape{1, kChannels, height, width}));
  const float* found = resized->data_as<float>();
  for (int c = 0; c < kChannels; ++c) {
    for (int v = 0; v < height; ++v) {
      for (int u = 0; u < width; ++u) {
        const double x = u * (kWidth - 1.0) / (width - 1), y = v * (kHeight - 1.0) / (height - 1);
        const int left = std::min(static_cast<int>(x), kWidth - 2), top = std::min(static_cast<int>(y), kHeight - 2);
        const double fx = x - left, fy = y - top;
        const double expected = (value(left, top, c) * (1 - fx) + value(left + 1, top, c) * fx) * (1 - fy) +
                                (value(left, top + 1, c) * (1 - fx) + value(left + 1, top + 1, c) * fx) * fy;
        EXPECT_NEAR(*found++, expected, 1e-6);
      }
    }
  }
}

TEST(ResizeFeatures, LeavesTheSizeItHasExactlyAsItIs) {
  Tensor from = field();
  const auto same = resize_features(from, kWidth, kHeight);
  ASSERT_TRUE(same);
  std::fill(from.data_as<float>(), from.data_as<float>() + from.numel(), 9.0F);  // a copy: it does not follow
  const float* found = same->data_as<float>();
  for (int c = 0; c < kChannels; ++c) {
    for (int y = 0; y < kHeight; ++y) {
      for (int x = 0; x < kWidth; ++x)
        EXPECT_EQ(*found++, value(x, y, c));
    }
  }
  const Tensor line = Tensor::zeros(DType::kFloat32, {1, 4, 1, 1});  // laid out as its own result
  const auto copy = resize_features(line, 4, 1);
  ASSERT_TRUE(copy);
  EXPECT_NE(copy->data(), line.data());
}

TEST(ResizeFeatures, RefusesWhatIsNoField) {
  const Tensor flat = Tensor::zeros(DType::kFloat32, {4, 4});
  const auto failed = resize_features(flat, 3, 3);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().reason.find("expected features that can be resized to 3x3, found "), 0u);
}

}  // namespace
}  // namespace aot_perception
