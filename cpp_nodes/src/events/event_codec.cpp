// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/event_codec.hpp"

#include <algorithm>
#include <utility>

#include "codecs.hpp"
#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::int64_t kMaxTimeBaseNs = std::int64_t{1} << 62;
constexpr std::size_t kLargestKeptBuffer = std::size_t{1} << 22;

}  // namespace

const char* drop_cause_name(DropCause cause) {
  switch (cause) {
    case DropCause::kUnsynchronised:
      return "unsynchronised";
    case DropCause::kOutOfSensor:
      return "out_of_sensor";
    case DropCause::kReservedWords:
      return "reserved_words";
    case DropCause::kInvalidEvents:
      return "invalid_events";
    case DropCause::kTrailingBytes:
      return "trailing_bytes";
    case DropCause::kOverflowWords:
      return "overflow_words";
  }
  return "";
}

EventCodec::EventCodec(int width, int height, std::size_t word_bytes, std::optional<std::size_t> max_events,
                       std::vector<DropCause> causes)
    : width_(width),
      height_(height),
      max_events_(max_events),
      word_bytes_(word_bytes),
      causes_(std::move(causes)),
      buffer_() {}

EventsView EventCodec::decode(const std::uint8_t* data, std::size_t n_bytes, std::int64_t time_base_ns) {
  buffer_.clear();
  if (buffer_.capacity() > kLargestKeptBuffer) buffer_ = EventArrays();  // one huge packet must not pin its memory
  return decode(data, n_bytes, time_base_ns, buffer_);
}

EventsView EventCodec::decode(const std::uint8_t* data, std::size_t n_bytes, std::int64_t time_base_ns,
                              EventArrays& out) {
  const std::size_t n_words = n_bytes / word_bytes_;
  counters_.bytes += static_cast<std::int64_t>(n_bytes);
  counters_.words += static_cast<std::int64_t>(n_words);
  counters_[DropCause::kTrailingBytes] += static_cast<std::int64_t>(n_bytes % word_bytes_);
  triggers_.clear();
  const std::size_t first = out.size();
  const std::size_t used = decode_words(data, n_words, std::clamp(time_base_ns, -kMaxTimeBaseNs, kMaxTimeBaseNs), out);
  if (used < n_words) {
    counters_[DropCause::kOverflowWords] += static_cast<std::int64_t>(n_words - used);
    desynchronise();
  }
  counters_.events += static_cast<std::int64_t>(out.size() - first);
  counters_.triggers += static_cast<std::int64_t>(triggers_.size());
  return out.view(first, out.size());
}

std::size_t EventCodec::make_room(EventArrays& out, std::size_t first, std::size_t at_least) const {
  if (!max_events_) {
    out.reserve(out.size() + at_least);
    return out.capacity();
  }
  const std::size_t end = first + *max_events_;
  out.reserve(std::min(out.size() + at_least, end));
  return std::min(out.capacity(), end);
}

std::map<std::string, std::int64_t> EventCodec::dropped() const {
  std::map<std::string, std::int64_t> result;
  for (const DropCause cause : causes_)
    result[drop_cause_name(cause)] = counters_[cause];
  return result;
}

std::optional<std::int64_t> EventCodec::last_time_us() const {
  const std::optional<std::int64_t> time = last_time();
  if (!time || !in_nanoseconds()) return time;
  return floor_div(*time, 1000);
}

const std::vector<std::string>& event_encodings() {
  static const std::vector<std::string> names{"evt3", "evt2", "evt21", "libcaer", "libcaer_cmp", "mono"};
  return names;
}

Result<std::unique_ptr<EventCodec>> make_event_codec(const std::string& encoding, int width, int height,
                                                     const CodecOptions& options) {
  if (encoding == "evt3") return make_evt3_codec(width, height, options);
  if (encoding == "evt2") return make_evt2_codec(width, height, options);
  if (encoding == "evt21") {
    if (options.order != "auto" && options.order != "genx320" && options.order != "imx636") {
      return Error{"expected an EVT 2.1 word order out of auto, genx320, imx636, found '" + options.order + "'", ""};
    }
    return make_evt21_codec(width, height, options);
  }
  if (encoding == "libcaer") return make_libcaer_codec(width, height, options);
  if (encoding == "libcaer_cmp") return make_libcaer_cmp_codec(width, height, options);
  if (encoding == "mono") return make_mono_codec(width, height, options);
  std::string known;
  for (const std::string& name : event_encodings())
    known += (known.empty() ? "" : ", ") + name;
  return Error{"expected an event encoding out of " + known + ", found '" + encoding + "'",
               "set the camera driver to one of these"};
}

}  // namespace aot_perception
