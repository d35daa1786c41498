// SPDX-License-Identifier: Apache-2.0
// Counters, latencies and judgements, with the words and keys that the Python nodes use.
#include <gtest/gtest.h>

#include <limits>

#include "health_monitor.hpp"

namespace aot_perception {
namespace {

class Health : public ::testing::Test {
 protected:
  std::string value(const HealthReport& report, const std::string& key) {
    for (const auto& [name, text] : report.values) {
      if (name == key) return text;
    }
    return "(absent)";
  }

  double now_ = 100.0;
  HealthMonitor monitor_{{"receive", "infer", "publish"}, [this] { return now_; }};
};

TEST_F(Health, TellsThatThereIsNoInputYet) {
  now_ += 2.0;
  const auto report = monitor_.report();
  EXPECT_EQ(report.level, HealthLevel::kWarn);
  EXPECT_EQ(report.message, "no input yet, 2 s after activation; check the topic name and its QoS");
}

TEST_F(Health, RunningWithRatesCountsAndLatencies) {
  monitor_.set_state("active");
  monitor_.set_identity({{"artifact", "model.pt2"}});
  for (int i = 1; i <= 4; ++i) {
    monitor_.received(0.001 * i);
    monitor_.passed("infer");
    monitor_.published(0.010 * i, 0.005 * i, {99, 100});
  }
  now_ += 2.0;
  const auto report = monitor_.report();
  EXPECT_EQ(report.level, HealthLevel::kOk);
  EXPECT_EQ(report.message, "running");
  EXPECT_EQ(value(report, "state"), "active");
  EXPECT_EQ(value(report, "input rate [Hz]"), "2.00");
  EXPECT_EQ(value(report, "output rate [Hz]"), "2.00");
  EXPECT_EQ(value(report, "count infer"), "4");
  EXPECT_EQ(value(report, "input age [ms]"), "4.00");
  EXPECT_EQ(value(report, "latency from stamp p50 [ms]"), "25.00");
  EXPECT_EQ(value(report, "latency from stamp p99 [ms]"), "39.70");
  EXPECT_EQ(value(report, "latency from receive p50 [ms]"), "12.50");
  EXPECT_EQ(value(report, "finite outputs [%]"), "99");
  EXPECT_EQ(value(report, "artifact"), "model.pt2");
  EXPECT_NE(value(report, "resident memory [MiB]"), "(absent)");
  // The next report counts from this one.
  now_ += 1.0;
  EXPECT_EQ(value(monitor_.report(), "input rate [Hz]"), "0.00");
}

TEST_F(Health, NamesTheStageAtWhichItIsStuck) {
  for (int i = 0; i < 5; ++i) {
    monitor_.received();
    now_ += 1.0;
  }
  monitor_.failed("infer", "expected A, found B");
  monitor_.received();
  const auto report = monitor_.report();
  EXPECT_EQ(report.level, HealthLevel::kError);
  EXPECT_EQ(report.message, "input arrives but nothing is published: stuck at infer (expected A, found B)");
  EXPECT_EQ(value(report, "last error infer"), "expected A, found B");
  EXPECT_EQ(value(report, "errors infer"), "1");
}

TEST_F(Health, InputThatEndedIsStale) {
  monitor_.received();
  monitor_.published(0, 0, {});
  now_ += 3.5;
  const auto report = monitor_.report();
  EXPECT_EQ(report.level, HealthLevel::kStale);
  EXPECT_EQ(report.message, "no input for 3.5 s");
}

TEST_F(Health, ANodeThatIsNotActiveSaysWhy) {
  monitor_.set_state("unconfigured");
  EXPECT_EQ(monitor_.report().message, "the node is unconfigured");
  monitor_.complain("lifecycle", "cannot configure: expected an artifact");
  const auto report = monitor_.report();
  EXPECT_EQ(report.level, HealthLevel::kError);
  EXPECT_EQ(report.message, "unconfigured: cannot configure: expected an artifact");
}

TEST_F(Health, EveryDropIsCountedOnceAndKeptWhenItsSourceGoes) {
  monitor_.dropped("late", 2);
  DropCounts of_worker{{"queue_full", 3}, {"stopped", 0}};
  const int number = monitor_.count_drops_of([&] { return of_worker; });
  EXPECT_EQ(monitor_.drops(), (DropCounts{{"late", 2}, {"queue_full", 3}}));
  of_worker["queue_full"] = 4;
  monitor_.remove_drops_of(number);
  monitor_.remove_drops_of(number);  // gone already: nothing is counted twice
  of_worker["queue_full"] = 100;
  EXPECT_EQ(monitor_.drops(), (DropCounts{{"late", 2}, {"queue_full", 4}}));
  monitor_.count_drops_of([] { return DropCounts{{"corrupt", 1}}; });
  monitor_.add_details([] { return Details{{"detail", "1"}}; });
  monitor_.forget_sources();
  EXPECT_EQ(monitor_.drops(), (DropCounts{{"corrupt", 1}, {"late", 2}, {"queue_full", 4}}));
  EXPECT_EQ(value(monitor_.report(), "detail"), "(absent)");
}

TEST_F(Health, NewDropsAndComplaintsAreAWarning) {
  monitor_.complain("weights", "random");
  monitor_.complain("weights", "the artifact has random weights");
  monitor_.received();
  monitor_.published(0, 0, {});
  monitor_.dropped("late", 5);
  auto report = monitor_.report();
  EXPECT_EQ(report.level, HealthLevel::kWarn);
  EXPECT_EQ(report.message, "the artifact has random weights; 5 dropped since the last report");
  EXPECT_EQ(value(report, "dropped late"), "5");
  monitor_.take_back("weights");
  EXPECT_EQ(monitor_.report().message, "running");
}

TEST_F(Health, RestartForgetsCountsButNotDrops) {
  monitor_.received();
  monitor_.dropped("late");
  monitor_.restart();
  EXPECT_EQ(monitor_.count("receive"), 0U);
  EXPECT_EQ(monitor_.drops(), (DropCounts{{"late", 1}}));
}

TEST(CountFinite, CountsWhatIsNot) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {1, nan, 2, infinity, -infinity, 3e38F, 3e38F};
  EXPECT_EQ(count_finite(values.data(), values.size()).finite, 4U);
  EXPECT_EQ(count_finite(values.data(), values.size()).total, 7U);
  EXPECT_EQ(count_finite(values.data(), 1).finite, 1U);
  EXPECT_EQ(count_finite(nullptr, 0).total, 0U);
}

TEST(Percentile, IsLinearBetweenNeighbours) {
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 50), 2.5);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 0), 1);
  EXPECT_DOUBLE_EQ(percentile({4, 1, 3, 2}, 100), 4);
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
}

}  // namespace
}  // namespace aot_perception
