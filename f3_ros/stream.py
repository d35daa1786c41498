# SPDX-License-Identifier: Apache-2.0
"""Packets in, event windows out: the one path that the live node and the offline runner share.

Whatever decides which events belong to which window is here or below, so both give the same windows for the same
packets. No ROS here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from aot_runtime.errors import InputError
from aot_runtime.ros.clock import SensorClock, StampGuard
from f3_ros.events.filters import EventFilter, HotPixelMask, NeighbourNoiseFilter, RefractoryFilter
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.types import Events, Packet
from f3_ros.events.windows import EventWindow, EventWindower, WindowConfig

MAX_FILTERED_PIXELS = 1 << 24
"""Filters keep a time per pixel; a corrupt packet that claims a larger sensor must not make them take gigabytes."""
_INTENDED = ("thinned", "between_windows")


@dataclass(frozen=True)
class StreamConfig:
    """How packets become windows.

    Attributes:
        window: length, stride, counts and limits of the windows.
        incomplete: what becomes of windows with a known hole (a lost packet, the open window when the stream ends).
        hot_pixel_mask: file of pixels to ignore; empty for none.
        refractory_us: events of a pixel within this time after its last one are dropped; 0 is off.
        noise_us: events without a neighbour within this time are dropped; 0 is off.
    """

    window: WindowConfig = field(default_factory=WindowConfig)
    incomplete: Literal["use", "drop"] = "use"
    hot_pixel_mask: str = ""
    refractory_us: int = 0
    noise_us: int = 0

    def __post_init__(self) -> None:
        if self.incomplete not in ("use", "drop"):
            raise InputError(f"expected incomplete windows to be 'use' or 'drop', found '{self.incomplete}'")


@dataclass(frozen=True)
class StreamWindow:
    """A window with what a message made from it needs.

    Attributes:
        window: the events and their interval of sensor time.
        stamp_ns: ROS time of the window's end.
        frame_id: the sensor's frame.
        width, height: sensor size, pixels.
        input_stamp_ns: header stamp of the packet that closed the window.
        receive_ns: when that packet was received, on the caller's clock.
    """

    window: EventWindow
    stamp_ns: int
    frame_id: str
    width: int
    height: int
    input_stamp_ns: int
    receive_ns: int


class EventStreamProcessor:
    """Decodes packets, filters events, cuts windows, and maps window ends to ROS time.

    Not thread-safe; one instance per camera. Never raises on what a packet contains; `drops()` counts what was lost.
    """

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.clock = SensorClock()
        self.windows = 0
        self._guard = StampGuard()
        self._dropped: Counter[str] = Counter()
        self._removed: Counter[str] = Counter()
        self._decoder = PacketDecoder()
        self._windower = EventWindower(config.window)
        self._filters: dict[str, EventFilter] = {}
        self._size = (0, 0)
        self._last: Packet | None = None
        self._last_receive_ns = 0
        # Reading the mask now makes a wrong path an error of configuration, not of the first packet.
        self._mask = HotPixelMask.load(config.hot_pixel_mask) if config.hot_pixel_mask else None

    def push(self, packet: Packet, receive_ns: int = 0) -> list[StreamWindow]:
        """Takes one packet; returns the windows that it closed, oldest first."""
        closed: list[StreamWindow] = []
        if self._guard.jumped_back(packet.stamp_ns):
            closed += self.flush()
            self.reset()
        decoded = self._decoder.decode(packet)
        if decoded.reset:
            closed += self.flush()
            self._restart_windows()
        self._last, self._last_receive_ns = packet, receive_ns
        if (packet.width, packet.height) != self._size:
            self._size = (packet.width, packet.height)
            self._make_filters(packet.width, packet.height)
        if decoded.time_us is not None:
            self.clock.update(packet.stamp_ns, decoded.time_us)
        events = self._filter(decoded.events)
        windows = self._windower.push(events, decoded.time_us, gap=decoded.gap)
        return closed + self._timed(windows)

    def flush(self) -> list[StreamWindow]:
        """Closes the open window: at the end of a recording, or when the stream has stopped."""
        return self._timed(self._windower.flush())

    def reset(self) -> None:
        """Forgets all state of the stream (time went back, or the source was replaced); counters stay."""
        self._decoder.reset()
        self._guard.reset()
        self._restart_windows()

    def drops(self) -> dict[str, int]:
        """What was lost, by cause: packets, words, events and windows, as counted where it happened."""
        total = Counter(self._decoder.counters.dropped)
        total.update({k: n for k, n in self._windower.counters.dropped.items() if k not in _INTENDED})
        total.update(self._guard.counts)
        total.update(self._dropped)
        return {cause: n for cause, n in total.items() if n}

    def removed(self) -> dict[str, int]:
        """Events left out on purpose, by cause: thinning, a stride above the duration, filters."""
        total = Counter(self._removed)
        total.update({k: self._windower.counters.dropped[k] for k in _INTENDED})
        for name, one in self._filters.items():
            total[name] += one.dropped
        return {cause: n for cause, n in total.items() if n}

    def _restart_windows(self) -> None:
        self._windower.reset()
        self.clock.reset()
        self._size = (0, 0)  # filters hold times per pixel: they start anew with the next packet

    def _make_filters(self, width: int, height: int) -> None:
        """New filters for this sensor; what the old ones dropped stays counted."""
        for name, one in self._filters.items():
            self._removed[name] += one.dropped
            one.dropped = 0
        self._filters = {}
        config, mask = self.config, self._mask
        if mask is not None:
            if (mask.width, mask.height) == (width, height):
                self._filters["hot_pixel_events"] = mask
            else:
                self._dropped["hot_pixel_mask_of_other_size"] += 1
        if not 0 < width * height <= MAX_FILTERED_PIXELS:
            return
        if config.refractory_us:
            self._filters["refractory_events"] = RefractoryFilter(width, height, config.refractory_us)
        if config.noise_us:
            self._filters["noise_events"] = NeighbourNoiseFilter(width, height, config.noise_us)

    def _filter(self, events: Events) -> Events:
        for one in self._filters.values():
            events = one.apply(events)
        return events

    def _timed(self, windows: list[EventWindow]) -> list[StreamWindow]:
        if self._last is None:
            return []
        packet, timed = self._last, []
        for window in windows:
            self.windows += 1
            if not window.complete and self.config.incomplete == "drop":
                self._dropped["incomplete_window"] += 1
                continue
            stamp = self.clock.to_ros_ns(window.end_us)
            timed.append(
                StreamWindow(
                    window=window,
                    stamp_ns=packet.stamp_ns if stamp is None else stamp,
                    frame_id=packet.frame_id,
                    width=packet.width,
                    height=packet.height,
                    input_stamp_ns=packet.stamp_ns,
                    receive_ns=self._last_receive_ns,
                )
            )
        return timed
