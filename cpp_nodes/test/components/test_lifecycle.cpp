// SPDX-License-Identifier: Apache-2.0
// The life cycle that every component has, with real rclcpp: autostart, failures that leave the node alive, exceptions,
// locked parameters, diagnostics in every state.
#include <gtest/gtest.h>

#include <diagnostic_msgs/msg/diagnostic_array.hpp>
#include <lifecycle_msgs/msg/state.hpp>
#include <rclcpp/executors/single_threaded_executor.hpp>
#include <std_msgs/msg/u_int64.hpp>
#include <stdexcept>

#include "lifecycle_model_node.hpp"
#include "message_making.hpp"

namespace aot_perception {
namespace {

using lifecycle_msgs::msg::State;
using std::chrono::milliseconds;

/// A node whose hooks do what a test tells them, and keep a log.
class Probe : public LifecycleModelNode {
 public:
  explicit Probe(const rclcpp::NodeOptions& options) : LifecycleModelNode("probe", {"receive", "publish"}, options) {
    declare({{"mode", rclcpp::ParameterValue("good"), "What configure does.", {}, {"good", "error", "throw"}},
             {"count", rclcpp::ParameterValue(std::int64_t{3}), "A number.", std::pair(0.0, 10.0)}});
  }
  ~Probe() override { release(); }

  std::vector<std::string> log;
  bool fail_activation = false;

 protected:
  Result<void> configure_family() override {
    log.emplace_back("configure");
    const std::string mode = text_value("mode");
    if (mode == "error") return Error{"expected A, found B", "do C"};
    if (mode == "throw") throw std::runtime_error("out of the blue");
    return check_choices({{"mode", rclcpp::ParameterValue("good"), "", {}, {"good", "error", "throw"}}});
  }
  Result<void> activate_family() override {
    log.emplace_back("activate");
    if (fail_activation) return Error{"expected a self-test that passes, found NaN", ""};
    return {};
  }
  void deactivate_family() override { log.emplace_back("deactivate"); }
  void cleanup_family() override { log.emplace_back("cleanup"); }
};

class Lifecycle : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF", 1);
    rclcpp::init(0, nullptr);
  }
  static void TearDownTestSuite() { rclcpp::shutdown(); }

  std::shared_ptr<Probe> make(std::vector<rclcpp::Parameter> parameters = {}, bool autostart = false) {
    parameters.emplace_back("autostart", autostart);
    parameters.emplace_back("diagnostics_period", 0.05);
    auto node = std::make_shared<Probe>(rclcpp::NodeOptions().parameter_overrides(parameters));
    executor_.add_node(node->get_node_base_interface());
    return node;
  }

  void spin_for(milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end)
      executor_.spin_once(milliseconds(5));
  }

  rclcpp::executors::SingleThreadedExecutor executor_;
};

TEST_F(Lifecycle, StartsByItself) {
  const auto node = make({}, true);
  spin_for(milliseconds(100));
  EXPECT_EQ(node->get_current_state().id(), State::PRIMARY_STATE_ACTIVE);
  EXPECT_EQ(node->log, (std::vector<std::string>{"configure", "activate"}));
}

TEST_F(Lifecycle, GoesThroughAllStatesAndBack) {
  const auto node = make();
  EXPECT_EQ(node->configure().id(), State::PRIMARY_STATE_INACTIVE);
  EXPECT_EQ(node->activate().id(), State::PRIMARY_STATE_ACTIVE);
  EXPECT_EQ(node->health().state(), "active");
  EXPECT_EQ(node->deactivate().id(), State::PRIMARY_STATE_INACTIVE);
  EXPECT_EQ(node->cleanup().id(), State::PRIMARY_STATE_UNCONFIGURED);
  EXPECT_EQ(node->shutdown().id(), State::PRIMARY_STATE_FINALIZED);
}

TEST_F(Lifecycle, AnErrorIsAFailureWithItsReasonAndIsUndone) {
  const auto node = make({{"mode", "error"}}, true);
  spin_for(milliseconds(100));
  EXPECT_EQ(node->get_current_state().id(), State::PRIMARY_STATE_UNCONFIGURED);
  EXPECT_EQ(node->log, (std::vector<std::string>{"configure", "cleanup"}));
  EXPECT_EQ(node->health().complaint("lifecycle").value_or(""), "cannot configure: expected A, found B; do C");
  // It can be mended and started.
  EXPECT_TRUE(node->set_parameter({"mode", "good"}).successful);
  EXPECT_EQ(node->configure().id(), State::PRIMARY_STATE_INACTIVE);
  EXPECT_FALSE(node->health().complaint("lifecycle"));
}

TEST_F(Lifecycle, AnExceptionIsAFailureToo) {
  const auto node = make({{"mode", "throw"}});
  EXPECT_EQ(node->configure().id(), State::PRIMARY_STATE_UNCONFIGURED);
  EXPECT_EQ(node->health().complaint("lifecycle").value_or(""), "cannot configure: unforeseen: out of the blue");
}

TEST_F(Lifecycle, AFailedActivationLeavesTheNodeInactive) {
  const auto node = make();
  node->fail_activation = true;
  node->configure();
  EXPECT_EQ(node->activate().id(), State::PRIMARY_STATE_INACTIVE);
  EXPECT_EQ(node->log.back(), "deactivate");
  node->fail_activation = false;
  EXPECT_EQ(node->activate().id(), State::PRIMARY_STATE_ACTIVE);
}

TEST_F(Lifecycle, RefusesParametersThatWouldHaveNoEffect) {
  const auto node = make();
  EXPECT_TRUE(node->set_parameter({"count", 4}).successful);
  EXPECT_FALSE(node->set_parameter({"count", 11}).successful);  // out of range
  node->configure();
  const auto result = node->set_parameter({"count", 5});
  EXPECT_FALSE(result.successful);
  EXPECT_EQ(result.reason, "count is read when the node is configured; it is inactive: clean it up");
  node->cleanup();
  EXPECT_TRUE(node->set_parameter({"count", 5}).successful);
}

TEST_F(Lifecycle, NamesAWordThatIsNoChoice) {
  const auto node = make({{"mode", "best"}});
  node->configure();
  EXPECT_EQ(node->health().complaint("lifecycle").value_or(""),
            "cannot configure: expected mode to be good or error or throw, found 'best'; correct the parameter");
}

TEST_F(Lifecycle, ReportsInEveryStateAlsoAfterAFailedAutostart) {
  const auto node = make({{"mode", "error"}}, true);
  diagnostic_msgs::msg::DiagnosticStatus last;
  const auto listener = std::make_shared<rclcpp::Node>("listener");
  const auto subscription = listener->create_subscription<diagnostic_msgs::msg::DiagnosticArray>(
      "/diagnostics", 10, [&last](const diagnostic_msgs::msg::DiagnosticArray& array) { last = array.status.front(); });
  executor_.add_node(listener);
  spin_for(milliseconds(500));
  EXPECT_EQ(last.name, "probe");
  EXPECT_EQ(last.level, diagnostic_msgs::msg::DiagnosticStatus::ERROR);
  EXPECT_EQ(last.message, "unconfigured: cannot configure: expected A, found B; do C");
  executor_.remove_node(listener);
}

TEST_F(Lifecycle, AnOutputReachesASubscriberOfTheProcessWithoutACopy) {
  using sensor_msgs::msg::Image;
  const auto options = rclcpp::NodeOptions().use_intra_process_comms(true);
  const auto node = std::make_shared<Probe>(rclcpp::NodeOptions(options).append_parameter_override("autostart", false));
  node->configure();
  node->activate();
  const auto output = node->make_output<Image>("~/image");
  output->on_activate();
  EXPECT_FALSE(wanted(output));
  const auto listener = std::make_shared<rclcpp::Node>("listener", options);
  Image::UniquePtr got;
  const auto subscription = listener->create_subscription<Image>(
      "/probe/image", 10, [&got](Image::UniquePtr message) { got = std::move(message); });
  executor_.add_node(node->get_node_base_interface());
  executor_.add_node(listener);
  spin_for(milliseconds(200));
  EXPECT_TRUE(wanted(output));
  const std::vector<float> values(16 * 8, 1.5F);
  auto sent = float_image(std_msgs::msg::Header(), 8, 16, 1, values.data());
  const auto* const memory = sent->data.data();
  output->publish(std::move(sent));
  spin_for(milliseconds(200));
  ASSERT_NE(got, nullptr);
  EXPECT_EQ(got->data.data(), memory);
  EXPECT_EQ(got->encoding, "32FC1");
  EXPECT_EQ(got->step, 64U);
  executor_.remove_node(listener);
}

TEST_F(Lifecycle, NoExceptionLeavesACallback) {
  const auto node = make();
  node->configure();
  node->activate();
  const auto callback = node->guarded<int>("receive", [](int) { throw std::runtime_error("bad input"); });
  callback(1);
  const auto callback_of_unknown = node->guarded<int>("receive", [](int) { throw 1; });
  callback_of_unknown(1);
  bool told = false;
  for (const auto& [key, value] : node->health().report().values) {
    told = told || (key == "last error receive" && value == "bad input");
  }
  EXPECT_TRUE(told);
}

}  // namespace
}  // namespace aot_perception
