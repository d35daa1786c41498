// SPDX-License-Identifier: Apache-2.0
// See lifecycle_model_node.hpp.
#include "lifecycle_model_node.hpp"

#include <algorithm>
#include <cstdlib>
#include <lifecycle_msgs/msg/state.hpp>

#include "aot_perception/files.hpp"
#include "stamps.hpp"

namespace aot_perception {
namespace {

constexpr std::int64_t kSayAgainAfterNs = 5 * kNsPerSecond;

rclcpp::NodeOptions with_clock_in_executor(const rclcpp::NodeOptions& options) {
  // Time jumps are then told in the executor's thread, between two callbacks, as everything else that changes the node.
  return rclcpp::NodeOptions(options).use_clock_thread(false);
}

}  // namespace

LifecycleModelNode::LifecycleModelNode(const std::string& name, std::vector<std::string> stages,
                                       const rclcpp::NodeOptions& options)
    : LifecycleNode(name, with_clock_in_executor(options)), health_(std::move(stages)) {
  health_.set_state("unconfigured");
  const std::vector<Param> common = {
      {"autostart",
       rclcpp::ParameterValue(true),
       "Configure and activate by itself once the node spins.",
       {},
       {},
       true},
      {"diagnostics_period",
       rclcpp::ParameterValue(1.0),
       "Seconds between reports on /diagnostics; 0 switches them off.",
       std::pair(0.0, 3600.0),
       {},
       true},
      {"max_input_age", rclcpp::ParameterValue(0.0),
       "Inputs whose stamp is older than this [s] when they arrive are dropped and counted; 0: no limit.",
       std::pair(0.0, 3600.0)},
  };
  declare(common);
  parameter_guard_ = add_on_set_parameters_callback(
      [this](const std::vector<rclcpp::Parameter>& parameters) { return refuse_locked(parameters); });
  const double period_s = number_value("diagnostics_period");
  if (period_s > 0.0) diagnostics_ = std::make_unique<DiagnosticsPublisher>(*this, health_, period_s);
  if (flag_value("autostart")) {
    // The subclass's constructor still has to run, so the transitions wait for the first spin.
    autostart_timer_ =
        create_wall_timer(std::chrono::milliseconds(1), [this] { attempt("start", [this] { autostart(); }); });
  }
}

// -- parameters -------------------------------------------------------------------------------------------------------

void LifecycleModelNode::declare(const std::vector<Param>& table) {
  for (const Param& param : table) {
    locked_.insert(param.name);
    declare_parameter(param.name, param.default_value, describe(param));
  }
}

Result<void> LifecycleModelNode::check_choices(const std::vector<Param>& table) const {
  for (const Param& param : table) {
    if (param.choices.empty()) continue;
    const std::string word = text_value(param.name);
    if (std::find(param.choices.begin(), param.choices.end(), word) == param.choices.end()) {
      return Error{"expected " + param.name + " to be " + any_of(param.choices) + ", found '" + word + "'",
                   "correct the parameter"};
    }
  }
  return {};
}

std::string LifecycleModelNode::path_value(const std::string& name) const {
  const std::string path = text_value(name);
  const char* home = std::getenv("HOME");
  return home != nullptr && path.rfind("~/", 0) == 0 ? home + path.substr(1) : path;
}

Result<std::string> LifecycleModelNode::artifact_path(const std::string& command) const {
  std::string path = path_value("artifact");
  if (path.empty()) {
    return Error{"expected an artifact, found the parameter 'artifact' empty",
                 "set it with: --ros-args -p artifact:=MODEL.pt2 (made by " + command + ")"};
  }
  return path;
}

Result<LoadOptions> LifecycleModelNode::load_options() const {
  LoadOptions options;
  const Result<Device> device = Device::parse(text_value("device"));
  if (!device) return device.error();
  options.device = *device;
  options.self_test = false;
  const std::string list = path_value("allow_list");
  if (!list.empty()) {
    const Result<AllowList> allowed = AllowList::read(list);
    if (!allowed) return allowed.error();
    options.allow_list = *allowed;
  }
  return options;
}

rcl_interfaces::msg::SetParametersResult LifecycleModelNode::refuse_locked(
    const std::vector<rclcpp::Parameter>& parameters) const {
  rcl_interfaces::msg::SetParametersResult result;
  result.successful = true;
  const std::string state = health_.state();
  for (const auto& parameter : parameters) {
    if (locked_.count(parameter.get_name()) > 0 && state != "unconfigured") {
      result.successful = false;
      result.reason = parameter.get_name() + " is read when the node is configured; it is " + state + ": clean it up";
    }
  }
  return result;
}

// -- lifecycle --------------------------------------------------------------------------------------------------------

LifecycleModelNode::CallbackReturn LifecycleModelNode::on_configure(const State& state) {
  return step(
      "configure", "inactive", [this] { return configure_family(); }, [this] { cleanup_family(); },
      [&] { return LifecycleNode::on_configure(state); });
}

LifecycleModelNode::CallbackReturn LifecycleModelNode::on_activate(const State& state) {
  return step(
      "activate", "active",
      [this] {
        health_.restart();
        return activate_family();
      },
      [this] { deactivate_family(); }, [&] { return LifecycleNode::on_activate(state); });
}

LifecycleModelNode::CallbackReturn LifecycleModelNode::on_deactivate(const State& state) {
  return step(
      "deactivate", "inactive",
      [this] {
        deactivate_family();
        return Result<void>();
      },
      {}, [&] { return LifecycleNode::on_deactivate(state); });
}

LifecycleModelNode::CallbackReturn LifecycleModelNode::on_cleanup(const State& state) {
  return step(
      "clean up", "unconfigured",
      [this] {
        cleanup_family();
        return Result<void>();
      },
      {}, [&] { return LifecycleNode::on_cleanup(state); });
}

LifecycleModelNode::CallbackReturn LifecycleModelNode::on_shutdown(const State&) {
  undo("shut down", [this] { deactivate_family(); });
  undo("shut down", [this] { cleanup_family(); });
  health_.set_state("finalized");
  return CallbackReturn::SUCCESS;
}

LifecycleModelNode::CallbackReturn LifecycleModelNode::on_error(const State&) {
  undo("recover", [this] { deactivate_family(); });
  undo("recover", [this] { cleanup_family(); });
  health_.set_state("unconfigured");
  return CallbackReturn::SUCCESS;
}

LifecycleModelNode::CallbackReturn LifecycleModelNode::step(const std::string& verb, const std::string& state_after,
                                                            const std::function<Result<void>()>& work,
                                                            const std::function<void()>& undo_work,
                                                            const std::function<CallbackReturn()>& entities) {
  std::string reason;
  try {
    const Result<void> done = work();
    if (!done) {
      reason = done.error().message();
    } else if (entities() != CallbackReturn::SUCCESS) {
      reason = "a managed entity refused to " + verb;
    }
  } catch (const std::exception& error) {
    reason = std::string("unforeseen: ") + error.what();
  } catch (...) {
    reason = "unforeseen: an exception of unknown type";
  }
  if (!reason.empty()) {
    RCLCPP_ERROR(get_logger(), "cannot %s: %s", verb.c_str(), reason.c_str());
    health_.complain("lifecycle", "cannot " + verb + ": " + reason);
    if (undo_work) undo(verb, undo_work);
    return CallbackReturn::FAILURE;
  }
  health_.take_back("lifecycle");
  health_.set_state(state_after);
  return CallbackReturn::SUCCESS;
}

void LifecycleModelNode::undo(const std::string& verb, const std::function<void()>& work) noexcept {
  try {
    work();
  } catch (const std::exception& error) {
    RCLCPP_ERROR(get_logger(), "could not undo everything after '%s': %s", verb.c_str(), error.what());
  } catch (...) {
    RCLCPP_ERROR(get_logger(), "could not undo everything after '%s'", verb.c_str());
  }
}

void LifecycleModelNode::release() noexcept {
  autostart_timer_.reset();
  if (health_.state() == "finalized") return;
  undo("destroy", [this] { deactivate_family(); });
  undo("destroy", [this] { cleanup_family(); });
  health_.set_state("finalized");
}

void LifecycleModelNode::autostart() {
  // It is not destroyed before the node is: an executor whose timers vanish while it runs one of them may overlook the
  // others until something else changes (rclcpp 28).
  autostart_timer_->cancel();
  if (health_.state() == "unconfigured" && configure().id() == lifecycle_msgs::msg::State::PRIMARY_STATE_INACTIVE) {
    activate();
  }
}

// -- help for the subclass --------------------------------------------------------------------------------------------

void LifecycleModelNode::attempt(const std::string& stage, const std::function<void()>& work) noexcept {
  try {
    try {
      work();
    } catch (const std::exception& error) {
      health_.failed(stage, error.what());
      warn_throttled(stage, stage + " failed: " + error.what());
    }
  } catch (...) {  // not even telling worked, or no std::exception: the executor must live on
  }
}

void LifecycleModelNode::warn_throttled(const std::string& key, const std::string& text) {
  {
    const std::lock_guard<std::mutex> lock(said_mutex_);
    const std::int64_t now = steady_ns();
    const auto said = said_.find(key);
    if (said != said_.end() && now - said->second < kSayAgainAfterNs) return;
    said_[key] = now;
  }
  RCLCPP_WARN(get_logger(), "%s", text.c_str());
}

void LifecycleModelNode::reject(const std::string& cause, const Error& error) {
  health_.dropped(cause);
  health_.failed(health_.stages().front(), error.message());
  warn_throttled(cause, "input dropped (" + cause + "): " + error.message());
}

void LifecycleModelNode::set_hardware_id(const std::string& id) {
  if (diagnostics_) diagnostics_->set_hardware_id(id);
}

void LifecycleModelNode::introduce(const Model& model, const std::string& work) {
  const Manifest& manifest = model.manifest();
  RCLCPP_INFO(get_logger(), "%s %s %s on %s: %s", manifest.family.c_str(), manifest.variant.c_str(),
              manifest.precision.c_str(), model.device().name().c_str(), work.c_str());
}

void LifecycleModelNode::introduce_alone(const Model& model, const std::string& work) {
  health_.set_identity(artifact_identity(model));
  set_hardware_id(model.device().name());
  introduce(model, work);
  if (model.manifest().checkpoint.is_random()) {
    warn_lasting("weights", "the artifact has random weights: its output means nothing");
  }
}

void LifecycleModelNode::forget_model() {
  health_.set_identity({});
  forget_lasting();
}

void LifecycleModelNode::warn_lasting(const std::string& key, const std::string& text) {
  const auto known = health_.complaint(key);
  health_.complain(key, known ? *known + "; " + text : text);
  lasting_.insert(key);
  RCLCPP_WARN(get_logger(), "%s", text.c_str());
}

void LifecycleModelNode::forget_lasting() {
  for (const auto& key : lasting_)
    health_.take_back(key);
  lasting_.clear();
}

void LifecycleModelNode::watch_time(std::function<void()> jumped) {
  rcl_jump_threshold_t threshold{};
  threshold.on_clock_change = true;
  threshold.min_forward.nanoseconds = 0;  // never
  threshold.min_backward.nanoseconds = -1;
  jump_handler_ = get_clock()->create_jump_callback(
      nullptr,
      [this, jumped = std::move(jumped)](const rcl_time_jump_t&) {
        attempt("receive", [&] {
          health_.dropped("time_jump_ros");
          warn_throttled("time_jump", "ROS time went back or changed its source: the input starts anew");
          jumped();
        });
      },
      threshold);
}

Details artifact_identity(const Model& model, const std::string& prefix) {
  const Manifest& manifest = model.manifest();
  const Result<std::string> digest = sha256_file(model.path());
  const auto& checkpoint = manifest.checkpoint;
  const std::size_t slash = model.path().rfind('/');
  return {
      {prefix + "artifact", slash == std::string::npos ? model.path() : model.path().substr(slash + 1)},
      {prefix + "artifact sha256", digest ? digest->substr(0, 12) : "unknown"},
      {prefix + "model", manifest.family + " " + manifest.variant},
      {prefix + "precision", manifest.precision},
      {prefix + "device", model.device().name()},
      {prefix + "weights",
       checkpoint.is_random() ? "random" : checkpoint.file + " (" + checkpoint.sha256.substr(0, 12) + ")"},
  };
}

}  // namespace aot_perception
