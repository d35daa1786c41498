// SPDX-License-Identifier: Apache-2.0
// The lifecycle node that every component derives from; as aot_runtime/ros/node.py and model_node.py.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <rclcpp_lifecycle/lifecycle_node.hpp>
#include <rclcpp_lifecycle/lifecycle_publisher.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/model.hpp"
#include "diagnostics_publisher.hpp"
#include "health_monitor.hpp"
#include "parameters.hpp"
#include "qos.hpp"

namespace aot_perception {

/// A publisher that sends only while the node is active.
template <class Message>
using Output = std::shared_ptr<rclcpp_lifecycle::LifecyclePublisher<Message>>;

/// Whether an output exists and somebody subscribes to it.
template <class Message>
bool wanted(const Output<Message>& output) {
  return output != nullptr && output->get_subscription_count() > 0;
}

/// A lifecycle node around one or more models.
///
/// A subclass declares its parameters in its constructor with `declare`, implements the four hooks, and calls
/// `release()` in its destructor. A hook's error becomes a FAILURE of the transition whose reason is logged, and what
/// the step had done is undone: a failed `configure_family` is followed by `cleanup_family`, a failed `activate_family`
/// by `deactivate_family`; these two must therefore cope with half-done work. An exception counts as an error.
///
/// Every node has the parameters `autostart`, `diagnostics_period` and `max_input_age`.
class LifecycleModelNode : public rclcpp_lifecycle::LifecycleNode {
 public:
  using CallbackReturn = rclcpp_lifecycle::node_interfaces::LifecycleNodeInterface::CallbackReturn;
  using State = rclcpp_lifecycle::State;

  /// `stages`: see HealthMonitor.
  LifecycleModelNode(const std::string& name, std::vector<std::string> stages, const rclcpp::NodeOptions& options);

  CallbackReturn on_configure(const State& state) override;
  CallbackReturn on_activate(const State& state) override;
  CallbackReturn on_deactivate(const State& state) override;
  CallbackReturn on_cleanup(const State& state) override;
  /// Deactivates and cleans up, whatever the state; shutting down always succeeds.
  CallbackReturn on_shutdown(const State& state) override;
  /// Back to unconfigured, so that the node can be configured again.
  CallbackReturn on_error(const State& state) override;

  HealthMonitor& health() { return health_; }

  /// Logs a warning at most once in five seconds for each key. From any thread.
  void warn_throttled(const std::string& key, const std::string& text);
  /// Counts a malformed input under `cause` and warns, throttled. From any thread.
  void reject(const std::string& cause, const Error& error);
  /// ROS time (simulated if `use_sim_time`), nanoseconds.
  std::int64_t now_ns() { return now().nanoseconds(); }

  /// Makes a lifecycle publisher on `topic` ("~/depth").
  template <class Message>
  Output<Message> make_output(const std::string& topic) {
    return create_publisher<Message>(topic, output_qos(), overridable_publisher());
  }

  /// A callback for the executor that lets no exception out: it is logged and counted under `stage`.
  template <class Argument>
  std::function<void(Argument)> guarded(const std::string& stage, std::function<void(Argument)> work) {
    return [this, stage, work = std::move(work)](Argument argument) {
      attempt(stage, [&] { work(std::move(argument)); });
    };
  }

 protected:
  /// Reads parameters, loads the artifact, makes publishers.
  virtual Result<void> configure_family() = 0;
  /// Self-test, warm up, start workers, subscribe.
  virtual Result<void> activate_family() = 0;
  /// Unsubscribe, stop workers. Also undoes a failed activation.
  virtual void deactivate_family() = 0;
  /// Release the model and the publishers. Also undoes a failed configuration.
  virtual void cleanup_family() = 0;

  /// Stops and frees everything; every subclass's destructor calls it first.
  void release() noexcept;

  /// Declares parameters that are read at configure time. While the node is configured a change is refused with a
  /// reason, since it would have no effect. Throws as rclcpp does if a value given from outside is of another type or
  /// out of range: a constructor has no other way, and the container reports it.
  void declare(const std::vector<Param>& table);
  /// Error: a word is none of the choices; the message names the parameter.
  Result<void> check_choices(const std::vector<Param>& table) const;

  std::string text_value(const std::string& name) const { return get_parameter(name).as_string(); }
  bool flag_value(const std::string& name) const { return get_parameter(name).as_bool(); }
  std::int64_t int_value(const std::string& name) const { return get_parameter(name).as_int(); }
  double number_value(const std::string& name) const { return get_parameter(name).as_double(); }
  /// A file: as written, with a leading "~/" replaced by the home folder.
  std::string path_value(const std::string& name) const;
  /// The artifact of the parameter 'artifact'. Error: it is empty; `command` makes one.
  Result<std::string> artifact_path(const std::string& command) const;
  /// How a model is loaded: from the parameters device and allow_list; the self-test waits for the activation.
  Result<LoadOptions> load_options() const;

  /// Says on the log what a model does.
  void introduce(const Model& model, const std::string& work);
  /// The same for a node with one model, which is then in every report too; undone by `forget_model`.
  void introduce_alone(const Model& model, const std::string& work);
  void forget_model();
  /// Warns now, and in every report until `forget_lasting`.
  void warn_lasting(const std::string& key, const std::string& text);
  void forget_lasting();
  void set_hardware_id(const std::string& id);

  /// Calls back, counts and warns when ROS time goes back or changes its source, until `unwatch_time`.
  void watch_time(std::function<void()> jumped);
  void unwatch_time() { jump_handler_.reset(); }

  /// Runs `work`; an exception is logged, counted and told as the stage's last error.
  void attempt(const std::string& stage, const std::function<void()>& work) noexcept;

 private:
  CallbackReturn step(const std::string& verb, const std::string& state_after,
                      const std::function<Result<void>()>& work, const std::function<void()>& undo,
                      const std::function<CallbackReturn()>& entities);
  void undo(const std::string& verb, const std::function<void()>& work) noexcept;
  void autostart();
  rcl_interfaces::msg::SetParametersResult refuse_locked(const std::vector<rclcpp::Parameter>& parameters) const;

  HealthMonitor health_;
  std::set<std::string> locked_;
  std::set<std::string> lasting_;
  std::mutex said_mutex_;
  std::map<std::string, std::int64_t> said_;
  std::unique_ptr<DiagnosticsPublisher> diagnostics_;
  rclcpp::node_interfaces::OnSetParametersCallbackHandle::SharedPtr parameter_guard_;
  rclcpp::TimerBase::SharedPtr autostart_timer_;
  rclcpp::JumpHandler::SharedPtr jump_handler_;
};

/// What diagnostics say about the artifact that a node runs; the keys begin with `prefix`.
Details artifact_identity(const Model& model, const std::string& prefix = "");

}  // namespace aot_perception
