// SPDX-License-Identifier: Apache-2.0
// See health_monitor.hpp.
#include "health_monitor.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <numeric>

namespace aot_perception {
namespace {

constexpr std::size_t kLatencies = 1000;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void keep_latest(std::deque<double>& values, double value) {
  values.push_back(value);
  if (values.size() > kLatencies) values.pop_front();
}

std::int64_t total(const DropCounts& drops) {
  return std::accumulate(drops.begin(), drops.end(), std::int64_t{0},
                         [](std::int64_t sum, const auto& one) { return sum + static_cast<std::int64_t>(one.second); });
}

}  // namespace

FiniteCount count_finite(const float* values, std::size_t count) {
  // Looks at each element only if the sum says that one is not finite.
  double sum = 0.0;
  for (std::size_t i = 0; i < count; ++i)
    sum += static_cast<double>(values[i]);
  if (std::isfinite(sum)) return {count, count};
  return {static_cast<std::uint64_t>(std::count_if(values, values + count, [](float v) { return std::isfinite(v); })),
          count};
}

std::uint64_t resident_memory_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  if (!(statm >> size >> resident)) return 0;
  return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

std::string formatted(const char* format, double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

double percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const double place = percent / 100.0 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - static_cast<double>(below));
}

HealthMonitor::HealthMonitor(std::vector<std::string> stages, Clock clock)
    : stages_(std::move(stages)), clock_(clock ? std::move(clock) : steady_seconds) {
  restart();
}

void HealthMonitor::set_state(const std::string& state) {
  const std::lock_guard<std::mutex> lock(mutex_);
  state_ = state;
}

std::string HealthMonitor::state() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

void HealthMonitor::set_stall_after(double seconds) {
  const std::lock_guard<std::mutex> lock(mutex_);
  stall_s_ = seconds;
}

void HealthMonitor::set_identity(Details identity) {
  const std::lock_guard<std::mutex> lock(mutex_);
  identity_ = std::move(identity);
}

void HealthMonitor::complain(const std::string& key, const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [known, told] : complaints_) {
    if (known == key) {
      told = text;
      return;
    }
  }
  complaints_.emplace_back(key, text);
}

void HealthMonitor::take_back(const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  complaints_.erase(std::remove_if(complaints_.begin(), complaints_.end(),
                                   [&key](const auto& complaint) { return complaint.first == key; }),
                    complaints_.end());
}

std::optional<std::string> HealthMonitor::complaint(const std::string& key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [known, text] : complaints_) {
    if (known == key) return text;
  }
  return std::nullopt;
}

void HealthMonitor::restart() {
  const std::lock_guard<std::mutex> lock(mutex_);
  started_ = reported_at_ = clock_();
  counts_.clear();
  last_.clear();
  first_unanswered_.reset();
  inputs_reported_ = outputs_reported_ = 0;
  drops_reported_ = 0;
  failures_.clear();
  age_s_.reset();
  from_stamp_.clear();
  from_receive_.clear();
  finite_ = {};
}

void HealthMonitor::received(std::optional<double> age_s) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const double now = clock_();
  count_stage(stages_.front(), now);
  if (!first_unanswered_) first_unanswered_ = now;
  if (age_s) age_s_ = age_s;
}

void HealthMonitor::passed(const std::string& stage) {
  const std::lock_guard<std::mutex> lock(mutex_);
  count_stage(stage, clock_());
}

void HealthMonitor::published(double latency_from_stamp_s, double latency_from_receive_s, FiniteCount finite) {
  const std::lock_guard<std::mutex> lock(mutex_);
  count_stage(stages_.back(), clock_());
  first_unanswered_.reset();
  keep_latest(from_stamp_, latency_from_stamp_s);
  keep_latest(from_receive_, latency_from_receive_s);
  finite_.finite += finite.finite;
  finite_.total += finite.total;
}

void HealthMonitor::dropped(const std::string& cause, std::uint64_t n) {
  const std::lock_guard<std::mutex> lock(mutex_);
  drops_[cause] += n;
}

void HealthMonitor::failed(const std::string& stage, const std::string& reason) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [known, failure] : failures_) {
    if (known == stage) {
      failure.reason = reason;
      ++failure.count;
      return;
    }
  }
  failures_.emplace_back(stage, Failure{reason, 1});
}

int HealthMonitor::count_drops_of(DropSource source) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sources_[next_source_] = std::move(source);
  return next_source_++;
}

void HealthMonitor::remove_drops_of(int number) {
  DropSource source;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = sources_.find(number);
    if (found == sources_.end()) return;
    source = std::move(found->second);
    sources_.erase(found);
  }
  for (const auto& [cause, n] : source())
    dropped(cause, n);
}

void HealthMonitor::add_details(DetailSource source) {
  const std::lock_guard<std::mutex> lock(mutex_);
  details_.push_back(std::move(source));
}

void HealthMonitor::forget_sources() {
  DropCounts totals = drops();
  const std::lock_guard<std::mutex> lock(mutex_);
  drops_ = std::move(totals);
  sources_.clear();
  details_.clear();
}

DropCounts HealthMonitor::drops() const {
  DropCounts sum;
  std::map<int, DropSource> sources;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    sum = drops_;
    sources = sources_;
  }
  // Without the lock: a source takes locks of its own.
  for (const auto& [number, source] : sources) {
    for (const auto& [cause, n] : source())
      sum[cause] += n;
  }
  for (auto one = sum.begin(); one != sum.end();)
    one = one->second == 0 ? sum.erase(one) : std::next(one);
  return sum;
}

std::uint64_t HealthMonitor::count(const std::string& stage) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = counts_.find(stage);
  return found == counts_.end() ? 0 : found->second;
}

void HealthMonitor::count_stage(const std::string& stage, double now) {
  ++counts_[stage];
  last_[stage] = now;
}

std::string HealthMonitor::stuck_stage(double now) const {
  for (std::size_t i = 1; i < stages_.size(); ++i) {
    const auto found = last_.find(stages_[i]);
    if (found == last_.end() || now - found->second > stall_s_) return stages_[i];
  }
  return stages_.back();
}

HealthReport HealthMonitor::report() {
  const DropCounts now_dropped = drops();
  HealthReport report;
  std::vector<DetailSource> details;
  Details identity;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    report.values = judge(clock_(), now_dropped, report);
    details = details_;
    identity = identity_;
  }
  for (const auto& source : details) {
    for (auto& value : source())
      report.values.push_back(std::move(value));
  }
  for (const auto& [cause, n] : now_dropped)
    report.values.emplace_back("dropped " + cause, std::to_string(n));
  for (auto& value : identity)
    report.values.push_back(std::move(value));
  const double mebibytes = static_cast<double>(resident_memory_bytes()) / (1 << 20);
  report.values.emplace_back("resident memory [MiB]", formatted("%.0f", mebibytes));
  return report;
}

Details HealthMonitor::judge(double now, const DropCounts& drops, HealthReport& report) {
  const std::uint64_t inputs = counts_[stages_.front()];
  const std::uint64_t outputs = counts_[stages_.back()];
  const double span = std::max(now - reported_at_, 1e-9);
  Details values;
  if (!state_.empty()) values.emplace_back("state", state_);
  values.emplace_back("input rate [Hz]", formatted("%.2f", static_cast<double>(inputs - inputs_reported_) / span));
  values.emplace_back("output rate [Hz]", formatted("%.2f", static_cast<double>(outputs - outputs_reported_) / span));
  reported_at_ = now;
  inputs_reported_ = inputs;
  outputs_reported_ = outputs;
  const std::int64_t dropped = total(drops);
  const std::int64_t new_drops = dropped - drops_reported_;
  drops_reported_ = dropped;

  for (const auto& stage : stages_)
    values.emplace_back("count " + stage, std::to_string(counts_[stage]));
  if (age_s_) values.emplace_back("input age [ms]", formatted("%.2f", *age_s_ * 1e3));
  for (const auto& [name, latencies] : {std::pair("stamp", &from_stamp_), std::pair("receive", &from_receive_)}) {
    if (latencies->empty()) continue;
    const std::vector<double> seconds(latencies->begin(), latencies->end());
    const std::string key = std::string("latency from ") + name;
    values.emplace_back(key + " p50 [ms]", formatted("%.2f", percentile(seconds, 50) * 1e3));
    values.emplace_back(key + " p99 [ms]", formatted("%.2f", percentile(seconds, 99) * 1e3));
  }
  if (finite_.total > 0) {
    const double share = 100.0 * static_cast<double>(finite_.finite) / static_cast<double>(finite_.total);
    values.emplace_back("finite outputs [%]", formatted("%.4g", share));
  }
  for (const auto& [stage, failure] : failures_) {
    values.emplace_back("last error " + stage, failure.reason);
    values.emplace_back("errors " + stage, std::to_string(failure.count));
  }
  judge_level(now, new_drops, report);
  return values;
}

void HealthMonitor::judge_level(double now, std::int64_t new_drops, HealthReport& report) const {
  const auto say = [&report](HealthLevel level, std::string message) {
    report.level = level;
    report.message = std::move(message);
  };
  if (!state_.empty() && state_ != "active") {
    for (const auto& [key, text] : complaints_) {
      if (key == "lifecycle") return say(HealthLevel::kError, state_ + ": " + text);
    }
    return say(HealthLevel::kWarn, "the node is " + state_);
  }
  const auto input = last_.find(stages_.front());
  if (input == last_.end()) {
    return say(HealthLevel::kWarn, "no input yet, " + formatted("%.0f", now - started_) +
                                       " s after activation; check the topic name and its QoS");
  }
  const double since_input = now - input->second;
  if (first_unanswered_ && now - *first_unanswered_ > stall_s_ && since_input <= stall_s_) {
    const std::string stage = stuck_stage(now);
    std::string text = "input arrives but nothing is published: stuck at " + stage;
    for (const auto& [known, failure] : failures_) {
      if (known == stage) text += " (" + failure.reason + ")";
    }
    return say(HealthLevel::kError, std::move(text));
  }
  if (since_input > stall_s_) {
    return say(HealthLevel::kStale, "no input for " + formatted("%.1f", since_input) + " s");
  }
  std::string text;
  for (const auto& [key, complaint] : complaints_)
    text += (text.empty() ? "" : "; ") + complaint;
  if (new_drops > 0) {
    text += (text.empty() ? "" : "; ") + std::to_string(new_drops) + " dropped since the last report";
  }
  if (text.empty()) return say(HealthLevel::kOk, "running");
  say(HealthLevel::kWarn, std::move(text));
}

}  // namespace aot_perception
