// SPDX-License-Identifier: Apache-2.0
// RGB images in, depth out. As depth_node of Python: the same topics, parameters, QoS and diagnostics; see
// depth_ros/node.py and config/depth.yaml.
//
// Two threads: the executor only takes messages, one worker decodes, infers and publishes. Only the newest image waits.
#pragma once

#include <memory>
#include <mutex>
#include <sensor_msgs/msg/camera_info.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <sensor_msgs/msg/point_cloud2.hpp>
#include <string>
#include <vector>

#include "aot_perception/image_depth.hpp"
#include "camera_messages.hpp"
#include "image_component.hpp"
#include "points.hpp"

namespace aot_perception {

class DepthComponent : public ImageComponent {
 public:
  explicit DepthComponent(const rclcpp::NodeOptions& options);
  ~DepthComponent() override { release(); }

 protected:
  Result<void> configure_family() override;
  Result<void> activate_family() override;
  void deactivate_family() override;
  void cleanup_family() override;
  Result<void> process_image(const ImageArrival& item, const cv::Mat& rgb) override;
  void time_went_back() override { infos_.forget_stamps(); }

 private:
  Result<void> load();
  void complain(const std::string& text);
  [[nodiscard]] std::optional<Camera> camera_of(std::int64_t stamp_ns, PixelSize image);
  void publish_geometry(const cv::Mat& depth, bool all_valid, const Camera& camera, const cv::Mat& rgb,
                        const std_msgs::msg::Header& header);
  Details details() const;

  std::unique_ptr<ImageDepthPipeline> pipeline_;
  bool rectified_ = true;
  bool coloured_ = true;
  Output<sensor_msgs::msg::Image> depth_;
  Output<sensor_msgs::msg::Image> depth_image_;
  Output<sensor_msgs::msg::CameraInfo> camera_info_;
  Output<sensor_msgs::msg::PointCloud2> points_;
  std::vector<rclcpp::SubscriptionBase::SharedPtr> info_inputs_;
  CameraInfos infos_;
  PointMaker point_maker_;
  mutable std::mutex mutex_;
  std::string sizes_;
};

}  // namespace aot_perception
