# SPDX-License-Identifier: Apache-2.0
"""Surround cameras become bird's-eye-view features, live or precomputed for training, by a compiled network.

Each pixel of each camera is lifted to a ray of points with a distribution over depth, and what lies in a cell of a grid
around the vehicle is summed up there. The node `bev_node` takes N images with their calibrations and publishes
`~/bev_features`; the command `precompute_bev_features` writes them to files, `verify_bev_features` checks those, and
`PrecomputedBevDataset` reads them in training.
Papers: Philion and Fidler, "Lift, Splat, Shoot", arXiv 2008.05711, ECCV 2020; Li et al., "BEVDepth: Acquisition of
Reliable Depth for Multi-view 3D Object Detection", arXiv 2206.10092, AAAI 2023; Huang and Huang, "BEVPoolv2",
arXiv 2211.17111 (the tables of the pooling).
"""
