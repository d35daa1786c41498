// SPDX-License-Identifier: Apache-2.0
// Matches and tracks.
#include <gtest/gtest.h>

#include "tracker.hpp"

namespace aot_perception {
namespace {

DescribedPoints points(std::vector<float> xy, std::vector<float> descriptors) {
  return {std::move(xy), std::move(descriptors), 2};
}

const std::vector<float> kAxes = {1, 0, 0, 1};
const std::vector<float> kSwapped = {0, 1, 1, 0};

TEST(Match, FindsMutualNeighbours) {
  const auto pairs = match(points({0, 0, 1, 1}, kAxes), points({5, 5, 6, 6}, kSwapped), 0.75, 1.0);
  ASSERT_EQ(pairs.size(), 2U);
  EXPECT_EQ(pairs[0].first, 0U);
  EXPECT_EQ(pairs[0].second, 1U);
  EXPECT_FLOAT_EQ(pairs[0].similarity, 1.0F);
}

TEST(Match, RefusesWhatIsUnlikeOrNotMutual) {
  EXPECT_TRUE(match(points({0, 0}, {1, 0}), points({0, 0}, {0.7F, 0.7F}), 0.75, 1.0).empty());
  // Both of the first are nearest to the one; only the nearer is its neighbour.
  const auto pairs = match(points({0, 0, 1, 1}, {0.9F, 0.1F, 1, 0}), points({0, 0}, {1, 0}), 0.5, 1.0);
  ASSERT_EQ(pairs.size(), 1U);
  EXPECT_EQ(pairs[0].first, 1U);
}

TEST(Match, TheRatioAsksForDistinctNeighbours) {
  const auto one = points({0, 0}, {1, 0});
  const auto two = points({0, 0, 1, 1}, {1, 0, 0.995F, 0.0999F});
  EXPECT_EQ(match(one, two, 0.5, 1.0).size(), 1U);
  EXPECT_EQ(match(one, two, 0.5, 0.5).size(), 1U);  // the distance to the nearest is 0
  const auto off = points({0, 0}, {0.999F, 0.0447F});
  EXPECT_TRUE(match(off, two, 0.5, 0.5).empty());
}

TEST(Match, OfNothingIsNothing) {
  EXPECT_TRUE(match({}, points({0, 0}, {1, 0}), 0, 1).empty());
  EXPECT_TRUE(match(points({0, 0}, {1, 0}), {}, 0, 1).empty());
}

TEST(Tracker, KeepsNumbersAndCountsFrames) {
  Tracker tracker(0.75, 1.0, 0.0);
  const PixelSize image{64, 48};
  EXPECT_TRUE(tracker.update(points({0, 0, 10, 10}, kAxes), image).empty());
  auto tracks = tracker.update(points({11, 10, 1, 0}, kSwapped), image);
  ASSERT_EQ(tracks.size(), 2U);
  EXPECT_EQ(tracks[0].index, 0U);
  EXPECT_EQ(tracks[0].id, 0U);
  EXPECT_EQ(tracks[0].length, 2U);
  EXPECT_FLOAT_EQ(tracks[0].previous_x, 10);
  EXPECT_FLOAT_EQ(tracks[0].x, 11);
  EXPECT_EQ(tracks[1].id, 1U);
  tracks = tracker.update(points({2, 0}, {1, 0}), image);
  ASSERT_EQ(tracks.size(), 1U);
  EXPECT_EQ(tracks[0].id, 1U);
  EXPECT_EQ(tracks[0].length, 3U);
  // Lost for a frame: the same place is a new track.
  tracker.update(points({2, 0}, {1, 0}), image);
  tracks = tracker.update(points({2, 0, 12, 10}, kAxes), image);
  ASSERT_EQ(tracks.size(), 1U);
  tracks = tracker.update(points({2, 0, 12, 10}, kAxes), image);
  ASSERT_EQ(tracks.size(), 2U);
  EXPECT_EQ(tracks[1].id, 2U);
  EXPECT_EQ(tracks[1].length, 2U);
}

TEST(Tracker, LeavesOutLongWaysAndOtherImages) {
  Tracker tracker(0.75, 1.0, 5.0);
  tracker.update(points({0, 0, 10, 10}, kAxes), {64, 48});
  const auto tracks = tracker.update(points({3, 4, 16, 10}, kAxes), {64, 48});
  ASSERT_EQ(tracks.size(), 1U);
  EXPECT_EQ(tracks[0].index, 0U);
  EXPECT_TRUE(tracker.update(points({3, 4}, {1, 0}), {32, 24}).empty());
  tracker.reset();
  EXPECT_TRUE(tracker.update(points({3, 4}, {1, 0}), {32, 24}).empty());
}

}  // namespace
}  // namespace aot_perception
