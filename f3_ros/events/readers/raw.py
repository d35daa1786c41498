# SPDX-License-Identifier: Apache-2.0
"""Prophesee RAW files: a text header, then the sensor's words as they came (EVT2, EVT2.1 or EVT3)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.codecs import make_decoder
from f3_ros.events.codecs.base import Decoder
from f3_ros.events.readers.base import DEFAULT_CHUNK, EventReader, ReadStats, cut_time
from f3_ros.events.readers.prophesee_header import PropheseeHeader, read_header
from f3_ros.events.readers.word_scan import Evt2Scanner, Evt3Scanner, WordScanner
from f3_ros.events.types import Events, Packet

_BLOCK_BYTES = 1 << 20
_MAX_PACKET_BYTES = 1 << 20
_SIZES = {"evt3": (1280, 720), "evt2": (640, 480), "evt21": (1280, 720)}
_WORD_BYTES = {"evt3": 2, "evt2": 4, "evt21": 8}
_FORMATS = {"EVT3": "evt3", "EVT2": "evt2", "EVT21": "evt21", "EVT2.1": "evt21"}
_VERSIONS = {"3.0": "evt3", "2.0": "evt2", "2.1": "evt21"}


class RawReader(EventReader):
    """Reader of one RAW file.

    The size comes from the header, else from `sensor_size`, else from the sensor's name in the header, else from the
    format; `metadata["geometry_source"]` says which.

    Raises:
        InputError: no header, no words behind it, or an unknown format.
    """

    format = "raw"

    def __init__(self, path: Path, sensor_size: tuple[int, int] | None = None) -> None:
        super().__init__(path)
        header = read_header(path, blank_required=True)
        self._offset = header.size
        self.encoding = _encoding_of(header, path)
        self._word = _WORD_BYTES[self.encoding]
        data_bytes = path.stat().st_size - self._offset
        self._n_words, rest = divmod(data_bytes, self._word)
        if self._n_words == 0:
            raise InputError(
                f"expected {self.encoding} words after the header, found {data_bytes} bytes in {path}",
                "record or copy the file again",
            )
        if rest:
            self.notice(f"the last {rest} bytes do not fill a word and are ignored: the file is cut")
        self.metadata.update(header.fields)
        self._choose_size(header, sensor_size)
        self._type_half = self._evt21_type_half(header) if self.encoding == "evt21" else 0
        self._t_first: int | None = None
        self._t_first_known = False
        self._duration: int | None = None

    def _choose_size(self, header: PropheseeHeader, given: tuple[int, int] | None) -> None:
        found, guess = header.geometry(), header.sensor_guess()
        if found is not None:
            source, size = "header", found
            if given is not None and given != found:
                self.notice(f"header says {found[0]}x{found[1]}, the given {given[0]}x{given[1]} is ignored")
        elif given is not None:
            source, size = "parameter", given
        elif guess is not None:
            source, size = f"sensor name {guess[0]}", guess[1]
            self.notice(f"the header has no geometry: {size[0]}x{size[1]} follows from {guess[0]}")
        else:
            source, size = f"default for {self.encoding}", _SIZES[self.encoding]
            self.notice(
                f"the header has no geometry: {size[0]}x{size[1]} is assumed for {self.encoding}; "
                "give the sensor size if that is wrong"
            )
        self.width, self.height = size
        self.metadata["geometry_source"] = source

    def _evt21_type_half(self, header: PropheseeHeader) -> int:
        """Which 32-bit half carries type, time and row: 1 = one little-endian word (GenX320), 0 = "legacy" (IMX636)."""
        option = header.format_options.get("endianness", "")
        if option in ("little", "legacy"):
            half = 1 if option == "little" else 0
        else:
            half = detect_evt21_half(next(self._read_blocks(0)))
        self.metadata["evt21_order"] = "genx320" if half else "imx636"
        return half

    # ------------------------------------------------------------------------------------------ words

    def _read_blocks(self, first_word: int) -> Iterator[np.ndarray]:
        """Whole words from `first_word` on as read-only uint8 blocks."""
        with self.path.open("rb") as file:
            file.seek(self._offset + first_word * self._word)
            left = (self._n_words - first_word) * self._word
            while left > 0:
                data = file.read(min(left, _BLOCK_BYTES))
                usable = len(data) - len(data) % self._word
                if usable == 0:
                    raise InputError(
                        f"expected {left} more bytes, found the end of {self.path}",
                        "the file shrank while it was read: try again when it is complete",
                    )
                left -= usable
                yield np.frombuffer(data, np.uint8, usable)

    def _words(self, block: np.ndarray) -> np.ndarray:
        return block.view("<u2" if self._word == 2 else "<u4" if self._word == 4 else "<u8")

    def _scanner(self) -> WordScanner:
        if self.encoding == "evt3":
            return Evt3Scanner()
        return Evt2Scanner(self._word // 4, self._type_half)

    def _decoder(self) -> Decoder:
        if self.encoding == "evt21":
            return make_decoder(self.encoding, self.width, self.height, order=self.metadata["evt21_order"])
        return make_decoder(self.encoding, self.width, self.height)

    def _seek(self, start_us: int, target: int) -> tuple[int, WordScanner]:
        """(first word to read, scanner in the state before it); the start of the file for `start_us` 0."""
        scanner = self._scanner()
        if start_us == 0:
            return 0, scanner
        word = 0
        for block in self._read_blocks(0):
            words = self._words(block)
            found = scanner.seek(words, target)
            if found >= 0:
                return word + found, scanner
            word += len(words)
        return self._n_words, scanner

    # ------------------------------------------------------------------------------------------ EventReader

    @property
    def t_first_us(self) -> int | None:
        if not self._t_first_known:
            decoder = self._decoder()
            for block in self._read_blocks(0):
                events = decoder.decode(block)
                if len(events):
                    self._t_first = int(events.t[0])
                    break
            self._t_first_known = True
        return self._t_first

    @property
    def duration_us(self) -> int | None:
        """Time between the first event and the last time word; scans the file once (about 1 s per GB)."""
        if self._duration is None and self.t_first_us is not None:
            scanner = self._scanner()
            for block in self._read_blocks(0):
                scanner.cuts(self._words(block), 0, 1 << 62)
            self._duration = max(0, (scanner.time_us or 0) - self.t_first_us)
        return self._duration

    def chunks(
        self, start_us: int = 0, duration_us: int | None = None, *, max_events: int = DEFAULT_CHUNK
    ) -> Iterator[Events]:
        start, end = self._range(start_us, duration_us)
        self.stats = ReadStats()
        if self.t_first_us is None:
            return
        first, scanner = self._seek(start_us, start)
        decoder = self._decoder()
        if first:
            decoder.shift_time(scanner.loops)
            decoder.decode(scanner.prefix())
        # times step back by a few us only, so a second after the end nothing of the range can follow
        stop = None if end is None else end + 1_000_000
        for block in self._read_blocks(first):
            decoded = decoder.decode(block)
            self.stats.triggers = decoder.counters.triggers
            self.stats.dropped.update({k: v - self.stats.dropped[k] for k, v in decoder.counters.dropped.items() if v})
            events = cut_time(decoded, start if start_us else None, end)
            for lo in range(0, len(events), max_events):
                yield events[lo : lo + max_events].copy()
            if stop is not None and (decoder.last_time_us or 0) > stop:
                return

    def packets(
        self,
        start_us: int = 0,
        duration_us: int | None = None,
        packet_us: int = 4000,
        *,
        encoding: str | None = None,
    ) -> Iterator[Packet]:
        """Native words, cut where a time word enters the next `packet_us` (EVT2: 64 us grid), at the latest every MiB.

        `stamp_ns` is the sensor time at the packet's first word. With `start_us` 0 the payloads together are the
        file's data byte by byte; otherwise the first packet begins with words that restore the decoder's state.
        """
        if encoding not in (None, self.encoding):
            yield from self._transcoded(start_us, duration_us, packet_us, str(encoding))
            return
        if packet_us < 1:
            raise InputError(f"expected packet_us >= 1, found {packet_us}", "give another packet length")
        start, end = self._range(start_us, duration_us)
        if self.t_first_us is None:
            return
        first, scanner = self._seek(start_us, start)
        head = scanner.prefix() if first else np.zeros(0, np.uint8)
        for seq, (stamp_us, parts) in enumerate(self._packet_parts(first, scanner, start, end, packet_us)):
            payload = np.concatenate([head, *parts]) if len(parts) > 1 or len(head) else parts[0]
            head = head[:0]
            yield Packet(
                stamp_us * 1000, "event_camera", self.width, self.height, seq, 0, self.encoding, False, payload
            )

    def _packet_parts(
        self, first: int, scanner: WordScanner, origin: int, end: int | None, packet_us: int
    ) -> Iterator[tuple[int, list[np.ndarray]]]:
        """(time at the first word, pieces of the payload) of each packet."""
        parts: list[np.ndarray] = []
        size = 0
        stamp: int | None = None
        to_end = copy.deepcopy(scanner)
        for block in self._read_blocks(first):
            last = -1 if end is None else to_end.seek(self._words(block), end + scanner.granularity_us - 1)
            if last >= 0:
                block = block[: last * self._word]
            index, times = scanner.cuts(self._words(block), origin, packet_us)
            begin = 0
            for word, time in zip(index.tolist(), times.tolist()):
                piece = block[begin * self._word : word * self._word]
                if len(piece):
                    parts.append(piece)
                if parts and stamp is not None:
                    yield stamp, parts
                    parts, size = [], 0
                begin, stamp = word, time
            piece = block[begin * self._word :]
            if len(piece):
                parts.append(piece)
                size += len(piece)
            if size >= _MAX_PACKET_BYTES and stamp is not None:
                yield stamp, parts
                parts, size = [], 0
                stamp = scanner.time_us
            if last >= 0:
                break
        if parts:
            yield origin if stamp is None else stamp, parts


def _encoding_of(header: PropheseeHeader, path: Path) -> str:
    """Encoding by the `format` line, else by the `evt` line."""
    if header.size == 0:
        raise InputError(
            f'expected a Prophesee header of lines "% key value", found none at the start of {path}',
            "check that this is a complete RAW file",
        )
    name, version = header.format_name, header.fields.get("evt", "")
    encoding = _FORMATS.get(name) or (None if name else _VERSIONS.get(version))
    if encoding is None:
        found = f"format {name}" if name else f"evt {version}" if version else "neither a format nor an evt line"
        raise InputError(
            f"expected EVT2, EVT2.1 or EVT3, found {found} in the header of {path}",
            "convert the file with the camera vendor's tools",
        )
    return encoding


def detect_evt21_half(block: np.ndarray) -> int:
    """Which half of the 64-bit words holds valid EVT2.1 types more often (0 or 1).

    In the right half every word is of type 0, 1, 8, A, E or F, every row is of the sensor and time words come in
    order; the other half is a mask, whose top bits are arbitrary.
    """
    halves = block[: len(block) - len(block) % 8].view("<u4").reshape(-1, 2)[:65536]
    valid = np.zeros(16, bool)
    valid[[0x0, 0x1, 0x8, 0xA, 0xE, 0xF]] = True
    scores = []
    for half in (0, 1):
        kinds = halves[:, half] >> 28
        ok = np.count_nonzero(valid[kinds])
        high = (halves[kinds == 8, half] & 0xFFFFFFF).astype(np.int64)
        # real TIME_HIGH words rarely go back; masks that look like one are in no order
        ordered = np.count_nonzero(np.diff(high) >= 0) / max(1, len(high) - 1) if len(high) > 1 else 0.0
        scores.append(ok / max(1, len(halves)) + ordered)
    return int(scores[1] > scores[0])
