// SPDX-License-Identifier: Apache-2.0
// F3Component: parameters, loading, what it says about its artifacts, and its end.
#include <algorithm>
#include <cmath>
#include <rclcpp_components/register_node_macro.hpp>
#include <utility>

#include "f3_component.hpp"
#include "qos.hpp"
#include "threads.hpp"

namespace aot_perception {
namespace {

std::string pixels(int width, int height) {
  return std::to_string(width) + "x" + std::to_string(height);
}

/// "features -> depth 640x360 (depth_meaning: metres)".
std::string work_of(const Head& head) {
  std::string told;
  for (const auto& [key, value] : describe_head(head.info()))
    told += (told.empty() ? "" : "; ") + key + ": " + value;
  return "features -> " + head.info().family + " " + pixels(head.info().width, head.info().height) + " (" + told + ")";
}

}  // namespace

F3Component::F3Component(const rclcpp::NodeOptions& options)
    : LifecycleModelNode("f3", {"receive", "decode", "infer", "publish"}, options) {
  declare(f3_parameters());
}

Result<void> F3Component::configure_family() {
  Result<F3Settings> settings = read_settings();
  if (!settings) return settings.error();
  settings_ = *std::move(settings);
  limit_threads(settings_.num_threads);
  const Result<LoadOptions> how = load_options();
  if (!how) return how.error();
  PerceptionOptions options;
  options.device = how->device;
  options.allow_list = how->allow_list;
  options.self_test = false;
  options.depth = settings_.depth_artifact;
  options.flow = settings_.flow_artifact;
  options.cuda_graph = settings_.cuda_graph;
  auto opened = PerceptionPipeline::open(settings_.artifact, options);
  if (!opened) return opened.error();
  pipeline_ = *std::move(opened);
  auto stream = EventStream::create(stream_config());
  if (!stream) return stream.error();
  stream_ = *std::move(stream);
  guard_ = std::make_shared<StampGuard>(std::llround(number_value("max_input_age") * 1e9));
  health().set_stall_after(std::max(3.0, 3e-6 * static_cast<double>(stream_->config().window.duration_us)));
  set_hardware_id(text_value("device"));
  identify();
  camera_ = std::make_unique<F3CameraSource>(*this);
  if (auto read = camera_->read(settings_.camera_info_url); !read) return read;
  auto outputs = F3Outputs::create(*this, *pipeline_, settings_, *camera_);
  if (!outputs) return outputs.error();
  outputs_ = *std::move(outputs);
  health().count_drops_of([stream = stream_] { return stream->drops(); });
  health().count_drops_of([guard = guard_] { return guard->counts(); });
  health().add_details([this] { return details(); });
  health().add_details([outputs = outputs_] { return outputs->details(); });
  // The last acknowledgement also reaches who subscribes late.
  rclcpp::PublisherOptions not_within_the_process;
  not_within_the_process.use_intra_process_comm = rclcpp::IntraProcessSetting::Disable;
  processed_ = create_publisher<std_msgs::msg::UInt64>("~/processed_seq", latched_qos(), not_within_the_process);
  return {};
}

void F3Component::cleanup_family() {
  health().forget_sources();
  processed_.reset();
  outputs_.reset();
  camera_.reset();
  pipeline_.reset();
  stream_.reset();
  forget_model();
}

Result<F3Settings> F3Component::read_settings() const {
  if (auto checked = check_choices(f3_parameters()); !checked) return checked.error();
  const Result<std::string> artifact = artifact_path("export_f3_to_pt2");
  if (!artifact) return artifact.error();
  F3Settings settings;
  settings.artifact = *artifact;
  settings.depth_artifact = path_value("depth_artifact");
  settings.flow_artifact = path_value("flow_artifact");
  settings.num_threads = static_cast<int>(int_value("num_threads"));
  settings.cuda_graph = flag_value("cuda_graph");
  settings.publish_features = text_value("publish_features");
  settings.heads_always = flag_value("heads_always");
  settings.output_resolution = text_value("output_resolution");
  settings.flow_mask = text_value("flow_mask");
  settings.camera_info_url = text_value("camera_info_url");
  settings.window_mode = text_value("window_mode");
  settings.window_duration_us = int_value("window_duration_us");
  settings.window_stride_us = int_value("window_stride_us");
  settings.window_count = int_value("window_count");
  settings.window_max_events = int_value("window_max_events");
  settings.use_incomplete = text_value("incomplete_windows") == "use";
  settings.hot_pixel_mask = text_value("hot_pixel_mask");
  settings.refractory_us = int_value("refractory_us");
  settings.noise_us = int_value("noise_us");
  settings.packet_queue = static_cast<std::size_t>(int_value("packet_queue"));
  settings.window_queue = static_cast<std::size_t>(int_value("window_queue"));
  settings.block = text_value("overload") == "block";
  settings.frame_id = text_value("frame_id");
  settings.stream_timeout = number_value("stream_timeout");
  return settings;
}

StreamConfig F3Component::stream_config() const {
  const F3Pipeline& f3 = std::as_const(*pipeline_).f3();
  StreamConfig config;
  config.window.mode = settings_.window_mode;
  config.window.duration_us = settings_.window_duration_us > 0 ? settings_.window_duration_us : f3.window_us();
  if (settings_.window_stride_us > 0) config.window.stride_us = settings_.window_stride_us;
  config.window.count = settings_.window_count;
  config.window.bin_us = f3.bin_us();
  config.window.max_events =
      settings_.window_max_events > 0 ? settings_.window_max_events : static_cast<std::int64_t>(f3.max_events());
  config.use_incomplete = settings_.use_incomplete;
  config.hot_pixel_mask = settings_.hot_pixel_mask;
  config.refractory_us = settings_.refractory_us;
  config.noise_us = settings_.noise_us;
  return config;
}

void F3Component::identify() {
  const F3Pipeline& f3 = std::as_const(*pipeline_).f3();
  const auto models = pipeline_->models();
  Details identity;
  for (const char* family : {"f3", "depth", "flow"}) {  // the backbone first
    const auto found = models.find(family);
    if (found == models.end()) continue;
    const Model& model = *found->second;
    const bool backbone = found->first == "f3";
    const std::string prefix = backbone ? "" : found->first + " ";
    for (auto& pair : artifact_identity(model, prefix))
      identity.push_back(std::move(pair));
    introduce(model, backbone
                         ? "events of " + pixels(f3.width(), f3.height()) + " in " +
                               formatted("%g", static_cast<double>(f3.window_us()) / 1000) + " ms -> features " +
                               pixels(f3.feature_width(), f3.feature_height()) + "x" + std::to_string(f3.channels())
                         : work_of(found->first == "depth" ? *pipeline_->depth() : *pipeline_->flow()));
    if (model.manifest().checkpoint.is_random()) {
      const std::string what = backbone ? "its features mean" : "its " + found->first + " means";
      warn_lasting(prefix + "weights", "the " + prefix + "artifact has random weights: " + what + " nothing");
    }
  }
  health().set_identity(std::move(identity));
  for (const std::string& warning : pipeline_->warnings())
    warn_lasting("backbone", warning);
}

Details F3Component::details() const {
  const auto offset_ns = stream_->clock_offset_ns();
  Details details = {
      {"windows closed", std::to_string(stream_->windows())},
      {"sensor clock offset [s]", offset_ns ? formatted("%.6f", static_cast<double>(*offset_ns) * 1e-9) : "unknown"},
      {"sensor clock jumps", std::to_string(stream_->clock_jumps())}};
  for (const auto& [cause, n] : stream_->removed())
    details.emplace_back("removed " + cause, std::to_string(n));
  return details;
}

}  // namespace aot_perception

RCLCPP_COMPONENTS_REGISTER_NODE(aot_perception::F3Component)
