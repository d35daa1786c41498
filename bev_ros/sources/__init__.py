# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: nuScenes folders, recordings of topics, plain folders."""
