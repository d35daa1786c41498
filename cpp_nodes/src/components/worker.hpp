// SPDX-License-Identifier: Apache-2.0
// One thread with a bounded queue in front of it: what keeps inference away from the executor.
// As aot_runtime/ros/worker.py.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace aot_perception {

/// How much was thrown away, by cause.
using DropCounts = std::map<std::string, std::uint64_t>;

/// What `Worker::submit` does when the queue is full.
enum class QueuePolicy { kDropOldest, kDropNewest, kBlock };

/// Runs `work(item)` in one thread, oldest item first.
///
/// The queue never holds more than `capacity` items; each item that is dropped is counted by cause. An exception that
/// leaves `work` is caught and handed to `on_error`; the thread lives on. All functions may be called from any thread,
/// except that `stop` must not be called from the worker's own.
template <class T>
class Worker {
 public:
  struct Options {
    std::string name;          ///< the stage that diagnostics name
    std::size_t capacity = 1;  ///< items that may wait, the one in work not counted; at least 1
    QueuePolicy policy = QueuePolicy::kDropOldest;
    /// Called in the worker's thread with what an exception of `work` says.
    std::function<void(const T& item, const std::string& what)> on_error = {};
    /// Called with a dropped item and the cause in the thread that caused the drop, without the lock held.
    std::function<void(const T& item, const std::string& cause)> on_drop = {};
  };

  Worker(Options options, std::function<void(T&)> work) : options_(std::move(options)), work_(std::move(work)) {
    if (options_.capacity < 1) options_.capacity = 1;
  }
  ~Worker() { stop(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Starts the thread; a worker that was stopped may be started again.
  void start() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (thread_.joinable()) return;
    stopping_ = false;
    ended_ = false;
    thread_ = std::thread([this] { run(); });
  }

  /// Puts an item into the queue; `policy` overrides the worker's. Returns whether the item was taken.
  bool submit(T item, std::optional<QueuePolicy> policy = std::nullopt) {
    std::optional<std::pair<T, std::string>> lost;
    bool taken = true;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      const QueuePolicy how = policy.value_or(options_.policy);
      if (how == QueuePolicy::kBlock) {
        changed_.wait(lock, [this] { return !running() || queue_.size() < options_.capacity; });
      }
      if (!running()) {
        lost.emplace(std::move(item), "stopped");
        taken = false;
      } else if (queue_.size() >= options_.capacity && how != QueuePolicy::kDropOldest) {
        lost.emplace(std::move(item), "queue_full");
        taken = false;
      } else {
        if (queue_.size() >= options_.capacity) {
          lost.emplace(std::move(queue_.front()), "queue_full");
          queue_.pop_front();
        }
        queue_.push_back(std::move(item));
      }
      if (lost) ++drops_[lost->second];
    }
    changed_.notify_all();
    if (lost && options_.on_drop) options_.on_drop(lost->first, lost->second);
    return taken;
  }

  /// Drops all waiting items (a time jump), counts them under `cause`, returns how many. `on_drop` hears of each.
  std::size_t clear(const std::string& cause) {
    std::deque<T> lost;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      lost.swap(queue_);
      if (!lost.empty()) drops_[cause] += lost.size();
    }
    changed_.notify_all();
    if (options_.on_drop) {
      for (const T& item : lost)
        options_.on_drop(item, cause);
    }
    return lost.size();
  }

  /// Nothing waits and nothing is in work.
  [[nodiscard]] bool idle() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return queue_.empty() && !busy_;
  }

  /// Waits until nothing waits and nothing is in work; false if that took longer.
  [[nodiscard]] bool wait_idle(std::chrono::milliseconds timeout) const {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return queue_.empty() && !busy_; });
  }

  /// Ends the thread after the item in work; waiting items are dropped and counted as "stopped".
  ///
  /// Where the item in work takes longer than `patience`, `on_slow` is called once, and waiting goes on: a thread
  /// cannot be abandoned while the model that it uses is freed.
  void stop(std::chrono::milliseconds patience = std::chrono::seconds(10), const std::function<void()>& on_slow = {}) {
    std::deque<T> lost;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (!thread_.joinable()) return;
      stopping_ = true;
      lost.swap(queue_);
      if (!lost.empty()) drops_["stopped"] += lost.size();
      changed_.notify_all();
      if (!changed_.wait_for(lock, patience, [this] { return ended_; }) && on_slow) {
        lock.unlock();
        on_slow();
      }
    }
    thread_.join();
    thread_ = std::thread();
  }

  [[nodiscard]] const std::string& name() const { return options_.name; }

  /// Items that were dropped so far, by cause.
  [[nodiscard]] DropCounts drops() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return drops_;
  }

  /// Items whose work ended with an exception.
  [[nodiscard]] std::uint64_t errors() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return errors_;
  }

 private:
  bool running() const { return thread_.joinable() && !stopping_; }

  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) break;
      T item = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
      changed_.notify_all();
      lock.unlock();
      const bool failed = !attempt(item);
      lock.lock();
      if (failed) ++errors_;
      busy_ = false;
      changed_.notify_all();
    }
    ended_ = true;
    changed_.notify_all();
  }

  bool attempt(T& item) {
    try {
      work_(item);
      return true;
    } catch (const std::exception& error) {
      report(item, error.what());
    } catch (...) {
      report(item, "an exception of unknown type");
    }
    return false;
  }

  void report(const T& item, const std::string& what) {
    if (!options_.on_error) return;
    try {
      options_.on_error(item, what);
    } catch (...) {  // reporting must not end the thread either
    }
  }

  Options options_;
  std::function<void(T&)> work_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::deque<T> queue_;
  DropCounts drops_;
  std::uint64_t errors_ = 0;
  bool busy_ = false;
  bool stopping_ = false;
  bool ended_ = true;
  std::thread thread_;
};

}  // namespace aot_perception
