// SPDX-License-Identifier: Apache-2.0
// Plain containers that every part of the event pipeline passes around. As f3_ros/events/types.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace aot_perception {

/// Events in somebody else's memory: equal-length arrays that may be read, not kept.
struct EventsView {
  const std::uint16_t* x = nullptr;  ///< column, pixels, 0 at the left
  const std::uint16_t* y = nullptr;  ///< row, pixels, 0 at the top
  const std::int64_t* t = nullptr;   ///< sensor time, microseconds unless the producer says otherwise
  const std::uint8_t* p = nullptr;   ///< polarity, 1 = brighter (ON), 0 = darker (OFF)
  std::size_t size = 0;

  [[nodiscard]] bool empty() const { return size == 0; }

  /// Events `begin` to `end` (exclusive).
  [[nodiscard]] EventsView slice(std::size_t begin, std::size_t end) const {
    if (size == 0) return {};
    return {x + begin, y + begin, t + begin, p + begin, end - begin};
  }
};

/// Growable memory for events, one array per field; new room is not initialised.
class EventArrays {
 public:
  static constexpr std::size_t kFirstCapacity = std::size_t{1} << 16;

  explicit EventArrays(std::size_t capacity = kFirstCapacity) { allocate(capacity); }
  EventArrays(EventArrays&&) = default;
  EventArrays& operator=(EventArrays&&) = default;

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }

  /// Make room for at least `capacity` events in all; the content is kept, pointers and views are not.
  void reserve(std::size_t capacity);

  /// Say how many events are in use, at most `capacity()`: whoever wrote them through the pointers below does.
  void resize_within_capacity(std::size_t size) { size_ = size; }

  void clear() { size_ = 0; }
  void append(const EventsView& events);
  void push_back(std::uint16_t column, std::uint16_t row, std::int64_t time, std::uint8_t polarity);

  std::uint16_t* x() { return x_.get(); }
  std::uint16_t* y() { return y_.get(); }
  std::int64_t* t() { return t_.get(); }
  std::uint8_t* p() { return p_.get(); }

  [[nodiscard]] EventsView view() const { return view(0, size_); }
  [[nodiscard]] EventsView view(std::size_t begin, std::size_t end) const {
    return {x_.get() + begin, y_.get() + begin, t_.get() + begin, p_.get() + begin, end - begin};
  }

 private:
  void allocate(std::size_t capacity);

  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  std::unique_ptr<std::uint16_t[]> x_, y_;
  std::unique_ptr<std::int64_t[]> t_;
  std::unique_ptr<std::uint8_t[]> p_;
};

/// An edge on an external trigger input.
struct Trigger {
  std::int64_t t = 0;   ///< sensor time, microseconds
  std::uint8_t id = 0;  ///< channel
  std::uint8_t p = 0;   ///< edge, 1 = rising
};

/// The fields of event_camera_msgs/msg/EventPacket without ROS; the payload stays where it is.
struct EventPacket {
  std::int64_t stamp_ns = 0;  ///< header stamp: host time at which the first buffer of the packet arrived
  std::uint32_t width = 0;    ///< sensor size, pixels
  std::uint32_t height = 0;
  std::uint64_t seq = 0;        ///< the publisher's packet counter; a jump means lost packets
  std::uint64_t time_base = 0;  ///< nanoseconds; meaningful for libcaer, libcaer_cmp and mono only
  std::string encoding;         ///< "evt3", "evt2", "evt21", "libcaer", "libcaer_cmp" or "mono"
  bool is_bigendian = false;    ///< byte order of the payload's words
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;  ///< bytes
};

}  // namespace aot_perception
