// SPDX-License-Identifier: Apache-2.0
// Packets in, event windows with ROS stamps out; as f3_ros/stream.py. No ROS.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aot_perception/error.hpp"
#include "aot_perception/event_decoder.hpp"
#include "aot_perception/event_window.hpp"
#include "event_filters.hpp"
#include "sensor_clock.hpp"
#include "stamp_guard.hpp"

namespace aot_perception {

/// How packets become windows.
struct StreamConfig {
  WindowConfig window;
  bool use_incomplete = true;      ///< windows with a known hole, else they are dropped and counted
  std::string hot_pixel_mask;      ///< file; empty for none
  std::int64_t refractory_us = 0;  ///< 0 is off
  std::int64_t noise_us = 0;       ///< 0 is off
};

/// A window with what a message made from it needs.
struct StreamWindow {
  EventWindow window;
  std::int64_t stamp_ns = 0;  ///< ROS time of the window's end
  std::string frame_id;
  int width = 0;  ///< of the sensor, pixels
  int height = 0;
  std::int64_t input_stamp_ns = 0;  ///< of the packet that closed the window
  std::int64_t receive_ns = 0;      ///< when that came, on the caller's clock
};

/// Decodes packets, filters events, cuts windows, and maps window ends to ROS time. One instance per camera.
///
/// Nothing in a packet is an error; `drops()` counts what was lost. May be used from any thread, packets in order.
class EventStream {
 public:
  /// Error: the window's configuration is out of range, or the mask cannot be read.
  static Result<std::unique_ptr<EventStream>> create(const StreamConfig& config);

  [[nodiscard]] const StreamConfig& config() const { return config_; }

  /// Takes one packet; returns the windows that it closed, oldest first.
  std::vector<StreamWindow> push(const EventPacket& packet, const std::string& frame_id, std::int64_t receive_ns);
  /// Closes the open window: the stream has stopped.
  std::vector<StreamWindow> flush();
  /// Forgets all state of the stream (time went back, or the source was replaced); counters stay.
  void reset();

  /// What was lost, by cause: packets, words, events and windows.
  [[nodiscard]] DropCounts drops() const;
  /// Events left out on purpose, by cause: thinning, a stride above the duration, filters.
  [[nodiscard]] DropCounts removed() const;
  /// Windows closed so far.
  [[nodiscard]] std::uint64_t windows() const;
  /// ROS time minus sensor time.
  [[nodiscard]] std::optional<std::int64_t> clock_offset_ns() const;
  [[nodiscard]] int clock_jumps() const;

 private:
  struct Source {
    std::string frame_id;
    int width = 0;
    int height = 0;
    std::int64_t stamp_ns = 0;
    std::int64_t receive_ns = 0;
  };

  EventStream(StreamConfig config, EventWindower windower, std::optional<HotPixelMask> mask);
  void restart_windows();
  void make_filters(int width, int height);
  EventsView filtered(EventsView events);
  void timed(std::vector<EventWindow> windows, std::vector<StreamWindow>& closed);

  const StreamConfig config_;
  const std::optional<HotPixelMask> mask_;
  mutable std::mutex mutex_;
  EventDecoder decoder_;
  EventWindower windower_;
  StampGuard guard_;
  SensorClock clock_;
  std::vector<std::pair<std::string, std::unique_ptr<EventFilter>>> filters_;
  EventArrays kept_{0};
  std::optional<Source> last_;
  std::pair<int, int> size_{0, 0};
  std::uint64_t windows_ = 0;
  DropCounts dropped_;
  DropCounts removed_;
};

}  // namespace aot_perception
