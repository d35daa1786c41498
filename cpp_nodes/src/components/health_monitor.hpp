// SPDX-License-Identifier: Apache-2.0
// What a node tells about its health: counts what goes in, through and out, and judges it. No ROS.
// As aot_runtime/ros/diagnostics.py, with the same keys, messages and levels.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker.hpp"

namespace aot_perception {

/// The levels of diagnostic_msgs/DiagnosticStatus.
enum class HealthLevel : std::uint8_t { kOk = 0, kWarn = 1, kError = 2, kStale = 3 };

/// Keys and values in the order in which they are shown.
using Details = std::vector<std::pair<std::string, std::string>>;

/// Finite elements of an output, and all of them.
struct FiniteCount {
  std::uint64_t finite = 0;
  std::uint64_t total = 0;
};

/// One judgement: the level, one sentence, and values by name.
struct HealthReport {
  HealthLevel level = HealthLevel::kOk;
  std::string message;
  Details values;
};

/// Counts the finite elements of an array.
FiniteCount count_finite(const float* values, std::size_t count);

/// The process's resident memory, bytes; 0 where the kernel does not tell.
std::uint64_t resident_memory_bytes();

/// A number as printf's `format` writes it.
std::string formatted(const char* format, double value);

/// The percentile (0 .. 100) of values, linear between neighbours; 0 of none.
double percentile(std::vector<double> values, double percent);

/// Counts what passes a node's stages and judges it. May be fed from any thread.
class HealthMonitor {
 public:
  using DropSource = std::function<DropCounts()>;
  using DetailSource = std::function<Details()>;
  using Clock = std::function<double()>;  ///< seconds, monotonic

  /// `stages`: the steps that an input passes, in order; the first is counted by `received`, the last by `published`.
  explicit HealthMonitor(std::vector<std::string> stages, Clock clock = {});

  // What the node sets.
  void set_state(const std::string& state);
  [[nodiscard]] std::string state() const;
  /// For how long inputs may arrive without an output before that is an error, seconds.
  void set_stall_after(double seconds);
  /// What is said about the artifacts in every report.
  void set_identity(Details identity);
  /// A complaint that is shown until `take_back`.
  void complain(const std::string& key, const std::string& text);
  void take_back(const std::string& key);
  [[nodiscard]] std::optional<std::string> complaint(const std::string& key) const;

  /// Starts the observation anew (an activation): stages count from now, totals of drops stay.
  void restart();

  // What happens to inputs.
  void received(std::optional<double> age_s = std::nullopt);
  void passed(const std::string& stage);
  void published(double latency_from_stamp_s, double latency_from_receive_s, FiniteCount finite);
  void dropped(const std::string& cause, std::uint64_t n = 1);
  void failed(const std::string& stage, const std::string& reason);

  /// Adds a part that counts drops itself; returns a number for `remove_drops_of`.
  int count_drops_of(DropSource source);
  /// Removes such a part; what it counted stays counted.
  void remove_drops_of(int number);
  /// Adds values to every report.
  void add_details(DetailSource source);
  /// Removes all parts and details; the drops so far stay counted.
  void forget_sources();

  [[nodiscard]] DropCounts drops() const;
  [[nodiscard]] std::uint64_t count(const std::string& stage) const;
  [[nodiscard]] const std::vector<std::string>& stages() const { return stages_; }

  /// Judges the time since the last report.
  HealthReport report();

 private:
  struct Failure {
    std::string reason;
    std::uint64_t count = 0;
  };

  void count_stage(const std::string& stage, double now);
  Details judge(double now, const DropCounts& drops, HealthReport& report);
  void judge_level(double now, std::int64_t new_drops, HealthReport& report) const;
  std::string stuck_stage(double now) const;

  const std::vector<std::string> stages_;
  const Clock clock_;
  mutable std::mutex mutex_;
  std::string state_;
  double stall_s_ = 3.0;
  Details identity_;
  Details complaints_;
  DropCounts drops_;
  std::map<int, DropSource> sources_;
  int next_source_ = 0;
  std::vector<DetailSource> details_;

  double started_ = 0.0;
  std::map<std::string, std::uint64_t> counts_;
  std::map<std::string, double> last_;
  std::optional<double> first_unanswered_;
  double reported_at_ = 0.0;
  std::uint64_t inputs_reported_ = 0;
  std::uint64_t outputs_reported_ = 0;
  std::int64_t drops_reported_ = 0;
  std::vector<std::pair<std::string, Failure>> failures_;
  std::optional<double> age_s_;
  std::deque<double> from_stamp_;
  std::deque<double> from_receive_;
  FiniteCount finite_;
};

}  // namespace aot_perception
