// SPDX-License-Identifier: Apache-2.0
// event_camera_msgs/EventPacket as our plain EventPacket; as f3_ros/event_messages.py.
#pragma once

#include <event_camera_msgs/msg/event_packet.hpp>

#include "aot_perception/events.hpp"
#include "stamps.hpp"

namespace aot_perception {

/// The message's fields; the payload stays in the message's memory. Contents are the decoder's to judge.
///
/// Error: the stamp is malformed.
inline Result<EventPacket> packet_of(const event_camera_msgs::msg::EventPacket& message) {
  const auto stamp_ns = stamp_to_ns(message.header.stamp);
  if (!stamp_ns) return stamp_ns.error();
  EventPacket packet;
  packet.stamp_ns = *stamp_ns;
  packet.width = message.width;
  packet.height = message.height;
  packet.seq = message.seq;
  packet.time_base = message.time_base;
  packet.encoding = message.encoding;
  packet.is_bigendian = message.is_bigendian;
  packet.data = message.events.data();
  packet.size = message.events.size();
  return packet;
}

}  // namespace aot_perception
