// SPDX-License-Identifier: Apache-2.0
// Taking events in; close_windows.cpp puts windows out.
#include "aot_perception/event_window.hpp"

#include <algorithm>
#include <numeric>

#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::int64_t kFarPast = -(std::int64_t{1} << 62);
constexpr std::size_t kMaxGaps = 64;
constexpr std::size_t kFirstCapacity = std::size_t{1} << 12;

struct Order {
  std::int64_t late = 0, future = 0;  // times below `oldest` and above `newest`
  bool in_order = true;               // the others never fall, starting from `previous`
};

Order inspect(const EventsView& events, std::int64_t oldest, std::int64_t newest, std::int64_t previous) {
  Order result;
  for (std::size_t i = 0; i < events.size; ++i) {
    result.late += events.t[i] < oldest ? 1 : 0;
    result.future += events.t[i] > newest ? 1 : 0;
  }
  const bool all = result.late == 0 && result.future == 0;
  std::int64_t backwards = 0;
  for (std::size_t i = 0; i < events.size; ++i) {
    if (!all && (events.t[i] < oldest || events.t[i] > newest)) continue;
    backwards += events.t[i] < previous ? 1 : 0;
    previous = events.t[i];
  }
  result.in_order = backwards == 0;
  return result;
}

Error wrong(const std::string& text) {
  return Error{text, ""};
}

}  // namespace

Result<void> WindowConfig::check() const {
  if (mode != "time" && mode != "count" && mode != "hybrid") {
    return wrong("expected a window mode out of time, count, hybrid, found '" + mode + "'");
  }
  if (thinning != "linspace" && thinning != "random") {
    return wrong("expected a thinning out of linspace, random, found '" + thinning + "'");
  }
  const std::pair<const char*, std::int64_t> positive[] = {{"duration_us", duration_us},
                                                           {"stride_us", stride_us.value_or(1)},
                                                           {"count", count},
                                                           {"count_stride", count_stride.value_or(1)},
                                                           {"bin_us", bin_us},
                                                           {"max_events", max_events.value_or(1)},
                                                           {"max_buffered_events", max_buffered_events}};
  for (const auto& [name, value] : positive) {
    if (value <= 0) return wrong(std::string("expected a positive ") + name + ", found " + std::to_string(value));
  }
  const std::pair<const char*, std::int64_t> natural[] = {
      {"max_empty_windows", max_empty_windows}, {"max_backstep_us", max_backstep_us}, {"lateness_us", lateness_us}};
  for (const auto& [name, value] : natural) {
    if (value < 0) return wrong(std::string("expected ") + name + " of at least 0, found " + std::to_string(value));
  }
  if (mode != "time" && max_buffered_events < count) {
    return wrong("expected max_buffered_events of at least count " + std::to_string(count) + ", found " +
                 std::to_string(max_buffered_events));
  }
  return {};
}

std::map<std::string, std::int64_t> WindowCounters::dropped() const {
  return {{"late", late},       {"future", future}, {"buffer_full", buffer_full}, {"between_windows", between_windows},
          {"thinned", thinned}, {"reset", reset}};
}

Result<EventWindower> EventWindower::create(WindowConfig config) {
  if (Result<void> checked = config.check(); !checked) return checked.error();
  return EventWindower(std::move(config));
}

EventWindower::EventWindower(WindowConfig config)
    : config_(std::move(config)), stride_(config_.stride_us.value_or(config_.duration_us)) {
  restart();
}

void EventWindower::restart() {
  buffer_ = std::make_shared<EventArrays>(kFirstCapacity);
  head_ = 0;
  capacity_hint_ = kFirstCapacity;
  time_.reset();
  start_.reset();
  closed_ = kFarPast;
  gaps_.clear();
}

void EventWindower::reset() {
  counters_.reset += static_cast<std::int64_t>(pending());
  ++counters_.resets;
  restart();
}

std::vector<EventWindow> EventWindower::push(const EventsView& events, std::optional<std::int64_t> time_us, bool gap) {
  counters_.events += static_cast<std::int64_t>(events.size);
  if (!time_us) {
    if (events.empty()) return {};
    time_us = *std::max_element(events.t, events.t + events.size);
  }
  if (time_ && *time_us < *time_ - config_.max_backstep_us) reset();
  const std::optional<std::int64_t> previous = time_;
  time_ = previous ? std::max(*previous, *time_us) : *time_us;
  const Admitted admitted = admit(events, *time_us);
  std::int64_t oldest = *time_us;
  if (!admitted.events.empty()) {
    oldest = admitted.in_order ? admitted.events.t[0]
                               : *std::min_element(admitted.events.t, admitted.events.t + admitted.events.size);
  }
  if (!start_) {
    oldest = std::min(oldest, *time_us);
    start_ = config_.mode == "time" ? floor_div(oldest, stride_) * stride_ : oldest;
    if (config_.mode != "count") closed_ = *start_;
    add_gap(kFarPast, oldest - 1);
  } else if (gap && previous) {
    add_gap(std::min(*previous, oldest), std::max(*previous, oldest));
  }
  append(admitted.events, admitted.in_order);
  std::vector<EventWindow> windows = close(false);
  release(!windows.empty());
  return windows;
}

std::vector<EventWindow> EventWindower::flush() {
  std::vector<EventWindow> windows = close(true);
  release(!windows.empty());
  return windows;
}

/// Drop late and future events; tell whether the rest is in order and follows what is pending.
EventWindower::Admitted EventWindower::admit(const EventsView& events, std::int64_t time_us) {
  if (events.empty()) return {events, true};
  const std::int64_t last = pending() > 0 ? buffer_->t()[buffer_->size() - 1] : kFarPast;
  const std::int64_t latest = time_us + config_.max_backstep_us;
  const Order order = inspect(events, closed_, latest, last);
  if (order.late == 0 && order.future == 0) return {events, order.in_order};
  counters_.late += order.late;
  counters_.future += order.future;
  admitted_.clear();
  for (std::size_t i = 0; i < events.size; ++i) {
    if (events.t[i] >= closed_ && events.t[i] <= latest) {
      admitted_.push_back(events.x[i], events.y[i], events.t[i], events.p[i]);
    }
  }
  return {admitted_.view(), order.in_order};
}

/// Note that events of first..last may be missing.
void EventWindower::add_gap(std::int64_t first, std::int64_t last) {
  gaps_.emplace_back(first, last);
  if (gaps_.size() > kMaxGaps) {
    gaps_[1] = {std::min(gaps_[0].first, gaps_[1].first), std::max(gaps_[0].second, gaps_[1].second)};
    gaps_.erase(gaps_.begin());
  }
}

void EventWindower::append(EventsView events, bool in_order) {
  const auto space = static_cast<std::size_t>(config_.max_buffered_events) - pending();
  if (events.size > space) {
    counters_.buffer_full += static_cast<std::int64_t>(events.size - space);
    const auto [first, last] = std::minmax_element(events.t + space, events.t + events.size);
    add_gap(*first, *last);
    events = events.slice(0, space);
  }
  if (events.empty()) return;
  if (buffer_->size() + events.size > buffer_->capacity()) move_pending(2 * (pending() + events.size));
  buffer_->append(events);
  if (!in_order) sort_pending();
}

/// Go on in new memory with the pending events: windows that were put out keep the old one.
void EventWindower::move_pending(std::size_t capacity) {
  auto buffer = std::make_shared<EventArrays>(std::max({capacity, pending(), capacity_hint_}));
  buffer->append(buffer_->view(head_, buffer_->size()));
  buffer_ = std::move(buffer);
  head_ = 0;
}

void EventWindower::sort_pending() {
  const EventsView events = buffer_->view(head_, buffer_->size());
  std::vector<std::size_t> order(events.size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&events](std::size_t a, std::size_t b) { return events.t[a] < events.t[b]; });
  auto buffer = std::make_shared<EventArrays>(std::max<std::size_t>(events.size, 1));
  for (const std::size_t i : order)
    buffer->push_back(events.x[i], events.y[i], events.t[i], events.p[i]);
  buffer_ = std::move(buffer);
  head_ = 0;
}

/// Leave the memory to the windows that were put out, if few pending events have to be moved.
void EventWindower::release(bool put_out) {
  if (start_) {
    const std::int64_t start = *start_;
    gaps_.erase(std::remove_if(gaps_.begin(), gaps_.end(), [start](const auto& gap) { return gap.second < start; }),
                gaps_.end());
  }
  const std::size_t used = buffer_->size();
  if (put_out && used > 0 && pending() <= used / 4) {
    capacity_hint_ = std::max(kFirstCapacity, used + used / 4);
    move_pending(2 * pending());
  }
}

}  // namespace aot_perception
