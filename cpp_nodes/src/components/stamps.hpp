// SPDX-License-Identifier: Apache-2.0
// Message stamps as nanoseconds and back; as stamp_to_ns and ns_to_stamp of aot_runtime/ros/messages.py.
#pragma once

#include <builtin_interfaces/msg/time.hpp>
#include <chrono>
#include <cstdint>
#include <string>

#include "aot_perception/error.hpp"

namespace aot_perception {

constexpr std::int64_t kNsPerSecond = 1'000'000'000;

/// Nanoseconds since the epoch of a stamp. Error: nanosec is a second or more.
inline Result<std::int64_t> stamp_to_ns(const builtin_interfaces::msg::Time& stamp) {
  if (stamp.nanosec >= static_cast<std::uint32_t>(kNsPerSecond)) {
    return Error{"expected a stamp with nanosec below 1e9, found " + std::to_string(stamp.nanosec),
                 "repair the publisher"};
  }
  return stamp.sec * kNsPerSecond + static_cast<std::int64_t>(stamp.nanosec);
}

/// The stamp of a time since the epoch. Error: it does not fit (before 1970, or 2038 and later).
inline Result<builtin_interfaces::msg::Time> ns_to_stamp(std::int64_t ns) {
  if (ns < 0 || ns >= (std::int64_t{1} << 31) * kNsPerSecond) {
    return Error{"expected a time of 0 to 2^31 s since the epoch, found " + std::to_string(ns) + " ns",
                 "check the clocks"};
  }
  builtin_interfaces::msg::Time stamp;
  stamp.sec = static_cast<std::int32_t>(ns / kNsPerSecond);
  stamp.nanosec = static_cast<std::uint32_t>(ns % kNsPerSecond);
  return stamp;
}

/// The monotonic clock by which arrivals are timed.
inline std::int64_t steady_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace aot_perception
