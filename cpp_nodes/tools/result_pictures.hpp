// SPDX-License-Identifier: Apache-2.0
// The five pictures of the official script, of one window.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/event_window.hpp"
#include "aot_perception/perception.hpp"

namespace aot_perception {

/// Writes events_plot, f3_feat_pca, depth_colored (grey despite the name), flow_viz and flow_viz_overlay as PNG, as far
/// as there are results; returns the names of those written. Without OpenCV there are none.
/// Error: the folder cannot be written to.
Result<std::vector<std::string>> write_pictures(const std::filesystem::path& folder, const PerceptionPipeline& pipeline,
                                                const EventWindow& window, int sensor_width, int sensor_height,
                                                const PerceptionResult& result);

}  // namespace aot_perception
