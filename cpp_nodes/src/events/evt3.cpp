// SPDX-License-Identifier: Apache-2.0
// EVT 3.0 (Prophesee): 16-bit words that each change one part of a state; see docs.prophesee.ai, "EVT 3.0 format".
//
// An event needs the time (TIME_HIGH and TIME_LOW), the row (ADDR_Y) and, inside vectors, the vector base. After a
// start or a loss each part is unknown until a word gives it, and events before that are dropped: guessing them puts
// events at wrong places and times.
#include "codecs.hpp"
#include "word_stream.hpp"
#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::int64_t kWrapUs = std::int64_t{1} << 24;  // 16.777 s
// A step back of TIME_HIGH by no more than this across the wrap is a glitch, not a jump of 16.7 s ahead.
constexpr std::int64_t kGlitchHigh = 16;
constexpr unsigned kKnowsTime = kKnowsHigh | kKnowsLow;
constexpr unsigned kKnowsAll = kKnowsTime | kKnowsRow;
constexpr unsigned kKnowsVector = kKnowsAll | kKnowsBase;
constexpr std::size_t kEventsPerWord = 12;
constexpr int kNoOthers = 28;  // shift at which no CONTINUED word is taken

class Evt3Codec final : public WordStreamCodec {
 public:
  Evt3Codec(int width, int height, const CodecOptions& options)
      : WordStreamCodec(width, height, 2, options, kWrapUs, kEventsPerWord, kKnowsTime, kKnowsAll) {
    Evt3Codec::reset();
  }

  [[nodiscard]] std::array<std::int64_t, 2> erc_counts() const override { return {erc_in_, erc_out_}; }

  void desynchronise() override {
    WordStreamCodec::desynchronise();
    others_shift_ = kNoOthers;  // ignore CONTINUED words until the next OTHERS
  }

  void reset() override {
    WordStreamCodec::reset();
    if (assume_synchronised_) state_.known |= kKnowsBase;
    row_ = base_ = 0;
    base_polarity_ = 0;
    others_type_ = others_value_ = 0;
    others_shift_ = kNoOthers;
    erc_in_ = erc_out_ = 0;
  }

 protected:
  std::size_t run(const std::uint8_t* words, std::size_t done, std::size_t n_words, EventArrays& out,
                  std::size_t room) override;

 private:
  void take_others(unsigned kind, unsigned word);

  std::int64_t row_ = 0;
  std::int64_t base_ = 0;
  std::uint8_t base_polarity_ = 0;
  std::int64_t others_type_ = 0;
  std::int64_t others_value_ = 0;
  int others_shift_ = kNoOthers;
  std::int64_t erc_in_ = 0;
  std::int64_t erc_out_ = 0;
};

std::size_t Evt3Codec::run(const std::uint8_t* words, std::size_t done, std::size_t n_words, EventArrays& out,
                           std::size_t room) {
  std::uint16_t* const x = out.x();
  std::uint16_t* const y = out.y();
  std::int64_t* const t = out.t();
  std::uint8_t* const p = out.p();
  std::size_t n = out.size();
  std::int64_t time_high = state_.time_high, loops = state_.loops, time = state_.time;
  unsigned known = state_.known;
  std::uint32_t row = static_cast<std::uint32_t>(row_);
  std::int64_t base = base_;
  std::uint8_t base_polarity = base_polarity_;
  const auto width = static_cast<std::uint32_t>(width_), height = static_cast<std::uint32_t>(height_);
  // Columns below the limit are emitted: 0 while anything is unknown or the row is outside, else the width. Thus the
  // usual path costs one comparison per event.
  std::uint32_t time_limit = (known & kKnowsTime) == kKnowsTime ? width : 0;
  std::uint32_t limit = (known & kKnowsRow) != 0 && row < height ? time_limit : 0;
  const auto low_is_known = [&] {
    if ((known & kKnowsLow) != 0) return;
    known |= kKnowsLow;
    time_limit = width;
    limit = (known & kKnowsRow) != 0 && row < height ? width : 0;
  };

  std::size_t i = done;
  while (i < n_words) {
    const std::size_t budget = room > n ? (room - n) / kEventsPerWord : 0;
    if (budget == 0) break;
    const std::size_t stop = std::min(n_words, i + budget);
    while (i < stop) {
      const std::uint32_t word = load_word<std::uint16_t>(words, i);
      const std::uint32_t kind = word >> 12;
      const std::uint32_t low = word & 0x7FF;
      ++i;
      if ((kind & 0xD) == 0) {  // ADDR_X or ADDR_Y, mixed at random: selects instead of a branch
        const std::uint32_t is_x = kind >> 1;
        x[n] = static_cast<std::uint16_t>(low);
        y[n] = static_cast<std::uint16_t>(row);
        t[n] = time;
        p[n] = static_cast<std::uint8_t>((word >> 11) & 1);
        const std::uint32_t inside = low < limit ? 1 : 0;
        n += is_x & inside;
        if (is_x > inside) {
          ++counters_[(known & kKnowsAll) != kKnowsAll ? DropCause::kUnsynchronised : DropCause::kOutOfSensor];
        }
        const std::uint32_t row_limit = low < height ? time_limit : 0;
        const std::uint32_t is_y_mask = is_x - 1;  // all ones for ADDR_Y
        row = (row & ~is_y_mask) | (low & is_y_mask);
        limit = (limit & ~is_y_mask) | (row_limit & is_y_mask);
        known |= kKnowsRow & is_y_mask;
        continue;
      }
      switch (kind) {
        case 0x4:    // VECT_12
        case 0x5: {  // VECT_8
          const int size = kind == 0x4 ? 12 : 8;
          std::uint32_t mask = word & (kind == 0x4 ? 0xFFFu : 0xFFu);
          if ((known & kKnowsBase) != 0 && base + size <= static_cast<std::int64_t>(limit)) {
            while (mask != 0) {
              x[n] = static_cast<std::uint16_t>(base + __builtin_ctz(mask));
              y[n] = static_cast<std::uint16_t>(row);
              t[n] = time;
              p[n] = base_polarity;
              ++n;
              mask &= mask - 1;
            }
          } else {
            const bool synchronised = (known & kKnowsVector) == kKnowsVector;
            for (; mask != 0; mask &= mask - 1) {
              const std::int64_t column = base + __builtin_ctz(mask);
              if (synchronised && column < static_cast<std::int64_t>(limit)) {
                x[n] = static_cast<std::uint16_t>(column);
                y[n] = static_cast<std::uint16_t>(row);
                t[n] = time;
                p[n] = base_polarity;
                ++n;
              } else {
                ++counters_[synchronised ? DropCause::kOutOfSensor : DropCause::kUnsynchronised];
              }
            }
          }
          base += size;
          break;
        }
        case 0x3:  // VECT_BASE_X
          base = low;
          base_polarity = static_cast<std::uint8_t>((word >> 11) & 1);
          known |= kKnowsBase;
          break;
        case 0x6:  // TIME_LOW
          if ((known & kKnowsHigh) != 0) {
            time = loops * kWrapUs + (time_high << 12) + (word & 0xFFF);
            low_is_known();
          }
          break;
        case 0x8: {  // TIME_HIGH
          const std::int64_t next = word & 0xFFF;
          const bool changed = next != time_high;
          if (changed && state_.high_seen) {
            if (next + 2048 <= time_high) {
              ++loops;
            } else if (next >= time_high + 4096 - kGlitchHigh) {
              --loops;
            }
          }
          time_high = next;
          state_.high_seen = true;
          if ((known & kKnowsHigh) == 0) {
            known |= kKnowsHigh;  // the low part stays unknown until its own word
          } else if (changed) {
            time = loops * kWrapUs + (time_high << 12);
            low_is_known();
          }
          break;
        }
        case 0xA:  // EXT_TRIGGER
          if ((known & kKnowsTime) != kKnowsTime) {
            ++counters_[DropCause::kUnsynchronised];
          } else {
            triggers_.push_back(
                {time, static_cast<std::uint8_t>((word >> 8) & 0xF), static_cast<std::uint8_t>(word & 1)});
          }
          break;
        case 0xE:  // OTHERS: its payload follows in CONTINUED words
        case 0xF:  // CONTINUED_12
        case 0x7:  // CONTINUED_4
          take_others(kind, word);
          break;
        default:
          ++counters_[DropCause::kReservedWords];
      }
    }
  }
  out.resize_within_capacity(n);
  state_.time_high = time_high;
  state_.loops = loops;
  state_.time = time;
  state_.known = known;
  row_ = row;
  base_ = base;
  base_polarity_ = base_polarity;
  return i;
}

void Evt3Codec::take_others(unsigned kind, unsigned word) {
  if (kind == 0xE) {
    others_type_ = word & 0xFFF;
    others_shift_ = 0;
    others_value_ = 0;
    return;
  }
  if (others_shift_ < kNoOthers) {
    others_value_ |= static_cast<std::int64_t>(word & (kind == 0xF ? 0xFFFu : 0xFu)) << others_shift_;
    others_shift_ += kind == 0xF ? 12 : 4;
  }
  if (kind == 0x7 && others_shift_ == kNoOthers) {
    if (others_type_ == 0x014) erc_in_ += others_value_;
    if (others_type_ == 0x016) erc_out_ += others_value_;
    others_type_ = 0;
  }
}

}  // namespace

std::unique_ptr<EventCodec> make_evt3_codec(int width, int height, const CodecOptions& options) {
  return std::make_unique<Evt3Codec>(width, height, options);
}

}  // namespace aot_perception
