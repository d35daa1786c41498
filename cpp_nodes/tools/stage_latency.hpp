// SPDX-License-Identifier: Apache-2.0
// What each step from events to depth and flow costs: upload, F3, resize, the heads, and their sums as they run. As
// f3_ros/stage_latency.py.
#pragma once

#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/perception.hpp"

namespace aot_perception {

/// Wall-clock milliseconds per call, the device finished, after warm-up.
struct StageTime {
  std::string stage;
  double mean_ms = 0, p50_ms = 0, p99_ms = 0, min_ms = 0, max_ms = 0;
};

/// Times of every stage that the pipeline has, on the rows of one window. But for the upload, inputs lie on the device
/// already, as in the official script.
/// Error: a model failed.
Result<std::vector<StageTime>> measure_stages(PerceptionPipeline& pipeline, const F3Rows& rows, long runs,
                                              long warmup_runs);

}  // namespace aot_perception
