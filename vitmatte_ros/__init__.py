# SPDX-License-Identifier: Apache-2.0
"""VitMatte: an image and a trimap become an alpha matte, by a compiled vision transformer.

The trimap says for every pixel foreground, background or unknown; the network finds the opacity of the unknown ones.
The node `vitmatte_node` takes `~/image` with `~/trimap`, `~/mask` or `~/depth`, and publishes `~/alpha` and
`~/foreground`; the command `matte` does the same with files.
Papers: Yao et al., "ViTMatte: Boosting Image Matting with Pretrained Plain Vision Transformers", arXiv 2305.15272,
Information Fusion 2024; Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet),
arXiv 2203.16527.
"""
