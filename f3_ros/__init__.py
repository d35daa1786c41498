# SPDX-License-Identifier: Apache-2.0
"""F3, Fast Feature Fields: events become a dense feature field, and that depth and optical flow, by compiled networks.

Topics of the node: `~/events` (event_camera_msgs/EventPacket) in; `~/features` (Image 32FC<C>), `~/depth` in metres or
`~/relative_depth` (32FC1) with `~/camera_info`, `~/flow` (32FC2) and pictures out.
Paper: Das et al., "Fast Feature Fields (F3): A Predictive Representation of Events", arXiv 2509.25146.
"""
