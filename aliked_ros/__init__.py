# SPDX-License-Identifier: Apache-2.0
"""ALIKED: images become keypoints and descriptors, by a compiled network with deformable convolutions.

Topics of the node: `~/image` (Image) in; `~/keypoints` (PointCloud2: x, y, score, descriptor[D]) out, and
with `track` also `~/tracks` (PointCloud2); `~/image_keypoints` and `~/image_tracks` are pictures of both.
Paper: Zhao et al., "ALIKED: A Lighter Keypoint and Descriptor Extraction Network via Deformable Transformation",
arXiv 2304.03608, IEEE Transactions on Instrumentation and Measurement 2023.
"""
