// SPDX-License-Identifier: Apache-2.0
#include "aot_perception/event_binning.hpp"

#include <algorithm>

#include "words.hpp"

namespace aot_perception {

namespace {

constexpr std::int64_t kLargestAge = 0x7FFFFFFF;

/// Looking a quotient up is faster than dividing, and exactly the float32 division.
std::vector<float> quotients(int n) {
  std::vector<float> table(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i)
    table[static_cast<std::size_t>(i)] = static_cast<float>(i) / static_cast<float>(n);
  return table;
}

}  // namespace

Result<EventBinning> EventBinning::create(const BinningConfig& given) {
  BinningConfig config = given;
  if (config.rule != "deployment" && config.rule != "training") {
    return Error{"expected a binning rule out of deployment, training, found '" + config.rule + "'", ""};
  }
  if (config.model_width == 0) config.model_width = config.sensor_width;
  if (config.model_height == 0) config.model_height = config.sensor_height;
  if (config.sensor_width <= 0 || config.sensor_height <= 0 || config.model_width <= 0 || config.model_height <= 0) {
    return Error{"expected a positive size of sensor and model, found " + std::to_string(config.sensor_width) + "x" +
                     std::to_string(config.sensor_height) + " and " + std::to_string(config.model_width) + "x" +
                     std::to_string(config.model_height),
                 ""};
  }
  if (config.bins <= 0 || config.bin_us <= 0) {
    return Error{"expected positive bins and bin_us, found " + std::to_string(config.bins) + " and " +
                     std::to_string(config.bin_us),
                 ""};
  }
  return EventBinning(config);
}

EventBinning::EventBinning(const BinningConfig& config)
    : config_(config),
      offset_x_(floor_div(config.model_width - config.sensor_width, 2)),
      offset_y_(floor_div(config.model_height - config.sensor_height, 2)),
      x_table_(quotients(config.model_width)),
      y_table_(quotients(config.model_height)),
      k_table_(quotients(config.bins)) {}

std::size_t EventBinning::fill(const EventsView& events, std::int64_t end_us, float* rows) const {
  const std::int64_t newest = config_.rule == "deployment" ? end_us - 1 : end_us;
  return config_.with_polarity ? fill_columns<true>(events, newest, rows) : fill_columns<false>(events, newest, rows);
}

template <bool kPolarity>
std::size_t EventBinning::fill_columns(const EventsView& events, std::int64_t newest, float* rows) const {
  const std::int64_t width = config_.model_width, height = config_.model_height;
  // Ages fit 32 bits, where dividing is cheaper, after those beyond the last bin are set apart.
  const std::int64_t bin = std::min(config_.bin_us, kLargestAge);
  const std::int64_t span = config_.bin_us > kLargestAge / config_.bins ? kLargestAge : config_.bins * config_.bin_us;
  const auto divisor = static_cast<std::uint32_t>(bin);
  float* out = rows;
  for (std::size_t i = 0; i < events.size; ++i) {
    const std::int64_t age = newest - events.t[i];
    const std::int64_t column = events.x[i] + offset_x_, row = events.y[i] + offset_y_;
    if (age < 0 || age >= span || column < 0 || column >= width || row < 0 || row >= height) continue;
    out[0] = x_table_[static_cast<std::size_t>(column)];
    out[1] = y_table_[static_cast<std::size_t>(row)];
    out[2] = k_table_[static_cast<std::uint32_t>(age) / divisor];
    if (kPolarity) out[3] = static_cast<float>(events.p[i]);
    out += kPolarity ? 4 : 3;
  }
  return static_cast<std::size_t>(out - rows) / columns();
}

}  // namespace aot_perception
