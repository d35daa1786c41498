// SPDX-License-Identifier: Apache-2.0
// The parameters of DepthComponent; names, defaults, ranges and texts as depth_ros/parameters.py.
#pragma once

#include <vector>

#include "parameters.hpp"

namespace aot_perception {

/// All parameters of the component beside those that every component has.
const std::vector<Param>& depth_parameters();

}  // namespace aot_perception
