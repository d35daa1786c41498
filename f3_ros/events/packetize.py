# SPDX-License-Identifier: Apache-2.0
"""Decoded events -> packets, for files that hold no camera words of their own and for the simulator.

Every packet decodes without the ones before it (loss costs only itself): it begins with fresh time and row words.
EVT3 packets also end with time words for the packet's end, as a camera keeps sending time when nothing moves, so a
consumer can close its windows without waiting for the next event. EVT3 carries 24 bits of time: what a decoder
returns is the sensor time minus `packet_epoch_us(first packet)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.codecs.encoders import encode_evt3, encode_libcaer, encode_mono
from f3_ros.events.types import Events, Packet

ENCODINGS = ("evt3", "libcaer", "mono")
_WRAP_BITS = {"evt3": 24, "evt2": 34, "evt21": 34}
# A quiet gap is filled with time packets: up to 10 s as densely as others, up to a minute one per second (more would
# look like a jump of the clock), up to 10 minutes one per 8 s, below EVT3's half range of 8.4 s, so that wraps are
# still counted. Beyond that the clock jumped.
_GAP_STEPS_US = ((10_000_000, 0), (60_000_000, 1_000_000), (600_000_000, 8_000_000))
_RESTART_US = 1_000_000  # a step back this far is a restarted clock, not jitter of the readout


def packet_epoch_us(packet: Packet) -> int:
    """What to add to the times that a fresh decoder returns for a stream that starts with `packet`.

    Holds for packets whose stamp is their sensor time, as the file readers and `packets_from_chunks` make them. Zero
    for libcaer and mono, which carry absolute time.
    """
    bits = _WRAP_BITS.get(packet.encoding)
    return 0 if bits is None else (packet.stamp_ns // 1000 >> bits) << bits


def check_encoding(encoding: str, width: int, height: int, packet_us: int) -> None:
    """Raise InputError if `encoding` cannot carry this sensor or packet length."""
    if encoding not in ENCODINGS:
        raise InputError(
            f"expected an encoding out of {', '.join(ENCODINGS)}, found {encoding!r}", "choose one of these"
        )
    limits = {"evt3": (2048, 2048), "libcaer": (1 << 15, 1 << 15), "mono": (1 << 16, 1 << 15)}[encoding]
    if width > limits[0] or height > limits[1]:
        raise InputError(
            f"expected a sensor of at most {limits[0]}x{limits[1]} for {encoding}, found {width}x{height}",
            "use the encoding mono",
        )
    if not 1 <= packet_us <= 1_000_000:
        raise InputError(f"expected packet_us in 1..1000000, found {packet_us}", "give another packet length")


def packets_from_chunks(
    chunks: Iterable[Events],
    width: int,
    height: int,
    *,
    encoding: str = "evt3",
    packet_us: int = 4000,
    frame_id: str = "event_camera",
    source: object = "the events given",
) -> Iterator[Packet]:
    """Cut events every `packet_us` of sensor time (counted from the first event) and encode them.

    Stamps are sensor time: `stamp_ns` is 1000 times the time of the packet's first event, or the start of its
    interval if it has none. `seq` counts from 0. Events must be ordered up to small steps back; an event that steps
    back over a boundary stays in the later packet, and a step back by more than a second starts a new count.

    Args:
        chunks: events, t in microseconds.
        width, height: sensor size in pixels.
        encoding: "evt3", "libcaer" or "mono".
        source: where the events come from, for messages.

    Raises:
        InputError: the encoding is unknown or cannot carry the sensor size or the packet length; a time is negative.
    """
    check_encoding(encoding, width, height, packet_us)
    seq = 0
    origin = newest = cell = 0
    started = False
    parts: list[Events] = []

    def packet(events: Events, index: int) -> Packet:
        nonlocal seq
        begin = origin + index * packet_us
        if begin < 0:
            raise InputError(
                f"expected sensor times from zero on, found {begin} us in {source}", "shift the recording's times"
            )
        payload, time_base = _encode(events, encoding, begin, begin + packet_us)
        stamp = int(events.t[0]) if len(events) else begin
        result = Packet(stamp * 1000, frame_id, width, height, seq, time_base, encoding, False, payload)
        seq += 1
        return result

    for chunk in chunks:
        for run, restarts in _runs(chunk, newest if started else None):
            if restarts or not started:
                if parts:
                    yield packet(Events.concatenate(parts), cell)
                parts, cell, started = [], 0, True
                origin = newest = int(run.t[0])
            running = np.maximum.accumulate(run.t)
            np.maximum(running, newest, out=running)
            newest = int(running[-1])
            cells = (running - origin) // packet_us
            cuts = [0, *(np.flatnonzero(np.diff(cells)) + 1).tolist(), len(run)]
            for lo, hi in pairwise(cuts):
                index = int(cells[lo])
                if index != cell:
                    yield packet(Events.concatenate(parts), cell)
                    if encoding == "evt3":
                        for quiet in _quiet_cells(cell, index, packet_us):
                            yield packet(Events.empty(), quiet)
                    parts, cell = [], index
                parts.append(run[lo:hi])
    if parts:
        yield packet(Events.concatenate(parts), cell)


def _runs(chunk: Events, newest: int | None) -> Iterator[tuple[Events, bool]]:
    """Pieces of a chunk between restarts of the clock (steps back by over a second), and whether each is a restart."""
    restarts = False
    while len(chunk):
        running = np.maximum.accumulate(chunk.t)
        if newest is not None:
            np.maximum(running, newest, out=running)
        back = np.flatnonzero(running - chunk.t > _RESTART_US)
        stop = int(back[0]) if len(back) else len(chunk)
        if stop:
            yield chunk[:stop], restarts
        chunk, newest, restarts = chunk[stop:], None, True


def _quiet_cells(last: int, following: int, packet_us: int) -> range:
    """Packet numbers without events that still go out between two packets with events, to carry the time."""
    gap_us = (following - last) * packet_us
    for longest, step_us in _GAP_STEPS_US:
        if gap_us <= longest:
            step = max(1, step_us // packet_us)
            return range(last + step, following, step)
    return range(0)


def _encode(events: Events, encoding: str, begin_us: int, end_us: int) -> tuple[np.ndarray, int]:
    """(payload, time_base in ns) of one packet that reaches from `begin_us` to `end_us`."""
    if encoding == "evt3":
        # the encoder wants times from zero on; whole wraps of the clock do not change the words
        shift = begin_us >> 24 << 24
        return encode_evt3(Events(events.x, events.y, _from_zero(events.t - shift), events.p), end_us - shift), 0
    if encoding == "libcaer":  # a step back would read as a rollover of the 31-bit clock
        events = events[np.argsort(events.t, kind="stable")]
    base = int(events.t.min()) * 1000
    in_ns = Events(events.x, events.y, events.t * 1000, events.p)
    return (encode_libcaer if encoding == "libcaer" else encode_mono)(in_ns, base), base


def _from_zero(t: np.ndarray) -> np.ndarray:
    """Events that step back over a wrap of the clock go to the wrap before it: the same words, times >= 0."""
    return t if len(t) == 0 or int(t.min()) >= 0 else t + (1 << 24)
