// SPDX-License-Identifier: Apache-2.0
// When a packet is done: at once, or when the last of the windows that are in work is. No ROS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>

namespace aot_perception {

/// Tells `publish` the number of the newest packet of which, and of all before it, everything is done.
class Acknowledger {
 public:
  explicit Acknowledger(std::function<void(std::uint64_t)> publish) : publish_(std::move(publish)) {}

  /// Windows that a packet closed are now in work.
  void begin(std::size_t windows) {
    const std::lock_guard<std::mutex> lock(mutex_);
    outstanding_ += windows;
  }

  /// A packet was decoded; its windows had begun.
  void packet(std::uint64_t seq) {
    const std::lock_guard<std::mutex> lock(mutex_);
    newest_ = seq;
    tell_if_done();
  }

  /// A window was published, failed or was dropped.
  void window_done() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (outstanding_ > 0) --outstanding_;
    tell_if_done();
  }

 private:
  void tell_if_done() {
    if (outstanding_ > 0 || !newest_) return;
    publish_(*newest_);
    newest_.reset();
  }

  std::function<void(std::uint64_t)> publish_;
  std::mutex mutex_;
  std::size_t outstanding_ = 0;
  std::optional<std::uint64_t> newest_;
};

}  // namespace aot_perception
