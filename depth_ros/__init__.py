# SPDX-License-Identifier: Apache-2.0
"""Depth Anything V2: depth of RGB images, and of F3's event features.

A DINOv2 vision transformer with a DPT decoder, relative (disparity up to scale and shift) or metric (metres). The node
`depth_node` takes `~/image` and `~/camera_info` and publishes `~/relative_depth` or `~/depth`, `~/depth/camera_info` of
the published grid, `~/points` (metric only) and a coloured `~/depth_image`. `depth_offline` gives the same from files.

Sources: Depth Anything V2, arXiv 2406.09414; DINOv2, arXiv 2304.07193; DPT, arXiv 2103.13413.
"""
