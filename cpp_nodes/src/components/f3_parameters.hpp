// SPDX-License-Identifier: Apache-2.0
// The parameters of F3Component; names, defaults, ranges and texts as f3_ros/parameters.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parameters.hpp"

namespace aot_perception {

/// All parameters of the component beside those that every component has.
const std::vector<Param>& f3_parameters();

/// Their values, named as in config/f3.yaml.
struct F3Settings {
  std::string artifact;
  std::string depth_artifact;  ///< empty: no depth
  std::string flow_artifact;   ///< empty: no flow
  int num_threads = 0;
  bool cuda_graph = true;
  std::string publish_features;
  bool heads_always = false;
  std::string output_resolution;
  std::string flow_mask;
  std::string camera_info_url;
  std::string window_mode;
  std::int64_t window_duration_us = 0;
  std::int64_t window_stride_us = 0;
  std::int64_t window_count = 0;
  std::int64_t window_max_events = 0;
  bool use_incomplete = true;
  std::string hot_pixel_mask;
  std::int64_t refractory_us = 0;
  std::int64_t noise_us = 0;
  std::size_t packet_queue = 1;
  std::size_t window_queue = 1;
  bool block = false;  ///< overload: block, else drop
  std::string frame_id;
  double stream_timeout = 0.0;
};

}  // namespace aot_perception
