# SPDX-License-Identifier: Apache-2.0
"""The ROS half of the runtime: lifecycle node base, workers, messages, QoS, diagnostics, clocks and transport."""
