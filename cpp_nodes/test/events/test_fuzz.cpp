// SPDX-License-Identifier: Apache-2.0
// Corrupt packets, 10,000 per encoding: nothing breaks, memory stays bounded, and the stream recovers. Worth most in a
// build with -DAOT_PERCEPTION_SANITIZE=ON.
#include <gtest/gtest.h>

#include <random>

#include "fuzz_input.hpp"
#include "support/event_helpers.hpp"
#include "support/npz.hpp"
#include "support/shared_data.hpp"

namespace aot_perception {
namespace {

using testing::Bytes;
using testing::words_of;

constexpr int kPackets = 10'000;
constexpr std::int64_t kTimeBase = 1'000'000'000;

/// Twenty good packets of an encoding, made of a real recording: cut from the file, or written anew.
std::vector<Bytes> good_packets(const std::string& encoding, const std::filesystem::path& folder) {
  if (encoding == "evt3" || encoding == "evt2" || encoding == "evt21") {
    const char* file = encoding == "evt3"   ? "evt3_gen41_1280x720.raw"
                       : encoding == "evt2" ? "evt2_gen31_640x480.raw"
                                            : "evt21_genx320_order_reencoded.raw";
    const Bytes all = testing::raw_payload(folder / file);
    std::vector<Bytes> packets;
    for (std::ptrdiff_t i = 0; i < 20; ++i)
      packets.emplace_back(all.begin() + i * 4000, all.begin() + (i + 1) * 4000);
    return packets;
  }
  const EventArrays truth = testing::read_truth(folder / "evt2_gen31_640x480.truth.npz");
  const EventsView e = truth.view();
  std::vector<Bytes> packets;
  for (std::size_t first = 0; first < 20'000; first += 1000) {
    std::vector<std::uint64_t> records;
    std::vector<std::uint16_t> words;
    for (std::size_t i = first; i < first + 1000; ++i) {
      const std::uint64_t us = static_cast<std::uint64_t>(e.t[i] - e.t[0]), x = e.x[i], y = e.y[i], p = e.p[i];
      if (encoding == "libcaer") records.push_back(us << 32 | x << 17 | y << 2 | p << 1 | 1);
      if (encoding == "mono") records.push_back(p << 63 | y << 48 | x << 32 | us * 1000);
      words.push_back(static_cast<std::uint16_t>(us >> 12 & 0xFFF));
      words.push_back(static_cast<std::uint16_t>(0x1000 | (us & 0xFFF)));
      words.push_back(static_cast<std::uint16_t>(0x2000 | x));
      words.push_back(static_cast<std::uint16_t>(0x3000 | p << 11 | y));
    }
    packets.push_back(encoding == "libcaer_cmp" ? words_of(words) : words_of(records));
  }
  return packets;
}

/// Makes corrupt packets out of good ones, the same ones for the same seed.
class Mutator {
 public:
  Mutator(std::vector<Bytes> good, std::string encoding, unsigned seed)
      : good_(std::move(good)), encoding_(std::move(encoding)), random_(seed) {}

  std::uint64_t seq = 0;

  EventPacket packet() {
    payload_ = payload();
    EventPacket result;
    seq += chance(90) ? 1 : random_() % 100 == 0 ? std::uint64_t{1} << 40 : below(100) - 50;
    result.seq = seq;
    result.stamp_ns = chance(90) ? static_cast<std::int64_t>(seq % (std::uint64_t{1} << 40)) * 4'000'000
                                 : static_cast<std::int64_t>(random_() >> 2);
    result.width = 640;
    result.height = 480;
    result.time_base = chance(95) ? kTimeBase : random_();
    result.encoding = encoding_;
    if (chance(2)) result.encoding = chance(50) ? "evt4" : event_encodings()[below(event_encodings().size())];
    if (chance(2)) {
      const std::uint32_t sides[] = {0, 1, 346, 1280, 0xFFFFFFFF};
      result.width = sides[below(5)];
      result.height = sides[below(5)];
    }
    result.is_bigendian = chance(2);
    result.data = payload_.data();
    result.size = payload_.size();
    return result;
  }

 private:
  bool chance(unsigned percent) { return random_() % 100 < percent; }
  std::uint64_t below(std::uint64_t n) { return random_() % n; }

  Bytes payload() {
    const Bytes& good = good_[below(good_.size())];
    const std::size_t start = below(good.size()), size = std::min<std::size_t>(below(1500), good.size() - start);
    Bytes data(good.begin() + static_cast<std::ptrdiff_t>(start),
               good.begin() + static_cast<std::ptrdiff_t>(start + size));
    for (std::uint64_t n = below(4); n > 0 && !data.empty(); --n)
      mutate(data);
    return data;
  }

  void mutate(Bytes& data) {
    std::size_t a = below(data.size() + 1), b = below(data.size() + 1);
    if (a > b) std::swap(a, b);
    const auto from = data.begin() + static_cast<std::ptrdiff_t>(a), to = data.begin() + static_cast<std::ptrdiff_t>(b);
    switch (below(6)) {
      case 0:  // noise
        std::generate(from, to, [this] { return static_cast<std::uint8_t>(random_()); });
        break;
      case 1:  // flipped bits
        for (int i = 0; i < 8; ++i)
          data[below(data.size())] ^= static_cast<std::uint8_t>(1u << below(8));
        break;
      case 2:  // a piece lost, at any byte
        data.erase(from, to);
        break;
      case 3: {  // a piece twice
        const Bytes piece(from, to);
        data.insert(data.begin() + static_cast<std::ptrdiff_t>(b), piece.begin(), piece.end());
        if (data.size() > 3000) data.resize(3000);
        break;
      }
      case 4:  // all ones or zeros
        std::fill(from, to, chance(50) ? std::uint8_t{0} : std::uint8_t{255});
        break;
      default:  // cut off
        data.resize(a);
    }
  }

  const std::vector<Bytes> good_;
  const std::string encoding_;
  std::mt19937_64 random_;
  Bytes payload_;
};

class CorruptPackets : public ::testing::TestWithParam<std::string> {};

TEST_P(CorruptPackets, BreakNothingAndTheStreamRecovers) {
  const auto folder = testing::shared_folder() / "data" / "events";
  AOT_PERCEPTION_NEEDS(folder);
  const std::vector<Bytes> good = good_packets(GetParam(), folder);
  Mutator mutator(good, GetParam(), 7);
  testing::EventPath path;
  const auto send_good = [&](EventDecoder& decoder, std::size_t i, std::uint64_t seq) {
    EventPacket packet;
    packet.seq = seq;
    packet.stamp_ns = static_cast<std::int64_t>(i) * 4'000'000;
    packet.width = 640;
    packet.height = 480;
    packet.time_base = kTimeBase;
    packet.encoding = GetParam();
    packet.data = good[i].data();
    packet.size = good[i].size();
    return decoder.decode(packet);
  };
  EventDecoder fresh;
  std::vector<EventArrays> expected(2);
  for (std::size_t i = 0; i < 2; ++i)
    expected[i].append(send_good(fresh, i, i).events);
  ASSERT_GT(expected[0].size() + expected[1].size(), 300u);

  int recovered = 0;
  for (int i = 0; i < kPackets; ++i) {
    path.take(mutator.packet());
    if (i % 500 != 499) continue;
    // evt21 takes its word order, until the next reset, from the first words that show one; corrupt ones may lie.
    const EventCodec* const codec = path.decoder().codec();
    if (codec != nullptr && codec->order() == "imx636") path.decoder().reset();
    mutator.seq += 7;  // after a loss, good packets come again
    for (std::size_t k = 0; k < 2; ++k) {
      const DecodedPacket found = send_good(path.decoder(), k, ++mutator.seq);
      ASSERT_EQ(found.events.size, expected[k].size()) << i;
      const std::int64_t shift = found.events.t[0] - expected[k].view().t[0];
      const std::int64_t wrap = path.decoder().codec()->wrap_us();
      EXPECT_EQ(wrap == 0 ? shift : shift % wrap, 0);
      EXPECT_TRUE(testing::same(found.events, expected[k].view(), shift));
    }
    ++recovered;
  }
  path.finish();
  EXPECT_EQ(recovered, kPackets / 500);
  EXPECT_EQ(path.decoder().counters().packets, kPackets + 2 * recovered);
  EXPECT_GT(path.decoder().counters().gaps, 100);
  std::map<std::string, std::int64_t> dropped = path.decoder().dropped();
  EXPECT_GT(dropped["bigendian_packets"], 100);
  EXPECT_GT(dropped["unknown_encoding_packets"], 10);
  EXPECT_GT(dropped["bad_size_packets"], 10);
  EXPECT_GT(dropped["out_of_sensor"], 0);
  EXPECT_GT(dropped["lost_packets"], 0);
}

INSTANTIATE_TEST_SUITE_P(All, CorruptPackets, ::testing::ValuesIn(event_encodings()),
                         [](const auto& one) { return one.param; });

TEST(AnyBytes, BreakNothing) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 3000; ++i) {
    Bytes data(random() % 6000);
    for (std::uint8_t& byte : data)
      byte = static_cast<std::uint8_t>(random() >> (random() % 57));
    testing::run_input(data.data(), data.size());
  }
}

}  // namespace
}  // namespace aot_perception
