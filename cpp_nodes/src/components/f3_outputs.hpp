// SPDX-License-Identifier: Apache-2.0
// What F3Component publishes of a window: which outputs somebody wants, their messages, their share of finite values.
// As f3_ros/node_outputs.py.
#pragma once

#include <diagnostic_msgs/msg/diagnostic_status.hpp>
#include <map>
#include <mutex>
#include <sensor_msgs/msg/camera_info.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <string>

#include "aot_perception/perception.hpp"
#include "event_stream.hpp"
#include "f3_camera_source.hpp"
#include "f3_parameters.hpp"
#include "head_outputs.hpp"
#include "lifecycle_model_node.hpp"
#include "pictures.hpp"

namespace aot_perception {

/// What the values of a head mean, for people and for `~/window_info`.
Details describe_head(const HeadInfo& head);
Details describe_heads(const PerceptionPipeline& pipeline);

/// The publishers of results and pictures; a picture, and by default a head, is computed only while subscribed.
class F3Outputs {
 public:
  /// Makes the publishers. Error: a head's grid is too small to be resized to the sensor's pixels.
  static Result<std::shared_ptr<F3Outputs>> create(LifecycleModelNode& node, const PerceptionPipeline& pipeline,
                                                   const F3Settings& settings, F3CameraSource& camera);

  /// Forgets what earlier windows left (an activation).
  void restart();
  /// What the pipeline has to compute for the next window.
  [[nodiscard]] Wanted wanted_now() const;
  /// Publishes the results of one window, then tells the finite share of what the networks gave.
  FiniteCount publish(const StreamWindow& item, const PerceptionResult& result);
  /// Publishes what people look at, while they do; after `publish` of the same window.
  void publish_pictures(const StreamWindow& item, const PerceptionResult& result);
  /// For /diagnostics: what the heads' values mean, the share of finite ones of each output.
  [[nodiscard]] Details details() const;

 private:
  using Image = sensor_msgs::msg::Image;

  F3Outputs(LifecycleModelNode& node, const PerceptionPipeline& pipeline, const F3Settings& settings,
            F3CameraSource& camera);

  /// What `publish` made of a window, for its pictures.
  struct Finished {
    std_msgs::msg::Header header;
    PixelSize depth_size;
    std::vector<float> depth;
    std::optional<FinishedFlow> flow;
  };

  [[nodiscard]] HeadGrid grid_of(const StreamWindow& item, const HeadInfo& head) const;
  void publish_depth(const StreamWindow& item, const Tensor& raw);
  void publish_flow(const StreamWindow& item, const Tensor& raw);
  void publish_window_info(const StreamWindow& item, const PerceptionResult& result);
  FiniteCount count(const PerceptionResult& result);

  LifecycleModelNode& node_;
  const PerceptionPipeline& pipeline_;
  const F3Settings& settings_;
  F3CameraSource& camera_;
  bool features_always_ = false;
  Output<Image> features_, depth_, flow_;
  Output<Image> event_image_, feature_image_, depth_image_, flow_image_;
  Output<sensor_msgs::msg::CameraInfo> camera_info_;
  Output<diagnostic_msgs::msg::DiagnosticStatus> window_info_;
  Finished finished_;
  FeaturePainter painter_;
  mutable std::mutex mutex_;
  std::map<std::string, FiniteCount> finite_;
};

}  // namespace aot_perception
