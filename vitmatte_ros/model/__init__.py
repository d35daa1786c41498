# SPDX-License-Identifier: Apache-2.0
"""The network: a plain vision transformer with window and global attention, and a decoder that brings details back.

Written from the papers and the published configurations, with the parameter names of Hugging Face. Nothing in it
decides by the size of an image, so that one traced graph is right at every size.
"""
