// SPDX-License-Identifier: Apache-2.0
// libcaer_cmp (default of libcaer_driver): 16-bit words; like EVT 3.0, but column-wise and with stand-alone packets.
//
// The column is the state and the row comes last; time starts at zero in every packet and is relative to `time_base`.
// The driver's encoder has known defects that no decoder can repair (stale low bits of y for isolated events, times
// that wrap after 65.5 ms inside one packet): prefer `encoding: libcaer` on the driver where accuracy counts.
#include <algorithm>

#include "codecs.hpp"
#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::size_t kEventsPerWord = 8;

class LibcaerCmpCodec final : public EventCodec {
 public:
  LibcaerCmpCodec(int width, int height, const CodecOptions& options)
      : EventCodec(width, height, 2, options.max_events,
                   {DropCause::kUnsynchronised, DropCause::kOutOfSensor, DropCause::kReservedWords,
                    DropCause::kTrailingBytes, DropCause::kOverflowWords}) {}

  [[nodiscard]] bool in_nanoseconds() const override { return true; }
  [[nodiscard]] std::optional<std::int64_t> last_time() const override { return last_; }
  void reset() override { last_.reset(); }

 protected:
  std::size_t decode_words(const std::uint8_t* words, std::size_t n_words, std::int64_t time_base_ns,
                           EventArrays& out) override {
    State state;
    state.time = time_base_ns;
    const std::size_t first = out.size();
    std::size_t done = 0, grow = n_words + kEventsPerWord;
    while (true) {
      const std::size_t room = make_room(out, first, grow);
      for (; done < n_words && out.size() + kEventsPerWord <= room; ++done) {
        take(load_word<std::uint16_t>(words, done), time_base_ns, state, out);
      }
      if (done == n_words || (max_events_ && first + *max_events_ - out.size() < kEventsPerWord)) break;
      grow = std::max(kEventsPerWord, std::min(kEventsPerWord * (n_words - done), out.capacity()));
    }
    if (n_words > 0) last_ = state.time;
    return done;
  }

 private:
  struct State {
    std::int64_t high = 0, low = 0, time = 0;
    std::int64_t column = -1, base = -1;  // -1: no word gave it yet
    bool polarity = false;
  };

  void take(std::uint32_t word, std::int64_t time_base_ns, State& state, EventArrays& out) {
    switch (word >> 12) {
      case 0x0:  // TIME_HIGH
        state.high = word & 0xFFF;
        state.time = time_base_ns + ((state.high << 12) | state.low) * 1000;
        break;
      case 0x1:  // TIME_LOW
        state.low = word & 0xFFF;
        state.time = time_base_ns + ((state.high << 12) | state.low) * 1000;
        break;
      case 0x2:  // ADDR_X
        state.column = word & 0x7FF;
        break;
      case 0x3:  // ADDR_Y: emits
        emit(state, word & 0x7FF, state.column >= 0, ((word >> 11) & 1) != 0, out);
        break;
      case 0x4:  // VECT_BASE_Y
        state.base = word & 0x7FF;
        state.polarity = ((word >> 11) & 1) != 0;
        break;
      case 0x5:  // VECT_8
        for (std::uint32_t mask = word & 0xFF; mask != 0; mask &= mask - 1) {
          emit(state, state.base + __builtin_ctz(mask), state.column >= 0 && state.base >= 0, state.polarity, out);
        }
        if (state.base >= 0) state.base += 8;
        break;
      default:
        ++counters_[DropCause::kReservedWords];
    }
  }

  void emit(const State& state, std::int64_t row, bool synchronised, bool polarity, EventArrays& out) {
    if (!synchronised || state.column >= width_ || row >= height_) {
      ++counters_[synchronised ? DropCause::kOutOfSensor : DropCause::kUnsynchronised];
      return;
    }
    const std::size_t n = out.size();
    out.x()[n] = static_cast<std::uint16_t>(state.column);
    out.y()[n] = static_cast<std::uint16_t>(row);
    out.t()[n] = state.time;
    out.p()[n] = polarity ? 1 : 0;
    out.resize_within_capacity(n + 1);
  }

  std::optional<std::int64_t> last_;
};

}  // namespace

std::unique_ptr<EventCodec> make_libcaer_cmp_codec(int width, int height, const CodecOptions& options) {
  return std::make_unique<LibcaerCmpCodec>(width, height, options);
}

}  // namespace aot_perception
