# SPDX-License-Identifier: Apache-2.0
"""F3, Fast Feature Fields: events from an event camera become a dense feature field, by a compiled network.

Topics of the node: `~/events` (event_camera_msgs/EventPacket) in; `~/features` (Image 32FC<C>) and pictures out.
Paper: Das et al., "Fast Feature Fields (F3): A Predictive Representation of Events", arXiv 2509.25146.
"""
