// SPDX-License-Identifier: Apache-2.0
#include "stage_latency.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "aot_perception/device_memory.hpp"

namespace aot_perception {
namespace {

using Grid = std::pair<int, int>;
using Call = std::function<Result<void>()>;

Grid grid_of(const Head& head) {
  return {head.info().width, head.info().height};
}

Result<std::map<Grid, Tensor>> resize_all(const Tensor& field, const std::vector<Head*>& heads) {
  std::map<Grid, Tensor> resized;
  for (const Head* head : heads) {
    const Grid size = grid_of(*head);
    if (resized.count(size) != 0) continue;
    Result<Tensor> image = resize_features(field, size.first, size.second);
    if (!image) return image.error();
    resized[size] = *std::move(image);
  }
  return resized;
}

/// F3, the resize for each size once, and the heads: what a node runs for one window.
Result<void> run_chain(F3Pipeline& f3, const Tensor& events, const std::vector<Head*>& heads) {
  Result<Tensor> field = f3.run(events);
  if (!field) return field.error();
  Result<std::map<Grid, Tensor>> resized = resize_all(*field, heads);
  if (!resized) return resized.error();
  for (Head* head : heads) {
    if (Result<Tensor> output = head->run((*resized)[grid_of(*head)]); !output) return output.error();
  }
  return {};
}

Result<void> dropped(const Result<Tensor>& result) {
  if (!result) return result.error();
  return {};
}

Result<StageTime> measure(const std::string& stage, const Call& call, const Device& device, long runs, long warmups) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> samples;
  for (long i = 0; i < warmups + runs; ++i) {
    if (Result<void> waited = synchronise(device); !waited) return waited.error();
    const auto start = Clock::now();
    if (Result<void> called = call(); !called) return called.error();
    if (Result<void> waited = synchronise(device); !waited) return waited.error();
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (i >= warmups) samples.push_back(ms);
  }
  std::sort(samples.begin(), samples.end());
  const auto rank = [&samples](double share) {  // the smallest sample with at least this share at or below it
    const auto place = static_cast<std::size_t>(std::ceil(share * static_cast<double>(samples.size())));
    return samples[std::max<std::size_t>(place, 1) - 1];
  };
  double sum = 0;
  for (const double sample : samples)
    sum += sample;
  return StageTime{stage,         sum / static_cast<double>(samples.size()), rank(0.5), rank(0.99), samples.front(),
                   samples.back()};
}

}  // namespace

Result<std::vector<StageTime>> measure_stages(PerceptionPipeline& pipeline, const F3Rows& rows, long runs,
                                              long warmup_runs) {
  F3Pipeline& f3 = pipeline.f3();
  Result<Tensor> events = f3.upload(rows);
  if (!events) return events.error();
  Result<Tensor> field = f3.run(*events);
  if (!field) return field.error();
  std::vector<Head*> heads;
  for (Head* head : {pipeline.depth(), pipeline.flow()}) {
    if (head != nullptr) heads.push_back(head);
  }
  Result<std::map<Grid, Tensor>> resized = resize_all(*field, heads);
  if (!resized) return resized.error();

  std::vector<std::pair<std::string, Call>> stages{{"event upload", [&] { return dropped(f3.upload(rows)); }},
                                                   {"F3", [&] { return dropped(f3.run(*events)); }}};
  if (!heads.empty()) {
    stages.emplace_back("resize", [&]() -> Result<void> {
      if (auto images = resize_all(*field, heads); !images) return images.error();
      return {};
    });
  }
  for (Head* head : heads) {
    stages.emplace_back(head->info().family,
                        [&resized, head] { return dropped(head->run((*resized)[grid_of(*head)])); });
  }
  for (Head* head : heads) {
    stages.emplace_back("F3 + " + head->info().family, [&, head] { return run_chain(f3, *events, {head}); });
  }
  if (heads.size() > 1) stages.emplace_back("all", [&] { return run_chain(f3, *events, heads); });

  std::vector<StageTime> times;
  for (const auto& [name, call] : stages) {
    Result<StageTime> time = measure(name, call, f3.model().device(), runs, warmup_runs);
    if (!time) return time.error();
    times.push_back(*std::move(time));
  }
  return times;
}

}  // namespace aot_perception
