// SPDX-License-Identifier: Apache-2.0
// EventWindower: the cases of test/f3_ros/events/test_windows.py.
#include <gtest/gtest.h>

#include <functional>
#include <tuple>

#include "aot_perception/event_window.hpp"
#include "support/event_helpers.hpp"

namespace aot_perception {
namespace {

using testing::at;
using testing::times;
using Times = std::vector<std::int64_t>;
using Span = std::tuple<std::int64_t, std::int64_t, Times>;
using Flags = std::vector<bool>;

std::vector<Span> spans(const std::vector<EventWindow>& windows) {
  std::vector<Span> result;
  for (const EventWindow& window : windows)
    result.emplace_back(window.start_us, window.end_us, times(window.events));
  return result;
}

Flags complete(const std::vector<EventWindow>& windows) {
  Flags result;
  for (const EventWindow& window : windows)
    result.push_back(window.complete);
  return result;
}

EventWindower make(const std::function<void(WindowConfig&)>& change = {}) {
  WindowConfig config;
  config.duration_us = 100;
  if (change) change(config);
  auto made = EventWindower::create(config);
  EXPECT_TRUE(made);
  return *std::move(made);
}

std::vector<EventWindow> push(EventWindower& windower, std::initializer_list<std::int64_t> events,
                              std::optional<std::int64_t> time, bool gap = false) {
  const EventArrays arrays = at(events);
  return windower.push(arrays.view(), time, gap);
}

TEST(EventWindow, LieOnMultiplesAndAreHalfOpen) {
  auto windower = make();
  EXPECT_TRUE(push(windower, {250, 299}, 299).empty());
  const auto windows = push(windower, {300, 399, 400}, 400);
  EXPECT_EQ(spans(windows), (std::vector<Span>{{200, 300, {250, 299}}, {300, 400, {300, 399}}}));
  EXPECT_EQ(complete(windows), (Flags{false, true}));  // the stream began inside the first
  EXPECT_EQ(windows[0].n_received, 2u);
  EXPECT_EQ(windower.pending(), 1u);
}

TEST(EventWindow, AStreamThatBeginsOnABoundaryIsCompleteFromThere) {
  auto windower = make();
  EXPECT_EQ(complete(push(windower, {200, 250}, 300)), Flags{true});
}

TEST(EventWindow, TimeClosesWindowsWithoutEvents) {
  auto windower = make();
  EXPECT_TRUE(push(windower, {}, std::nullopt).empty());
  EXPECT_TRUE(push(windower, {}, 200).empty());
  EXPECT_EQ(spans(push(windower, {}, 410)), (std::vector<Span>{{200, 300, {}}, {300, 400, {}}}));
  EXPECT_EQ(windower.counters().windows, 2);
}

TEST(EventWindow, WithoutATimeTheNewestEventTellsIt) {
  auto windower = make();
  EXPECT_EQ(spans(push(windower, {10, 120}, std::nullopt)), (std::vector<Span>{{0, 100, {10}}}));
}

TEST(EventWindow, SlidingOnesOverlap) {
  auto windower = make([](WindowConfig& config) { config.stride_us = 50; });
  const auto windows = push(windower, {0, 49, 50, 99, 100, 149, 150}, 200);
  EXPECT_EQ(spans(windows),
            (std::vector<Span>{{0, 100, {0, 49, 50, 99}}, {50, 150, {50, 99, 100, 149}}, {100, 200, {100, 149, 150}}}));
  EXPECT_EQ(complete(windows), (Flags{true, true, true}));
  EXPECT_EQ(windower.pending(), 1u);
}

TEST(EventWindow, StrideAboveDurationLeavesEventsOut) {
  auto windower = make([](WindowConfig& config) { config.stride_us = 300; });
  EXPECT_EQ(spans(push(windower, {10, 150, 299, 310, 450}, 650)),
            (std::vector<Span>{{0, 100, {10}}, {300, 400, {310}}}));
  EXPECT_EQ(windower.counters().between_windows, 3);
}

TEST(EventWindow, LateEventsAreDroppedAndSmallStepsSortedIn) {
  auto windower = make();
  push(windower, {10, 90, 110}, 110);
  EXPECT_EQ(spans(push(windower, {105, 99, 150, 130, 210}, 210)),
            (std::vector<Span>{{100, 200, {105, 110, 130, 150}}}));
  EXPECT_EQ(windower.counters().late, 1);
}

TEST(EventWindow, LatenessWaitsForStragglers) {
  auto windower = make([](WindowConfig& config) { config.lateness_us = 20; });
  EXPECT_TRUE(push(windower, {10, 110}, 115).empty());
  EXPECT_EQ(spans(push(windower, {95, 125}, 125)), (std::vector<Span>{{0, 100, {10, 95}}}));
  EXPECT_EQ(windower.counters().late, 0);
}

TEST(EventWindow, EventsBeyondThePacketsOwnTimeAreDropped) {
  auto windower = make([](WindowConfig& config) { config.max_backstep_us = 1000; });
  push(windower, {10, 500'000'000, 50}, 60);
  EXPECT_EQ(windower.counters().future, 1);
  EXPECT_EQ(spans(push(windower, {}, 100)), (std::vector<Span>{{0, 100, {10, 50}}}));
}

TEST(EventWindow, AGapMakesTheWindowsItTouchesIncomplete) {
  auto windower = make();
  push(windower, {0}, 50);
  EXPECT_EQ(complete(push(windower, {130, 160}, 450, true)), (Flags{false, false, true, true}));
  EXPECT_EQ(windower.counters().incomplete, 2);
  EXPECT_EQ(complete(push(windower, {}, 800, true)), (Flags{false, false, false, false}));
}

TEST(EventWindow, AGapAtTheEndOfAWindowSparesIt) {
  auto windower = make();
  push(windower, {0}, 99);
  EXPECT_EQ(complete(push(windower, {100}, 100)), Flags{true});
  EXPECT_EQ(complete(push(windower, {250}, 300, true)), (Flags{false, false}));
}

TEST(EventWindow, TimeThatGoesBackStartsAnew) {
  auto windower = make([](WindowConfig& config) { config.max_backstep_us = 1000; });
  push(windower, {50'000, 50'010}, 50'010);
  EXPECT_EQ(spans(push(windower, {310}, 400)), (std::vector<Span>{{300, 400, {310}}}));
  EXPECT_EQ(windower.counters().resets, 1);
  EXPECT_EQ(windower.counters().reset, 2);
}

TEST(EventWindow, LongSilenceIsSkippedAndCounted) {
  auto windower = make([](WindowConfig& config) { config.max_empty_windows = 5; });
  push(windower, {10}, 50);
  EXPECT_EQ(spans(push(windower, {10'000'010}, 10'000'100)),
            (std::vector<Span>{{0, 100, {10}}, {10'000'000, 10'000'100, {10'000'010}}}));
  EXPECT_EQ(windower.counters().skipped_windows, 99'999);
  EXPECT_EQ(push(windower, {}, 10'000'600).size(), 5u);
  EXPECT_TRUE(push(windower, {}, 20'000'000).empty());
  EXPECT_EQ(spans(push(windower, {20'000'001}, 20'000'100)),
            (std::vector<Span>{{20'000'000, 20'000'100, {20'000'001}}}));
}

TEST(EventWindow, FlushPutsOutWhatIsPending) {
  auto windower = make();
  push(windower, {10, 120, 350}, 360);
  const auto windows = windower.flush();
  EXPECT_EQ(spans(windows), (std::vector<Span>{{300, 400, {350}}}));
  EXPECT_EQ(complete(windows), Flags{false});
  EXPECT_TRUE(windower.flush().empty());
  push(windower, {380, 410}, 420);
  EXPECT_EQ(windower.counters().late, 1);
}

TEST(EventWindow, ResetDropsWhatIsPending) {
  auto windower = make();
  push(windower, {10, 20}, 20);
  windower.reset();
  EXPECT_EQ(windower.pending(), 0u);
  EXPECT_EQ(windower.counters().dropped()["reset"], 2);
  EXPECT_TRUE(windower.flush().empty());
}

TEST(EventWindow, TheBufferIsBounded) {
  auto windower = make([](WindowConfig& config) {
    config.duration_us = 1'000'000;
    config.max_buffered_events = 100;
  });
  push(windower, {0}, 0);
  for (int i = 0; i < 10; ++i) {
    EventArrays events;
    for (int k = 0; k < 30; ++k)
      events.push_back(0, 0, i * 30 + k, 0);
    windower.push(events.view(), i * 30 + 30);
  }
  EXPECT_EQ(windower.pending(), 100u);
  EXPECT_EQ(windower.counters().buffer_full, 201);
  const auto windows = push(windower, {}, 1'000'000);
  EXPECT_EQ(complete(windows), Flags{false});
  EXPECT_EQ(windows[0].n_received, 100u);
}

TEST(EventWindow, KeepsItsEventsWhenTheStreamGoesOn) {
  auto windower = make([](WindowConfig& config) { config.stride_us = 50; });
  std::vector<EventWindow> kept;
  std::vector<Times> copies;
  for (std::int64_t i = 0; i < 200; ++i) {
    EventArrays events;
    for (std::int64_t k = 0; k < 300; ++k)
      events.push_back(0, 0, i * 40 + k * 39 / 299, 0);
    for (EventWindow& window : windower.push(events.view(), i * 40 + 39)) {
      copies.push_back(times(window.events));
      kept.push_back(std::move(window));
    }
  }
  ASSERT_GT(kept.size(), 100u);
  for (std::size_t i = 0; i < kept.size(); ++i)
    EXPECT_EQ(times(kept[i].events), copies[i]);
}

TEST(EventWindow, ByCount) {
  auto windower = make([](WindowConfig& config) {
    config.mode = "count";
    config.count = 3;
  });
  const auto windows = push(windower, {5, 6, 6, 6, 9, 11, 30}, 40);
  EXPECT_EQ(spans(windows), (std::vector<Span>{{5, 7, {5, 6, 6}}, {6, 12, {6, 9, 11}}}));
  EXPECT_EQ(complete(windows), (Flags{true, true}));
  EXPECT_TRUE(push(windower, {}, 10'000).empty());
  const auto tail = windower.flush();
  EXPECT_EQ(spans(tail), (std::vector<Span>{{30, 31, {30}}}));
  EXPECT_EQ(complete(tail), Flags{false});
}

TEST(EventWindow, ByCountSliding) {
  auto windower = make([](WindowConfig& config) {
    config.mode = "count";
    config.count = 4;
    config.count_stride = 2;
  });
  EXPECT_EQ(spans(push(windower, {1, 2, 3, 4, 5, 6}, 6)),
            (std::vector<Span>{{1, 5, {1, 2, 3, 4}}, {3, 7, {3, 4, 5, 6}}}));
}

TEST(EventWindow, HybridClosesByTimeOrCount) {
  auto windower = make([](WindowConfig& config) {
    config.mode = "hybrid";
    config.count = 3;
  });
  EXPECT_EQ(spans(push(windower, {0, 10, 20, 30, 150}, 310)),
            (std::vector<Span>{{0, 21, {0, 10, 20}}, {20, 100, {30}}, {100, 200, {150}}, {200, 300, {}}}));
  EXPECT_EQ(spans(push(windower, {399, 399, 399}, 400)), (std::vector<Span>{{300, 400, {399, 399, 399}}}));
  push(windower, {450}, 460);
  EXPECT_EQ(spans(windower.flush()), (std::vector<Span>{{400, 500, {450}}}));
}

TEST(EventWindow, ThinningIsEvenAndKeepsTheOrder) {
  auto windower = make([](WindowConfig& config) {
    config.duration_us = 1000;
    config.max_events = 10;
  });
  EventArrays events;
  for (std::int64_t t = 0; t < 1000; ++t)
    events.push_back(0, 0, t, 0);
  const auto windows = windower.push(events.view(), 1000);
  EXPECT_EQ(times(windows[0].events), (Times{0, 100, 200, 300, 400, 500, 600, 700, 800, 900}));
  EXPECT_EQ(windows[0].n_received, 1000u);
  EXPECT_TRUE(windows[0].complete);
  EXPECT_EQ(windower.counters().thinned, 990);
}

TEST(Thinning, RandomIsWhatNumpyDraws) {
  // numpy.sort(numpy.random.default_rng([42, 7]).choice(n, limit, replace=False, shuffle=False)), numpy 2.4
  const auto few = thinning_indices(100, 5, "random", {42, 7});
  EXPECT_EQ(*few, (std::vector<std::size_t>{20, 32, 40, 46, 50}));
  const auto tail = thinning_indices(20'000, 2000, "random", {42, 7});
  EXPECT_EQ(std::vector<std::size_t>(tail->begin(), tail->begin() + 5), (std::vector<std::size_t>{4, 18, 24, 36, 41}));
  const auto floyd = thinning_indices(20'000, 5, "random", {42, 1ull << 40});
  EXPECT_EQ(*floyd, (std::vector<std::size_t>{302, 9369, 9573, 16355, 17814}));
}

TEST(WindowConfig, RefusesWhatMakesNoSense) {
  const std::vector<std::pair<std::function<void(WindowConfig&)>, std::string>> cases{
      {[](WindowConfig& c) { c.mode = "speed"; }, "expected a window mode out of time, count, hybrid, found 'speed'"},
      {[](WindowConfig& c) { c.thinning = "first"; }, "expected a thinning out of linspace, random, found 'first'"},
      {[](WindowConfig& c) { c.duration_us = 0; }, "expected a positive duration_us, found 0"},
      {[](WindowConfig& c) { c.stride_us = -1; }, "expected a positive stride_us, found -1"},
      {[](WindowConfig& c) { c.lateness_us = -1; }, "expected lateness_us of at least 0, found -1"},
      {[](WindowConfig& c) {
         c.mode = "count";
         c.count = 10;
         c.max_buffered_events = 5;
       },
       "expected max_buffered_events of at least count 10, found 5"},
  };
  for (const auto& [change, message] : cases) {
    WindowConfig config;
    change(config);
    const auto made = EventWindower::create(config);
    ASSERT_FALSE(made) << message;
    EXPECT_EQ(made.error().message(), message);
  }
  EXPECT_EQ(WindowConfig().bins(), 20);
}

}  // namespace
}  // namespace aot_perception
