// SPDX-License-Identifier: Apache-2.0
// Puts a HealthMonitor's report on /diagnostics once a period; as DiagnosticsPublisher of aot_runtime/ros.
#pragma once

#include <diagnostic_msgs/msg/diagnostic_array.hpp>
#include <rclcpp_lifecycle/lifecycle_node.hpp>
#include <string>

#include "health_monitor.hpp"

namespace aot_perception {

/// The report as one status.
diagnostic_msgs::msg::DiagnosticStatus to_status(const HealthReport& report, const std::string& name,
                                                 const std::string& hardware_id);

/// Reports in every state of the node, whose name becomes the status's; by wall time, also while simulated time stands
/// still.
class DiagnosticsPublisher {
 public:
  DiagnosticsPublisher(rclcpp_lifecycle::LifecycleNode& node, HealthMonitor& monitor, double period_s);

  /// For example the device that the model runs on.
  void set_hardware_id(const std::string& id) { hardware_id_ = id; }

  /// Publishes one report now.
  void publish();

 private:
  rclcpp_lifecycle::LifecycleNode& node_;
  HealthMonitor& monitor_;
  std::string hardware_id_;
  rclcpp::Publisher<diagnostic_msgs::msg::DiagnosticArray>::SharedPtr publisher_;
  rclcpp::TimerBase::SharedPtr timer_;
};

}  // namespace aot_perception
