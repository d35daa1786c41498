// SPDX-License-Identifier: Apache-2.0
// See f3_outputs.hpp.
#include "f3_outputs.hpp"

#include <utility>

#include "message_making.hpp"
#include "stamps.hpp"

namespace aot_perception {
namespace {

using diagnostic_msgs::msg::DiagnosticStatus;
using sensor_msgs::msg::CameraInfo;
using sensor_msgs::msg::Image;

std::size_t elements(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.numel());
}

cv::Mat as_picture(const std::vector<float>& values, PixelSize size) {
  return {size.height, size.width, CV_32F, const_cast<float*>(values.data())};
}

}  // namespace

Details describe_head(const HeadInfo& head) {
  if (head.family == "flow") {
    return {{"flow_unit", "pixels of the published image over flow_interval_us"},
            {"flow_interval_us", std::to_string(head.interval_us.value_or(0))}};
  }
  if (head.kind == "metric") return {{"depth_meaning", "metres"}};
  if (head.kind == "relative") return {{"depth_meaning", "relative, larger is nearer"}};
  return {{"depth_meaning",
           head.is_metric() ? "metres, focal_baseline / disparity" : "disparity in pixels, larger is nearer"}};
}

Details describe_heads(const PerceptionPipeline& pipeline) {
  Details told;
  for (const Head* head : {pipeline.depth(), pipeline.flow()}) {
    if (head == nullptr) continue;
    for (auto& pair : describe_head(head->info()))
      told.push_back(std::move(pair));
  }
  return told;
}

Result<std::shared_ptr<F3Outputs>> F3Outputs::create(LifecycleModelNode& node, const PerceptionPipeline& pipeline,
                                                     const F3Settings& settings, F3CameraSource& camera) {
  const F3Pipeline& f3 = pipeline.f3();
  for (const Head* head : {pipeline.depth(), pipeline.flow()}) {
    if (head == nullptr || settings.output_resolution != "sensor") continue;
    if (std::min({head->info().width, head->info().height, f3.width(), f3.height()}) < 2) {
      return Error{"expected a frame and a grid of 2 x 2 pixels or more for output_resolution sensor, found a " +
                       head->info().family + " of " + std::to_string(head->info().width) + "x" +
                       std::to_string(head->info().height),
                   "set output_resolution to grid"};
    }
  }
  return std::shared_ptr<F3Outputs>(new F3Outputs(node, pipeline, settings, camera));
}

F3Outputs::F3Outputs(LifecycleModelNode& node, const PerceptionPipeline& pipeline, const F3Settings& settings,
                     F3CameraSource& camera)
    : node_(node), pipeline_(pipeline), settings_(settings), camera_(camera) {
  const Head* depth = pipeline.depth();
  const Head* flow = pipeline.flow();
  features_ = node.make_output<Image>("~/features");
  event_image_ = node.make_output<Image>("~/event_image");
  feature_image_ = node.make_output<Image>("~/feature_image");
  window_info_ = node.make_output<DiagnosticStatus>("~/window_info");
  if (depth != nullptr) {
    depth_ = node.make_output<Image>(depth->info().is_metric() ? "~/depth" : "~/relative_depth");
    camera_info_ = node.make_output<CameraInfo>("~/camera_info");
    depth_image_ = node.make_output<Image>("~/depth_image");
  }
  if (flow != nullptr) {
    flow_ = node.make_output<Image>("~/flow");
    flow_image_ = node.make_output<Image>("~/flow_image");
  }
  const bool heads = depth != nullptr || flow != nullptr;
  features_always_ = settings.publish_features == "always" || (settings.publish_features == "auto" && !heads);
}

void F3Outputs::restart() {
  painter_ = FeaturePainter();
  const std::lock_guard<std::mutex> lock(mutex_);
  finite_.clear();
}

Wanted F3Outputs::wanted_now() const {
  Wanted now;
  now.features = features_always_ || wanted(features_) || wanted(feature_image_);
  now.depth = pipeline_.depth() != nullptr && (settings_.heads_always || wanted(depth_) || wanted(depth_image_));
  now.flow = pipeline_.flow() != nullptr && (settings_.heads_always || wanted(flow_) || wanted(flow_image_));
  return now;
}

FiniteCount F3Outputs::publish(const StreamWindow& item, const PerceptionResult& result) {
  finished_ = Finished();
  if (const auto stamp = ns_to_stamp(item.stamp_ns)) finished_.header.stamp = *stamp;
  finished_.header.frame_id = item.frame_id;
  const FiniteCount finite = count(result);
  if (result.features && (features_always_ || wanted(features_))) {
    const Shape& shape = result.features->shape();  // (H', W', C)
    features_->publish(float_image(finished_.header, static_cast<int>(shape[0]), static_cast<int>(shape[1]),
                                   static_cast<int>(shape[2]), result.features->data_as<float>()));
  }
  if (result.depth) publish_depth(item, *result.depth);
  if (result.flow) publish_flow(item, *result.flow);
  return finite;
}

HeadGrid F3Outputs::grid_of(const StreamWindow& item, const HeadInfo& head) const {
  const F3Pipeline& f3 = pipeline_.f3();
  return {{head.width, head.height},
          {f3.width(), f3.height()},
          {item.width, item.height},
          settings_.output_resolution == "sensor"};
}

void F3Outputs::publish_depth(const StreamWindow& item, const Tensor& raw) {
  const HeadInfo& head = pipeline_.depth()->info();
  const HeadGrid where = grid_of(item, head);
  DepthMeaning meaning;
  meaning.disparity = head.kind == "disparity";
  meaning.metric = head.is_metric();
  if (head.focal_baseline) meaning.focal_baseline = static_cast<float>(*head.focal_baseline);
  finished_.depth = finish_depth(raw.data_as<float>(), where, meaning);
  const PixelSize size = finished_.depth_size = where.published();
  if (!settings_.heads_always && !wanted(depth_)) return;  // it ran for its picture alone
  depth_->publish(float_image(finished_.header, size.height, size.width, 1, finished_.depth.data()));
  const ImageGrid image{where.sensor, where.frame, size, where.at_sensor};
  if (auto info = camera_.info(finished_.header, image)) {
    camera_info_->publish(std::make_unique<CameraInfo>(*std::move(info)));
  }
}

void F3Outputs::publish_flow(const StreamWindow& item, const Tensor& raw) {
  const HeadGrid where = grid_of(item, pipeline_.flow()->info());
  finished_.flow = finish_flow(raw.data_as<float>(), item.window.events, where, settings_.flow_mask == "events");
  if (!settings_.heads_always && !wanted(flow_)) return;
  const PixelSize size = finished_.flow->size;
  flow_->publish(float_image(finished_.header, size.height, size.width, 2, finished_.flow->interleaved().data()));
}

void F3Outputs::publish_pictures(const StreamWindow& item, const PerceptionResult& result) {
  const auto& header = finished_.header;
  const EventsView& events = item.window.events;
  if (wanted(event_image_)) {
    const cv::Mat picture = event_picture(events.x, events.y, events.p, events.size, item.width, item.height);
    event_image_->publish(picture_image(header, picture));
  }
  if (result.features && wanted(feature_image_)) {
    const Shape& shape = result.features->shape();
    const cv::Mat picture = painter_.paint(result.features->data_as<float>(), static_cast<int>(shape[0]),
                                           static_cast<int>(shape[1]), static_cast<int>(shape[2]));
    feature_image_->publish(picture_image(header, picture));
  }
  if (!finished_.depth.empty() && wanted(depth_image_)) {
    const char* kind = pipeline_.depth()->info().is_metric() ? "metric" : "relative";
    const cv::Mat picture = colour_depth(as_picture(finished_.depth, finished_.depth_size), {}, kind);
    depth_image_->publish(picture_image(header, picture));
  }
  if (finished_.flow && wanted(flow_image_)) {
    FinishedFlow& flow = *finished_.flow;
    const cv::Mat valid(flow.size.height, flow.size.width, CV_8U, flow.valid.data());
    const cv::Mat picture = colour_flow(as_picture(flow.dx, flow.size), as_picture(flow.dy, flow.size), valid);
    flow_image_->publish(picture_image(header, picture));
  }
  if (wanted(window_info_)) publish_window_info(item, result);
}

void F3Outputs::publish_window_info(const StreamWindow& item, const PerceptionResult& result) {
  const EventWindow& window = item.window;
  Details values = {{"stamp_ns", std::to_string(item.stamp_ns)},      {"start_us", std::to_string(window.start_us)},
                    {"end_us", std::to_string(window.end_us)},        {"n_received", std::to_string(window.n_received)},
                    {"n_used", std::to_string(result.n_events_used)}, {"complete", window.complete ? "true" : "false"}};
  for (auto& pair : describe_heads(pipeline_))
    values.push_back(std::move(pair));
  auto status = std::make_unique<DiagnosticStatus>();
  status->level = window.complete ? DiagnosticStatus::OK : DiagnosticStatus::WARN;
  status->name = "event window";
  status->message = window.complete ? "complete" : "incomplete";
  for (auto& [key, value] : values) {
    diagnostic_msgs::msg::KeyValue pair;
    pair.key = key;
    pair.value = value;
    status->values.push_back(std::move(pair));
  }
  window_info_->publish(std::move(status));
}

Details F3Outputs::details() const {
  Details told = describe_heads(pipeline_);
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const char* name : {"features", "depth", "flow"}) {
    const auto found = finite_.find(name);
    if (found == finite_.end()) continue;
    const double share = 100.0 * static_cast<double>(found->second.finite) /
                         static_cast<double>(std::max<std::uint64_t>(found->second.total, 1));
    told.emplace_back(std::string("finite ") + name + " [%]", formatted("%.6g", share));
  }
  if (pipeline_.f3().model().device().cuda) {
    int graphs = 0;
    for (const auto& [family, model] : pipeline_.models())
      graphs += model->graphed() ? 1 : 0;
    told.emplace_back("CUDA graphs", std::to_string(graphs));
  }
  return told;
}

FiniteCount F3Outputs::count(const PerceptionResult& result) {
  FiniteCount all;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [name, tensor] :
       {std::pair("features", &result.features), std::pair("depth", &result.depth), std::pair("flow", &result.flow)}) {
    if (!*tensor) continue;
    const FiniteCount one = count_finite((*tensor)->data_as<float>(), elements(**tensor));
    FiniteCount& sum = finite_[name];
    sum.finite += one.finite;
    sum.total += one.total;
    all.finite += one.finite;
    all.total += one.total;
  }
  return all;
}

}  // namespace aot_perception
