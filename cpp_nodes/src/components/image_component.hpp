// SPDX-License-Identifier: Apache-2.0
// What components fed by one image topic have in common: stamps, age, one worker, and what is dropped on the way.
// As aot_runtime/ros/image_node.py.
#pragma once

#include <memory>
#include <opencv2/core.hpp>
#include <optional>
#include <sensor_msgs/msg/compressed_image.hpp>
#include <sensor_msgs/msg/image.hpp>
#include <std_msgs/msg/header.hpp>
#include <string>
#include <variant>

#include "lifecycle_model_node.hpp"
#include "stamp_guard.hpp"
#include "worker.hpp"

namespace aot_perception {

/// An image message that waits for its turn; not looked at so far except for its stamp.
struct ImageArrival {
  std::variant<sensor_msgs::msg::Image::ConstSharedPtr, sensor_msgs::msg::CompressedImage::ConstSharedPtr> message;
  std::string frame_id;
  std::int64_t stamp_ns = 0;
  std::int64_t receive_ns = 0;  ///< by the monotonic clock
  /// Grows whenever time jumps back; images of different epochs have nothing to do with each other.
  std::uint64_t epoch = 0;
};

/// "640x480", for people.
inline std::string pixels(int width, int height) {
  return std::to_string(width) + "x" + std::to_string(height);
}

/// A LifecycleModelNode with `~/image` and a worker in front of the model, in which only the newest image waits.
///
/// A subclass implements `process_image`, may implement `time_went_back`, calls `prepare_images` when it configures,
/// and `open_images` and `close_images` when it activates and deactivates.
class ImageComponent : public LifecycleModelNode {
 public:
  ImageComponent(const std::string& name, const rclcpp::NodeOptions& options)
      : LifecycleModelNode(name, {"receive", "infer", "publish"}, options) {}

 protected:
  /// Infers and publishes, in the worker's thread. `rgb`: CV_8UC3. An error rejects the image as "bad_image".
  virtual Result<void> process_image(const ImageArrival& item, const cv::Mat& rgb) = 0;
  /// Forgets what belongs to the images so far; in the executor's thread, before the first image after it.
  virtual void time_went_back() {}

  /// Reads `max_input_age`, and counts late images and jumps in time; undone by `health().forget_sources`.
  void prepare_images();
  /// Starts the worker and subscribes, as the parameters image_transport and num_threads say.
  void open_images();
  /// Undoes `open_images`, also a half-done one.
  void close_images();

  /// The image's stamp, and its frame or that of the parameter frame_id. Error: the stamp is before 1970.
  Result<std_msgs::msg::Header> header_of(const ImageArrival& item) const;
  /// Counts a published output.
  void told_published(const ImageArrival& item, FiniteCount finite);
  /// Counts an image whose network failed, and warns.
  void infer_failed(const std::string& reason);

 private:
  template <class Message>
  void subscribe();
  template <class Message>
  void on_image(std::shared_ptr<const Message> message);
  void start_anew();
  void work(const ImageArrival& item);

  std::shared_ptr<StampGuard> guard_;
  std::shared_ptr<Worker<ImageArrival>> worker_;
  std::optional<int> drops_number_;
  rclcpp::SubscriptionBase::SharedPtr subscription_;
  std::uint64_t epoch_ = 0;
  std::string frame_id_;
  int num_threads_ = 0;
  bool threads_set_ = false;
};

}  // namespace aot_perception
