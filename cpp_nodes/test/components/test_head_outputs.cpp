// SPDX-License-Identifier: Apache-2.0
// Depth and flow as they are published: units, validity, resolution.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "head_outputs.hpp"

namespace aot_perception {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

HeadGrid whole(PixelSize grid, PixelSize frame) {
  return {grid, frame, frame, false};
}

TEST(FinishDepth, RelativeDepthKeepsAllButWhatIsNotFinite) {
  const std::vector<float> raw = {-1.0F, 0.0F, kNan, 3.0F};
  const auto depth = finish_depth(raw.data(), whole({2, 2}, {4, 4}), {});
  EXPECT_EQ(depth[0], -1.0F);
  EXPECT_EQ(depth[1], 0.0F);
  EXPECT_TRUE(std::isnan(depth[2]));
}

TEST(FinishDepth, MetresAreAboveZero) {
  const std::vector<float> raw = {-1.0F, 0.0F, 2.0F, 4.0F};
  const auto metric = finish_depth(raw.data(), whole({2, 2}, {4, 4}), {false, true, {}});
  EXPECT_TRUE(std::isnan(metric[0]) && std::isnan(metric[1]));
  EXPECT_EQ(metric[2], 2.0F);
  const auto disparity = finish_depth(raw.data(), whole({2, 2}, {4, 4}), {true, true, 8.0F});
  EXPECT_TRUE(std::isnan(disparity[0]) && std::isnan(disparity[1]));
  EXPECT_EQ(disparity[2], 4.0F);
  EXPECT_EQ(disparity[3], 2.0F);
}

TEST(FinishDepth, WhatASmallSensorDoesNotSeeIsInvalid) {
  const std::vector<float> raw(9, 1.0F);
  const HeadGrid where{{3, 3}, {9, 9}, {3, 9}, false};  // columns 3 to 5 of the frame
  const auto depth = finish_depth(raw.data(), where, {});
  for (int row = 0; row < 3; ++row) {
    EXPECT_TRUE(std::isnan(depth[3 * static_cast<std::size_t>(row)]));
    EXPECT_EQ(depth[3 * static_cast<std::size_t>(row) + 1], 1.0F);
  }
}

TEST(ResizeToSensor, IsALinearRampBetweenCorners) {
  const std::vector<float> raw = {0.0F, 4.0F, 8.0F, 12.0F};
  const HeadGrid where{{2, 2}, {5, 3}, {5, 3}, true};
  const auto resized = resize_to_sensor(raw.data(), where);
  ASSERT_EQ(resized.size(), 15U);
  for (std::size_t column = 0; column < 5; ++column) {
    EXPECT_FLOAT_EQ(resized[column], static_cast<float>(column));
    EXPECT_FLOAT_EQ(resized[10 + column], 8.0F + static_cast<float>(column));
  }
}

TEST(ResizeToSensor, ASensorLargerThanTheFrameHasNanAround) {
  const std::vector<float> raw(4, 1.0F);
  const HeadGrid where{{2, 2}, {3, 3}, {5, 3}, true};
  const auto resized = resize_to_sensor(raw.data(), where);
  EXPECT_TRUE(std::isnan(resized[0]));
  EXPECT_EQ(resized[1], 1.0F);
  EXPECT_TRUE(std::isnan(resized[4]));
}

TEST(EventMask, MarksThePixelNearestToEachEvent) {
  const std::vector<std::uint16_t> x = {0, 3, 4, 60000};
  const std::vector<std::uint16_t> y = {0, 1, 4, 0};
  const EventsView events{x.data(), y.data(), nullptr, nullptr, x.size()};
  const auto mask = event_mask(events, whole({3, 3}, {5, 5}));
  // 3 * 2/4 = 1.5 and 1 * 2/4 = 0.5 round to even, as numpy's rint.
  EXPECT_EQ(mask, (std::vector<std::uint8_t>{1, 0, 1, 0, 0, 0, 0, 0, 1}));
}

TEST(FinishFlow, IsInPixelsOfThePublishedGridAndValidWhereEventsFell) {
  const std::vector<float> raw = {1, 1, 1, 1, 2, 2, 2, kNan};  // (2, 2, 2)
  const std::vector<std::uint16_t> x = {0, 4};
  const std::vector<std::uint16_t> y = {0, 4};
  const EventsView events{x.data(), y.data(), nullptr, nullptr, x.size()};
  const auto on_grid = finish_flow(raw.data(), events, whole({2, 2}, {5, 5}), true);
  EXPECT_EQ(on_grid.valid, (std::vector<std::uint8_t>{1, 0, 0, 0}));  // the last is not finite
  const auto pairs = on_grid.interleaved();
  EXPECT_EQ(pairs[0], 1.0F);
  EXPECT_EQ(pairs[1], 2.0F);
  EXPECT_TRUE(std::isnan(pairs[2]));
  const auto dense = finish_flow(raw.data(), events, HeadGrid{{2, 2}, {5, 5}, {5, 5}, true}, false);
  EXPECT_EQ(dense.size.width, 5);
  EXPECT_FLOAT_EQ(dense.dx[0], 4.0F);    // a grid pixel is 4 sensor pixels
  EXPECT_TRUE(std::isnan(dense.dy[0]));  // what is not finite spreads over the cell, as numpy's sum of products
  EXPECT_EQ(dense.valid, std::vector<std::uint8_t>(25, 0));
  const std::vector<float> good = {1, 1, 1, 1, 2, 2, 2, 2};
  const auto finite = finish_flow(good.data(), events, HeadGrid{{2, 2}, {5, 5}, {5, 5}, true}, false);
  EXPECT_FLOAT_EQ(finite.dy[24], 8.0F);
  EXPECT_EQ(finite.valid, std::vector<std::uint8_t>(25, 1));
}

}  // namespace
}  // namespace aot_perception
