# SPDX-License-Identifier: Apache-2.0
"""Depth of posed cameras -> one map: scale, streaming alignment, rendering, surfels, a TSDF, meshes. No ROS inside.

A `Bootstrap` (poses and depth of several views, of a network or a file) is brought to metres if something metric is
known, and starts the map. From then on each camera's relative disparity is aligned to the map that it sees and fused
into it. Everything is deterministic: the same input gives the same bits.
"""
