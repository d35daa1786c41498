// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/event_decoder.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::uint32_t kMaxSide = 1u << 16;
constexpr std::uint64_t kMaxTimeBaseNs = std::uint64_t{1} << 62;
// A step of the sensor time by more than this between two packets counts as a jump, and as a gap.
constexpr std::int64_t kJumpUs = 1'000'000;
constexpr std::size_t kLargestKeptBuffer = std::size_t{1} << 22;

/// The cause to count if a packet cannot be decoded at all, else null.
const char* why_unusable(const EventPacket& packet) {
  if (packet.is_bigendian) return "bigendian_packets";
  const std::vector<std::string>& known = event_encodings();
  if (std::find(known.begin(), known.end(), packet.encoding) == known.end()) return "unknown_encoding_packets";
  if (packet.width == 0 || packet.height == 0 || packet.width > kMaxSide || packet.height > kMaxSide) {
    return "bad_size_packets";
  }
  if (packet.time_base > kMaxTimeBaseNs) return "bad_time_base_packets";
  if (packet.data == nullptr && packet.size > 0) return "unreadable_packets";
  return nullptr;
}

/// Leave out the events after `newest`, in place; returns how many stay.
std::size_t keep_until(EventArrays& events, std::int64_t newest) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < events.size(); ++i) {
    if (events.t()[i] > newest) continue;
    events.x()[kept] = events.x()[i];
    events.y()[kept] = events.y()[i];
    events.t()[kept] = events.t()[i];
    events.p()[kept] = events.p()[i];
    ++kept;
  }
  events.resize_within_capacity(kept);
  return kept;
}

}  // namespace

EventDecoder::EventDecoder(EventDecoderOptions options) : options_(options) {
  for (const char* cause : {"lost_packets", "bigendian_packets", "unknown_encoding_packets", "bad_size_packets",
                            "bad_time_base_packets", "unreadable_packets", "before_reset"}) {
    packet_causes_[cause] = 0;
  }
}

void EventDecoder::forget() {
  next_seq_.reset();
  anchor_.reset();
  lost_ = false;
  seq_back_ = false;
}

void EventDecoder::reset() {
  forget();
  if (codec_) codec_->reset();
}

std::map<std::string, std::int64_t> EventDecoder::dropped() const {
  std::map<std::string, std::int64_t> total = packet_causes_;
  for (const auto& [cause, count] : past_)
    total[cause] += count;
  if (codec_) {
    for (const auto& [cause, count] : codec_->dropped())
      total[cause] += count;
  }
  return total;
}

DecodedPacket EventDecoder::decode(const EventPacket& packet) {
  ++counters_.packets;
  bool gap = check_sequence(packet.seq);
  if (const char* cause = why_unusable(packet); cause != nullptr) {
    ++packet_causes_[cause];
    return unusable(gap);
  }
  bool reset = choose_codec(packet);
  if (gap) {
    codec_->desynchronise();
    lost_ = true;
  }
  if (!codec_->synchronised() && (lost_ || anchor_)) gap = true;
  const std::int64_t cut_before = codec_->counters()[DropCause::kOverflowWords];
  events_.clear();
  if (events_.capacity() > kLargestKeptBuffer) events_ = EventArrays();  // one huge packet must not pin its memory
  codec_->decode(packet.data, packet.size, static_cast<std::int64_t>(packet.time_base), events_);
  if (codec_->counters()[DropCause::kOverflowWords] > cut_before) lost_ = true;
  triggers_ = codec_->triggers();
  counters_.bytes += static_cast<std::int64_t>(packet.size);
  if (codec_->in_nanoseconds()) {
    std::int64_t* const t = events_.t();
    for (std::size_t i = 0; i < events_.size(); ++i)
      t[i] = floor_div(t[i], 1000);
  }
  const TimeCheck time = check_time(packet);
  const std::optional<std::int64_t> time_us = codec_->last_time_us();
  if (time.went_back) {
    const std::size_t before = events_.size();
    packet_causes_["before_reset"] += static_cast<std::int64_t>(before - keep_until(events_, *time_us));
  }
  gap = gap || time.jumped;
  reset = reset || time.went_back;
  counters_.gaps += gap ? 1 : 0;
  counters_.resets += reset ? 1 : 0;
  counters_.events += static_cast<std::int64_t>(events_.size());
  counters_.triggers += static_cast<std::int64_t>(triggers_.size());
  if (packet.encoding == "evt3") {
    counters_.erc_in = codec_->erc_counts()[0];
    counters_.erc_out = codec_->erc_counts()[1];
  }
  return {events_.view(), time_us, gap, reset, triggers_};
}

/// Whether packets are missing before this one.
bool EventDecoder::check_sequence(std::uint64_t seq) {
  const std::optional<std::uint64_t> expected = next_seq_;
  next_seq_ = seq + 1;
  seq_back_ = expected && seq < *expected;
  if (!expected || seq == *expected) return false;
  if (seq > *expected) packet_causes_["lost_packets"] += static_cast<std::int64_t>(seq - *expected);
  return true;
}

DecodedPacket EventDecoder::unusable(bool gap) {
  if (codec_) codec_->desynchronise();
  lost_ = true;
  counters_.gaps += gap ? 1 : 0;
  DecodedPacket result;
  if (codec_) result.time_us = codec_->last_time_us();
  result.gap = gap;
  return result;
}

/// Make a new decoder if the stream's layout changed; return whether another stream ends here.
bool EventDecoder::choose_codec(const EventPacket& packet) {
  if (layout_ && layout_->encoding == packet.encoding && layout_->width == packet.width &&
      layout_->height == packet.height) {
    return false;
  }
  const bool started = layout_.has_value();
  if (codec_) {
    for (const auto& [cause, count] : codec_->dropped())
      past_[cause] += count;
  }
  CodecOptions options;
  options.max_events = options_.max_events;
  // Encoding and size were checked before: this cannot fail.
  codec_ = *make_event_codec(packet.encoding, static_cast<int>(packet.width), static_cast<int>(packet.height), options);
  layout_ = Layout{packet.encoding, packet.width, packet.height};
  anchor_.reset();
  lost_ = false;
  return started;
}

/// Compare the sensor time with the last packet's; correct its wraps.
EventDecoder::TimeCheck EventDecoder::check_time(const EventPacket& packet) {
  const std::optional<std::int64_t> last = codec_->last_time_us();
  if (!last || !codec_->time_known()) return {};
  std::int64_t time = *last;
  const std::int64_t stamp = floor_div(packet.stamp_ns, 1000);
  const std::optional<Anchor> anchor = anchor_;
  const bool lost = lost_;
  anchor_ = Anchor{stamp, time};
  lost_ = false;
  if (!anchor) return {};
  const std::int64_t host_step = stamp - anchor->stamp_us;
  std::int64_t step = time - anchor->sensor_us;
  if (const std::int64_t wrap = codec_->wrap_us(); wrap > 0) {
    // Words tell the time modulo a wrap. If data is missing for more than half a wrap, or the time itself jumps by as
    // much, only the host's clock can tell how many wraps passed.
    const std::int64_t half = wrap / 2;
    if (host_step != 0 && ((lost && std::abs(host_step) > half) || std::abs(step) > half)) {
      const auto wraps =
          static_cast<std::int64_t>(std::nearbyint(static_cast<double>(host_step - step) / static_cast<double>(wrap)));
      if (wraps != 0) {
        codec_->shift_time(wraps);
        const std::int64_t shift = wraps * wrap;
        for (std::size_t i = 0; i < events_.size(); ++i)
          events_.t()[i] += shift;
        for (Trigger& trigger : triggers_)
          trigger.t += shift;
        time += shift;
        step = time - anchor->sensor_us;
        anchor_ = Anchor{stamp, time};
        ++counters_.clock_corrections;
      }
    }
  }
  const bool jumped = std::abs(step) > kJumpUs;
  counters_.time_jumps += jumped ? 1 : 0;
  return {jumped, step < (seq_back_ ? 0 : -options_.max_backstep_us)};
}

}  // namespace aot_perception
