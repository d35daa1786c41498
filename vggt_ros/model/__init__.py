# SPDX-License-Identifier: Apache-2.0
"""VGGT's network; parameter names equal those of `facebook/VGGT-1B`, without its track head."""
