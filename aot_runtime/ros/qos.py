# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""The quality-of-service profiles that all nodes share.

Every subscription and publisher is made with `overridable()`, so a parameter file can change history, depth and
reliability per topic: `qos_overrides./f3/events.subscription.depth: 200`.
"""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions


def _profile(reliability: ReliabilityPolicy, depth: int, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


def events_qos(depth: int = 1000, *, reliable: bool = False) -> QoSProfile:
    """Event packets, as camera drivers publish them; the sensor-data preset (depth 5) holds only 5 ms at 1 kHz."""
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return _profile(reliability, depth, DurabilityPolicy.VOLATILE)


def image_input_qos(depth: int = 2) -> QoSProfile:
    """Camera images: best effort as drivers publish; shallow, since only the newest image is of use."""
    return _profile(ReliabilityPolicy.BEST_EFFORT, depth, DurabilityPolicy.VOLATILE)


def output_qos(depth: int = 5) -> QoSProfile:
    """Results: reliable, so that both reliable and best-effort subscribers match."""
    return _profile(ReliabilityPolicy.RELIABLE, depth, DurabilityPolicy.VOLATILE)


def latched_qos(depth: int = 1) -> QoSProfile:
    """What is published once and kept for those who subscribe later (a constant CameraInfo, static transforms)."""
    return _profile(ReliabilityPolicy.RELIABLE, depth, DurabilityPolicy.TRANSIENT_LOCAL)


def no_complaints() -> Any:
    """Event callbacks of a second, latched subscription: that other publishers do not latch is no mistake there."""
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks
    return SubscriptionEventCallbacks(use_default_callbacks=False)


def overridable() -> QoSOverridingOptions:
    """Lets parameters override history, depth and reliability of one topic."""
    return QoSOverridingOptions.with_default_policies()
