# SPDX-License-Identifier: Apache-2.0
"""One thread with a bounded queue in front of it: what keeps inference away from the executor."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Policy = Literal["drop_oldest", "drop_newest", "block"]


class Worker(Generic[T]):
    """Runs `work(item)` in one thread, oldest item first.

    The queue never holds more than `capacity` items. When it is full, `submit` drops the oldest waiting item, drops
    the new one, or blocks, as the policy says; each dropped item is counted by cause in `drops`. An exception that
    leaves `work` is caught, counted in `errors`, and handed to `on_error`; the thread lives on.

    Args:
        name: the thread's name; also the stage that diagnostics name.
        work: called with each item, in the worker's thread.
        capacity: items that may wait (the one being worked on not counted); 1 with "drop_oldest" keeps the latest.
        policy: what `submit` does when the queue is full, unless the call says otherwise.
        on_error: called in the worker's thread with the item and the exception.
        on_drop: called with a dropped item and the cause, in the thread that caused the drop, without the lock held.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[T], None],
        *,
        capacity: int = 1,
        policy: Policy = "drop_oldest",
        on_error: Callable[[T, Exception], None] | None = None,
        on_drop: Callable[[T, str], None] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"expected a queue capacity of at least 1, found {capacity}")
        self.name = name
        self.drops: Counter[str] = Counter()
        self.errors = 0
        self.done = 0
        self.last_error: str = ""
        self._work = work
        self._capacity = capacity
        self._policy: Policy = policy
        self._on_error = on_error
        self._on_drop = on_drop
        self._queue: deque[T] = deque()
        self._busy = False
        self._stopping = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread; a worker that was stopped may be started again."""
        if self._thread is not None:
            return
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is alive and takes items."""
        return self._thread is not None and not self._stopping

    @property
    def waiting(self) -> int:
        """Items in the queue, the one in work not counted."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in work."""
        with self._changed:
            return not self._queue and not self._busy

    def submit(self, item: T, *, policy: Policy | None = None, timeout_s: float | None = None) -> bool:
        """Puts an item into the queue.

        Args:
            item: what `work` will be called with.
            policy: overrides the worker's policy for this item.
            timeout_s: how long "block" may wait; None waits until there is room or the worker stops.

        Returns:
            Whether the item was taken. False: it was dropped and counted ("queue_full", "stopped").
        """
        lost: list[tuple[T, str]] = []
        with self._changed:
            taken = self._put(item, policy or self._policy, timeout_s, lost)
        for dropped, cause in lost:  # told without the lock: the listener may submit again
            self.drops[cause] += 1
            if self._on_drop is not None:
                self._on_drop(dropped, cause)
        return taken

    def _put(self, item: T, policy: Policy, timeout_s: float | None, lost: list[tuple[T, str]]) -> bool:
        """`submit` with the lock held; what it drops goes to `lost`."""
        if self.running and policy == "block" and len(self._queue) >= self._capacity:
            self._changed.wait_for(lambda: len(self._queue) < self._capacity or self._stopping, timeout_s)
        if not self.running:
            lost.append((item, "stopped"))
            return False
        if len(self._queue) >= self._capacity:
            if policy != "drop_oldest":
                lost.append((item, "queue_full"))
                return False
            lost.append((self._queue.popleft(), "queue_full"))
        self._queue.append(item)
        self._changed.notify_all()
        return True

    def clear(self, cause: str = "cleared") -> int:
        """Drops all waiting items (a time jump, a deactivation), counts them under `cause`, returns how many."""
        with self._changed:
            n = len(self._queue)
            self._queue.clear()
            if n:
                self.drops[cause] += n
            self._changed.notify_all()
        return n

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until nothing waits and nothing is in work; False if that took longer than the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Ends the thread after the item in work; waiting items are dropped and counted as "stopped".

        Returns:
            Whether the thread ended in time. A thread that did not is abandoned (it is a daemon).
        """
        thread = self._thread
        if thread is None:
            return True
        with self._changed:
            self._stopping = True
            if self._queue:
                self.drops["stopped"] += len(self._queue)
                self._queue.clear()
            self._changed.notify_all()
        if thread is not threading.current_thread():
            thread.join(timeout_s)
        self._thread = None
        return not thread.is_alive()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._queue) or self._stopping)
                # A thread that outlived its stop() must not share the queue with its successor.
                if self._stopping or self._thread is not me:
                    return
                item = self._queue.popleft()
                self._busy = True
                self._changed.notify_all()
            try:
                self._work(item)
                self.done += 1
            except Exception as error:
                self.errors += 1
                self.last_error = f"{type(error).__name__}: {error}"
                if self._on_error is not None:
                    try:
                        self._on_error(item, error)
                    except Exception as second:  # reporting must not end the thread either
                        self.last_error += f" (and reporting it failed: {second})"
                # An input that fails each time would otherwise spin the thread at full speed under "block".
                time.sleep(0)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
