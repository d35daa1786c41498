// SPDX-License-Identifier: Apache-2.0
// HandoverQueue: bounded, oldest out first, ends cleanly.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "aot_perception/handover_queue.hpp"

namespace aot_perception {
namespace {

using namespace std::chrono_literals;

TEST(HandoverQueue, ThrowsOutTheOldest) {
  HandoverQueue<std::unique_ptr<int>> queue(2);
  EXPECT_FALSE(queue.push(std::make_unique<int>(1)));
  EXPECT_FALSE(queue.push(std::make_unique<int>(2)));
  EXPECT_EQ(**queue.push(std::make_unique<int>(3)), 1);
  EXPECT_EQ(queue.dropped(), 1);
  EXPECT_EQ(**queue.pop(), 2);
  EXPECT_EQ(**queue.pop(), 3);
  EXPECT_FALSE(queue.pop_for(1ms));
}

TEST(HandoverQueue, ClearsAndCloses) {
  HandoverQueue<int> queue(3);
  queue.push(1);
  queue.push(2);
  EXPECT_EQ(queue.clear(), 2u);
  EXPECT_EQ(queue.size(), 0u);
  queue.push(3);
  queue.close();
  EXPECT_EQ(queue.push(4), 4);  // comes back
  EXPECT_EQ(queue.pop(), 3);
  EXPECT_FALSE(queue.pop());
}

TEST(HandoverQueue, PassesEverythingInOrderBetweenThreads) {
  HandoverQueue<int> queue(8);
  std::int64_t lost = 0;
  std::thread producer([&] {
    for (int i = 0; i < 100'000; ++i)
      lost += queue.push(i) ? 1 : 0;
    queue.close();
  });
  int previous = -1;
  std::int64_t received = 0;
  while (const auto item = queue.pop()) {
    EXPECT_GT(*item, previous);
    previous = *item;
    ++received;
  }
  producer.join();
  EXPECT_EQ(received + lost, 100'000);
  EXPECT_EQ(queue.dropped(), lost);
  EXPECT_EQ(previous, 99'999);
}

TEST(HandoverQueue, CloseWakesWhoWaits) {
  HandoverQueue<int> queue(1);
  std::thread consumer([&] { EXPECT_FALSE(queue.pop()); });
  std::this_thread::sleep_for(5ms);
  queue.close();
  consumer.join();
}

}  // namespace
}  // namespace aot_perception
