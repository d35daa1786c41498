// SPDX-License-Identifier: Apache-2.0
// The worker's queue: order, policies, counted drops, exceptions, stopping.
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <stdexcept>

#include "worker.hpp"

namespace aot_perception {
namespace {

using std::chrono::milliseconds;
constexpr milliseconds kLong{10'000};

/// A worker that waits in its first item until it is let go.
class Gate {
 public:
  explicit Gate(Worker<int>::Options options)
      : worker(std::move(options), [this](int& item) {
          if (item == 0) {
            entered_.set_value();
            open_.get_future().wait();
          }
          done.push_back(item);
        }) {
    worker.start();
    worker.submit(0);
    entered_.get_future().wait();
  }
  void open() { open_.set_value(); }

 private:
  std::promise<void> entered_;
  std::promise<void> open_;

 public:
  std::vector<int> done;
  Worker<int> worker;
};

Worker<int>::Options options(std::size_t capacity, QueuePolicy policy) {
  return {"test", capacity, policy, {}, {}};
}

TEST(Worker, WorksInOrder) {
  Gate gate(options(3, QueuePolicy::kDropOldest));
  for (int item : {1, 2, 3})
    EXPECT_TRUE(gate.worker.submit(item));
  EXPECT_FALSE(gate.worker.idle());
  gate.open();
  ASSERT_TRUE(gate.worker.wait_idle(kLong));
  gate.worker.stop();
  EXPECT_EQ(gate.done, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_TRUE(gate.worker.drops().empty());
}

TEST(Worker, DropsTheOldestAndTellsWhich) {
  std::vector<std::pair<int, std::string>> lost;
  auto with = options(1, QueuePolicy::kDropOldest);
  with.on_drop = [&lost](const int& item, const std::string& cause) { lost.emplace_back(item, cause); };
  Gate gate(with);
  for (int item : {1, 2, 3})
    EXPECT_TRUE(gate.worker.submit(item));
  gate.open();
  ASSERT_TRUE(gate.worker.wait_idle(kLong));
  gate.worker.stop();
  EXPECT_EQ(gate.done, (std::vector<int>{0, 3}));
  EXPECT_EQ(gate.worker.drops(), (DropCounts{{"queue_full", 2}}));
  EXPECT_EQ(lost, (std::vector<std::pair<int, std::string>>{{1, "queue_full"}, {2, "queue_full"}}));
}

TEST(Worker, DropsTheNewest) {
  Gate gate(options(1, QueuePolicy::kDropNewest));
  EXPECT_TRUE(gate.worker.submit(1));
  EXPECT_FALSE(gate.worker.submit(2));
  gate.open();
  ASSERT_TRUE(gate.worker.wait_idle(kLong));
  gate.worker.stop();
  EXPECT_EQ(gate.done, (std::vector<int>{0, 1}));
}

TEST(Worker, BlocksUntilThereIsRoom) {
  Gate gate(options(1, QueuePolicy::kDropOldest));
  gate.worker.submit(1);
  auto second = std::async(std::launch::async, [&] { return gate.worker.submit(2, QueuePolicy::kBlock); });
  EXPECT_EQ(second.wait_for(milliseconds(50)), std::future_status::timeout);
  gate.open();
  EXPECT_TRUE(second.get());
  ASSERT_TRUE(gate.worker.wait_idle(kLong));
  gate.worker.stop();
  EXPECT_EQ(gate.done, (std::vector<int>{0, 1, 2}));
  EXPECT_TRUE(gate.worker.drops().empty());
}

TEST(Worker, StopReleasesWhoBlocksAndCountsWhatWaits) {
  Gate gate(options(1, QueuePolicy::kBlock));
  gate.worker.submit(1);
  auto blocked = std::async(std::launch::async, [&] { return gate.worker.submit(2); });
  EXPECT_EQ(blocked.wait_for(milliseconds(50)), std::future_status::timeout);
  std::atomic<bool> slow{false};
  auto stopped = std::async(std::launch::async, [&] { gate.worker.stop(milliseconds(20), [&] { slow = true; }); });
  EXPECT_FALSE(blocked.get());
  EXPECT_EQ(stopped.wait_for(milliseconds(50)), std::future_status::timeout);
  EXPECT_TRUE(slow);
  gate.open();
  stopped.get();
  EXPECT_EQ(gate.done, (std::vector<int>{0}));
  EXPECT_EQ(gate.worker.drops(), (DropCounts{{"stopped", 2}}));
  EXPECT_FALSE(gate.worker.submit(3));
  EXPECT_EQ(gate.worker.drops(), (DropCounts{{"stopped", 3}}));
}

TEST(Worker, ClearCountsUnderItsCause) {
  Gate gate(options(5, QueuePolicy::kDropOldest));
  for (int item : {1, 2, 3})
    gate.worker.submit(item);
  EXPECT_EQ(gate.worker.clear("time_jump"), 3U);
  gate.open();
  gate.worker.stop();
  EXPECT_EQ(gate.worker.drops(), (DropCounts{{"time_jump", 3}}));
}

TEST(Worker, LivesOnAfterAnException) {
  std::vector<std::string> told;
  std::atomic<int> done{0};
  auto with = options(10, QueuePolicy::kDropOldest);
  with.on_error = [&told](const int& item, const std::string& what) {
    told.push_back(std::to_string(item) + " " + what);
    throw std::runtime_error("reporting fails too");
  };
  Worker<int> worker(with, [&done](int& item) {
    if (item == 1) throw std::runtime_error("bad");
    if (item == 2) throw 2;
    ++done;
  });
  worker.start();
  for (int item : {1, 2, 3})
    worker.submit(item);
  ASSERT_TRUE(worker.wait_idle(kLong));
  worker.stop();
  EXPECT_EQ(told, (std::vector<std::string>{"1 bad", "2 an exception of unknown type"}));
  EXPECT_EQ(worker.errors(), 2U);
  EXPECT_EQ(done, 1);
}

TEST(Worker, StartsAgainAfterAStop) {
  std::atomic<int> done{0};
  Worker<int> worker(options(4, QueuePolicy::kDropOldest), [&done](int& item) { done += item; });
  for (int round = 0; round < 3; ++round) {
    worker.start();
    worker.submit(1);
    ASSERT_TRUE(worker.wait_idle(kLong));
    worker.stop();
  }
  EXPECT_EQ(done, 3);
}

}  // namespace
}  // namespace aot_perception
