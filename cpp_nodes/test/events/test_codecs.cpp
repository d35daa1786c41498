// SPDX-License-Identifier: Apache-2.0
// Every encoding against decoded truth of real recordings, and word by word.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "aot_perception/event_codec.hpp"
#include "support/event_helpers.hpp"
#include "support/npz.hpp"
#include "support/shared_data.hpp"

namespace aot_perception {
namespace {

using testing::Bytes;
using testing::raw_payload;
using testing::read_truth;
using testing::rows;
using testing::Rows;
using testing::same;
using testing::shared_folder;
using testing::times;
using testing::words;
using testing::words_of;

std::unique_ptr<EventCodec> make(const std::string& encoding, int width = 640, int height = 480,
                                 CodecOptions options = {}) {
  auto made = make_event_codec(encoding, width, height, options);
  EXPECT_TRUE(made);
  return *std::move(made);
}

EventsView decode(EventCodec& codec, const Bytes& payload, std::int64_t time_base = 0) {
  return codec.decode(payload.data(), payload.size(), time_base);
}

std::int64_t total_dropped(const EventCodec& codec) {
  std::int64_t total = 0;
  for (const auto& [cause, count] : codec.dropped())
    total += count;
  return total;
}

struct Recording {
  const char* file;
  const char* truth;
  const char* encoding;
  int width, height;
  std::size_t word;
};

class Recordings : public ::testing::TestWithParam<Recording> {};

TEST_P(Recordings, DecodeExactlyWholeAndCutAtAnyWord) {
  const Recording& one = GetParam();
  const auto folder = shared_folder() / "data" / "events";
  AOT_PERCEPTION_NEEDS(folder / one.file);
  const Bytes payload = raw_payload(folder / one.file);
  const EventArrays truth = read_truth(folder / one.truth);
  ASSERT_GT(truth.size(), 1000u);
  auto codec = make(one.encoding, one.width, one.height);
  EXPECT_TRUE(same(decode(*codec, payload), truth.view()));
  EXPECT_EQ(total_dropped(*codec), 0);
  EXPECT_EQ(codec->counters().bytes, static_cast<std::int64_t>(payload.size()));
  EXPECT_EQ(codec->counters().events, static_cast<std::int64_t>(truth.size()));
  EXPECT_GE(codec->last_time_us().value(), truth.view().t[truth.size() - 1]);
  std::mt19937 random(1);
  const std::size_t n_words = payload.size() / one.word;
  for (const std::size_t pieces : {std::size_t{1}, std::size_t{7}, std::size_t{300}, std::size_t{5000}, n_words}) {
    std::vector<std::size_t> cuts{0, n_words};
    for (std::size_t i = 0; i < pieces; ++i)
      cuts.push_back(pieces == n_words ? i : random() % (n_words + 1));
    std::sort(cuts.begin(), cuts.end());
    codec = make(one.encoding, one.width, one.height);
    EventArrays found;
    for (std::size_t i = 1; i < cuts.size(); ++i) {
      codec->decode(payload.data() + cuts[i - 1] * one.word, (cuts[i] - cuts[i - 1]) * one.word, 0, found);
    }
    EXPECT_TRUE(same(found.view(), truth.view())) << pieces << " pieces";
  }
}

INSTANTIATE_TEST_SUITE_P(
    SharedData, Recordings,
    ::testing::Values(
        Recording{"evt3_gen41_1280x720.raw", "evt3_gen41_1280x720.truth.npz", "evt3", 1280, 720, 2},
        Recording{"evt2_gen31_640x480.raw", "evt2_gen31_640x480.truth.npz", "evt2", 640, 480, 4},
        Recording{"evt21_genx320_order_reencoded.raw", "evt21_reencoded.truth.npz", "evt21", 1280, 720, 8},
        Recording{"evt21_imx636_order_reencoded.raw", "evt21_reencoded.truth.npz", "evt21", 1280, 720, 8}),
    [](const auto& one) {
      std::string name = one.param.file;
      return name.substr(0, name.find('.'));
    });

TEST(Evt3, AfterALossNothingWrongIsEmitted) {
  const auto folder = shared_folder() / "data" / "events";
  AOT_PERCEPTION_NEEDS(folder / "evt3_gen41_1280x720.raw");
  const Bytes payload = raw_payload(folder / "evt3_gen41_1280x720.raw");
  const EventArrays truth = read_truth(folder / "evt3_gen41_1280x720.truth.npz");
  std::set<std::array<std::int64_t, 4>> real;
  for (const auto& row : rows(truth.view()))
    real.insert(row);
  std::mt19937 random(1);
  std::size_t wrong_if_ignored = 0;
  for (int i = 0; i < 40; ++i) {
    const std::size_t start = (1000 + random() % (payload.size() / 2 - 14'000)) * 2;
    for (const bool careful : {true, false}) {
      auto codec = make("evt3", 1280, 720);
      codec->decode(payload.data(), start);
      if (careful) codec->desynchronise();
      EXPECT_EQ(codec->synchronised(), !careful);
      std::size_t wrong = 0;
      for (const auto& row : rows(codec->decode(payload.data() + start + 4000, 20'000)))
        wrong += 1 - real.count(row);
      if (careful) {
        EXPECT_EQ(wrong, 0u);
        EXPECT_TRUE(codec->synchronised());
        EXPECT_LE(codec->counters()[DropCause::kUnsynchronised], 1000);
      } else {
        wrong_if_ignored += wrong;
      }
    }
  }
  EXPECT_GT(wrong_if_ignored, 0u);  // the rule is needed
}

// Word by word

TEST(Evt3, NeedsTimeRowAndVectorBase) {
  auto codec = make("evt3");
  EXPECT_TRUE(decode(*codec, words({0x2005, 0x4003, 0x000A, 0x2005})).empty());
  EXPECT_FALSE(codec->last_time_us());
  EXPECT_TRUE(decode(*codec, words({0x8001, 0x2005})).empty());  // TIME_LOW is still unknown
  EXPECT_EQ(rows(decode(*codec, words({0x6007, 0x2005}))), (Rows{{5, 10, 4103, 0}}));
  EXPECT_TRUE(decode(*codec, words({0x4003})).empty());  // no vector base yet
  EXPECT_EQ(rows(decode(*codec, words({0x3864, 0x4803, 0x5081}))),
            (Rows{{100, 10, 4103, 1}, {101, 10, 4103, 1}, {111, 10, 4103, 1}, {112, 10, 4103, 1}, {119, 10, 4103, 1}}));
  EXPECT_EQ(codec->dropped()["unsynchronised"], 7);
}

TEST(Evt3, TimeHighThatChangesClearsTimeLow) {
  auto codec = make("evt3");
  const auto found =
      decode(*codec, words({0x8001, 0x6FFF, 0x0001, 0x2001, 0x8002, 0x2002, 0x8002, 0x6005, 0x8002, 0x2003}));
  EXPECT_EQ(times(found), (std::vector<std::int64_t>{8191, 8192, 8197}));
}

TEST(Evt3, ChangedTimeHighTellsTheTimeOnlyIfTheOneBeforeWasKnown) {
  auto codec = make("evt3");
  decode(*codec, words({0x8001, 0x6001, 0x0001}));
  codec->desynchronise();
  EXPECT_TRUE(decode(*codec, words({0x0001, 0x8002, 0x2001})).empty());
  EXPECT_EQ(codec->last_time_us(), 4097);
  EXPECT_EQ(times(decode(*codec, words({0x8003, 0x2001}))), (std::vector<std::int64_t>{3 << 12}));
}

TEST(Evt3, TimeWrapsAndGlitchesDoNot) {
  auto codec = make("evt3");
  const auto found = decode(*codec, words({0x8FFF, 0x6000, 0x0001, 0x2001, 0x8000, 0x2001, 0x8FFF, 0x2001, 0x8000,
                                           0x2001, 0x8005, 0x2001, 0x8003, 0x2001, 0x6FFF, 0x2001, 0x6FF0, 0x2001}));
  const std::int64_t wrap = 1 << 24;
  EXPECT_EQ(times(found), (std::vector<std::int64_t>{wrap - 4096, wrap, wrap - 4096, wrap, wrap + 5 * 4096,
                                                     wrap + 3 * 4096, wrap + 4 * 4096 - 1, wrap + 4 * 4096 - 16}));
}

TEST(Evt3, SkipsAndCountsWhatItDoesNotKnow) {
  auto codec = make("evt3");
  decode(*codec, words({0x8001, 0x6001, 0x0001, 0x9999, 0x1234, 0xB000, 0xC000, 0xDFFF, 0xE0FF, 0xF123, 0x7123}));
  EXPECT_EQ(codec->dropped()["reserved_words"], 5);
  EXPECT_EQ(rows(decode(*codec, words({0x2801}))), (Rows{{1, 1, 4097, 1}}));
}

TEST(Evt3, DropsWhatLiesOutsideTheSensor) {
  auto codec = make("evt3");
  Rows expected{{639, 1, 4097, 0}};
  for (std::int64_t i = 0; i < 6; ++i)
    expected.push_back({634 + i, 1, 4097, 0});
  EXPECT_EQ(rows(decode(*codec, words({0x8001, 0x6001, 0x01E0, 0x2001, 0x3001, 0x4001, 0x0001, 0x2280, 0x227F, 0x327A,
                                       0x4FFF, 0x5FFF}))),
            expected);
  EXPECT_EQ(codec->dropped()["out_of_sensor"], 2 + 1 + 6 + 8);
}

TEST(Evt3, RowOfTheSecondCameraIsARow) {
  EXPECT_EQ(rows(decode(*make("evt3"), words({0x8000, 0x6000, 0x0805, 0x2001}))), (Rows{{1, 5, 0, 0}}));
}

TEST(Evt3, TriggersNeedTheTime) {
  auto codec = make("evt3");
  decode(*codec, words({0xA101}));
  EXPECT_TRUE(codec->triggers().empty());
  EXPECT_EQ(codec->dropped()["unsynchronised"], 1);
  std::vector<std::uint16_t> many{0x8001, 0x6002};
  for (int i = 0; i < 500; ++i)
    many.insert(many.end(), {0xA601, 0xA200});
  decode(*codec, words_of(many));
  ASSERT_EQ(codec->triggers().size(), 1000u);
  EXPECT_EQ(codec->triggers()[0].t, 4098);
  EXPECT_EQ(codec->triggers()[0].id, 6);
  EXPECT_EQ(codec->triggers()[0].p, 1);
  EXPECT_EQ(codec->triggers()[1].id, 2);
  EXPECT_EQ(codec->triggers()[1].p, 0);
  decode(*codec, words({0x2001}));
  EXPECT_TRUE(codec->triggers().empty());
}

TEST(Evt3, AssumedSynchronisedDecodesFromTheFirstWord) {
  CodecOptions options;
  options.assume_synchronised = true;
  auto codec = make("evt3", 640, 480, options);
  EXPECT_EQ(rows(decode(*codec, words({0x2003, 0x4001}))), (Rows{{3, 0, 0, 0}, {0, 0, 0, 0}}));
  codec->reset();
  EXPECT_TRUE(codec->synchronised());
}

TEST(Evt3, ResetForgetsStateAndKeepsCounters) {
  auto codec = make("evt3");
  decode(*codec, words({0x8001, 0x6001, 0x0001, 0x2001}));
  codec->reset();
  EXPECT_FALSE(codec->last_time_us());
  EXPECT_TRUE(decode(*codec, words({0x2001})).empty());
  EXPECT_EQ(codec->counters().events, 1);
}

TEST(Evt3, ShiftMovesWhatFollows) {
  auto codec = make("evt3");
  codec->shift_time(1);
  EXPECT_FALSE(codec->last_time_us());
  EXPECT_EQ(times(decode(*codec, words({0x8001, 0x6001, 0x0001, 0x2001}))),
            (std::vector<std::int64_t>{(1 << 24) + 4097}));
  codec->shift_time(-1);
  EXPECT_EQ(codec->last_time_us(), 4097);
  EXPECT_EQ(times(decode(*codec, words({0x2001}))), (std::vector<std::int64_t>{4097}));
}

TEST(Evt2, WrapsAt34BitsAndWaitsForTimeHigh) {
  auto codec = make("evt2");
  const std::vector<std::uint32_t> payload{0x10000801, 0x8FFFFFFF, 0x1FC00801, 0x80000000,
                                           0x00400801, 0xA0C00301, 0x90000000};
  const std::int64_t wrap = std::int64_t{1} << 34;
  EXPECT_EQ(rows(decode(*codec, words_of(payload))), (Rows{{1, 1, wrap - 1, 1}, {1, 1, wrap + 1, 0}}));
  ASSERT_EQ(codec->triggers().size(), 1u);
  EXPECT_EQ(codec->triggers()[0].t, wrap + 3);
  EXPECT_EQ(codec->triggers()[0].id, 3);
  EXPECT_EQ(codec->triggers()[0].p, 1);
  EXPECT_EQ(codec->dropped()["unsynchronised"], 1);
  EXPECT_EQ(codec->dropped()["reserved_words"], 1);
  codec->desynchronise();
  EXPECT_TRUE(decode(*codec, words_of(std::vector<std::uint32_t>{0x00400801})).empty());
}

TEST(Evt21, FindsTheOrderInTimeAndCutsMasksAtTheBorder) {
  for (const std::string order : {"genx320", "imx636"}) {
    const std::uint64_t high = 0x80000001, event = 0x10000000u | 630u << 11 | 5u, mask = 0xFFFFFFFF;
    const auto word = [&](std::uint64_t upper, std::uint64_t lower) {
      return order == "genx320" ? upper << 32 | lower : lower << 32 | upper;
    };
    const Bytes payload = words_of(std::vector<std::uint64_t>{word(high, 0), word(event, mask)});
    auto codec = make("evt21");
    EXPECT_EQ(codec->order(), "auto");
    Rows expected;
    for (std::int64_t i = 0; i < 10; ++i)
      expected.push_back({630 + i, 5, 64, 1});
    EXPECT_EQ(rows(decode(*codec, payload)), expected);
    EXPECT_EQ(codec->dropped()["out_of_sensor"], 22);
    EXPECT_EQ(codec->order(), order);
    codec->reset();
    EXPECT_EQ(codec->order(), "auto");
  }
}

TEST(Libcaer, CountsRolloversInsideAPacketOnly) {
  const std::uint64_t late = (std::uint64_t{1} << 31) - 5, early = 7, data = 3 << 17 | 4 << 2 | 3;
  const Bytes payload =
      words_of(std::vector<std::uint64_t>{late << 32 | data, early << 32 | data, early << 32 | (data & ~1ull)});
  auto codec = make("libcaer");
  const auto first = static_cast<std::int64_t>(late) * 1000 + 1000;
  const std::int64_t second = ((std::int64_t{1} << 31) + 7) * 1000 + 1000;
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(rows(decode(*codec, payload, 1000)), (Rows{{3, 4, first, 1}, {3, 4, second, 1}}));
  EXPECT_EQ(codec->dropped()["invalid_events"], 2);
  EXPECT_TRUE(codec->in_nanoseconds());
}

TEST(LibcaerCmp, IsColumnWiseAndStartsAnewInEachPacket) {
  auto codec = make("libcaer_cmp", 346, 260);
  const Bytes payload = words({0x3005, 0x5001, 0x0001, 0x1002, 0x2064, 0x3805, 0x40C8, 0x5083, 0x5001, 0x7000, 0x3104});
  const std::int64_t t = 5000 + 4098 * 1000;
  EXPECT_EQ(rows(decode(*codec, payload, 5000)),
            (Rows{{100, 5, t, 1}, {100, 200, t, 0}, {100, 201, t, 0}, {100, 207, t, 0}, {100, 208, t, 0}}));
  EXPECT_EQ(codec->last_time(), t);
  EXPECT_EQ(codec->dropped(), (std::map<std::string, std::int64_t>{{"unsynchronised", 2},
                                                                   {"out_of_sensor", 1},
                                                                   {"reserved_words", 1},
                                                                   {"trailing_bytes", 0},
                                                                   {"overflow_words", 0}}));
  EXPECT_EQ(rows(decode(*codec, words({0x2001, 0x3001}))), (Rows{{1, 1, 0, 0}}));
}

TEST(Mono, TakesAllFields) {
  const Bytes payload =
      words_of(std::vector<std::uint64_t>{1ull << 63 | 479ull << 48 | 639ull << 32 | 0xFFFFFFFFull, 480ull << 48});
  auto codec = make("mono");
  EXPECT_EQ(rows(decode(*codec, payload, 10)), (Rows{{639, 479, 10 + 0xFFFFFFFFll, 1}}));
  EXPECT_EQ(codec->dropped()["out_of_sensor"], 1);
  codec->reset();
  EXPECT_FALSE(codec->last_time_us());
}

class Encodings : public ::testing::TestWithParam<std::string> {};

TEST_P(Encodings, CountTrailingBytes) {
  auto codec = make(GetParam(), 64, 64);
  const std::size_t word = GetParam() == "evt2" ? 4 : GetParam() == "evt3" || GetParam() == "libcaer_cmp" ? 2 : 8;
  decode(*codec, {});
  decode(*codec, Bytes(word + 1));
  decode(*codec, Bytes(word - 1));
  EXPECT_EQ(codec->dropped()["trailing_bytes"], static_cast<std::int64_t>(word));
  EXPECT_EQ(codec->counters().words, 1);
}

TEST_P(Encodings, CutOffAHugePacket) {
  std::map<std::string, Bytes> dense;
  std::vector<std::uint16_t> evt3{0x8000, 0x6000, 0x0000}, cmp{0x2000};
  std::vector<std::uint32_t> evt2{0x80000000};
  std::vector<std::uint64_t> evt21{0x80000000ull << 32};
  for (int i = 0; i < 1000; ++i) {
    evt3.insert(evt3.end(), {0x3000, 0x4FFF});
    cmp.insert(cmp.end(), {0x4000, 0x50FF});
    evt21.push_back(0xFFFFFFFF);
  }
  evt2.resize(9001);
  dense["evt3"] = words_of(evt3);
  dense["libcaer_cmp"] = words_of(cmp);
  dense["evt2"] = words_of(evt2);
  dense["evt21"] = words_of(evt21);
  dense["libcaer"] = words_of(std::vector<std::uint64_t>(9000, 1));
  dense["mono"] = words_of(std::vector<std::uint64_t>(9000, 0));
  CodecOptions options;
  options.max_events = 5000;
  auto codec = make(GetParam(), 640, 480, options);
  const std::size_t found = decode(*codec, dense[GetParam()]).size;
  EXPECT_GT(found, 5000u - 32u);
  EXPECT_LE(found, 5000u);
  EXPECT_GT(codec->dropped()["overflow_words"], 100);
  EXPECT_GT(decode(*make(GetParam()), dense[GetParam()]).size, 7000u);
}

INSTANTIATE_TEST_SUITE_P(All, Encodings, ::testing::ValuesIn(event_encodings()),
                         [](const auto& one) { return one.param; });

TEST(Codecs, RefuseWhatTheyDoNotKnow) {
  const auto unknown = make_event_codec("evt4", 640, 480);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().message(),
            "expected an event encoding out of evt3, evt2, evt21, libcaer, libcaer_cmp, mono, found 'evt4'; "
            "set the camera driver to one of these");
  CodecOptions options;
  options.order = "middle";
  const auto order = make_event_codec("evt21", 640, 480, options);
  ASSERT_FALSE(order);
  EXPECT_EQ(order.error().message(), "expected an EVT 2.1 word order out of auto, genx320, imx636, found 'middle'");
}

}  // namespace
}  // namespace aot_perception
