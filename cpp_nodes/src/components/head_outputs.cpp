// SPDX-License-Identifier: Apache-2.0
// See head_outputs.hpp.
#include "head_outputs.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace aot_perception {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::size_t area(PixelSize size) {
  return static_cast<std::size_t>(size.width) * static_cast<std::size_t>(size.height);
}

/// Half of a difference, rounded down as Python's a // b.
int half(int difference) {
  return difference >= 0 ? difference / 2 : -((1 - difference) / 2);
}

/// For each sensor pixel along one axis: the grid pixel at or before it, and the share of the one after that.
struct Weights {
  std::vector<std::size_t> before;
  std::vector<float> share;  // NaN outside the frame
};

Weights weights(int frame, int sensor, int offset, double scale) {
  Weights made;
  const auto last = static_cast<std::int64_t>(std::nearbyint((frame - 1) * scale));
  for (int i = 0; i < sensor; ++i) {
    const int place = i + offset;
    const double exact = std::clamp(place * scale, 0.0, static_cast<double>(last));
    const std::int64_t before = std::min(static_cast<std::int64_t>(exact), last - 1);
    made.before.push_back(static_cast<std::size_t>(before));
    made.share.push_back(place >= 0 && place < frame ? static_cast<float>(exact - static_cast<double>(before)) : kNan);
  }
  return made;
}

double grid_scale(int frame, int grid) {
  return static_cast<double>(grid - 1) / (frame - 1);
}

/// The published pixel nearest to each sensor pixel along one axis.
std::vector<std::int64_t> nearest(int grid, int frame, int sensor, int offset, bool at_sensor) {
  std::vector<std::int64_t> places;
  const double scale = frame > 1 ? grid_scale(frame, grid) : 0.0;
  for (int i = 0; i < sensor; ++i) {
    places.push_back(at_sensor ? i : static_cast<std::int64_t>(std::nearbyint((i + offset) * scale)));
  }
  return places;
}

std::vector<std::uint8_t> seen_along(int grid, int frame, int sensor, int offset) {
  std::vector<std::uint8_t> seen;
  const double scale = grid > 1 ? static_cast<double>(frame - 1) / (grid - 1) : 0.0;
  for (int i = 0; i < grid; ++i) {
    const double place = i * scale - offset;
    seen.push_back(place >= -0.5 && place <= sensor - 0.5);
  }
  return seen;
}

}  // namespace

PixelSize centring_offset(PixelSize sensor, PixelSize frame) {
  return {half(frame.width - sensor.width), half(frame.height - sensor.height)};
}

std::vector<float> resize_to_sensor(const float* raw, const HeadGrid& where) {
  const PixelSize offset = centring_offset(where.sensor, where.frame);
  const Weights across =
      weights(where.frame.width, where.sensor.width, offset.width, grid_scale(where.frame.width, where.grid.width));
  const Weights down = weights(where.frame.height, where.sensor.height, offset.height,
                               grid_scale(where.frame.height, where.grid.height));
  const auto columns = static_cast<std::size_t>(where.sensor.width);
  const auto grid_columns = static_cast<std::size_t>(where.grid.width);
  // Columns first: there are fewer rows to gather from.
  std::vector<float> wide(static_cast<std::size_t>(where.grid.height) * columns);
  for (std::size_t row = 0; row < static_cast<std::size_t>(where.grid.height); ++row) {
    const float* from = raw + row * grid_columns;
    for (std::size_t i = 0; i < columns; ++i) {
      const float weight = across.share[i];
      wide[row * columns + i] = from[across.before[i]] * (1 - weight) + from[across.before[i] + 1] * weight;
    }
  }
  std::vector<float> resized(area(where.sensor));
  for (std::size_t row = 0; row < static_cast<std::size_t>(where.sensor.height); ++row) {
    const float* above = wide.data() + down.before[row] * columns;
    const float* below = above + columns;
    const float weight = down.share[row];
    for (std::size_t i = 0; i < columns; ++i) {
      resized[row * columns + i] = above[i] * (1 - weight) + below[i] * weight;
    }
  }
  return resized;
}

std::vector<std::uint8_t> seen_by_sensor(const HeadGrid& where) {
  const PixelSize offset = centring_offset(where.sensor, where.frame);
  const auto across = seen_along(where.grid.width, where.frame.width, where.sensor.width, offset.width);
  const auto down = seen_along(where.grid.height, where.frame.height, where.sensor.height, offset.height);
  std::vector<std::uint8_t> seen;
  seen.reserve(area(where.grid));
  for (const std::uint8_t row : down) {
    for (const std::uint8_t column : across)
      seen.push_back(row & column);
  }
  return seen;
}

std::vector<std::uint8_t> event_mask(const EventsView& events, const HeadGrid& where) {
  const PixelSize offset = centring_offset(where.sensor, where.frame);
  const PixelSize size = where.published();
  const auto across = nearest(where.grid.width, where.frame.width, where.sensor.width, offset.width, where.at_sensor);
  const auto down = nearest(where.grid.height, where.frame.height, where.sensor.height, offset.height, where.at_sensor);
  std::vector<std::uint8_t> mask(area(size), 0);
  for (std::size_t i = 0; i < events.size; ++i) {
    if (events.x[i] >= across.size() || events.y[i] >= down.size()) continue;
    const std::int64_t column = across[events.x[i]];
    const std::int64_t row = down[events.y[i]];
    if (column < 0 || column >= size.width || row < 0 || row >= size.height) continue;
    mask[static_cast<std::size_t>(row * size.width + column)] = 1;
  }
  return mask;
}

std::vector<float> finish_depth(const float* raw, const HeadGrid& where, const DepthMeaning& meaning) {
  std::vector<float> values;
  std::vector<std::uint8_t> seen;
  if (where.at_sensor) {
    values = resize_to_sensor(raw, where);
    seen.assign(values.size(), 1);
  } else {
    values.assign(raw, raw + area(where.grid));
    seen = seen_by_sensor(where);
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    bool valid = seen[i] != 0 && std::isfinite(values[i]) && !(meaning.metric && !(values[i] > 0));
    if (meaning.disparity && meaning.focal_baseline) {
      values[i] = *meaning.focal_baseline / values[i];
      valid = valid && std::isfinite(values[i]);
    }
    if (!valid) values[i] = kNan;
  }
  return values;
}

FinishedFlow finish_flow(const float* raw, const EventsView& events, const HeadGrid& where, bool only_events) {
  FinishedFlow flow;
  flow.size = where.published();
  const float* second = raw + area(where.grid);
  if (where.at_sensor) {
    flow.dx = resize_to_sensor(raw, where);
    flow.dy = resize_to_sensor(second, where);
    const auto scale_x = static_cast<float>(grid_scale(where.frame.width, where.grid.width));
    const auto scale_y = static_cast<float>(grid_scale(where.frame.height, where.grid.height));
    for (float& value : flow.dx)
      value /= scale_x;
    for (float& value : flow.dy)
      value /= scale_y;
    flow.valid.assign(flow.dx.size(), 1);
  } else {
    flow.dx.assign(raw, second);
    flow.dy.assign(second, second + area(where.grid));
    flow.valid = seen_by_sensor(where);
  }
  if (only_events) flow.valid = event_mask(events, where);
  for (std::size_t i = 0; i < flow.valid.size(); ++i) {
    if (!std::isfinite(flow.dx[i]) || !std::isfinite(flow.dy[i])) flow.valid[i] = 0;
  }
  return flow;
}

std::vector<float> FinishedFlow::interleaved() const {
  std::vector<float> pairs(2 * valid.size(), kNan);
  for (std::size_t i = 0; i < valid.size(); ++i) {
    if (valid[i] == 0) continue;
    pairs[2 * i] = dx[i];
    pairs[2 * i + 1] = dy[i];
  }
  return pairs;
}

}  // namespace aot_perception
