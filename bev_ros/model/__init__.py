# SPDX-License-Identifier: Apache-2.0
"""The networks of a lift-splat encoder, with the parameter names of mmdet and BEVDepth.

Papers: He et al., "Deep Residual Learning", arXiv 1512.03385; Lin et al., "Feature Pyramid Networks", arXiv 1612.03144;
Yan et al., "SECOND", Sensors 2018; Li et al., "BEVDepth", arXiv 2206.10092; Hu et al., "Squeeze-and-Excitation
Networks", arXiv 1709.01507; Chen et al., "Rethinking Atrous Convolution" (ASPP), arXiv 1706.05587.
"""
