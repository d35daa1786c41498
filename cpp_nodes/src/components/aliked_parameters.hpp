// SPDX-License-Identifier: Apache-2.0
// The parameters of AlikedComponent; names, defaults, ranges and texts as aliked_ros/parameters.py.
#pragma once

#include <vector>

#include "parameters.hpp"

namespace aot_perception {

/// All parameters of the component beside those that every component has.
const std::vector<Param>& aliked_parameters();

}  // namespace aot_perception
