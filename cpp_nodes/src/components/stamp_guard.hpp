// SPDX-License-Identifier: Apache-2.0
// Watches the stamps of one input for jumps backwards (a bag that loops) and for late arrival.
// As StampGuard of aot_runtime/ros/clock.py. No ROS.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <optional>

#include "worker.hpp"

namespace aot_perception {

/// May be used from any thread.
class StampGuard {
 public:
  /// `max_age_ns`: inputs older than this when they arrive are late; 0 switches the check off.
  /// `tolerance_ns`: steps back up to this are disorder on the way, not a jump.
  explicit StampGuard(std::int64_t max_age_ns = 0, std::int64_t tolerance_ns = 100'000'000)
      : max_age_ns_(max_age_ns), tolerance_ns_(tolerance_ns) {}

  /// Whether this stamp lies so far before the newest one that the source must have started anew.
  bool jumped_back(std::int64_t stamp_ns) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (newest_ns_ && stamp_ns < *newest_ns_ - tolerance_ns_) {
      newest_ns_ = stamp_ns;
      ++counts_["time_jump_back"];
      return true;
    }
    newest_ns_ = newest_ns_ ? std::max(*newest_ns_, stamp_ns) : stamp_ns;
    return false;
  }

  /// Whether an input with this stamp is too old to be used now; stamps from the future are never late.
  bool late(std::int64_t stamp_ns, std::int64_t now_ns) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (max_age_ns_ == 0 || now_ns - stamp_ns <= max_age_ns_) return false;
    ++counts_["late"];
    return true;
  }

  /// Forgets the newest stamp (ROS time itself jumped); counts stay.
  void reset() {
    const std::lock_guard<std::mutex> lock(mutex_);
    newest_ns_.reset();
  }

  /// How often, by cause: "time_jump_back", "late".
  [[nodiscard]] DropCounts counts() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return counts_;
  }

 private:
  const std::int64_t max_age_ns_;
  const std::int64_t tolerance_ns_;
  mutable std::mutex mutex_;
  std::optional<std::int64_t> newest_ns_;
  DropCounts counts_;
};

}  // namespace aot_perception
