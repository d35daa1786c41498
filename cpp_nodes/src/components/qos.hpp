// SPDX-License-Identifier: Apache-2.0
// The quality-of-service profiles that all components share; as aot_runtime/ros/qos.py.
//
// Subscriptions and publishers are made so that a parameter file can change history, depth and reliability per topic:
// `qos_overrides./f3/events.subscription.depth: 200`.
#pragma once

#include <rclcpp/publisher_options.hpp>
#include <rclcpp/qos.hpp>
#include <rclcpp/qos_overriding_options.hpp>
#include <rclcpp/subscription_options.hpp>

namespace aot_perception {

/// Event packets, as drivers publish them; the sensor-data preset (depth 5) holds only 5 ms at 1 kHz.
inline rclcpp::QoS events_qos() {
  return rclcpp::QoS(rclcpp::KeepLast(1000)).best_effort();
}

/// Camera images: best effort as drivers publish; shallow, since only the newest image is of use.
inline rclcpp::QoS image_input_qos() {
  return rclcpp::QoS(rclcpp::KeepLast(2)).best_effort();
}

/// Results: reliable, so that both reliable and best-effort subscribers match.
inline rclcpp::QoS output_qos() {
  return rclcpp::QoS(rclcpp::KeepLast(5)).reliable();
}

/// What is published once and kept for those who subscribe later.
inline rclcpp::QoS latched_qos() {
  return rclcpp::QoS(rclcpp::KeepLast(1)).reliable().transient_local();
}

inline rclcpp::SubscriptionOptions overridable_subscription() {
  rclcpp::SubscriptionOptions options;
  options.qos_overriding_options = rclcpp::QosOverridingOptions::with_default_policies();
  return options;
}

inline rclcpp::PublisherOptions overridable_publisher() {
  rclcpp::PublisherOptions options;
  options.qos_overriding_options = rclcpp::QosOverridingOptions::with_default_policies();
  return options;
}

/// Of a second, latched subscription: that other publishers do not latch is no mistake there. It cannot be
/// intra-process, where nothing is kept for late subscribers.
inline rclcpp::SubscriptionOptions latched_subscription() {
  rclcpp::SubscriptionOptions options;
  options.use_default_callbacks = false;
  options.use_intra_process_comm = rclcpp::IntraProcessSetting::Disable;
  return options;
}

}  // namespace aot_perception
