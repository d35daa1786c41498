// SPDX-License-Identifier: Apache-2.0
// Events in; F3 features, depth and optical flow out. As f3_node of Python: the same topics, parameters, QoS and
// diagnostics; see f3_ros/node.py and config/f3.yaml.
//
// Three threads: the executor only takes messages, one worker decodes and cuts windows, one runs the models. While
// somebody subscribes to `~/processed_seq` the decoder waits for the models, so that nothing is dropped.
#pragma once

#include <atomic>
#include <event_camera_msgs/msg/event_packet.hpp>
#include <memory>
#include <optional>
#include <std_msgs/msg/u_int64.hpp>
#include <string>
#include <variant>
#include <vector>

#include "acknowledger.hpp"
#include "aot_perception/perception.hpp"
#include "event_stream.hpp"
#include "f3_camera_source.hpp"
#include "f3_outputs.hpp"
#include "f3_parameters.hpp"
#include "lifecycle_model_node.hpp"

namespace aot_perception {

class F3Component : public LifecycleModelNode {
 public:
  explicit F3Component(const rclcpp::NodeOptions& options);
  ~F3Component() override { release(); }

 protected:
  Result<void> configure_family() override;
  Result<void> activate_family() override;
  void deactivate_family() override;
  void cleanup_family() override;

 private:
  using Message = event_camera_msgs::msg::EventPacket::ConstSharedPtr;
  struct Arrival {
    Message message;
    EventPacket packet;  // its payload lies in the message
    std::int64_t receive_ns = 0;
  };
  struct Flush {};
  struct Restart {};
  using DecodeItem = std::variant<Arrival, Flush, Restart>;

  // Configuration.
  Result<F3Settings> read_settings() const;
  StreamConfig stream_config() const;
  void identify();
  void start_workers();

  // Executor's thread.
  void on_events(Message message);
  void flush_if_silent();
  void on_time_jump();

  // Decoding thread.
  void decode(const DecodeItem& item);
  void tell_new_drops();
  bool in_lock_step() const { return wanted(processed_); }

  // Inference thread.
  void infer(const StreamWindow& item);
  Result<void> process(const StreamWindow& item);
  void infer_failed(const std::string& cause, const std::string& reason);

  Details details() const;

  F3Settings settings_;
  std::unique_ptr<PerceptionPipeline> pipeline_;
  std::shared_ptr<EventStream> stream_;
  std::shared_ptr<StampGuard> guard_;
  std::unique_ptr<F3CameraSource> camera_;
  std::shared_ptr<F3Outputs> outputs_;
  Output<std_msgs::msg::UInt64> processed_;
  std::unique_ptr<Acknowledger> acknowledger_;
  std::shared_ptr<Worker<DecodeItem>> decode_worker_;
  std::shared_ptr<Worker<StreamWindow>> infer_worker_;
  std::vector<int> drop_numbers_;
  rclcpp::SubscriptionBase::SharedPtr subscription_;
  rclcpp::TimerBase::SharedPtr flush_timer_;
  double period_s_ = 0.0;        // mean time between packets
  double last_receive_s_ = 0.0;  // by the monotonic clock; 0 before the first packet
  bool flushed_ = true;
  std::uint64_t drops_told_ = 0;  // in the decoding thread
  bool threads_set_ = false;      // in the inference thread
};

}  // namespace aot_perception
