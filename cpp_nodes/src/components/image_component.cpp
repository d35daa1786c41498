// SPDX-License-Identifier: Apache-2.0
// See image_component.hpp.
#include "image_component.hpp"

#include <cmath>
#include <utility>

#include "image_decoding.hpp"
#include "stamps.hpp"
#include "threads.hpp"

namespace aot_perception {

void ImageComponent::prepare_images() {
  guard_ = std::make_shared<StampGuard>(std::llround(number_value("max_input_age") * 1e9));
  health().count_drops_of([guard = guard_] { return guard->counts(); });
}

void ImageComponent::open_images() {
  guard_->reset();
  frame_id_ = text_value("frame_id");
  num_threads_ = static_cast<int>(int_value("num_threads"));
  threads_set_ = false;
  Worker<ImageArrival>::Options options;
  options.name = "infer";
  options.on_error = [this](const ImageArrival&, const std::string& what) { infer_failed(what); };
  worker_ = std::make_shared<Worker<ImageArrival>>(options, [this](ImageArrival& item) { work(item); });
  drops_number_ = health().count_drops_of([worker = worker_] {
    DropCounts counts;
    for (const auto& [cause, n] : worker->drops())
      counts["image_" + cause] = n;
    return counts;
  });
  worker_->start();
  if (text_value("image_transport") == "compressed") {
    subscribe<sensor_msgs::msg::CompressedImage>();
  } else {
    subscribe<sensor_msgs::msg::Image>();
  }
  watch_time([this] { start_anew(); });
}

void ImageComponent::close_images() {
  unwatch_time();
  subscription_.reset();
  if (worker_ == nullptr) return;
  worker_->stop(std::chrono::seconds(10),
                [this] { RCLCPP_ERROR(get_logger(), "the thread 'infer' did not end within 10 s; waiting for it"); });
  if (drops_number_) health().remove_drops_of(*drops_number_);
  drops_number_.reset();
  worker_.reset();
}

Result<std_msgs::msg::Header> ImageComponent::header_of(const ImageArrival& item) const {
  const auto stamp = ns_to_stamp(item.stamp_ns);
  if (!stamp) return stamp.error();
  std_msgs::msg::Header header;
  header.stamp = *stamp;
  header.frame_id = frame_id_.empty() ? item.frame_id : frame_id_;
  return header;
}

void ImageComponent::told_published(const ImageArrival& item, FiniteCount finite) {
  health().published(static_cast<double>(now_ns() - item.stamp_ns) * 1e-9,
                     static_cast<double>(steady_ns() - item.receive_ns) * 1e-9, finite);
}

void ImageComponent::infer_failed(const std::string& reason) {
  health().dropped("image_failed");
  health().failed("infer", reason);
  warn_throttled("infer", "image dropped: " + reason);
}

// -- executor's thread ------------------------------------------------------------------------------------------------

template <class Message>
void ImageComponent::subscribe() {
  using Pointer = std::shared_ptr<const Message>;
  subscription_ = create_subscription<Message>(
      "~/image", image_input_qos(),
      guarded<Pointer>("receive", [this](Pointer message) { on_image<Message>(std::move(message)); }),
      overridable_subscription());
}

template <class Message>
void ImageComponent::on_image(std::shared_ptr<const Message> message) {
  const std::int64_t receive_ns = steady_ns();
  const std::int64_t now = now_ns();
  const auto stamp_ns = stamp_to_ns(message->header.stamp);
  if (!stamp_ns) {
    health().received();
    reject("bad_stamp", stamp_ns.error());
    return;
  }
  const double age_s = static_cast<double>(now - *stamp_ns) * 1e-9;
  health().received(age_s);
  if (guard_->late(*stamp_ns, now)) {
    warn_throttled("late", "input is " + formatted("%.3f", age_s) + " s old: dropped");
    return;
  }
  if (guard_->jumped_back(*stamp_ns)) {
    ++epoch_;
    time_went_back();
  }
  std::string frame_id = message->header.frame_id;
  worker_->submit({std::move(message), std::move(frame_id), *stamp_ns, receive_ns, epoch_});
}

void ImageComponent::start_anew() {
  guard_->reset();
  ++epoch_;
  time_went_back();
  if (worker_) worker_->clear("time_jump");
}

// -- worker's thread --------------------------------------------------------------------------------------------------

void ImageComponent::work(const ImageArrival& item) {
  if (!threads_set_) {
    limit_threads(num_threads_);
    threads_set_ = true;
  }
  const Result<cv::Mat> rgb = std::visit([](const auto& message) { return decode_rgb(*message); }, item.message);
  if (!rgb) {
    reject("bad_image", rgb.error());
    return;
  }
  const Result<void> done = process_image(item, *rgb);
  if (!done) reject("bad_image", done.error());
}

}  // namespace aot_perception
