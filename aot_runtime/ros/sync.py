# SPDX-License-Identifier: Apache-2.0
"""Puts messages of several topics together by their stamps: approximate time synchronisation, bounded and counted.

No ROS in here: what goes in are stamps and anything at all. message_filters' policy looks for the best of all possible
sets, for which it must see a later message of every topic first; here a set goes out the moment it is complete, which
costs no latency and gives the same sets as long as `slop_ns` is below half the period of the slowest topic.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from aot_runtime.errors import InputError

T = TypeVar("T")
CAUSES = ("unmatched", "overflow", "late", "cleared")


@dataclass(frozen=True)
class Stamped(Generic[T]):
    """An item that waits for others: its stamp, when it came by the clock of the caller, and itself."""

    stamp_ns: int
    arrival_ns: int
    item: T


@dataclass(frozen=True)
class Match(Generic[T]):
    """Items that belong together.

    Attributes:
        stamp_ns: of the item that the others were compared with; all lie within the slop of it.
        items: by topic name; without the topics that had nothing in time.
    """

    stamp_ns: int
    items: dict[str, Stamped[T]]


class Synchronizer(Generic[T]):
    """Collects one item of every topic with stamps within `slop_ns`. Not thread-safe: call it from one thread.

    An item is used at most once. Topics may come in any order relative to each other; within a topic an item older
    than one that was used already is dropped as "late".

    Args:
        names: the topics.
        slop_ns: largest distance in time from the set's pivot, the newest of the oldest items that wait.
        depth: items that may wait per topic; the oldest gives way ("overflow").
        required: topics without which there is no set; None: all. Others may be missing if `patience_ns` is given.
        patience_ns: how long an item waits for the optional topics before a set goes out without them; see `poll`. Not
            for one that has a later item already.

    Attributes:
        drops: items dropped so far, by cause: "unmatched" (no partner in time), "overflow", "late", "cleared".

    Raises:
        InputError: an argument makes no sense.
    """

    def __init__(
        self,
        names: Sequence[str],
        slop_ns: int,
        *,
        depth: int = 10,
        required: Collection[str] | None = None,
        patience_ns: int | None = None,
    ) -> None:
        unknown = sorted(set(required or ()) - set(names))
        if unknown or len(set(names)) != len(names) or not names:
            raise InputError(f"expected different topic names, found {list(names)} and required {unknown or ''}")
        if slop_ns < 0 or depth < 1:
            raise InputError(f"expected slop_ns >= 0 and depth >= 1, found {slop_ns} and {depth}")
        self._required = frozenset(names if required is None else required)
        if patience_ns is None and len(self._required) < len(names):
            raise InputError("expected patience_ns with optional topics, found none")
        self._slop = slop_ns
        self._depth = depth
        self._patience = patience_ns
        self._waiting: dict[str, deque[Stamped[T]]] = {name: deque() for name in names}
        self._used: dict[str, int | None] = dict.fromkeys(names)
        self.drops = dict.fromkeys(CAUSES, 0)

    def add(self, name: str, stamp_ns: int, item: T, now_ns: int) -> list[Match[T]]:
        """Takes an item; returns the sets that it completes, oldest first.

        Args:
            now_ns: any clock that never goes back, the same as for `poll`.
        """
        used = self._used[name]
        if used is not None and stamp_ns <= used:
            self.drops["late"] += 1
            return []
        queue = self._waiting[name]
        position = len(queue)
        while position and queue[position - 1].stamp_ns > stamp_ns:
            position -= 1
        queue.insert(position, Stamped(stamp_ns, now_ns, item))
        if len(queue) > self._depth:
            queue.popleft()
            self.drops["overflow"] += 1
        matches = []
        while (match := self._complete()) is not None:
            matches.append(match)
        return matches

    def poll(self, now_ns: int) -> list[Match[T]]:
        """Sets that have waited long enough for their optional topics. Call it regularly if `patience_ns` is given."""
        matches: list[Match[T]] = []
        if self._patience is None:
            return matches
        while True:
            heads = [queue[0] for queue in self._waiting.values() if queue]
            if not heads:
                return matches
            oldest = min(heads, key=lambda head: head.stamp_ns)
            if now_ns - oldest.arrival_ns < self._patience:
                return matches
            self._release(oldest.stamp_ns, matches)

    def clear(self) -> None:
        """Forgets everything, also what was used: the next items start anew, whatever their stamps."""
        for name, queue in self._waiting.items():
            self.drops["cleared"] += len(queue)
            queue.clear()
            self._used[name] = None

    @property
    def pending(self) -> dict[str, int]:
        """How many items wait, by topic."""
        return {name: len(queue) for name, queue in self._waiting.items()}

    def _complete(self) -> Match[T] | None:
        """A set that nothing can be added to, if there is one. Items that no later set can hold are dropped."""
        queues = self._waiting.values()
        matches: list[Match[T]] = []
        while all(queues):
            # Every set holds an item of the topic whose head is the newest, so none reaches further back than this.
            pivot = max(queue[0].stamp_ns for queue in queues)
            oldest = min(queue[0].stamp_ns for queue in queues)
            if oldest >= pivot - self._slop:
                return self._take(pivot, self._waiting)
            if len(self._required) < len(queues):
                # The topic of the pivot has nothing for the oldest item any more: no need to wait for it.
                self._release(oldest, matches)
                if matches:
                    return matches[0]
                continue
            for queue in queues:
                while queue and queue[0].stamp_ns < pivot - self._slop:
                    queue.popleft()
                    self.drops["unmatched"] += 1
        return None

    def _release(self, oldest_ns: int, matches: list[Match[T]]) -> None:
        """The set around the oldest item, without the topics that have nothing near; or that item is dropped."""
        near = [name for name, queue in self._waiting.items() if queue and queue[0].stamp_ns <= oldest_ns + self._slop]
        if self._required <= set(near):
            matches.append(self._take(max(self._waiting[name][0].stamp_ns for name in near), near))
            return
        for name in near:
            if self._waiting[name][0].stamp_ns == oldest_ns:
                self._waiting[name].popleft()
                self.drops["unmatched"] += 1

    def _take(self, pivot: int, names: Collection[str]) -> Match[T]:
        """Removes and returns the item nearest to the pivot of each topic, and drops those before it."""
        items = {}
        for name in names:
            queue = self._waiting[name]
            nearest = min(queue, key=lambda entry: (abs(entry.stamp_ns - pivot), entry.stamp_ns))
            while (entry := queue.popleft()) is not nearest:
                self.drops["unmatched"] += 1
            items[name] = entry
            self._used[name] = entry.stamp_ns
        return Match(pivot, items)
