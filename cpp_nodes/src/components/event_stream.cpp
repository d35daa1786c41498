// SPDX-License-Identifier: Apache-2.0
// See event_stream.hpp.
#include "event_stream.hpp"

namespace aot_perception {
namespace {

/// Filters keep a time per pixel; a corrupt packet that claims a larger sensor must not make them take gigabytes.
constexpr std::int64_t kMostFilteredPixels = std::int64_t{1} << 24;

bool intended(const std::string& cause) {
  return cause == "thinned" || cause == "between_windows";
}

void add(DropCounts& total, const std::string& cause, std::int64_t n) {
  if (n > 0) total[cause] += static_cast<std::uint64_t>(n);
}

}  // namespace

Result<std::unique_ptr<EventStream>> EventStream::create(const StreamConfig& config) {
  Result<EventWindower> windower = EventWindower::create(config.window);
  if (!windower) return windower.error();
  std::optional<HotPixelMask> mask;
  if (!config.hot_pixel_mask.empty()) {
    // Reading it now makes a wrong path an error of configuration, not of the first packet.
    Result<HotPixelMask> read = HotPixelMask::load(config.hot_pixel_mask);
    if (!read) return read.error();
    mask = *std::move(read);
  }
  return std::unique_ptr<EventStream>(new EventStream(config, *std::move(windower), std::move(mask)));
}

EventStream::EventStream(StreamConfig config, EventWindower windower, std::optional<HotPixelMask> mask)
    : config_(std::move(config)), mask_(std::move(mask)), windower_(std::move(windower)) {}

std::vector<StreamWindow> EventStream::push(const EventPacket& packet, const std::string& frame_id,
                                            std::int64_t receive_ns) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<StreamWindow> closed;
  if (guard_.jumped_back(packet.stamp_ns)) {
    timed(windower_.flush(), closed);
    decoder_.reset();
    guard_.reset();
    restart_windows();
  }
  const DecodedPacket decoded = decoder_.decode(packet);
  if (decoded.reset) {
    timed(windower_.flush(), closed);
    restart_windows();
  }
  const std::pair<int, int> size{static_cast<int>(packet.width), static_cast<int>(packet.height)};
  last_ = Source{frame_id, size.first, size.second, packet.stamp_ns, receive_ns};
  if (size != size_) {
    size_ = size;
    make_filters(size.first, size.second);
  }
  if (decoded.time_us) clock_.update(packet.stamp_ns, *decoded.time_us);
  timed(windower_.push(filtered(decoded.events), decoded.time_us, decoded.gap), closed);
  return closed;
}

std::vector<StreamWindow> EventStream::flush() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<StreamWindow> closed;
  timed(windower_.flush(), closed);
  return closed;
}

void EventStream::reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  decoder_.reset();
  guard_.reset();
  restart_windows();
}

DropCounts EventStream::drops() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  DropCounts total = dropped_;
  for (const auto& [cause, n] : decoder_.dropped())
    add(total, cause, n);
  for (const auto& [cause, n] : windower_.counters().dropped()) {
    if (!intended(cause)) add(total, cause, n);
  }
  for (const auto& [cause, n] : guard_.counts())
    total[cause] += n;
  return total;
}

DropCounts EventStream::removed() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  DropCounts total = removed_;
  for (const auto& [cause, n] : windower_.counters().dropped()) {
    if (intended(cause)) add(total, cause, n);
  }
  return total;
}

std::uint64_t EventStream::windows() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return windows_;
}

std::optional<std::int64_t> EventStream::clock_offset_ns() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return clock_.offset_ns();
}

int EventStream::clock_jumps() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return clock_.jumps();
}

void EventStream::restart_windows() {
  windower_.reset();
  clock_.reset();
  size_ = {0, 0};  // filters hold times per pixel: they start anew with the next packet
}

void EventStream::make_filters(int width, int height) {
  filters_.clear();
  if (mask_) {
    if (mask_->width == width && mask_->height == height) {
      filters_.emplace_back("hot_pixel_events", make_hot_pixel_filter(*mask_));
    } else {
      ++dropped_["hot_pixel_mask_of_other_size"];
    }
  }
  const std::int64_t pixels = static_cast<std::int64_t>(width) * height;
  if (width <= 0 || height <= 0 || pixels > kMostFilteredPixels) return;
  if (config_.refractory_us > 0) {
    filters_.emplace_back("refractory_events", make_refractory_filter(width, height, config_.refractory_us));
  }
  if (config_.noise_us > 0) {
    filters_.emplace_back("noise_events", make_noise_filter(width, height, config_.noise_us));
  }
}

EventsView EventStream::filtered(EventsView events) {
  if (filters_.empty() || events.empty()) return events;
  kept_.clear();
  for (std::size_t i = 0; i < events.size; ++i) {
    bool kept = true;
    for (auto& [cause, filter] : filters_) {
      kept = filter->keeps(events.x[i], events.y[i], events.t[i]);
      if (kept) continue;
      ++removed_[cause];
      break;
    }
    if (kept) kept_.push_back(events.x[i], events.y[i], events.t[i], events.p[i]);
  }
  return kept_.view();
}

void EventStream::timed(std::vector<EventWindow> windows, std::vector<StreamWindow>& closed) {
  if (!last_) return;
  for (EventWindow& window : windows) {
    ++windows_;
    if (!window.complete && !config_.use_incomplete) {
      ++dropped_["incomplete_window"];
      continue;
    }
    const std::int64_t stamp_ns = clock_.to_ros_ns(window.end_us).value_or(last_->stamp_ns);
    closed.push_back({std::move(window), stamp_ns, last_->frame_id, last_->width, last_->height, last_->stamp_ns,
                      last_->receive_ns});
  }
}

}  // namespace aot_perception
