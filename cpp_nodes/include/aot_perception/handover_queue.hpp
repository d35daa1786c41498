// SPDX-License-Identifier: Apache-2.0
// A bounded queue between two threads: the one that decodes must never wait for the one that infers.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace aot_perception {

/// Ring of at most `capacity` items. A push onto a full ring throws out the oldest item and counts it; the lock is held
/// for moving one item only.
template <class T>
class HandoverQueue {
 public:
  explicit HandoverQueue(std::size_t capacity) : ring_(capacity > 0 ? capacity : 1) {}

  /// Add an item; returns the one that had to leave for it, if any. After `close` nothing is taken: the item comes
  /// back.
  std::optional<T> push(T item) {
    std::optional<T> out;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (closed_) return std::optional<T>(std::move(item));
      if (size_ == ring_.size()) {
        out = std::move(ring_[first_]);
        ring_[first_].reset();
        first_ = (first_ + 1) % ring_.size();
        --size_;
        ++dropped_;
      }
      ring_[(first_ + size_) % ring_.size()] = std::move(item);
      ++size_;
    }
    ready_.notify_one();
    return out;  // destroyed by the caller, outside the lock
  }

  /// The oldest item; waits until there is one. None after `close` when the ring is empty.
  std::optional<T> pop() {
    std::unique_lock<std::mutex> lock(mutex_);
    ready_.wait(lock, [this] { return size_ > 0 || closed_; });
    return take();
  }

  /// As `pop`, but waits for at most this long.
  template <class Rep, class Period>
  std::optional<T> pop_for(std::chrono::duration<Rep, Period> wait) {
    std::unique_lock<std::mutex> lock(mutex_);
    ready_.wait_for(lock, wait, [this] { return size_ > 0 || closed_; });
    return take();
  }

  /// Throw out everything; returns how many items that were. They do not count as dropped.
  std::size_t clear() {
    std::vector<std::optional<T>> old;
    std::size_t n = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      n = size_;
      old.resize(ring_.size());
      old.swap(ring_);
      first_ = size_ = 0;
    }
    return n;
  }

  /// Wake everybody who waits: nothing more will come.
  void close() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    ready_.notify_all();
  }

  [[nodiscard]] std::size_t size() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return size_;
  }

  /// Items thrown out because the ring was full.
  [[nodiscard]] std::int64_t dropped() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return dropped_;
  }

 private:
  std::optional<T> take() {
    if (size_ == 0) return std::nullopt;
    std::optional<T> item = std::move(ring_[first_]);
    ring_[first_].reset();
    first_ = (first_ + 1) % ring_.size();
    --size_;
    return item;
  }

  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<std::optional<T>> ring_;
  std::size_t first_ = 0, size_ = 0;
  std::int64_t dropped_ = 0;
  bool closed_ = false;
};

}  // namespace aot_perception
