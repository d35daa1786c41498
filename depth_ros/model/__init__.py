# SPDX-License-Identifier: Apache-2.0
"""The network: DINOv2 (a vision transformer) and DPT (a dense decoder), put together as Depth Anything V2.

The transformer block, DINOv2 and DPT know nothing of depth; other families build on them.
"""
