// SPDX-License-Identifier: Apache-2.0
// The common half of the Prophesee decoders: words that carry a state from packet to packet.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "aot_perception/event_codec.hpp"

namespace aot_perception {

inline constexpr std::int64_t kUnknownTime = -(std::int64_t{1} << 62);

/// Parts of the state that a word gave since the start or the last loss.
enum Known : unsigned { kKnowsHigh = 1, kKnowsLow = 2, kKnowsRow = 4, kKnowsBase = 8 };

/// What the EVT encodings have in common.
struct WordState {
  std::int64_t time = kUnknownTime;  // newest sensor time, microseconds
  std::int64_t loops = 0;            // wraps of the time that the words carry
  std::int64_t time_high = 0;
  bool high_seen = false;
  unsigned known = 0;
};

class WordStreamCodec : public EventCodec {
 public:
  [[nodiscard]] std::optional<std::int64_t> last_time() const override {
    // After a loss the time before it stays the newest one known until the time words came again.
    if (state_.time == kUnknownTime) return std::nullopt;
    return state_.time;
  }
  [[nodiscard]] std::int64_t wrap_us() const override { return wrap_us_; }
  [[nodiscard]] bool time_known() const override { return (state_.known & knows_time_) == knows_time_; }
  [[nodiscard]] bool synchronised() const override { return (state_.known & knows_all_) == knows_all_; }
  void desynchronise() override { state_.known = 0; }
  void shift_time(std::int64_t wraps) override {
    state_.loops += wraps;
    if (state_.time != kUnknownTime) state_.time += wraps * wrap_us_;
  }
  void reset() override {
    state_ = {};
    if (assume_synchronised_) {
      state_.known = knows_all_;
      state_.time = 0;
    }
  }

 protected:
  WordStreamCodec(int width, int height, std::size_t word_bytes, const CodecOptions& options, std::int64_t wrap_us,
                  std::size_t events_per_word, unsigned knows_time, unsigned knows_all)
      : EventCodec(width, height, word_bytes, options.max_events,
                   {DropCause::kUnsynchronised, DropCause::kOutOfSensor, DropCause::kReservedWords,
                    DropCause::kTrailingBytes, DropCause::kOverflowWords}),
        assume_synchronised_(options.assume_synchronised),
        wrap_us_(wrap_us),
        events_per_word_(events_per_word),
        knows_time_(knows_time),
        knows_all_(knows_all) {
    WordStreamCodec::reset();
  }

  /// Decode words `done` to `n_words` into out[out.size():room]; return the index of the first word not used because
  /// the memory is full.
  virtual std::size_t run(const std::uint8_t* words, std::size_t done, std::size_t n_words, EventArrays& out,
                          std::size_t room) = 0;

  std::size_t decode_words(const std::uint8_t* words, std::size_t n_words, std::int64_t /*time_base_ns*/,
                           EventArrays& out) override {
    const std::size_t first = out.size();
    std::size_t done = 0;
    std::size_t grow = n_words + events_per_word_;
    while (true) {
      const std::size_t room = make_room(out, first, grow);
      done = run(words, done, n_words, out, room);
      if (done == n_words) break;
      if (max_events_ && first + *max_events_ - out.size() < events_per_word_) break;
      grow = std::max(events_per_word_, std::min(events_per_word_ * (n_words - done), out.capacity()));
    }
    return done;
  }

  WordState state_;
  const bool assume_synchronised_;

 private:
  const std::int64_t wrap_us_;
  const std::size_t events_per_word_;
  const unsigned knows_time_;
  const unsigned knows_all_;
};

}  // namespace aot_perception
