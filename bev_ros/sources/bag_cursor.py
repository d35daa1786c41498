# SPDX-License-Identifier: Apache-2.0
"""Messages of a bag by key, read forward as long as one asks for them in order."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from aot_runtime.bags import MessageReader, bag_messages, open_bag
from aot_runtime.errors import InputError
from bev_ros.sources.bag_index import MessageKey

_AHEAD_NS = 5_000_000_000


class BagCursor:
    """Fetches messages. Not thread-safe; of several threads, each in its turn may use it.

    The bag is read forward from where the last fetch ended if what one asks for comes soon after it, else from its
    first message's time on: sets in order of time cost one pass, whatever their number.

    Args:
        path: of the bag.
        keys: everything that may be asked for: what the pass meets of it before it is asked for is kept.
        kept: messages that are kept like that.
    """

    def __init__(self, path: Path, keys: Collection[MessageKey], kept: int) -> None:
        self._path = path
        self._keys = frozenset(keys)
        self._topics = frozenset(key.topic for key in keys)
        self._kept = kept
        self._stack = contextlib.ExitStack()
        self._messages: Iterator[tuple[Any, int, bytes | memoryview]] | None = None
        self._reader: MessageReader | None = None
        self._at_ns = 0
        self._thread = 0
        self._waiting: dict[MessageKey, tuple[Any, bytes]] = {}

    def fetch(self, keys: Collection[MessageKey]) -> dict[MessageKey, Any]:
        """The messages of some keys.

        Raises:
            InputError: the bag is damaged, or it is not the one any more that the keys are from.
        """
        found = {key: self._waiting.pop(key) for key in keys if key in self._waiting}
        missing = {key for key in keys if key not in found}
        if missing:
            begin_ns = min(key.received_ns for key in missing)
            goes_on = self._messages is not None and self._at_ns <= begin_ns <= self._at_ns + _AHEAD_NS
            if not goes_on or self._thread != threading.get_ident():
                self._restart(begin_ns)
            self._read_until(missing, found)
            if missing and begin_ns <= self._at_ns:  # one that the last fetch passed, and kept no longer
                self._restart(begin_ns)
                self._read_until(missing, found)
        if missing:
            raise InputError(
                f"expected a message on {min(missing).topic} received at {min(missing).received_ns} ns, found none in "
                f"{self._path}",
                "the bag was changed meanwhile: start again",
            )
        if self._reader is None:
            raise AssertionError("messages are decoded by the reader that found them")
        return {key: self._reader.message(connection, raw) for key, (connection, raw) in found.items()}

    def close(self) -> None:
        """Closes the bag."""
        self._stack.close()
        self._messages = None

    def _restart(self, begin_ns: int) -> None:
        self.close()
        self._waiting.clear()
        reader = self._stack.enter_context(open_bag(self._path, rosbag1=True))
        self._reader = MessageReader(reader, self._path)
        self._messages = bag_messages(reader, self._path, self._topics, begin_ns)
        self._at_ns = begin_ns
        self._thread = threading.get_ident()  # with older rosbags an sqlite3 connection belongs to it

    def _read_until(self, missing: set[MessageKey], found: dict[MessageKey, tuple[Any, bytes]]) -> None:
        """Reads on until nothing is missing or it cannot come any more; takes from `missing`, adds to `found`."""
        if not missing or self._messages is None or self._reader is None:
            return
        end_ns = max(key.received_ns for key in missing)
        for connection, received_ns, raw in self._messages:
            self._at_ns = received_ns
            try:
                key = MessageKey(connection.topic, received_ns, self._reader.stamp_ns(raw))
            except InputError:  # counted when the bag was indexed
                continue
            if key in missing:
                missing.discard(key)
                found[key] = (connection, bytes(raw))
                if not missing:
                    return
            elif key in self._keys:
                self._waiting[key] = (connection, bytes(raw))
                while len(self._waiting) > self._kept:
                    del self._waiting[next(iter(self._waiting))]
            if received_ns > end_ns:
                return
        self._messages = None
