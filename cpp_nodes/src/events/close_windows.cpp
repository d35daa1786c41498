// SPDX-License-Identifier: Apache-2.0
// How an EventWindower puts windows out.
#include <algorithm>
#include <cstdlib>

#include "aot_perception/event_window.hpp"
#include "words.hpp"

namespace aot_perception {

std::vector<EventWindow> EventWindower::close(bool flush) {
  if (!start_ || !time_) return {};
  if (config_.mode == "time") return close_by_time(flush);
  if (config_.mode == "count") return close_by_count(flush);
  return close_hybrid(flush);
}

/// Index of the first pending event at or after this time.
std::size_t EventWindower::find(std::int64_t time_us) const {
  const std::int64_t* const t = buffer_->view().t;
  return static_cast<std::size_t>(std::lower_bound(t + head_, t + buffer_->size(), time_us) - t);
}

/// Sensor time up to which empty windows may be put out or skipped, where nothing lies in the next one.
std::int64_t EventWindower::empty_until(std::int64_t ready, bool flush) const {
  if (pending() == 0) return ready;
  const std::int64_t oldest = buffer_->view().t[head_];
  return flush ? oldest : std::min(oldest, ready);
}

std::vector<EventWindow> EventWindower::close_by_time(bool flush) {
  const std::int64_t duration = config_.duration_us;
  const std::int64_t ready = *time_ - config_.lateness_us;
  std::vector<EventWindow> windows;
  std::int64_t empty = 0;
  while (flush ? pending() > 0 : *start_ + duration <= ready) {
    const std::int64_t start = *start_, end = *start_ + duration;
    skip_between(start);
    const std::size_t last = find(end);
    if (last == head_) {
      // Empty windows from here on that end by then.
      const std::int64_t run = floor_div(empty_until(ready, flush) - end, stride_) + 1;
      if (flush || empty + run > config_.max_empty_windows) {
        counters_.skipped_windows += flush ? 0 : run;
        advance(start + run * stride_, end + (run - 1) * stride_);
        continue;
      }
      ++empty;
    }
    windows.push_back(window(start, end, head_, last));
    advance(start + stride_, end);
  }
  return windows;
}

/// The next time window starts at `start`; everything before `closed` is done.
void EventWindower::advance(std::int64_t start, std::int64_t closed) {
  start_ = start;
  closed_ = std::max(closed_, closed);
  head_ = find(std::min(start, closed));
  skip_between(start);
}

/// Where windows do not touch, drop the pending events before `start`, which no window holds.
void EventWindower::skip_between(std::int64_t start) {
  if (stride_ <= config_.duration_us) return;
  const std::size_t head = find(start);
  counters_.between_windows += static_cast<std::int64_t>(head - head_);
  head_ = head;
}

std::vector<EventWindow> EventWindower::close_by_count(bool flush) {
  const auto count = static_cast<std::size_t>(config_.count);
  const auto stride = static_cast<std::size_t>(config_.count_stride.value_or(config_.count));
  std::vector<EventWindow> windows;
  while (pending() >= count || (flush && pending() > 0)) {
    const std::size_t last = std::min(head_ + count, buffer_->size());
    const std::int64_t start = buffer_->t()[head_], end = buffer_->t()[last - 1] + 1;
    const bool whole = last - head_ == count;
    windows.push_back(window(start, end, head_, last, whole));
    closed_ = std::max(closed_, end - 1);
    head_ = whole ? std::min(head_ + stride, buffer_->size()) : buffer_->size();
    start_ = end - 1;
  }
  return windows;
}

std::vector<EventWindow> EventWindower::close_hybrid(bool flush) {
  const std::int64_t duration = config_.duration_us;
  const auto count = static_cast<std::size_t>(config_.count);
  const std::int64_t ready = *time_ - config_.lateness_us;
  std::vector<EventWindow> windows;
  std::int64_t empty = 0;
  while (true) {
    const std::int64_t start = *start_;
    const std::int64_t cell_end = (floor_div(start, duration) + 1) * duration;
    std::size_t last = find(cell_end);
    if (last - head_ >= count) {
      last = head_ + count;
      const std::int64_t end = buffer_->t()[last - 1] + 1;
      windows.push_back(window(start, end, head_, last));
      head_ = last;
      start_ = closed_ = end - 1;  // more events of that microsecond may follow
      continue;
    }
    if (!(cell_end <= ready || (flush && pending() > 0))) return windows;
    if (last == head_) {
      const std::int64_t run = floor_div(empty_until(ready, flush) - cell_end, duration) + 1;
      if (flush || empty + run > config_.max_empty_windows) {
        counters_.skipped_windows += flush ? 0 : run;
        start_ = closed_ = cell_end + (run - 1) * duration;
        continue;
      }
      ++empty;
    }
    if (last > head_ || start < cell_end - 1) windows.push_back(window(start, cell_end, head_, last));
    head_ = last;
    start_ = closed_ = cell_end;
  }
}

/// The window of the buffered events first..last, thinned.
EventWindow EventWindower::window(std::int64_t start, std::int64_t end, std::size_t first, std::size_t last,
                                  bool whole) {
  const std::size_t n = last - first;
  EventWindow result{start, end, buffer_->view(first, last), false, n, buffer_};
  if (config_.max_events && n > static_cast<std::size_t>(*config_.max_events)) {
    const auto limit = static_cast<std::size_t>(*config_.max_events);
    const auto magnitude = start < 0 ? -static_cast<std::uint64_t>(start) : static_cast<std::uint64_t>(start);
    const auto kept = thinning_indices(n, limit, config_.thinning, {config_.seed, magnitude});
    auto thinned = std::make_shared<EventArrays>(limit);
    const EventsView all = result.events;
    for (const std::size_t i : *kept)
      thinned->push_back(all.x[i], all.y[i], all.t[i], all.p[i]);
    result.events = thinned->view();
    result.memory = std::move(thinned);
    counters_.thinned += static_cast<std::int64_t>(n - limit);
  }
  const bool by_count = config_.mode != "time" && n == static_cast<std::size_t>(config_.count);
  const bool covered = by_count || end <= *time_;
  const bool in_gap =
      std::any_of(gaps_.begin(), gaps_.end(), [&](const auto& gap) { return gap.first < end && gap.second >= start; });
  result.complete = whole && covered && !in_gap;
  ++counters_.windows;
  counters_.incomplete += result.complete ? 0 : 1;
  return result;
}

}  // namespace aot_perception
