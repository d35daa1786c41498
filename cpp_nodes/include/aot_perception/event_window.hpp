// SPDX-License-Identifier: Apache-2.0
// From a stream of events to windows: by time, by count, or by whichever comes first. As f3_ros/events/windows.py.
//
// Time windows lie on multiples of the stride in sensor time, so that the same stream gives the same windows wherever
// one joins it and however it is cut into packets. They are half-open, [start, end), and close when the sensor time
// reaches their end, which time words tell even where nothing moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/events.hpp"

namespace aot_perception {

/// How to cut a stream into windows.
struct WindowConfig {
  /// "time" (every `stride_us` the last `duration_us`), "count" (every `count` events), or "hybrid" (as "time" without
  /// overlap, but closes early when `count` events have come).
  std::string mode = "time";
  std::int64_t duration_us = 20'000;                 ///< length of a time window
  std::optional<std::int64_t> stride_us;             ///< distance of time windows; none = `duration_us` (no overlap)
  std::int64_t count = 200'000;                      ///< events per window in "count" and "hybrid"
  std::optional<std::int64_t> count_stride;          ///< events from one "count" window to the next; none = `count`
  std::int64_t bin_us = 1000;                        ///< length of a time bin, for those who bin the windows
  std::optional<std::int64_t> max_events = 800'000;  ///< thin windows with more events than this; none keeps all
  std::string thinning = "linspace";                 ///< "linspace" (every n-th) or "random" (a sorted random subset)
  std::uint64_t seed = 42;                           ///< for "random"
  std::int64_t max_buffered_events = 8'000'000;  ///< bound of the memory (13 bytes each); the rest is dropped, counted
  std::int64_t max_empty_windows = 50;  ///< if the time moves over more empty windows in one push, the rest is skipped
  std::int64_t max_backstep_us = 100'000;  ///< time that goes back by more than this starts a new stream
  std::int64_t lateness_us = 0;            ///< wait this long for stragglers before a window closes

  /// Time bins per window.
  [[nodiscard]] std::int64_t bins() const { return duration_us / bin_us > 1 ? duration_us / bin_us : 1; }
  /// Error: an unknown word or a number out of range.
  [[nodiscard]] Result<void> check() const;
};

/// Events of one window, ordered by time. The memory is kept as long as the window (or a copy of it) lives; nobody
/// overwrites it.
struct EventWindow {
  /// Sensor time, half-open, microseconds. A window closed by its count ends one microsecond after its last event, and
  /// the next one may hold further events of that last microsecond.
  std::int64_t start_us = 0;
  std::int64_t end_us = 0;
  EventsView events;
  bool complete = false;       ///< no data is known to be missing: the stream covers the window, without gaps
  std::size_t n_received = 0;  ///< number of events before thinning
  std::shared_ptr<const EventArrays> memory;
};

/// Running totals of an EventWindower.
struct WindowCounters {
  std::int64_t windows = 0;          ///< windows put out
  std::int64_t incomplete = 0;       ///< those among them that are not complete
  std::int64_t events = 0;           ///< events given
  std::int64_t skipped_windows = 0;  ///< empty windows that were not put out because the time jumped
  std::int64_t resets = 0;           ///< restarts of the stream
  // Events left out:
  std::int64_t late = 0;             ///< older than a closed window
  std::int64_t future = 0;           ///< beyond the packet's own time
  std::int64_t buffer_full = 0;      ///< beyond `max_buffered_events`
  std::int64_t between_windows = 0;  ///< stride above duration
  std::int64_t thinned = 0;          ///< beyond `max_events`
  std::int64_t reset = 0;            ///< pending when the stream restarted

  /// Events left out by cause, as Python's `dropped`.
  [[nodiscard]] std::map<std::string, std::int64_t> dropped() const;
};

/// Cuts a stream of events into windows; see WindowConfig. The first window of a stream is incomplete unless the stream
/// starts on its boundary. Not for use from two threads at once; HandoverQueue passes windows on.
class EventWindower {
 public:
  /// Error: see WindowConfig::check.
  static Result<EventWindower> create(WindowConfig config);

  [[nodiscard]] const WindowConfig& config() const { return config_; }
  [[nodiscard]] const WindowCounters& counters() const { return counters_; }
  /// Events that wait for their window to close.
  [[nodiscard]] std::size_t pending() const { return buffer_->size() - head_; }

  /// Forget the stream: pending events are dropped and counted. The next push starts a new one.
  void reset();

  /// Take the events of one packet (t in microseconds; copied); return the windows that closed.
  /// `time_us` is the sensor time up to which the stream is known; none = that of the newest event. `gap`: data between
  /// the previous push and these events is missing.
  std::vector<EventWindow> push(const EventsView& events, std::optional<std::int64_t> time_us, bool gap = false);

  /// Close the windows that pending events wait for, now. What comes later for them is late.
  std::vector<EventWindow> flush();

 private:
  explicit EventWindower(WindowConfig config);

  void restart();
  // Taking events in
  struct Admitted {
    EventsView events;
    bool in_order = true;
  };
  Admitted admit(const EventsView& events, std::int64_t time_us);
  void add_gap(std::int64_t first, std::int64_t last);
  void append(EventsView events, bool in_order);
  void move_pending(std::size_t capacity);
  void sort_pending();
  void release(bool put_out);
  // Putting windows out
  std::vector<EventWindow> close(bool flush);
  std::vector<EventWindow> close_by_time(bool flush);
  std::vector<EventWindow> close_by_count(bool flush);
  std::vector<EventWindow> close_hybrid(bool flush);
  [[nodiscard]] std::size_t find(std::int64_t time_us) const;
  [[nodiscard]] std::int64_t empty_until(std::int64_t ready, bool flush) const;
  void advance(std::int64_t start, std::int64_t closed);
  void skip_between(std::int64_t start);
  EventWindow window(std::int64_t start, std::int64_t end, std::size_t first, std::size_t last, bool whole = true);

  WindowConfig config_;
  WindowCounters counters_;
  std::int64_t stride_;
  std::shared_ptr<EventArrays> buffer_;
  EventArrays admitted_{0};
  std::size_t head_ = 0;  // first event that a window may still need
  std::size_t capacity_hint_ = 0;
  std::optional<std::int64_t> time_;
  std::optional<std::int64_t> start_;  // start of the next window
  std::int64_t closed_ = 0;            // events before this are late
  std::vector<std::pair<std::int64_t, std::int64_t>> gaps_;
};

/// Which of `n` events to keep so that `limit` remain, without favouring any part of the window; rising, all `n` if
/// there are no more than `limit`. "linspace" is what F3's evaluation loader does: floor(i * (n / limit)) in float64.
/// "random" is a sorted random subset, the one that numpy's default_rng(seeds).choice(n, limit, replace=False,
/// shuffle=False) draws. Error: unknown method.
Result<std::vector<std::size_t>> thinning_indices(std::size_t n, std::size_t limit, const std::string& method,
                                                  const std::vector<std::uint64_t>& seeds);

}  // namespace aot_perception
