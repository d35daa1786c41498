# SPDX-License-Identifier: Apache-2.0
"""From event packets to events, through everything that goes wrong on the way.

Packets get lost (best-effort transport), cameras restart, publishers change, payloads are cut or corrupt. None of it
raises: the decoder leaves out what it cannot know, counts it by cause, and goes on with the next word that makes sense.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from f3_ros.events.codecs import DECODERS, Decoder, Triggers, make_decoder
from f3_ros.events.codecs.word_stream import WordStreamDecoder
from f3_ros.events.types import Events, Packet

MAX_SIDE = 1 << 16
MAX_TIME_BASE_NS = 1 << 62
JUMP_US = 1_000_000
"""A step of the sensor time by more than this between two packets counts as a jump, and as a gap."""


@dataclass
class DecodedPacket:
    """What one packet gave.

    Attributes:
        events: `t` in int64 microseconds of sensor time; memory that the next call overwrites.
        time_us: sensor time up to which the stream is known, time words without events included; None while unknown.
        gap: data before these events is missing.
        reset: the sensor time went back, or the sensor or its encoding changed: what was collected before belongs to
            another stream.
        triggers: external trigger edges, `t` in microseconds.
    """

    events: Events
    time_us: int | None
    gap: bool
    reset: bool
    triggers: Triggers


class PacketCounters:
    """Running totals of a `PacketDecoder`.

    Attributes:
        packets: packets given.
        bytes, events, triggers: as the name says; events are those put out.
        gaps: times that data went missing, whatever the cause.
        resets: times that the stream started anew.
        time_jumps: steps of the sensor time by more than a second between neighbouring packets.
        clock_corrections: times that whole wraps of the sensor time were added or taken by means of the header stamps.
        erc_in, erc_out: events into and out of the sensor's event rate controller, where it reports them.
    """

    def __init__(self) -> None:
        self.packets = 0
        self.bytes = 0
        self.events = 0
        self.triggers = 0
        self.gaps = 0
        self.resets = 0
        self.time_jumps = 0
        self.clock_corrections = 0
        self.erc_in = 0
        self.erc_out = 0
        self._packet_causes = dict.fromkeys(
            (
                "lost_packets",
                "bigendian_packets",
                "unknown_encoding_packets",
                "bad_size_packets",
                "bad_time_base_packets",
                "unreadable_packets",
                "before_reset",
            ),
            0,
        )
        self._past: dict[str, int] = {}
        self._decoder: Decoder | None = None

    @property
    def dropped(self) -> dict[str, int]:
        """Everything left out, by cause: packets, words, bytes where the name says so, else events."""
        total = {**self._packet_causes, **self._past}
        if self._decoder is not None:
            for cause, count in self._decoder.counters.dropped.items():
                total[cause] = total.get(cause, 0) + count
        return total

    def count(self, cause: str, number: int = 1) -> None:
        """Add to one of the causes that concern whole packets."""
        self._packet_causes[cause] += number

    def follow(self, decoder: Decoder) -> None:
        """Include this decoder's drops from now on, and keep those of the one before."""
        if self._decoder is not None:
            for cause, count in self._decoder.counters.dropped.items():
                self._past[cause] = self._past.get(cause, 0) + count
        self._decoder = decoder


class PacketDecoder:
    """Decodes the packets of one publisher. One instance per topic: the state goes on from packet to packet."""

    def __init__(self, *, max_events: int = 1 << 24, max_backstep_us: int = 100_000) -> None:
        """Args:
        max_events: most events taken from one packet; the rest is dropped and counted ("overflow_words"). The default
            takes 220 MB; real packets hold up to some hundred thousand.
        max_backstep_us: sensor time that goes back by more than this is a restart, less is a glitch of the sensor,
            unless the packets' numbers start anew as well.
        """
        self.counters = PacketCounters()
        self._max_events = max_events
        self._max_backstep_us = max_backstep_us
        self._decoder: Decoder | None = None
        self._layout: tuple[str, int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._next_seq: int | None = None
        self._anchor: tuple[int, int] | None = None  # (header stamp [us], sensor time [us]) of the last good packet
        self._lost = False  # data went missing and the time was not confirmed since
        self._seq_back = False  # this packet's number is below the last one's: the publisher started anew

    def reset(self) -> None:
        """Forget the stream (its counters go on): the next packet starts a new one."""
        self._forget()
        if self._decoder is not None:
            self._decoder.reset()

    @property
    def decoder(self) -> Decoder | None:
        """The decoder of the current encoding."""
        return self._decoder

    def decode(self, packet: Packet) -> DecodedPacket:
        """Decode one packet. Never raises on the content of a packet; see `counters` for what was left out."""
        counters = self.counters
        counters.packets += 1
        gap = self._check_sequence(packet.seq)
        cause = _why_unusable(packet)
        if cause is not None:
            counters.count(cause)
            return self._unusable(gap)
        reset = self._choose_decoder(packet)
        decoder = self._decoder
        assert decoder is not None
        if gap:
            decoder.desynchronise()
            self._lost = True
        if not decoder.synchronised and (self._lost or self._anchor is not None):
            gap = True
        bytes_before, cut_before = decoder.counters.bytes, decoder.counters.cut_words
        try:
            events = decoder.decode(packet.events, packet.time_base)
        except (TypeError, ValueError, BufferError):  # not bytes at all
            counters.count("unreadable_packets")
            return self._unusable(gap)
        if decoder.counters.cut_words > cut_before:
            self._lost = True
        triggers = decoder.triggers
        counters.bytes += decoder.counters.bytes - bytes_before
        if decoder.time_unit == "ns":
            _to_microseconds(events.t)
            triggers.t //= 1000
        jumped, went_back = self._check_time(packet, decoder, events, triggers)
        time_us = decoder.last_time_us
        if went_back:
            keep = events.t <= time_us
            counters.count("before_reset", int(len(events) - np.count_nonzero(keep)))
            events = events[keep]
        gap = gap or jumped
        reset = reset or went_back
        counters.gaps += gap
        counters.resets += reset
        counters.events += len(events)
        counters.triggers += len(triggers)
        if packet.encoding == "evt3":
            counters.erc_in, counters.erc_out = decoder.erc_counts  # type: ignore[attr-defined]
        return DecodedPacket(events, time_us, gap, reset, triggers)

    def _check_sequence(self, seq: int) -> bool:
        """Whether packets are missing before this one."""
        expected, self._next_seq = self._next_seq, (seq + 1) & (1 << 64) - 1
        self._seq_back = expected is not None and seq < expected
        if expected is None or seq == expected:
            return False
        if seq > expected:
            self.counters.count("lost_packets", seq - expected)
        return True

    def _unusable(self, gap: bool) -> DecodedPacket:
        if self._decoder is not None:
            self._decoder.desynchronise()
        self._lost = True
        self.counters.gaps += gap
        time_us = None if self._decoder is None else self._decoder.last_time_us
        return DecodedPacket(Events.empty(), time_us, gap, False, Triggers.empty())

    def _choose_decoder(self, packet: Packet) -> bool:
        """Make a new decoder if the stream's layout changed; return whether another stream ends here."""
        layout = (packet.encoding, packet.width, packet.height)
        if layout == self._layout:
            return False
        started = self._layout is not None
        self._decoder = make_decoder(*layout, max_events=self._max_events)
        self.counters.follow(self._decoder)
        self._layout = layout
        self._anchor = None
        self._lost = False
        return started

    def _check_time(self, packet: Packet, decoder: Decoder, events: Events, triggers: Triggers) -> tuple[bool, bool]:
        """Compare the sensor time with the last packet's; correct its wraps. Returns (jumped, went back)."""
        time = decoder.last_time_us
        if time is None or (isinstance(decoder, WordStreamDecoder) and not decoder.time_known):
            return False, False
        stamp = packet.stamp_ns // 1000
        anchor, lost = self._anchor, self._lost
        self._anchor, self._lost = (stamp, time), False
        if anchor is None:
            return False, False
        host_step, step = stamp - anchor[0], time - anchor[1]
        if isinstance(decoder, WordStreamDecoder):
            # Words tell the time modulo a wrap. If data is missing for more than half a wrap, or the time itself jumps
            # by as much, only the host's clock can tell how many wraps passed.
            half = decoder.wrap_us // 2
            if host_step != 0 and ((lost and abs(host_step) > half) or abs(step) > half):
                wraps = round((host_step - step) / decoder.wrap_us)
                if wraps:
                    decoder.shift_time(wraps)
                    events.t += wraps * decoder.wrap_us
                    triggers.t += wraps * decoder.wrap_us
                    time += wraps * decoder.wrap_us
                    step = time - anchor[1]
                    self._anchor = (stamp, time)
                    self.counters.clock_corrections += 1
        jumped = abs(step) > JUMP_US
        self.counters.time_jumps += jumped
        return jumped, step < (0 if self._seq_back else -self._max_backstep_us)


def _why_unusable(packet: Packet) -> str | None:
    """The cause to count if a packet cannot be decoded at all, else None."""
    if packet.is_bigendian:
        return "bigendian_packets"
    if packet.encoding not in DECODERS:
        return "unknown_encoding_packets"
    if not (0 < packet.width <= MAX_SIDE and 0 < packet.height <= MAX_SIDE):
        return "bad_size_packets"
    if packet.time_base > MAX_TIME_BASE_NS:
        return "bad_time_base_packets"
    return None


@numba.njit(nogil=True, cache=True, boundscheck=False)
def _to_microseconds(t):
    """Nanoseconds to microseconds in place, rounding down."""
    for i in range(len(t)):
        t[i] //= 1000
