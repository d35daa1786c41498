// SPDX-License-Identifier: Apache-2.0
// Readers of recordings: whole, in parts, damaged.
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "../../src/events/hdf5.hpp"
#include "aot_perception/event_reader.hpp"
#include "support/event_helpers.hpp"
#include "support/npz.hpp"
#include "support/shared_data.hpp"

namespace aot_perception {
namespace {

using testing::same;
using testing::shared_folder;

std::filesystem::path recording(const std::string& name) {
  return shared_folder() / "data" / "events" / name;
}

Result<EventArrays> read(EventReader& reader, std::size_t max_events = EventReader::kDefaultChunk) {
  EventArrays all;
  while (true) {
    Result<EventsView> events = reader.next(max_events);
    if (!events) return events.error();
    if (events->empty()) return Result<EventArrays>(std::move(all));
    EXPECT_LE(events->size, max_events);
    all.append(*events);
  }
}

std::filesystem::path temporary(const std::string& name, const std::string& content) {
  const auto path = std::filesystem::path(::testing::TempDir()) / ("event_reader_" + name);
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

struct Whole {
  const char* file;
  const char* truth;
  const char* format;
  const char* encoding;
  int width, height;
  std::int64_t shift = 0;  // of the file's times against the truth's
};

class Recordings : public ::testing::TestWithParam<Whole> {};

TEST_P(Recordings, AreReadWholeAndInParts) {
  const Whole& one = GetParam();
  AOT_PERCEPTION_NEEDS(recording(one.file));
  auto reader = open_events(recording(one.file));
  if (!reader && reader.error().remedy.find("HDF5_PLUGIN_PATH") != std::string::npos) {
    EXPECT_NE(reader.error().reason.find("the compression filter blosc"), std::string::npos);
    GTEST_SKIP() << reader.error().message();
  }
  ASSERT_TRUE(reader) << reader.error().message();
  const RecordingInfo& info = (*reader)->info();
  EXPECT_EQ(info.format, one.format);
  EXPECT_EQ(info.encoding, one.encoding);
  EXPECT_EQ(info.width, one.width);
  EXPECT_EQ(info.height, one.height);
  auto all = read(**reader);
  ASSERT_TRUE(all) << all.error().message();
  const EventArrays truth = testing::read_truth(recording(one.truth));
  EXPECT_TRUE(same(all->view(), truth.view(), one.shift));
  EXPECT_EQ(info.t_first_us, truth.view().t[0] + one.shift);
  for (const auto& [cause, count] : (*reader)->stats().dropped)
    EXPECT_EQ(count, 0) << cause;

  const std::int64_t length = truth.view().t[truth.size() - 1] - truth.view().t[0];
  const std::int64_t start = length / 3, duration = length / 4;
  ASSERT_TRUE((*reader)->seek(start, duration));
  auto part = read(**reader, 1000);
  ASSERT_TRUE(part) << part.error().message();
  EventArrays expected;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const EventsView e = truth.view();
    const std::int64_t since = e.t[i] - e.t[0];
    if (since >= start && since < start + duration) expected.push_back(e.x[i], e.y[i], e.t[i], e.p[i]);
  }
  EXPECT_GT(expected.size(), 100u);
  EXPECT_TRUE(same(part->view(), expected.view(), one.shift));
  ASSERT_TRUE((*reader)->seek(10 * length));
  EXPECT_TRUE((*reader)->next()->empty());
  const auto wrong = (*reader)->seek(-1);
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().reason, "expected start_us >= 0 and duration_us >= 0, found -1 and 0");
}

INSTANTIATE_TEST_SUITE_P(
    SharedData, Recordings,
    ::testing::Values(
        Whole{"evt3_gen41_1280x720.raw", "evt3_gen41_1280x720.truth.npz", "raw", "evt3", 1280, 720},
        Whole{"evt2_gen31_640x480.raw", "evt2_gen31_640x480.truth.npz", "raw", "evt2", 640, 480},
        Whole{"evt21_genx320_order_reencoded.raw", "evt21_reencoded.truth.npz", "raw", "evt21", 1280, 720},
        Whole{"evt21_imx636_order_reencoded.raw", "evt21_reencoded.truth.npz", "raw", "evt21", 1280, 720},
        Whole{"m3ed_layout_gen41_1280x720.h5", "bag_evt3_gen41_sqlite3/truth.npz", "hdf5 m3ed", "evt3", 1280, 720,
              -14'224'000},
        Whole{"dsec_layout_gen31_640x480/events.h5", "evt2_gen31_640x480.truth.npz", "hdf5 dsec", "evt3", 640, 480}),
    [](const auto& one) {
      std::string name = one.param.file;
      name = name.substr(0, name.find_first_of("./"));
      return name;
    });

TEST(Lzf, UnpacksAndRefusesDamage) {
  const auto unpack = [](const testing::Bytes& packed, std::size_t room) {
    testing::Bytes out(room);
    out.resize(lzf_decompress(packed.data(), packed.size(), out.data(), room));
    return out;
  };
  EXPECT_EQ(unpack({1, 'a', 'b', 0x20, 1}, 100), (testing::Bytes{'a', 'b', 'a', 'b', 'a'}));
  EXPECT_EQ(unpack({0, 'a', 0xE0, 1, 0}, 100), testing::Bytes(11, 'a'));
  EXPECT_TRUE(unpack({0, 'a', 0xE0, 1, 0}, 10).empty());  // does not fit
  EXPECT_TRUE(unpack({0, 'a', 0x20, 1}, 100).empty());    // points before the start
  EXPECT_TRUE(unpack({5, 'a'}, 100).empty());             // cut
  EXPECT_TRUE(unpack({0, 'a', 0xE0}, 100).empty());
  EXPECT_TRUE(unpack({0, 'a', 0x20}, 100).empty());
}

TEST(EventReader, SaysWhatItFound) {
  const auto message = [](const std::filesystem::path& path, ReaderOptions options = {}) {
    const auto reader = open_events(path, options);
    return reader ? std::string("opened") : reader.error().message();
  };
  EXPECT_NE(message("/no/such/file").find("found no file at /no/such/file; check the path"), std::string::npos);
  EXPECT_NE(message(temporary("empty", "")).find("found an empty or unreadable file"), std::string::npos);
  EXPECT_NE(message(temporary("other", "hello world")).find("(first bytes 68 65 6c 6c 6f 20 77 6f)"),
            std::string::npos);
  EXPECT_NE(message(temporary("evt4.raw", "% evt 4.0\n% end\nxx")).find("found evt 4.0 in the header"),
            std::string::npos);
  EXPECT_NE(message(temporary("none.raw", "% date today\n% end\nxx")).find("neither a format nor an evt line"),
            std::string::npos);
  EXPECT_NE(message(temporary("short.raw", "% evt 3.0\n% end\nx")).find("found 1 bytes"), std::string::npos);
  EXPECT_NE(message(temporary("cut.h5", std::string("\x89HDF\r\n\x1a\n", 8) + "cut")).find("cannot be opened"),
            std::string::npos);
  ReaderOptions options;
  options.sensor_size = {0, 5};
  EXPECT_NE(message("x", options).find("found 0x5"), std::string::npos);
  if (std::filesystem::exists(recording("m3ed_layout_gen41_1280x720.h5"))) {
    options = {};
    options.camera = "right";
    EXPECT_NE(
        message(recording("m3ed_layout_gen41_1280x720.h5"), options).find("expected camera 'right', found 'left'"),
        std::string::npos);
    EXPECT_NE(message(recording("mvsec_layout_davis346.hdf5")).find("/davis/left/events"), std::string::npos);
  }
}

TEST(EventReader, TakesTheSizeFromTheHeaderOrElse) {
  const auto info = [](const std::string& header, ReaderOptions options = {}) {
    const auto path =
        temporary("size.raw", header + "% end\n" + std::string("\x01\x80\x01\x60\x01\x00\x01\x20\x01", 9));
    auto reader = open_events(path, options);
    EXPECT_TRUE(reader);
    return reader ? (*reader)->info() : RecordingInfo{};
  };
  RecordingInfo found = info("% format EVT3;height=240;width=320\n");
  EXPECT_EQ(std::pair(found.width, found.height), std::pair(320, 240));
  EXPECT_EQ(found.geometry_source, "header");
  EXPECT_EQ(found.t_first_us, 4097);
  EXPECT_EQ(found.notices.size(), 1u);  // the cut word
  found = info("% evt 3.0\n% geometry 64x48\n");
  EXPECT_EQ(std::pair(found.width, found.height), std::pair(64, 48));
  found = info("% evt 3.0\n% plugin_name hal_plugin_gen31\n");
  EXPECT_EQ(std::pair(found.width, found.height), std::pair(640, 480));
  EXPECT_EQ(found.geometry_source, "sensor name hal_plugin_gen31");
  ReaderOptions options;
  options.sensor_size = {100, 50};
  found = info("% evt 3.0\n", options);
  EXPECT_EQ(std::pair(found.width, found.height), std::pair(100, 50));
  found = info("% evt 3.0\n");
  EXPECT_EQ(found.geometry_source, "default for evt3");
}

}  // namespace
}  // namespace aot_perception
