// SPDX-License-Identifier: Apache-2.0
// See event_filters.hpp.
#include "event_filters.hpp"

#include <utility>

namespace aot_perception {
namespace {

constexpr std::int64_t kLongAgo = -(std::int64_t{1} << 62);

/// Times per pixel, with a border so that all pixels have neighbours.
class Times {
 public:
  Times(int width, int height)
      : width_(width),
        height_(height),
        stride_(static_cast<std::size_t>(width) + 2),
        times_(stride_ * (static_cast<std::size_t>(height) + 2), kLongAgo) {}

  [[nodiscard]] bool holds(std::uint16_t x, std::uint16_t y) const { return x < width_ && y < height_; }
  /// The time of the pixel that lies (dx, dy) from the upper left neighbour of (x, y).
  std::int64_t& around(std::uint16_t x, std::uint16_t y, std::size_t dx, std::size_t dy) {
    return times_[(y + dy) * stride_ + x + dx];
  }

 private:
  int width_;
  int height_;
  std::size_t stride_;
  std::vector<std::int64_t> times_;
};

class HotPixelFilter : public EventFilter {
 public:
  explicit HotPixelFilter(HotPixelMask mask) : mask_(std::move(mask)) {}
  bool keeps(std::uint16_t x, std::uint16_t y, std::int64_t) override {
    return x < mask_.width && y < mask_.height &&
           mask_.hot[static_cast<std::size_t>(y) * static_cast<std::size_t>(mask_.width) + x] == 0;
  }

 private:
  HotPixelMask mask_;
};

class RefractoryFilter : public EventFilter {
 public:
  RefractoryFilter(int width, int height, std::int64_t refractory_us)
      : last_(width, height), refractory_us_(refractory_us) {}
  bool keeps(std::uint16_t x, std::uint16_t y, std::int64_t t_us) override {
    if (!last_.holds(x, y)) return false;
    std::int64_t& last = last_.around(x, y, 1, 1);
    const std::int64_t since = t_us - last;
    if (since >= 0 && since < refractory_us_) return false;  // time that went back starts anew
    last = t_us;
    return true;
  }

 private:
  Times last_;
  std::int64_t refractory_us_;
};

class NoiseFilter : public EventFilter {
 public:
  NoiseFilter(int width, int height, std::int64_t support_us) : last_(width, height), support_us_(support_us) {}
  bool keeps(std::uint16_t x, std::uint16_t y, std::int64_t t_us) override {
    if (!last_.holds(x, y)) return false;
    bool kept = false;
    for (std::size_t i = 0; i < 9 && !kept; ++i) {
      if (i == 4) continue;  // the pixel itself
      const std::int64_t since = t_us - last_.around(x, y, i % 3, i / 3);
      kept = since >= 0 && since <= support_us_;
    }
    last_.around(x, y, 1, 1) = t_us;
    return kept;
  }

 private:
  Times last_;
  std::int64_t support_us_;
};

}  // namespace

std::unique_ptr<EventFilter> make_hot_pixel_filter(HotPixelMask mask) {
  return std::make_unique<HotPixelFilter>(std::move(mask));
}

std::unique_ptr<EventFilter> make_refractory_filter(int width, int height, std::int64_t refractory_us) {
  return std::make_unique<RefractoryFilter>(width, height, refractory_us);
}

std::unique_ptr<EventFilter> make_noise_filter(int width, int height, std::int64_t support_us) {
  return std::make_unique<NoiseFilter>(width, height, support_us);
}

}  // namespace aot_perception
