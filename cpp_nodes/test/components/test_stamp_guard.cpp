// SPDX-License-Identifier: Apache-2.0
// Jumps backwards, disorder, and late input.
#include <gtest/gtest.h>

#include "stamp_guard.hpp"

namespace aot_perception {
namespace {

constexpr std::int64_t kMs = 1'000'000;

TEST(StampGuard, DisorderIsNoJump) {
  StampGuard guard;
  for (std::int64_t stamp : {1000 * kMs, 1050 * kMs, 960 * kMs, 1060 * kMs, 960 * kMs}) {
    EXPECT_FALSE(guard.jumped_back(stamp)) << stamp;
  }
  EXPECT_TRUE(guard.counts().empty());
}

TEST(StampGuard, AStepBackBeyondTheToleranceIsOneJump) {
  StampGuard guard;
  EXPECT_FALSE(guard.jumped_back(1000 * kMs));
  EXPECT_TRUE(guard.jumped_back(899 * kMs));
  EXPECT_FALSE(guard.jumped_back(900 * kMs));  // the new start is what counts from here on
  EXPECT_EQ(guard.counts(), (DropCounts{{"time_jump_back", 1}}));
}

TEST(StampGuard, ForgetsTheNewestStampButNotItsCounts) {
  StampGuard guard;
  guard.jumped_back(1000 * kMs);
  guard.jumped_back(0);
  guard.jumped_back(1000 * kMs);
  guard.reset();
  EXPECT_FALSE(guard.jumped_back(0));
  EXPECT_EQ(guard.counts(), (DropCounts{{"time_jump_back", 1}}));
}

TEST(StampGuard, LateOnlyBeyondTheLimit) {
  StampGuard guard(100 * kMs);
  EXPECT_FALSE(guard.late(0, 100 * kMs));
  EXPECT_TRUE(guard.late(0, 100 * kMs + 1));
  EXPECT_FALSE(guard.late(1000 * kMs, 0));  // the future is never late
  EXPECT_EQ(guard.counts(), (DropCounts{{"late", 1}}));
}

TEST(StampGuard, NoLimitByDefault) {
  StampGuard guard;
  EXPECT_FALSE(guard.late(0, std::int64_t{1} << 60));
}

}  // namespace
}  // namespace aot_perception
