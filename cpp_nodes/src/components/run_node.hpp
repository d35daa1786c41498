// SPDX-License-Identifier: Apache-2.0
// Spins one component alone until SIGINT, SIGTERM or a shutdown from outside: the `main` of every executable.
#pragma once

#include <functional>
#include <memory>
#include <rclcpp/node_interfaces/node_base_interface.hpp>
#include <rclcpp/node_options.hpp>
#include <string>

namespace aot_perception {

/// A component, kept alive by its pointer, and its base interface.
struct RunningNode {
  std::shared_ptr<void> node;
  rclcpp::node_interfaces::NodeBaseInterface::SharedPtr base;
};

/// `make` is called after rclcpp is initialised; `usage` is printed for --help.
///
/// Returns the process's exit status: 0, or 2 if the node could not be made.
int run_node(int argc, char** argv, const std::string& usage,
             const std::function<RunningNode(const rclcpp::NodeOptions&)>& make);

/// As above for a component class.
template <class Component>
int run_component(int argc, char** argv, const std::string& usage) {
  return run_node(argc, argv, usage, [](const rclcpp::NodeOptions& options) {
    auto node = std::make_shared<Component>(options);
    return RunningNode{node, node->get_node_base_interface()};
  });
}

}  // namespace aot_perception
