// SPDX-License-Identifier: Apache-2.0
// libcaer and mono: packets of fixed 8-byte records that need nothing but their time base.
//
// libcaer (iniVation, uncompressed): uint32 data, bit 0 valid, bit 1 polarity, bits 16..2 y, bits 31..17 x; int32
// timestamp [us] of 31 bits. `time_base` holds the rest of the time; a rollover inside a packet shows as a fall by more
// than half the range. mono (deprecated): bit 63 polarity, 62..48 y, 47..32 x, 31..0 nanoseconds after `time_base`.
#include <algorithm>

#include "codecs.hpp"
#include "words.hpp"

namespace aot_perception {

namespace {

/// Both: times in nanoseconds of the time base's clock.
class RecordCodec : public EventCodec {
 public:
  [[nodiscard]] bool in_nanoseconds() const override { return true; }
  [[nodiscard]] std::optional<std::int64_t> last_time() const override { return last_; }
  void reset() override { last_.reset(); }

 protected:
  RecordCodec(int width, int height, const CodecOptions& options, std::vector<DropCause> causes)
      : EventCodec(width, height, 8, options.max_events, std::move(causes)) {}

  /// Append an event if it lies in the sensor.
  void emit(EventArrays& out, std::uint64_t column, std::uint64_t row, std::int64_t time, bool polarity) {
    if (column >= static_cast<std::uint64_t>(width_) || row >= static_cast<std::uint64_t>(height_)) {
      ++counters_[DropCause::kOutOfSensor];
      return;
    }
    const std::size_t n = out.size();
    out.x()[n] = static_cast<std::uint16_t>(column);
    out.y()[n] = static_cast<std::uint16_t>(row);
    out.t()[n] = time;
    out.p()[n] = polarity ? 1 : 0;
    out.resize_within_capacity(n + 1);
  }

  std::optional<std::int64_t> last_;
};

class LibcaerCodec final : public RecordCodec {
 public:
  LibcaerCodec(int width, int height, const CodecOptions& options)
      : RecordCodec(width, height, options,
                    {DropCause::kOutOfSensor, DropCause::kInvalidEvents, DropCause::kTrailingBytes,
                     DropCause::kOverflowWords}) {}

 protected:
  std::size_t decode_words(const std::uint8_t* words, std::size_t n_words, std::int64_t time_base_ns,
                           EventArrays& out) override {
    const std::size_t room = make_room(out, out.size(), n_words);
    std::int64_t rollovers = 0, previous = -1, time = time_base_ns;
    std::size_t i = 0;
    for (; i < n_words && out.size() < room; ++i) {
      const auto word = load_word<std::uint64_t>(words, i);
      const auto stamp = static_cast<std::int64_t>((word >> 32) & 0x7FFFFFFF);
      if ((word & 1) == 0) {
        ++counters_[DropCause::kInvalidEvents];
        continue;
      }
      if (stamp + 0x40000000 <= previous) ++rollovers;
      previous = stamp;
      time = time_base_ns + (rollovers * (std::int64_t{1} << 31) + stamp) * 1000;
      emit(out, (word & 0xFFFFFFFF) >> 17, (word >> 2) & 0x7FFF, time, ((word >> 1) & 1) != 0);
    }
    if (i > 0) last_ = time;
    return i;
  }
};

class MonoCodec final : public RecordCodec {
 public:
  MonoCodec(int width, int height, const CodecOptions& options)
      : RecordCodec(width, height, options,
                    {DropCause::kOutOfSensor, DropCause::kTrailingBytes, DropCause::kOverflowWords}) {}

 protected:
  std::size_t decode_words(const std::uint8_t* words, std::size_t n_words, std::int64_t time_base_ns,
                           EventArrays& out) override {
    const std::size_t room = make_room(out, out.size(), n_words);
    std::int64_t newest = time_base_ns;
    std::size_t i = 0;
    for (; i < n_words && out.size() < room; ++i) {
      const auto word = load_word<std::uint64_t>(words, i);
      const std::int64_t time = time_base_ns + static_cast<std::int64_t>(word & 0xFFFFFFFF);
      newest = std::max(newest, time);
      emit(out, (word >> 32) & 0xFFFF, (word >> 48) & 0x7FFF, time, (word >> 63) != 0);
    }
    if (i > 0) last_ = newest;
    return i;
  }
};

}  // namespace

std::unique_ptr<EventCodec> make_libcaer_codec(int width, int height, const CodecOptions& options) {
  return std::make_unique<LibcaerCodec>(width, height, options);
}

std::unique_ptr<EventCodec> make_mono_codec(int width, int height, const CodecOptions& options) {
  return std::make_unique<MonoCodec>(width, height, options);
}

}  // namespace aot_perception
