// SPDX-License-Identifier: Apache-2.0
// EventBinning: rows of normalised events.
#include <gtest/gtest.h>

#include "aot_perception/event_binning.hpp"
#include "support/event_helpers.hpp"

namespace aot_perception {
namespace {

std::vector<float> fill(const BinningConfig& config, const EventArrays& events, std::int64_t end_us) {
  auto binning = EventBinning::create(config);
  EXPECT_TRUE(binning);
  std::vector<float> rows(events.size() * binning->columns());
  rows.resize(binning->fill(events.view(), end_us, rows.data()) * binning->columns());
  return rows;
}

BinningConfig small() {
  BinningConfig config;
  config.sensor_width = 4;
  config.sensor_height = 2;
  return config;
}

TEST(EventBinning, DeploymentCountsFromTheEndExclusively) {
  EventArrays events;
  for (const std::int64_t t : {-1, 0, 999, 1000, 19'000, 19'999, 20'000})
    events.push_back(1, 1, t, 1);
  const std::vector<float> rows = fill(small(), events, 20'000);
  ASSERT_EQ(rows.size(), 5u * 4u);  // the first and the last lie outside
  const std::vector<float> k{19, 19, 18, 0, 0};
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(rows[4 * i], 0.25f);
    EXPECT_EQ(rows[4 * i + 1], 0.5f);
    EXPECT_EQ(rows[4 * i + 2], k[i] / 20.0f);
    EXPECT_EQ(rows[4 * i + 3], 1.0f);
  }
}

TEST(EventBinning, TrainingCountsFromTheEndInclusively) {
  BinningConfig config = small();
  config.rule = "training";
  config.with_polarity = false;
  EventArrays events;
  for (const std::int64_t t : {0, 1, 19'001, 20'000})
    events.push_back(0, 0, t, 1);
  const std::vector<float> rows = fill(config, events, 20'000);
  ASSERT_EQ(rows.size(), 3u * 3u);
  EXPECT_EQ(rows[2], 19.0f / 20.0f);
  EXPECT_EQ(rows[5], 0.0f);
  EXPECT_EQ(rows[8], 0.0f);
}

TEST(EventBinning, CentresTheSensorOnTheModelsFrame) {
  BinningConfig config = small();
  config.model_width = 8;
  config.model_height = 1;  // smaller than the sensor: rows are cut, rounding down
  EventArrays events;
  events.push_back(0, 0, 0, 0);
  events.push_back(3, 1, 0, 1);
  const std::vector<float> rows = fill(config, events, 1);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0], 5.0f / 8.0f);
  EXPECT_EQ(rows[1], 0.0f);
}

TEST(EventBinning, RefusesWhatMakesNoSense) {
  BinningConfig config = small();
  config.rule = "other";
  EXPECT_EQ(EventBinning::create(config).error().message(),
            "expected a binning rule out of deployment, training, found 'other'");
  config = {};
  EXPECT_FALSE(EventBinning::create(config));
  config = small();
  config.bins = 0;
  EXPECT_FALSE(EventBinning::create(config));
}

}  // namespace
}  // namespace aot_perception
