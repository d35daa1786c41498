// SPDX-License-Identifier: Apache-2.0
// See f3_component.hpp. Configuration is in f3_configure.cpp.
#include "f3_component.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "event_messages.hpp"
#include "stamps.hpp"
#include "threads.hpp"

namespace aot_perception {
namespace {

constexpr std::chrono::milliseconds kFlushPeriod(10);

DropCounts with_prefix(const std::string& prefix, const DropCounts& drops) {
  DropCounts counts;
  for (const auto& [cause, n] : drops)
    counts[prefix + cause] = n;
  return counts;
}

std::uint64_t sum(const DropCounts& drops) {
  std::uint64_t total = 0;
  for (const auto& [cause, n] : drops)
    total += n;
  return total;
}

}  // namespace

Result<void> F3Component::activate_family() {
  const Result<void> tested = pipeline_->self_test();
  if (!tested) return tested;
  // The first window allocates and captures CUDA graphs, which would make it late.
  EventWindow empty;
  empty.end_us = stream_->config().window.duration_us;
  empty.complete = true;
  const auto& f3 = pipeline_->f3();
  const auto warmed = pipeline_->process(empty, f3.width(), f3.height(), pipeline_->everything());
  if (!warmed) return warmed.error();
  outputs_->restart();
  stream_->reset();
  guard_->reset();
  threads_set_ = false;
  period_s_ = last_receive_s_ = 0.0;
  flushed_ = true;
  drops_told_ = sum(stream_->drops());
  start_workers();
  subscription_ = create_subscription<event_camera_msgs::msg::EventPacket>(
      "~/events", events_qos(), guarded<Message>("receive", [this](Message message) { on_events(std::move(message)); }),
      overridable_subscription());
  if (settings_.stream_timeout >= 0.0 && settings_.window_mode != "count") {
    flush_timer_ = create_wall_timer(kFlushPeriod, [this] { attempt("decode", [this] { flush_if_silent(); }); });
  }
  camera_->start();
  watch_time([this] { on_time_jump(); });
  return {};
}

void F3Component::start_workers() {
  acknowledger_ = std::make_unique<Acknowledger>([this](std::uint64_t seq) {
    attempt("publish", [&] {
      auto message = std::make_unique<std_msgs::msg::UInt64>();
      message->data = seq;
      processed_->publish(std::move(message));
    });
  });
  Worker<StreamWindow>::Options infer_options;
  infer_options.name = "infer";
  infer_options.capacity = settings_.window_queue;
  infer_options.policy = settings_.block ? QueuePolicy::kBlock : QueuePolicy::kDropOldest;
  infer_options.on_error = [this](const StreamWindow&, const std::string& what) {
    infer_failed("window_failed", what);
  };
  infer_options.on_drop = [this](const StreamWindow&, const std::string&) { acknowledger_->window_done(); };
  infer_worker_ = std::make_shared<Worker<StreamWindow>>(infer_options, [this](StreamWindow& item) { infer(item); });

  Worker<DecodeItem>::Options decode_options;
  decode_options.name = "decode";
  decode_options.capacity = settings_.packet_queue;
  decode_options.on_error = [this](const DecodeItem&, const std::string& what) { health().failed("decode", what); };
  decode_worker_ = std::make_shared<Worker<DecodeItem>>(decode_options, [this](DecodeItem& item) { decode(item); });

  drop_numbers_ = {
      health().count_drops_of([worker = decode_worker_] { return with_prefix("packet_", worker->drops()); }),
      health().count_drops_of([worker = infer_worker_] { return with_prefix("window_", worker->drops()); })};
  infer_worker_->start();
  decode_worker_->start();
}

void F3Component::deactivate_family() {
  unwatch_time();
  if (camera_) camera_->stop();
  flush_timer_.reset();
  subscription_.reset();
  const auto stop = [this](auto& worker) {
    if (worker == nullptr) return;
    worker->stop(std::chrono::seconds(10), [&] {
      RCLCPP_ERROR(get_logger(), "the thread '%s' did not end within 10 s; waiting for it", worker->name().c_str());
    });
  };
  // The model's worker first: the decoder may be waiting for room in its queue.
  stop(infer_worker_);
  stop(decode_worker_);
  for (const int number : drop_numbers_)
    health().remove_drops_of(number);
  drop_numbers_.clear();
  infer_worker_.reset();
  decode_worker_.reset();
}

// -- executor's thread ------------------------------------------------------------------------------------------------

void F3Component::on_events(Message message) {
  const std::int64_t receive_ns = steady_ns();
  const std::int64_t now = now_ns();
  const Result<EventPacket> packet = packet_of(*message);
  if (!packet) {
    health().received();
    reject("bad_stamp", packet.error());
    return;
  }
  const double age_s = static_cast<double>(now - packet->stamp_ns) * 1e-9;
  health().received(age_s);
  if (guard_->late(packet->stamp_ns, now)) {
    warn_throttled("late", "input is " + formatted("%.3f", age_s) + " s old: dropped");
    return;
  }
  const double received_s = static_cast<double>(receive_ns) * 1e-9;
  if (last_receive_s_ > 0.0) {
    const double gap = received_s - last_receive_s_;
    period_s_ = period_s_ > 0.0 ? 0.9 * period_s_ + 0.1 * gap : gap;
  }
  last_receive_s_ = received_s;
  flushed_ = false;
  decode_worker_->submit(Arrival{std::move(message), *packet, receive_ns});
}

void F3Component::flush_if_silent() {
  // The open window is closed by wall time when the stream has stopped, since no time word will.
  if (flushed_ || decode_worker_ == nullptr || in_lock_step()) return;
  double limit = settings_.stream_timeout;
  if (limit == 0.0) {
    // Generous: a packet that a busy machine delivers late would find its window closed and lose its events, while a
    // stream that really stopped can wait. Capped, since a long pause enters the mean as well.
    const double window_s = static_cast<double>(stream_->config().window.duration_us) * 1e-6;
    limit = window_s + std::clamp(5 * period_s_, 0.1, 0.5);
  }
  const double silent = static_cast<double>(steady_ns()) * 1e-9 - last_receive_s_;
  if (silent > limit && decode_worker_->idle() && infer_worker_->idle()) {
    flushed_ = true;
    decode_worker_->submit(Flush{});
  }
}

void F3Component::on_time_jump() {
  if (decode_worker_ == nullptr) return;
  decode_worker_->clear("time_jump");
  decode_worker_->submit(Restart{});
}

// -- decoding thread --------------------------------------------------------------------------------------------------

void F3Component::decode(const DecodeItem& item) {
  if (std::holds_alternative<Restart>(item)) {
    stream_->reset();
    return;
  }
  std::vector<StreamWindow> windows;
  const auto* arrival = std::get_if<Arrival>(&item);
  if (arrival == nullptr) {
    windows = stream_->flush();
  } else {
    const std::string& frame = arrival->message->header.frame_id;
    windows =
        stream_->push(arrival->packet, settings_.frame_id.empty() ? frame : settings_.frame_id, arrival->receive_ns);
    tell_new_drops();
    health().passed("decode");
  }
  const auto policy = in_lock_step() ? std::optional(QueuePolicy::kBlock) : std::nullopt;
  acknowledger_->begin(windows.size());
  for (StreamWindow& window : windows)
    infer_worker_->submit(std::move(window), policy);
  if (arrival != nullptr) acknowledger_->packet(arrival->packet.seq);
}

void F3Component::tell_new_drops() {
  const DropCounts drops = stream_->drops();
  const std::uint64_t total = sum(drops);
  if (total <= drops_told_) return;
  drops_told_ = total;
  std::string text;
  for (const auto& [cause, n] : drops)
    text += (text.empty() ? "" : ", ") + std::to_string(n) + " " + cause;
  health().failed("decode", "lost so far: " + text);
  warn_throttled("decode", "the event stream loses data; so far: " + text);
}

// -- inference thread -------------------------------------------------------------------------------------------------

void F3Component::infer(const StreamWindow& item) {
  struct Done {
    Acknowledger& acknowledger;
    ~Done() { acknowledger.window_done(); }
  };
  // The window counts as done however this ends.
  const Done done{*acknowledger_};
  const auto& f3 = pipeline_->f3();
  if (item.width > f3.width() || item.height > f3.height()) {
    const Error error{"expected a sensor of at most " + std::to_string(f3.width()) + "x" + std::to_string(f3.height()) +
                          ", found packets of " + std::to_string(item.width) + "x" + std::to_string(item.height),
                      "export a configuration for this sensor"};
    infer_failed("window_refused", error.message());
    return;
  }
  const Result<void> processed = process(item);
  if (!processed) infer_failed("window_failed", processed.error().message());
}

Result<void> F3Component::process(const StreamWindow& item) {
  if (!threads_set_) {
    limit_threads(settings_.num_threads);
    threads_set_ = true;
  }
  const auto result = pipeline_->process(item.window, item.width, item.height, outputs_->wanted_now());
  if (!result) return result.error();
  for (const std::string& warning : result->warnings) {
    warn_throttled(warning.substr(0, warning.find(' ')), warning);
  }
  health().passed("infer");
  const FiniteCount finite = outputs_->publish(item, *result);
  health().published(static_cast<double>(now_ns() - item.input_stamp_ns) * 1e-9,
                     static_cast<double>(steady_ns() - item.receive_ns) * 1e-9, finite);
  outputs_->publish_pictures(item, *result);
  return {};
}

void F3Component::infer_failed(const std::string& cause, const std::string& reason) {
  health().dropped(cause);
  health().failed("infer", reason);
  warn_throttled("infer", "window dropped: " + reason);
}

}  // namespace aot_perception
