# SPDX-License-Identifier: Apache-2.0
"""VGGT: several cameras -> their poses, their depth, a fused point cloud.

The network (Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025, arXiv 2503.11651) sees all frames of
a scene at once and gives every camera's pose and field of view, every pixel's depth and how sure it is of it. Its scale
is arbitrary: nothing is metric before known baselines or metric depths say so. Official weights (`facebook/VGGT-1B`)
are for non-commercial use only; a compiled artifact holds them, and is never ours to hand on.
"""
