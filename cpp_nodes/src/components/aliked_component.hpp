// SPDX-License-Identifier: Apache-2.0
// Images in, keypoints with descriptors out. As aliked_node of Python: the same topics, parameters, QoS and
// diagnostics; see aliked_ros/node.py and config/aliked.yaml.
#pragma once

#include <memory>
#include <mutex>
#include <sensor_msgs/msg/image.hpp>
#include <sensor_msgs/msg/point_cloud2.hpp>
#include <string>

#include "aot_perception/aliked.hpp"
#include "image_component.hpp"
#include "tracker.hpp"

namespace aot_perception {

class AlikedComponent : public ImageComponent {
 public:
  explicit AlikedComponent(const rclcpp::NodeOptions& options);
  ~AlikedComponent() override { release(); }

 protected:
  Result<void> configure_family() override;
  Result<void> activate_family() override;
  void deactivate_family() override { close_images(); }
  void cleanup_family() override;
  Result<void> process_image(const ImageArrival& item, const cv::Mat& rgb) override;

 private:
  Result<void> load();
  void publish_keypoints(const ImageArrival& item, const AlikedResult& result, const std_msgs::msg::Header& header);
  /// Publishes tracks and their picture; returns how many there are, for diagnostics.
  std::string track(const ImageArrival& item, const cv::Mat& rgb, const AlikedResult& result,
                    const std_msgs::msg::Header& header);

  std::unique_ptr<AlikedPipeline> pipeline_;
  std::unique_ptr<Tracker> tracker_;
  std::uint64_t tracked_epoch_ = 0;
  bool tracking_ = false;
  Output<sensor_msgs::msg::PointCloud2> keypoints_;
  Output<sensor_msgs::msg::PointCloud2> tracks_;
  Output<sensor_msgs::msg::Image> image_keypoints_;
  Output<sensor_msgs::msg::Image> image_tracks_;
  mutable std::mutex mutex_;
  Details seen_;
};

}  // namespace aot_perception
