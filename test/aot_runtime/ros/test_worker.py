# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time

import pytest

from aot_runtime.ros.worker import Worker


class Gate:
    """Work that waits until it is let through, so that a test decides when the queue is full."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.seen: list[int] = []

    def __call__(self, item: int) -> None:
        self.entered.set()
        self.open.wait(10)
        self.seen.append(item)


@pytest.mark.parametrize(
    ("policy", "seen"), [("drop_oldest", [0, 4, 5]), ("drop_newest", [0, 1, 2])], ids=["oldest", "newest"]
)
def test_full_queue_drops_by_policy_and_counts(policy: str, seen: list[int]) -> None:
    gate, dropped = Gate(), []
    worker = Worker("w", gate, capacity=2, policy=policy, on_drop=lambda item, cause: dropped.append((item, cause)))
    worker.start()
    worker.submit(0)
    assert gate.entered.wait(5)
    taken = [worker.submit(i) for i in range(1, 6)]
    gate.open.set()
    assert worker.wait_idle(5)
    worker.stop()
    assert gate.seen == seen
    assert worker.drops == {"queue_full": 3}
    assert sorted(i for i, _ in dropped) == sorted(set(range(6)) - set(seen))
    assert taken.count(False) == (0 if policy == "drop_oldest" else 3)


def test_block_waits_for_room_and_loses_nothing() -> None:
    seen: list[int] = []
    worker = Worker("w", lambda i: (time.sleep(0.001), seen.append(i)), capacity=1, policy="block")
    worker.start()
    assert all(worker.submit(i) for i in range(50))
    assert worker.wait_idle(5)
    worker.stop()
    assert seen == list(range(50))
    assert not worker.drops


def test_block_gives_up_after_its_timeout() -> None:
    gate = Gate()
    worker = Worker("w", gate, capacity=1, policy="block")
    worker.start()
    worker.submit(0)
    assert gate.entered.wait(5)
    assert worker.submit(1)
    assert not worker.submit(2, timeout_s=0.01)
    gate.open.set()
    worker.stop()
    assert worker.drops["queue_full"] == 1


def test_exceptions_are_counted_and_the_thread_lives_on() -> None:
    seen, reported = [], []

    def work(i: int) -> None:
        if i % 2:
            raise ValueError(f"bad {i}")
        seen.append(i)

    def report(item: int, error: Exception) -> None:
        reported.append(str(error))
        raise KeyError("reporting fails too")

    worker = Worker("w", work, capacity=10, policy="block", on_error=report)
    worker.start()
    for i in range(6):
        worker.submit(i)
    assert worker.wait_idle(5)
    assert worker.running
    worker.stop()
    assert seen == [0, 2, 4]
    assert (worker.errors, worker.done) == (3, 3)
    assert reported == ["bad 1", "bad 3", "bad 5"]
    assert "ValueError: bad 5" in worker.last_error


def test_stop_counts_what_waited_frees_a_blocked_producer_and_allows_a_restart() -> None:
    gate = Gate()
    worker = Worker("w", gate, capacity=1, policy="block")
    worker.start()
    worker.submit(0)
    assert gate.entered.wait(5)
    worker.submit(1)
    blocked = threading.Thread(target=worker.submit, args=(2,))
    blocked.start()
    threading.Timer(0.05, gate.open.set).start()
    assert worker.stop(5)
    blocked.join(5)
    assert not blocked.is_alive()
    assert gate.seen == [0]
    assert worker.drops == {"stopped": 2}
    assert not worker.submit(3)
    worker.start()
    assert worker.submit(4)
    assert worker.wait_idle(5)
    assert worker.stop()
    assert gate.seen == [0, 4]


def test_clear_counts_under_its_cause() -> None:
    gate = Gate()
    worker = Worker("w", gate, capacity=5)
    worker.start()
    worker.submit(0)
    assert gate.entered.wait(5)
    for i in range(3):
        worker.submit(i)
    assert worker.clear("time_jump_back") == 3
    assert worker.waiting == 0
    gate.open.set()
    worker.stop()
    assert worker.drops == {"time_jump_back": 3}


def test_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        Worker("w", print, capacity=0)
