// SPDX-License-Identifier: Apache-2.0
// Any bytes through the whole event path, with everything checked that must always hold.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../../src/events/hdf5.hpp"
#include "../../src/events/readers.hpp"
#include "aot_perception/event_binning.hpp"
#include "aot_perception/event_decoder.hpp"
#include "aot_perception/event_window.hpp"

namespace aot_perception::testing {

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

/// Decoder, windows and rows of one stream, bounded as a node's are.
class EventPath {
 public:
  static constexpr std::size_t kMaxPending = 20'000;

  explicit EventPath(const std::string& mode = "time") : windower_(make_windower(mode)), binning_(make_binning()) {}

  EventDecoder& decoder() { return decoder_; }

  /// Decode a packet and push it on; returns what the decoder gave.
  DecodedPacket take(const EventPacket& packet) {
    DecodedPacket decoded = decoder_.decode(packet);
    const EventsView& events = decoded.events;
    require(events.size <= 12 * packet.size, "events per byte");
    require(decoded.triggers.size() <= packet.size, "triggers per byte");
    for (std::size_t i = 0; i < events.size; ++i) {
      require(events.x[i] < packet.width && events.y[i] < packet.height && events.p[i] <= 1, "events in the sensor");
    }
    for (const EventWindow& window : windower_.push(events, decoded.time_us, decoded.gap))
      check(window);
    require(windower_.pending() <= kMaxPending, "bounded memory");
    return decoded;
  }

  void finish() {
    for (const EventWindow& window : windower_.flush())
      check(window);
    const WindowCounters& counters = windower_.counters();
    std::int64_t dropped = 0;
    for (const auto& [cause, count] : counters.dropped())
      dropped += count;
    require(in_windows_ + dropped == counters.events, "every event in one window or counted");
  }

 private:
  static EventWindower make_windower(const std::string& mode) {
    WindowConfig config;
    config.mode = mode;
    config.count = 5000;
    config.max_buffered_events = kMaxPending;
    config.max_events = 5000;
    return *EventWindower::create(config);
  }

  static EventBinning make_binning() {
    BinningConfig config;
    config.sensor_width = 640;
    config.sensor_height = 480;
    return *EventBinning::create(config);
  }

  void check(const EventWindow& window) {
    const EventsView& events = window.events;
    in_windows_ += static_cast<std::int64_t>(events.size);  // the thinned ones are counted as dropped
    require(std::is_sorted(events.t, events.t + events.size), "windows in order");
    require(events.empty() || (events.t[0] >= window.start_us && events.t[events.size - 1] < window.end_us),
            "windows hold their span");
    rows_.resize(4 * events.size);
    const std::size_t n = binning_.fill(events, window.end_us, rows_.data());
    require(n <= events.size, "rows");
    for (std::size_t i = 0; i < 4 * n; ++i)
      require(rows_[i] >= 0.0f && rows_[i] <= 1.0f, "rows in 0..1");
  }

  EventDecoder decoder_;
  EventWindower windower_;
  EventBinning binning_;
  std::int64_t in_windows_ = 0;
  std::vector<float> rows_;
};

/// Bytes as a list of packets: a byte that chooses encoding and faults, two that give the length, then the payload.
inline void run_input(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return;
  const std::vector<std::string>& encodings = event_encodings();
  const char* const modes[] = {"time", "count", "hybrid"};
  EventPath path(modes[data[0] % 3]);
  const std::string& encoding = encodings[data[1] % encodings.size()];
  std::uint64_t seq = 0;
  std::size_t at = 2;
  while (at + 3 <= size) {
    const std::uint8_t control = data[at];
    const std::size_t length = std::min<std::size_t>(data[at + 1] + 256u * (data[at + 2] % 16), size - at - 3);
    at += 3;
    EventPacket packet;
    seq += (control & 3) == 3 ? control : 1;
    packet.seq = seq;
    packet.width = control == 255 ? 0 : 640;
    packet.height = (control & 63) == 62 ? 100 : 480;
    packet.encoding = (control & 31) == 30 ? encodings[control % encodings.size()] : encoding;
    packet.stamp_ns = static_cast<std::int64_t>(seq) * 4'000'000 * ((control & 15) == 14 ? -1'000'000 : 1);
    packet.time_base = (control & 15) == 13 ? std::uint64_t{1} << (control >> 2) : seq * 4'000'000;
    packet.data = data + at;
    packet.size = length;
    path.take(packet);
    at += length;
  }
  path.finish();
  const auto geometry = parse_prophesee_header({reinterpret_cast<const char*>(data), size}).geometry();
  require(!geometry || (geometry->first > 0 && geometry->second > 0), "geometry");
  std::vector<std::uint8_t> out(4096);
  require(lzf_decompress(data, size, out.data(), out.size()) <= out.size(), "lzf stays inside");
}

}  // namespace aot_perception::testing
