// SPDX-License-Identifier: Apache-2.0
// See parameters.hpp.
#include "parameters.hpp"

namespace aot_perception {

rcl_interfaces::msg::ParameterDescriptor describe(const Param& param) {
  rcl_interfaces::msg::ParameterDescriptor descriptor;
  descriptor.description = param.text;
  descriptor.read_only = param.read_only;
  descriptor.additional_constraints = any_of(param.choices);
  if (!param.limits) return descriptor;
  if (param.default_value.get_type() == rclcpp::ParameterType::PARAMETER_INTEGER) {
    rcl_interfaces::msg::IntegerRange range;
    range.from_value = static_cast<std::int64_t>(param.limits->first);
    range.to_value = static_cast<std::int64_t>(param.limits->second);
    descriptor.integer_range.push_back(range);
  } else {
    rcl_interfaces::msg::FloatingPointRange range;
    range.from_value = param.limits->first;
    range.to_value = param.limits->second;
    descriptor.floating_point_range.push_back(range);
  }
  return descriptor;
}

std::string any_of(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words)
    text += (text.empty() ? "" : " or ") + word;
  return text;
}

}  // namespace aot_perception
