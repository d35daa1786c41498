// SPDX-License-Identifier: Apache-2.0
// Decoders of event encodings: state machines over words. As f3_ros/events/codecs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/events.hpp"

namespace aot_perception {

/// Why a decoder left something out; counts events unless the name says words or bytes.
enum class DropCause : std::size_t {
  kUnsynchronised,  ///< events and triggers before the state that they need is known
  kOutOfSensor,
  kReservedWords,  ///< word types that the format does not define
  kInvalidEvents,  ///< libcaer: valid bit 0
  kTrailingBytes,  ///< bytes at the end that do not fill a word
  kOverflowWords,  ///< words behind the largest number of events of one call
};

inline constexpr std::size_t kDropCauses = 6;

/// Name of a cause, as Python's counters call it.
const char* drop_cause_name(DropCause cause);

/// Running totals of one decoder.
struct DecodeCounters {
  std::int64_t bytes = 0;     ///< payload bytes given
  std::int64_t words = 0;     ///< whole words given
  std::int64_t events = 0;    ///< events put out
  std::int64_t triggers = 0;  ///< trigger edges put out
  std::array<std::int64_t, kDropCauses> drops{};

  std::int64_t& operator[](DropCause cause) { return drops[static_cast<std::size_t>(cause)]; }
  std::int64_t operator[](DropCause cause) const { return drops[static_cast<std::size_t>(cause)]; }
};

/// A stateful decoder of one encoding.
///
/// `decode` takes the payload of one packet; the state that the encoding carries from word to word goes on to the next
/// packet. What makes no sense is left out and counted. Not for use from two threads at once.
class EventCodec {
 public:
  virtual ~EventCodec() = default;
  EventCodec(const EventCodec&) = delete;
  EventCodec& operator=(const EventCodec&) = delete;

  /// Decode one payload into memory that the next call overwrites.
  /// `time_base_ns` is the packet's time base, used by libcaer, libcaer_cmp and mono.
  EventsView decode(const std::uint8_t* data, std::size_t n_bytes, std::int64_t time_base_ns = 0);

  /// As above, but append to `out`; returns the events of this payload.
  EventsView decode(const std::uint8_t* data, std::size_t n_bytes, std::int64_t time_base_ns, EventArrays& out);

  /// Trigger edges of the last payload.
  [[nodiscard]] const std::vector<Trigger>& triggers() const { return triggers_; }
  [[nodiscard]] const DecodeCounters& counters() const { return counters_; }
  /// Everything left out, by the causes that this encoding knows.
  [[nodiscard]] std::map<std::string, std::int64_t> dropped() const;

  /// Times are in nanoseconds of `time_base`'s clock (libcaer, libcaer_cmp, mono), else in microseconds.
  [[nodiscard]] virtual bool in_nanoseconds() const { return false; }
  /// Newest sensor time seen, time words without events included, in the decoder's unit; none while unknown.
  [[nodiscard]] virtual std::optional<std::int64_t> last_time() const = 0;
  /// The same in microseconds.
  [[nodiscard]] std::optional<std::int64_t> last_time_us() const;
  /// The time that the words carry wraps after this many microseconds; 0 for packets that stand alone.
  [[nodiscard]] virtual std::int64_t wrap_us() const { return 0; }
  /// Whether the words that give the time were seen since the start or the last loss.
  [[nodiscard]] virtual bool time_known() const { return true; }
  /// Whether every part of the state that an event needs is known.
  [[nodiscard]] virtual bool synchronised() const { return true; }
  /// Words were lost: forget the state that they may have changed, keep the count of time wraps.
  virtual void desynchronise() {}
  /// Add whole wraps of the encoding's time to everything that follows.
  virtual void shift_time(std::int64_t /*wraps*/) {}
  /// Back to the state after construction; the counters go on.
  virtual void reset() = 0;
  /// Events into and out of the sensor's event rate controller since the last reset, where it reports them (evt3).
  [[nodiscard]] virtual std::array<std::int64_t, 2> erc_counts() const { return {0, 0}; }
  /// Word order of evt21: "genx320", "imx636", or "auto" while the stream has not shown it; else empty.
  [[nodiscard]] virtual std::string order() const { return {}; }

 protected:
  EventCodec(int width, int height, std::size_t word_bytes, std::optional<std::size_t> max_events,
             std::vector<DropCause> causes);

  /// Append the events of `n_words` words to `out`; return how many words were used.
  virtual std::size_t decode_words(const std::uint8_t* words, std::size_t n_words, std::int64_t time_base_ns,
                                   EventArrays& out) = 0;

  /// Grow `out` by at least `at_least` events where `max_events` allows; return the end of the usable part.
  std::size_t make_room(EventArrays& out, std::size_t first, std::size_t at_least) const;

  const int width_;
  const int height_;
  const std::optional<std::size_t> max_events_;
  DecodeCounters counters_;
  std::vector<Trigger> triggers_;

 private:
  const std::size_t word_bytes_;
  const std::vector<DropCause> causes_;
  EventArrays buffer_;
};

/// How to make a decoder.
struct CodecOptions {
  std::optional<std::size_t> max_events;  ///< stop after this many events in one call; none decodes everything
  std::string order = "auto";             ///< word order of evt21: "auto", "genx320" or "imx636"
  bool assume_synchronised = false;       ///< take the state as known and zero at the start, as most file decoders do
};

/// Names of the encodings, in the order that messages list them.
const std::vector<std::string>& event_encodings();

/// A new decoder for one stream of a sensor of `width` x `height` pixels; events outside are dropped and counted.
/// Error: unknown encoding or word order.
Result<std::unique_ptr<EventCodec>> make_event_codec(const std::string& encoding, int width, int height,
                                                     const CodecOptions& options = {});

}  // namespace aot_perception
