// SPDX-License-Identifier: Apache-2.0
// EventDecoder: losses, restarts, wraps, unusable packets.
#include <gtest/gtest.h>

#include <functional>
#include <tuple>

#include "aot_perception/event_decoder.hpp"
#include "support/event_helpers.hpp"

namespace aot_perception {
namespace {

using testing::Bytes;
using testing::times;
using testing::words_of;

using Times = std::vector<std::int64_t>;

/// EVT3 words of events at x = 0, 1, ..., y = 3; every packet stands alone.
Bytes evt3(const Times& at) {
  std::vector<std::uint16_t> words;
  std::uint16_t x = 0;
  for (const std::int64_t t : at) {
    words.push_back(static_cast<std::uint16_t>(0x8000 | ((t >> 12) & 0xFFF)));
    words.push_back(static_cast<std::uint16_t>(0x6000 | (t & 0xFFF)));
    words.push_back(3);
    words.push_back(static_cast<std::uint16_t>(0x2000 | x++));
  }
  return words_of(words);
}

/// A camera that runs since `started_us` of the host's clock.
struct Camera {
  std::int64_t started_us = 0;
  std::uint64_t seq = 100;
  std::vector<Bytes> payloads;  // deque-like: packets point into them

  EventPacket packet(Bytes payload, std::int64_t stamp_us) {
    payloads.push_back(std::move(payload));
    EventPacket result;
    result.stamp_ns = (started_us + stamp_us) * 1000;
    result.width = 640;
    result.height = 480;
    result.seq = seq++;
    result.encoding = "evt3";
    result.data = payloads.back().data();
    result.size = payloads.back().size();
    return result;
  }
  EventPacket send(const Times& at) { return packet(evt3(at), at.front()); }
};

TEST(EventDecoder, CountsALossAndResynchronises) {
  Camera camera;
  EventDecoder decoder;
  EXPECT_EQ(times(decoder.decode(camera.send({10, 20})).events), (Times{10, 20}));
  camera.seq += 3;
  // Half a packet: time words come with the second event only.
  Bytes cut = evt3({30, 40});
  cut.erase(cut.begin(), cut.begin() + 4);
  const DecodedPacket after = decoder.decode(camera.packet(cut, 30));
  EXPECT_TRUE(after.gap);
  EXPECT_FALSE(after.reset);
  EXPECT_EQ(times(after.events), (Times{40}));
  EXPECT_EQ(decoder.dropped()["lost_packets"], 3);
  EXPECT_EQ(decoder.dropped()["unsynchronised"], 1);
  EXPECT_EQ(decoder.counters().gaps, 1);
  EXPECT_EQ(decoder.counters().packets, 2);
  EXPECT_EQ(decoder.counters().events, 3);
}

TEST(EventDecoder, UnusablePacketsAreCountedAndWhatFollowsIsResynchronised) {
  using Change = std::function<void(EventPacket&)>;
  const std::vector<std::pair<Change, std::string>> cases{
      {[](EventPacket& p) { p.is_bigendian = true; }, "bigendian_packets"},
      {[](EventPacket& p) { p.encoding = "evt4"; }, "unknown_encoding_packets"},
      {[](EventPacket& p) { p.encoding = ""; }, "unknown_encoding_packets"},
      {[](EventPacket& p) { p.width = 0; }, "bad_size_packets"},
      {[](EventPacket& p) { p.height = 0; }, "bad_size_packets"},
      {[](EventPacket& p) { p.width = 1u << 31; }, "bad_size_packets"},
      {[](EventPacket& p) { p.time_base = ~std::uint64_t{0}; }, "bad_time_base_packets"},
      {[](EventPacket& p) { p.data = nullptr; }, "unreadable_packets"},
  };
  for (const auto& [change, cause] : cases) {
    Camera camera;
    EventDecoder decoder;
    EXPECT_EQ(times(decoder.decode(camera.send({30})).events), Times{30});
    EventPacket bad = camera.send({40});
    change(bad);
    const DecodedPacket lost = decoder.decode(bad);
    EXPECT_EQ(decoder.dropped()[cause], 1) << cause;
    EXPECT_EQ(lost.time_us, 30);
    EXPECT_FALSE(lost.reset);
    EXPECT_TRUE(lost.events.empty());
    const DecodedPacket after = decoder.decode(camera.packet(testing::words({0x2001}), 50));
    EXPECT_TRUE(after.gap) << cause;
    EXPECT_TRUE(after.events.empty());
  }
}

TEST(EventDecoder, OddSizesAndEmptyPackets) {
  Camera camera;
  EventDecoder decoder;
  Bytes odd = evt3({10});
  odd.push_back('?');
  EXPECT_EQ(times(decoder.decode(camera.packet(odd, 10)).events), Times{10});
  EXPECT_EQ(decoder.dropped()["trailing_bytes"], 1);
  const DecodedPacket empty = decoder.decode(camera.packet({}, 20));
  EXPECT_TRUE(empty.events.empty());
  EXPECT_EQ(empty.time_us, 10);
  EXPECT_FALSE(empty.gap);
}

TEST(EventDecoder, LongGapsGetTheirWrapsFromTheHeaderStamps) {
  for (const std::int64_t silence : {100'000, 5'000'000, 9'000'000, 12'000'000, 20'000'000, 100'000'000}) {
    Camera camera;
    camera.started_us = 1'700'000'000'000'000;
    EventDecoder decoder;
    EXPECT_EQ(times(decoder.decode(camera.send({15'000'000})).events), Times{15'000'000});
    camera.seq += 5;
    const DecodedPacket result = decoder.decode(camera.send({15'000'000 + silence, 15'000'001 + silence}));
    EXPECT_TRUE(result.gap);
    EXPECT_FALSE(result.reset);
    EXPECT_EQ(times(result.events), (Times{15'000'000 + silence, 15'000'001 + silence}));
    EXPECT_EQ(result.time_us, 15'000'001 + silence);
    const DecodedPacket after = decoder.decode(camera.send({15'000'002 + silence}));
    EXPECT_EQ(times(after.events), Times{15'000'002 + silence});
    EXPECT_FALSE(after.gap);
  }
}

TEST(EventDecoder, StampsAreNotUsedWhereTheyTellNothing) {
  Camera camera;
  EventDecoder decoder;
  const auto send = [&](std::int64_t time, std::int64_t stamp_ns) {
    EventPacket packet = camera.send({time});
    packet.stamp_ns = stamp_ns;
    return decoder.decode(packet).time_us;
  };
  send(1000, 0);
  ++camera.seq;
  EXPECT_EQ(send(9'000'000, 0), 9'000'000);
  // A step of the host's clock by an hour, without a loss, does not move the sensor's time.
  EXPECT_EQ(send(9'001'000, 3'600'000'000'000), 9'001'000);
  EXPECT_EQ(decoder.counters().clock_corrections, 0);
}

TEST(EventDecoder, ARecordingThatStartsOverIsAReset) {
  Camera camera;
  EventDecoder decoder;
  const EventPacket first = camera.send({1'000'000});
  EXPECT_FALSE(decoder.decode(first).reset);
  EXPECT_FALSE(decoder.decode(camera.send({1'010'000})).reset);
  const DecodedPacket again = decoder.decode(first);
  EXPECT_TRUE(again.reset);
  EXPECT_TRUE(again.gap);
  EXPECT_EQ(times(again.events), Times{1'000'000});
  EXPECT_EQ(decoder.counters().resets, 1);
}

TEST(EventDecoder, EventsFromBeforeAJumpBackInsideAPacketAreLeftOut) {
  Camera camera;
  EventDecoder decoder;
  decoder.decode(camera.send({5'000'000}));
  const DecodedPacket result = decoder.decode(camera.send({5'000'001, 1'000'000}));
  EXPECT_TRUE(result.reset);
  EXPECT_EQ(times(result.events), Times{1'000'000});
  EXPECT_EQ(decoder.dropped()["before_reset"], 1);
}

TEST(EventDecoder, AJumpAheadIsAGapAndSmallStepsBackAreNothing) {
  Camera camera;
  EventDecoder decoder;
  decoder.decode(camera.send({100'000}));
  const DecodedPacket back = decoder.decode(camera.send({99'990}));
  EXPECT_FALSE(back.reset);
  EXPECT_FALSE(back.gap);
  const DecodedPacket ahead = decoder.decode(camera.send({3'000'000}));
  EXPECT_TRUE(ahead.gap);
  EXPECT_FALSE(ahead.reset);
  EXPECT_EQ(decoder.counters().time_jumps, 1);
}

TEST(EventDecoder, AnotherSensorStartsAnewAndKeepsTheCounts) {
  Camera camera;
  EventDecoder decoder;
  decoder.decode(camera.packet(testing::words({0x9999}), 0));
  decoder.decode(camera.send({10}));
  EventPacket wider = camera.packet(testing::words({0x9999}), 20);
  wider.width = 1280;
  const DecodedPacket result = decoder.decode(wider);
  EXPECT_TRUE(result.reset);
  EXPECT_FALSE(result.time_us);
  EXPECT_EQ(decoder.dropped()["reserved_words"], 2);
  EXPECT_EQ(decoder.counters().resets, 1);
}

TEST(EventDecoder, NanosecondsRoundDownToMicroseconds) {
  Camera camera;
  EventDecoder decoder;
  EventPacket packet = camera.packet(words_of(std::vector<std::uint64_t>{0, 499, 500, 2499}), 0);
  packet.encoding = "mono";
  packet.time_base = 500;
  const DecodedPacket result = decoder.decode(packet);
  EXPECT_EQ(times(result.events), (Times{0, 0, 1, 2}));
  EXPECT_EQ(result.time_us, 2);
}

TEST(EventDecoder, ResetStartsANewStream) {
  Camera camera;
  EventDecoder decoder;
  decoder.decode(camera.send({10}));
  decoder.reset();
  camera.seq = 7;
  const DecodedPacket result = decoder.decode(camera.send({5}));
  EXPECT_FALSE(result.gap);
  EXPECT_FALSE(result.reset);
  EXPECT_EQ(times(result.events), Times{5});
}

TEST(EventDecoder, OnePacketCannotFillTheMemory) {
  EventDecoderOptions options;
  options.max_events = 1000;
  EventDecoder decoder(options);
  Camera camera;
  std::vector<std::uint16_t> dense{0x8000, 0x6000, 0x0000};
  for (int i = 0; i < 5000; ++i)
    dense.insert(dense.end(), {0x3000, 0x4FFF});
  EXPECT_LE(decoder.decode(camera.packet(words_of(dense), 0)).events.size, 1000u);
  EXPECT_GT(decoder.dropped()["overflow_words"], 9000);
  EXPECT_TRUE(decoder.decode(camera.send({20})).gap);
}

TEST(EventDecoder, SequenceNumbersWrapAt64Bits) {
  Camera camera;
  camera.seq = ~std::uint64_t{0};
  EventDecoder decoder;
  decoder.decode(camera.send({10}));
  EXPECT_EQ(camera.seq, 0u);
  EXPECT_FALSE(decoder.decode(camera.send({20})).gap);
}

}  // namespace
}  // namespace aot_perception
