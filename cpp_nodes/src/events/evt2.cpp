// SPDX-License-Identifier: Apache-2.0
// EVT 2.0 and EVT 2.1 (Prophesee); see docs.prophesee.ai, "EVT 2.0 format" and "EVT 2.1 format".
//
// EVT 2.0: 32-bit words, one event each, with the low 6 bits of its time: TIME_HIGH is the only state. EVT 2.1: 64-bit
// words whose upper half is an EVT 2.0 word and whose lower half is a mask: bit i set means an event at x + i.
//
// EVT 2.1 exists in two byte orders. GenX320 writes the word little endian, so the mask comes first in memory; IMX636
// writes two little-endian halves with the type first. "auto" looks for TIME_HIGH: its mask half is zero, and such a
// word in the other order would be a mask beside an all-zero event word, which does not occur. As no event can be
// decoded before TIME_HIGH, the order is known in time.
#include <string>

#include "codecs.hpp"
#include "word_stream.hpp"
#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::int64_t kWrapUs = std::int64_t{1} << 34;  // 4 h 46 min
constexpr std::int64_t kHalfHigh = std::int64_t{1} << 27;
constexpr std::int64_t kGlitchHigh = std::int64_t{1} << 10;

/// What both encodings do with a 32-bit word that is no event.
class Evt2Base : public WordStreamCodec {
 protected:
  using WordStreamCodec::WordStreamCodec;

  [[nodiscard]] std::int64_t high_time() const { return state_.loops * kWrapUs + (state_.time_high << 6); }

  void take_other(std::uint32_t word) {
    const std::uint32_t kind = word >> 28;
    if (kind == 0x8) {
      take_time_high(word & 0xFFFFFFF);
    } else if (kind == 0xA) {
      if ((state_.known & kKnowsHigh) == 0) {
        ++counters_[DropCause::kUnsynchronised];
      } else {
        state_.time = high_time() + ((word >> 22) & 0x3F);
        triggers_.push_back(
            {state_.time, static_cast<std::uint8_t>((word >> 8) & 0x1F), static_cast<std::uint8_t>(word & 1)});
      }
    } else if (kind != 0xE && kind != 0xF) {
      ++counters_[DropCause::kReservedWords];
    }
  }

 private:
  /// Count a wrap when TIME_HIGH falls by more than half its range.
  void take_time_high(std::int64_t next) {
    if (state_.high_seen) {
      if (next + kHalfHigh <= state_.time_high) {
        ++state_.loops;
      } else if (next >= state_.time_high + 2 * kHalfHigh - kGlitchHigh) {
        --state_.loops;  // a small step back across the wrap
      }
    }
    state_.time_high = next;
    state_.high_seen = true;
    state_.known |= kKnowsHigh;
    state_.time = high_time();
  }
};

class Evt2Codec final : public Evt2Base {
 public:
  Evt2Codec(int width, int height, const CodecOptions& options)
      : Evt2Base(width, height, 4, options, kWrapUs, 1, kKnowsHigh, kKnowsHigh) {}

 protected:
  std::size_t run(const std::uint8_t* words, std::size_t done, std::size_t n_words, EventArrays& out,
                  std::size_t room) override {
    std::uint16_t* const x = out.x();
    std::uint16_t* const y = out.y();
    std::int64_t* const t = out.t();
    std::uint8_t* const p = out.p();
    std::size_t n = out.size();
    const auto width = static_cast<std::uint32_t>(width_), height = static_cast<std::uint32_t>(height_);
    bool known = (state_.known & kKnowsHigh) != 0;
    std::int64_t high = high_time();
    std::size_t i = done;
    for (; i < n_words; ++i) {
      const auto word = load_word<std::uint32_t>(words, i);
      const std::uint32_t kind = word >> 28;
      if (kind > 1) {
        take_other(word);
        known = (state_.known & kKnowsHigh) != 0;
        high = high_time();
        continue;
      }
      if (n >= room) break;
      const std::uint32_t column = (word >> 11) & 0x7FF, row = word & 0x7FF;
      if (known && column < width && row < height) {
        state_.time = high + ((word >> 22) & 0x3F);
        x[n] = static_cast<std::uint16_t>(column);
        y[n] = static_cast<std::uint16_t>(row);
        t[n] = state_.time;
        p[n] = static_cast<std::uint8_t>(kind);
        ++n;
      } else {
        ++counters_[known ? DropCause::kOutOfSensor : DropCause::kUnsynchronised];
      }
    }
    out.resize_within_capacity(n);
    return i;
  }
};

class Evt21Codec final : public Evt2Base {
 public:
  Evt21Codec(int width, int height, const CodecOptions& options)
      : Evt2Base(width, height, 8, options, kWrapUs, 32, kKnowsHigh, kKnowsHigh),
        given_order_(options.order),
        order_(options.order) {}

  [[nodiscard]] std::string order() const override { return order_; }

  void reset() override {
    WordStreamCodec::reset();
    order_ = given_order_;
  }

 protected:
  std::size_t run(const std::uint8_t* words, std::size_t done, std::size_t n_words, EventArrays& out,
                  std::size_t room) override {
    if (order_ == "auto") order_ = find_order(words, n_words);
    const bool type_first = order_ == "imx636";
    std::uint16_t* const x = out.x();
    std::uint16_t* const y = out.y();
    std::int64_t* const t = out.t();
    std::uint8_t* const p = out.p();
    std::size_t n = out.size();
    const auto width = static_cast<std::uint32_t>(width_), height = static_cast<std::uint32_t>(height_);
    std::size_t i = done;
    for (; i < n_words; ++i) {
      const auto first = load_word<std::uint32_t>(words, 2 * i), second = load_word<std::uint32_t>(words, 2 * i + 1);
      const std::uint32_t upper = type_first ? first : second;
      const std::uint32_t kind = upper >> 28;
      if (kind > 1) {
        take_other(upper);
        continue;
      }
      if (n + 32 > room) break;
      const bool known = (state_.known & kKnowsHigh) != 0;
      const std::uint32_t column = (upper >> 11) & 0x7FF, row = upper & 0x7FF;
      const bool inside = known && row < height;
      if (inside) state_.time = high_time() + ((upper >> 22) & 0x3F);
      for (std::uint32_t mask = type_first ? second : first; mask != 0; mask &= mask - 1) {
        const std::uint32_t place = column + static_cast<std::uint32_t>(__builtin_ctz(mask));
        if (inside && place < width) {
          x[n] = static_cast<std::uint16_t>(place);
          y[n] = static_cast<std::uint16_t>(row);
          t[n] = state_.time;
          p[n] = static_cast<std::uint8_t>(kind);
          ++n;
        } else {
          ++counters_[known ? DropCause::kOutOfSensor : DropCause::kUnsynchronised];
        }
      }
    }
    out.resize_within_capacity(n);
    return i;
  }

 private:
  /// The order in which more words look like TIME_HIGH; "auto" if that is a draw.
  static std::string find_order(const std::uint8_t* words, std::size_t n_words) {
    std::size_t type_first = 0, mask_first = 0;
    for (std::size_t i = 0; i < n_words; ++i) {
      const auto first = load_word<std::uint32_t>(words, 2 * i), second = load_word<std::uint32_t>(words, 2 * i + 1);
      if (first >> 28 == 8 && second == 0) ++type_first;
      if (second >> 28 == 8 && first == 0) ++mask_first;
    }
    if (type_first == mask_first) return "auto";
    return type_first > mask_first ? "imx636" : "genx320";
  }

  const std::string given_order_;
  std::string order_;
};

}  // namespace

std::unique_ptr<EventCodec> make_evt2_codec(int width, int height, const CodecOptions& options) {
  return std::make_unique<Evt2Codec>(width, height, options);
}

std::unique_ptr<EventCodec> make_evt21_codec(int width, int height, const CodecOptions& options) {
  return std::make_unique<Evt21Codec>(width, height, options);
}

}  // namespace aot_perception
