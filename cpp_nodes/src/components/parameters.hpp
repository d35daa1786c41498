// SPDX-License-Identifier: Apache-2.0
// A node's parameters as one table: name, default, description, and what values are allowed.
// As aot_runtime/ros/parameters.py.
#pragma once

#include <optional>
#include <rcl_interfaces/msg/parameter_descriptor.hpp>
#include <rclcpp/parameter_value.hpp>
#include <string>
#include <utility>
#include <vector>

namespace aot_perception {

/// One parameter.
struct Param {
  std::string name;
  rclcpp::ParameterValue default_value;
  std::string text;
  std::optional<std::pair<double, double>> limits = std::nullopt;  ///< lowest and highest of a number
  std::vector<std::string> choices = {};                           ///< the words that are allowed
  bool read_only = false;
};

/// Declares itself: description, range in the type of the default, words.
rcl_interfaces::msg::ParameterDescriptor describe(const Param& param);

/// "a or b or c".
std::string any_of(const std::vector<std::string>& words);

}  // namespace aot_perception
