// SPDX-License-Identifier: Apache-2.0
// See diagnostics_publisher.hpp.
#include "diagnostics_publisher.hpp"

#include <chrono>
#include <memory>
#include <utility>

namespace aot_perception {

diagnostic_msgs::msg::DiagnosticStatus to_status(const HealthReport& report, const std::string& name,
                                                 const std::string& hardware_id) {
  diagnostic_msgs::msg::DiagnosticStatus status;
  status.level = static_cast<unsigned char>(report.level);
  status.name = name;
  status.message = report.message;
  status.hardware_id = hardware_id;
  for (const auto& [key, value] : report.values) {
    diagnostic_msgs::msg::KeyValue pair;
    pair.key = key;
    pair.value = value;
    status.values.push_back(std::move(pair));
  }
  return status;
}

DiagnosticsPublisher::DiagnosticsPublisher(rclcpp_lifecycle::LifecycleNode& node, HealthMonitor& monitor,
                                           double period_s)
    : node_(node), monitor_(monitor) {
  // Not a lifecycle publisher: why a node is not active is what people look for here.
  publisher_ = rclcpp::create_publisher<diagnostic_msgs::msg::DiagnosticArray>(node, "/diagnostics", rclcpp::QoS(10));
  const auto period = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(period_s));
  timer_ = node.create_wall_timer(period, [this] {
    try {
      publish();
    } catch (const std::exception& error) {  // the context may have been shut down
      RCLCPP_DEBUG(node_.get_logger(), "no report on /diagnostics: %s", error.what());
    }
  });
}

void DiagnosticsPublisher::publish() {
  const HealthReport report = monitor_.report();
  auto array = std::make_unique<diagnostic_msgs::msg::DiagnosticArray>();
  array->header.stamp = node_.now();
  std::string name = node_.get_fully_qualified_name();
  name.erase(0, name.find_first_not_of('/'));
  array->status.push_back(to_status(report, name, hardware_id_));
  publisher_->publish(std::move(array));
}

}  // namespace aot_perception
