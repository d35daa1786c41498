// SPDX-License-Identifier: Apache-2.0
// Maps the time of a free-running sensor clock to ROS time; as SensorClock of aot_runtime/ros/clock.py. No ROS.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

namespace aot_perception {

/// A packet's header stamp is taken when its first buffer reaches the host, which is after the events were measured by
/// a delay that varies but never falls below some minimum. So the offset between the clocks is the lower envelope of
/// (stamp - newest sensor time of the packet): it follows a smaller difference at once and rises only as fast as clocks
/// may drift apart. If the difference stays more than `kJumpNs` above the estimate for `kPatience` packets, or falls
/// below it by that much, one of the clocks has jumped and the estimate starts anew. Published times never go back,
/// except after `reset()`.
class SensorClock {
 public:
  /// Forgets the offset and lets published times go back; the number of jumps stays.
  void reset() {
    offset_ns_.reset();
    last_published_ns_.reset();
    last_sensor_us_ = 0;
    above_ = 0;
  }

  /// ROS time minus sensor time, or nothing before the first packet.
  [[nodiscard]] std::optional<std::int64_t> offset_ns() const { return offset_ns_; }
  [[nodiscard]] int jumps() const { return jumps_; }

  /// Takes one packet's header stamp and the newest sensor time it carries.
  void update(std::int64_t stamp_ns, std::int64_t sensor_us) {
    const std::int64_t difference = stamp_ns - sensor_us * 1000;
    if (!offset_ns_) {
      offset_ns_ = difference;
    } else if (difference <= *offset_ns_) {
      if (*offset_ns_ - difference > kJumpNs) ++jumps_;
      offset_ns_ = difference;
      above_ = 0;
    } else if (difference - *offset_ns_ > kJumpNs) {
      // One late packet is a busy host; many in a row are a clock that jumped.
      if (++above_ >= kPatience) {
        ++jumps_;
        above_ = 0;
        offset_ns_ = difference;
      }
    } else {
      above_ = 0;
      const std::int64_t elapsed_ns = std::max<std::int64_t>(0, sensor_us - last_sensor_us_) * 1000;
      const auto most = static_cast<std::int64_t>(static_cast<double>(elapsed_ns) * kDrift);
      *offset_ns_ += std::min(difference - *offset_ns_, most);
    }
    last_sensor_us_ = sensor_us;
  }

  /// ROS time of a sensor time, never less than what was returned before; nothing before the first packet.
  std::optional<std::int64_t> to_ros_ns(std::int64_t sensor_us) {
    if (!offset_ns_) return std::nullopt;
    std::int64_t mapped = std::max<std::int64_t>(0, sensor_us * 1000 + *offset_ns_);
    if (last_published_ns_) mapped = std::max(mapped, *last_published_ns_);
    last_published_ns_ = mapped;
    return mapped;
  }

 private:
  static constexpr std::int64_t kJumpNs = 20'000'000;
  static constexpr int kPatience = 10;
  static constexpr double kDrift = 100.0 * 1e-6;

  std::optional<std::int64_t> offset_ns_;
  std::optional<std::int64_t> last_published_ns_;
  std::int64_t last_sensor_us_ = 0;
  int above_ = 0;
  int jumps_ = 0;
};

}  // namespace aot_perception
