// SPDX-License-Identifier: Apache-2.0
// From event packets to events, through everything that goes wrong on the way. As f3_ros/events/packet_decoder.py.
//
// Packets get lost (best-effort transport), cameras restart, publishers change, payloads are cut or corrupt. None of it
// is an error: the decoder leaves out what it cannot know, counts it by cause, and goes on with the next word that
// makes sense.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aot_perception/event_codec.hpp"
#include "aot_perception/events.hpp"

namespace aot_perception {

/// What one packet gave.
struct DecodedPacket {
  EventsView events;  ///< microseconds of sensor time; memory that the next call overwrites
  /// Sensor time up to which the stream is known, time words without events included, microseconds; none while unknown.
  std::optional<std::int64_t> time_us;
  bool gap = false;  ///< data before these events is missing
  /// The sensor time went back, or the sensor or its encoding changed: what was collected before belongs to another
  /// stream.
  bool reset = false;
  std::vector<Trigger> triggers;  ///< external trigger edges, microseconds
};

/// Running totals of an EventDecoder.
struct PacketCounters {
  std::int64_t packets = 0;            ///< packets given
  std::int64_t bytes = 0;              ///< payload bytes of those that were decoded
  std::int64_t events = 0;             ///< events put out
  std::int64_t triggers = 0;           ///< trigger edges put out
  std::int64_t gaps = 0;               ///< times that data went missing, whatever the cause
  std::int64_t resets = 0;             ///< times that the stream started anew
  std::int64_t time_jumps = 0;         ///< steps of the sensor time by more than a second between neighbouring packets
  std::int64_t clock_corrections = 0;  ///< times that whole wraps were added or taken by means of the header stamps
  std::int64_t erc_in = 0;             ///< events into and out of the sensor's event rate controller, where it reports
  std::int64_t erc_out = 0;
};

/// How an EventDecoder works.
struct EventDecoderOptions {
  /// Most events taken from one packet; the rest is dropped and counted ("overflow_words"). The default takes 220 MB;
  /// real packets hold up to some hundred thousand.
  std::size_t max_events = std::size_t{1} << 24;
  /// Sensor time that goes back by more than this is a restart, less is a glitch of the sensor, unless the packets'
  /// numbers start anew as well.
  std::int64_t max_backstep_us = 100'000;
};

/// Decodes the packets of one publisher. One instance per topic: the state goes on from packet to packet. Not for use
/// from two threads at once.
class EventDecoder {
 public:
  explicit EventDecoder(EventDecoderOptions options = {});

  /// Decode one packet. Nothing in a packet is an error; see `counters` and `dropped` for what was left out.
  DecodedPacket decode(const EventPacket& packet);

  /// Forget the stream (its counters go on): the next packet starts a new one.
  void reset();

  [[nodiscard]] const PacketCounters& counters() const { return counters_; }
  /// Everything left out, by cause: packets, words, bytes where the name says so, else events.
  [[nodiscard]] std::map<std::string, std::int64_t> dropped() const;
  /// The decoder of the current encoding; null before the first packet that can be decoded.
  [[nodiscard]] const EventCodec* codec() const { return codec_.get(); }

 private:
  struct Anchor {
    std::int64_t stamp_us;   // header stamp of the last good packet
    std::int64_t sensor_us;  // and its sensor time
  };
  struct Layout {
    std::string encoding;
    std::uint32_t width = 0, height = 0;
  };

  void forget();
  bool check_sequence(std::uint64_t seq);
  DecodedPacket unusable(bool gap);
  bool choose_codec(const EventPacket& packet);
  struct TimeCheck {
    bool jumped = false, went_back = false;
  };
  TimeCheck check_time(const EventPacket& packet);

  EventDecoderOptions options_;
  PacketCounters counters_;
  std::map<std::string, std::int64_t> packet_causes_;
  std::map<std::string, std::int64_t> past_;  // drops of the codecs before this one
  std::unique_ptr<EventCodec> codec_;
  std::optional<Layout> layout_;
  EventArrays events_;
  std::vector<Trigger> triggers_;
  std::optional<std::uint64_t> next_seq_;
  std::optional<Anchor> anchor_;
  bool lost_ = false;      // data went missing and the time was not confirmed since
  bool seq_back_ = false;  // this packet's number is below the last one's: the publisher started anew
};

}  // namespace aot_perception
