// SPDX-License-Identifier: Apache-2.0
#include "instant.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace aot_perception {
namespace {

constexpr std::int64_t kMs = 1000;

std::int64_t floor_ms(std::int64_t us) {
  return us / kMs - (us % kMs < 0 ? 1 : 0);
}

std::string ms_text(std::int64_t us) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", static_cast<double>(us) / static_cast<double>(kMs));
  return text;
}

/// Sensor time of millisecond 0 of the file's own time.
std::int64_t time_origin_us(const RecordingInfo& info) {
  if (info.metadata.count("layout") == 0) return floor_ms(*info.t_first_us) * kMs;
  const auto offset = info.metadata.find("t_offset_us");
  return offset == info.metadata.end() ? 0 : std::stoll(offset->second);
}

Result<EventArrays> read_part(EventReader& reader, std::int64_t skip_us, std::optional<std::int64_t> length_us) {
  if (Result<void> sought = reader.seek(skip_us, length_us); !sought) return sought.error();
  EventArrays all;
  while (true) {
    Result<EventsView> events = reader.next();
    if (!events) return events.error();
    if (events->empty()) return Result<EventArrays>(std::move(all));
    all.append(*events);
  }
}

Result<std::int64_t> newest_us(EventReader& reader) {
  if (reader.info().t_last_us) return *reader.info().t_last_us;
  if (Result<void> sought = reader.seek(0); !sought) return sought.error();
  std::int64_t newest = *reader.info().t_first_us;
  while (true) {
    Result<EventsView> events = reader.next();
    if (!events) return events.error();
    if (events->empty()) return newest;
    newest = std::max(newest, *std::max_element(events->t, events->t + events->size));
  }
}

/// Sorted by time and moved to the origin; events of one microsecond keep the file's order.
std::shared_ptr<EventArrays> in_order(const EventsView& events, std::int64_t origin_us) {
  std::vector<std::size_t> order(events.size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (!std::is_sorted(events.t, events.t + events.size)) {
    std::stable_sort(order.begin(), order.end(),
                     [&events](std::size_t a, std::size_t b) { return events.t[a] < events.t[b]; });
  }
  auto sorted = std::make_shared<EventArrays>(events.size);
  for (const std::size_t i : order)
    sorted->push_back(events.x[i], events.y[i], events.t[i] - origin_us, events.p[i]);
  return sorted;
}

}  // namespace

Result<EventWindow> instant(EventReader& reader, std::int64_t time_ms, std::int64_t window_us) {
  const RecordingInfo& info = reader.info();
  const std::string path = info.path.string();
  if (!info.t_first_us) {
    return Error{"expected events, found none in " + path, "record again, or choose another camera"};
  }
  const std::int64_t origin = time_origin_us(info), first = *info.t_first_us - origin;
  const std::int64_t end = time_ms * kMs, start = end - window_us;
  const std::int64_t skip = std::max<std::int64_t>(start - first, 0), length = end - first - skip;
  EventArrays found;
  if (length > 0) {
    Result<EventArrays> read = read_part(reader, skip, length);
    if (!read) return read.error();
    found = *std::move(read);
  }
  if (found.empty()) {
    Result<std::int64_t> last = newest_us(reader);
    if (!last) return last.error();
    const std::int64_t first_ms = floor_ms(first) + 1, last_ms = floor_ms(*last - origin) + 1;
    const std::string range = std::to_string(first_ms) + " .. " + std::to_string(last_ms) + " ms";
    const std::string reason =
        first_ms <= time_ms && time_ms <= last_ms
            ? "expected events in the " + ms_text(window_us) + " ms before --time_ms " + std::to_string(time_ms) +
                  ", found none in " + path
            : "expected a time of " + range + ", found --time_ms " + std::to_string(time_ms) + " for " + path;
    return Error{reason, "choose another instant; the recording holds " + range};
  }
  EventWindow window;
  std::shared_ptr<EventArrays> events = in_order(found.view(), origin);
  window.start_us = start;
  window.end_us = end;
  window.events = events->view();
  window.n_received = events->size();
  const std::int64_t newest = info.t_last_us ? *info.t_last_us - origin : window.events.t[window.events.size - 1];
  window.complete = start >= floor_ms(first) * kMs && newest >= end - kMs;
  window.memory = std::move(events);
  return window;
}

}  // namespace aot_perception
