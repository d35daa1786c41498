// SPDX-License-Identifier: Apache-2.0
// See run_node.hpp.
#include "run_node.hpp"

#include <ament_index_cpp/get_package_share_directory.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <rclcpp/executors/single_threaded_executor.hpp>
#include <rclcpp/utilities.hpp>

namespace aot_perception {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

/// The context stays valid until the node is destroyed, so that it can still say what it leaves undone; a second signal
/// ends the process at once.
void on_signal(int number) {
  stop_requested = true;
  std::signal(number, SIG_DFL);
}

/// Gives Fast DDS the large shared-memory segment, without which images of 1 MB and more are mostly lost between
/// processes, unless the user chose a profile or another middleware. As aot_runtime/ros/transport.py.
void use_shipped_profile() {
  constexpr const char* kVariables[] = {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"};
  for (const char* name : kVariables) {
    const char* given = std::getenv(name);
    if (given != nullptr && *given != '\0') return;
  }
  const char* middleware = std::getenv("RMW_IMPLEMENTATION");
  if (middleware != nullptr && *middleware != '\0' && std::strstr(middleware, "fastrtps") == nullptr) return;
  try {
    const auto profile = std::filesystem::path(ament_index_cpp::get_package_share_directory("aot_perception")) /
                         "config" / "fastdds_shm64.xml";
    if (!std::filesystem::exists(profile)) return;
    for (const char* name : kVariables)
      setenv(name, profile.c_str(), 0);
  } catch (const std::exception&) {  // the package's files are not there: Fast DDS keeps its defaults
  }
}

bool asks_for_help(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0 || std::strcmp(argv[i], "-h") == 0) return true;
  }
  return false;
}

}  // namespace

int run_node(int argc, char** argv, const std::string& usage,
             const std::function<RunningNode(const rclcpp::NodeOptions&)>& make) {
  if (asks_for_help(argc, argv)) {
    std::puts(usage.c_str());
    return 0;
  }
  int status = 0;
  try {
    use_shipped_profile();
    rclcpp::init(argc, argv, rclcpp::InitOptions(), rclcpp::SignalHandlerOptions::None);
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    RunningNode running = make(rclcpp::NodeOptions());
    rclcpp::executors::SingleThreadedExecutor executor;
    executor.add_node(running.base);
    while (rclcpp::ok() && !stop_requested)
      executor.spin_once(std::chrono::milliseconds(100));
    executor.remove_node(running.base);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s; give a double as 1.0, not 1, and keep to the documented range\n", error.what());
    status = 2;
  }
  try {
    rclcpp::shutdown();
  } catch (const std::exception&) {  // nothing is left to be done
  }
  return status;
}

}  // namespace aot_perception
