// SPDX-License-Identifier: Apache-2.0
// Packets to stamped windows: the sensor's clock, filters, restarts, and what is counted.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "event_stream.hpp"
#include "support/scratch.hpp"

namespace aot_perception {
namespace {

using EventStreamFiles = testing::Scratch;

constexpr std::int64_t kMs = 1'000'000;  // ns

TEST(SensorClock, FollowsTheSmallestDelay) {
  SensorClock clock;
  EXPECT_FALSE(clock.to_ros_ns(0));
  clock.update(105 * kMs, 100'000);
  EXPECT_EQ(clock.offset_ns(), 5 * kMs);
  clock.update(112 * kMs, 110'000);  // a smaller delay counts at once
  EXPECT_EQ(clock.offset_ns(), 2 * kMs);
  clock.update(130 * kMs, 120'000);             // a larger one only as fast as clocks drift
  EXPECT_EQ(clock.offset_ns(), 2 * kMs + 999);  // 100 ppm of 10 ms, as Python computes it
}

TEST(SensorClock, PublishedTimesNeverGoBack) {
  SensorClock clock;
  clock.update(110 * kMs, 100'000);
  EXPECT_EQ(clock.to_ros_ns(100'000), 110 * kMs);
  clock.update(111 * kMs, 110'000);  // the offset falls by 9 ms
  EXPECT_EQ(clock.to_ros_ns(105'000), 110 * kMs);
  EXPECT_EQ(clock.to_ros_ns(110'000), 111 * kMs);
}

TEST(SensorClock, JumpsAfterManyLatePacketsOrOneFarTooEarly) {
  SensorClock clock;
  clock.update(0, 0);
  for (int i = 1; i < 10; ++i)
    clock.update(i * kMs + 50 * kMs, i * 1000);
  EXPECT_EQ(clock.jumps(), 0);
  clock.update(60 * kMs, 10'000);
  EXPECT_EQ(clock.jumps(), 1);
  EXPECT_EQ(clock.offset_ns(), 50 * kMs);
  clock.update(1 * kMs, 11'000);
  EXPECT_EQ(clock.jumps(), 2);
  clock.reset();
  EXPECT_FALSE(clock.offset_ns());
  EXPECT_EQ(clock.jumps(), 2);
}

/// An event of the encoding "mono": bit 0-31 time offset [ns], 32-47 x, 48-62 y, 63 polarity.
std::uint64_t mono(std::uint64_t dt_ns, std::uint64_t x, std::uint64_t y, std::uint64_t p) {
  return dt_ns | x << 32 | y << 48 | p << 63;
}

/// A packet of mono events and the memory that holds them.
struct Packet {
  std::vector<std::uint8_t> bytes;
  EventPacket packet;

  Packet(std::int64_t stamp_ns, std::uint64_t seq, std::uint64_t base_us, const std::vector<std::uint64_t>& words) {
    bytes.resize(words.size() * 8);
    std::memcpy(bytes.data(), words.data(), bytes.size());
    packet.stamp_ns = stamp_ns;
    packet.width = 32;
    packet.height = 24;
    packet.seq = seq;
    packet.time_base = base_us * 1000;
    packet.encoding = "mono";
    packet.data = bytes.data();
    packet.size = bytes.size();
  }
};

StreamConfig config_of_10_ms() {
  StreamConfig config;
  config.window.duration_us = 10'000;
  return config;
}

std::unique_ptr<EventStream> stream_of(const StreamConfig& config) {
  auto stream = EventStream::create(config);
  EXPECT_TRUE(stream);
  return stream ? *std::move(stream) : nullptr;
}

TEST(EventStream, StampsAWindowWithTheRosTimeOfItsEnd) {
  const auto stream = stream_of(config_of_10_ms());
  const std::int64_t start = 1000 * kMs;
  Packet first(start + 5 * kMs, 0, 20'000, {mono(0, 1, 1, 1), mono(5'000'000, 2, 2, 0)});
  EXPECT_TRUE(stream->push(first.packet, "camera", 7).empty());
  Packet second(start + 12 * kMs, 1, 30'000, {mono(2'000'000, 3, 3, 1)});
  const auto windows = stream->push(second.packet, "camera", 8);
  ASSERT_EQ(windows.size(), 1U);
  const StreamWindow& window = windows[0];
  EXPECT_EQ(window.window.start_us, 20'000);
  EXPECT_EQ(window.window.end_us, 30'000);
  EXPECT_EQ(window.window.events.size, 2U);
  EXPECT_EQ(window.stamp_ns, start + 10 * kMs);  // 32 ms of sensor time came at start + 12 ms
  EXPECT_EQ(window.frame_id, "camera");
  EXPECT_EQ(window.width, 32);
  EXPECT_EQ(window.input_stamp_ns, start + 12 * kMs);
  EXPECT_EQ(window.receive_ns, 8);
  const auto rest = stream->flush();
  ASSERT_EQ(rest.size(), 1U);
  EXPECT_FALSE(rest[0].window.complete);
  EXPECT_EQ(stream->windows(), 2U);
}

TEST(EventStream, DropsIncompleteWindowsIfAsked) {
  StreamConfig config = config_of_10_ms();
  config.use_incomplete = false;
  const auto stream = stream_of(config);
  Packet packet(1000 * kMs, 0, 25'000, {mono(0, 1, 1, 1)});
  stream->push(packet.packet, "", 0);
  EXPECT_TRUE(stream->flush().empty());
  EXPECT_EQ(stream->drops(), (DropCounts{{"incomplete_window", 1}}));
}

TEST(EventStream, AStampThatJumpsBackStartsANewStream) {
  const auto stream = stream_of(config_of_10_ms());
  Packet first(1000 * kMs, 0, 20'000, {mono(0, 1, 1, 1)});
  stream->push(first.packet, "", 0);
  Packet again(500 * kMs, 0, 20'000, {mono(0, 1, 1, 1)});
  const auto windows = stream->push(again.packet, "", 0);
  ASSERT_EQ(windows.size(), 1U);  // what the first stream had left
  EXPECT_EQ(stream->clock_offset_ns(), 500 * kMs - 20 * kMs);
}

TEST(EventStream, FiltersCountWhatTheyTakeOut) {
  StreamConfig config = config_of_10_ms();
  config.refractory_us = 1000;
  config.noise_us = 5000;
  const auto stream = stream_of(config);
  Packet packet(1000 * kMs, 0, 20'000,
                {mono(0, 5, 5, 1),            // alone: noise
                 mono(100'000, 5, 6, 1),      // has a neighbour
                 mono(500'000, 5, 6, 1),      // too soon after the one before
                 mono(2'000'000, 5, 6, 0)});  // late enough
  stream->push(packet.packet, "", 0);
  const auto windows = stream->flush();
  ASSERT_EQ(windows.size(), 1U);
  EXPECT_EQ(windows[0].window.events.size, 2U);
  EXPECT_EQ(stream->removed(), (DropCounts{{"noise_events", 1}, {"refractory_events", 1}}));
  EXPECT_TRUE(stream->drops().empty());
}

TEST_F(EventStreamFiles, AMaskOfAnotherSensorIsCounted) {
  const auto path = folder_ / "mask.pgm";
  std::ofstream(path, std::ios::binary) << "P5 2 2 255\n" << std::string("\xff\x00\x00\x00", 4);
  StreamConfig config = config_of_10_ms();
  config.hot_pixel_mask = path.string();
  const auto mask = HotPixelMask::load(path.string());
  ASSERT_TRUE(mask);
  EXPECT_EQ(mask->hot, (std::vector<std::uint8_t>{1, 0, 0, 0}));
  const auto stream = stream_of(config);
  Packet packet(1000 * kMs, 0, 20'000, {mono(0, 0, 0, 1)});
  stream->push(packet.packet, "", 0);
  EXPECT_EQ(stream->drops(), (DropCounts{{"hot_pixel_mask_of_other_size", 1}}));
}

TEST_F(EventStreamFiles, SaysWhatIsWrongWithAMask) {
  EXPECT_FALSE(HotPixelMask::load("/nowhere/mask.npz"));
  const auto path = folder_ / "no_mask.npz";
  std::ofstream(path) << "no zip";
  const auto mask = HotPixelMask::load(path.string());
  ASSERT_FALSE(mask);
  EXPECT_NE(mask.error().reason.find("expected an array `mask`"), std::string::npos);
}

TEST(EventStream, AWrongMaskIsAnErrorOfConfiguration) {
  StreamConfig config = config_of_10_ms();
  config.hot_pixel_mask = "/nowhere/mask.png";
  EXPECT_FALSE(EventStream::create(config));
}

}  // namespace
}  // namespace aot_perception
