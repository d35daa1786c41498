# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="no-untyped-call,attr-defined"
# (rclpy is typed in part only, and re-exports without saying so)
"""The thread that runs a node's model: the newest input waits for it, and what fails or is dropped is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from aot_runtime.errors import InputError
from aot_runtime.ros.model_node import ModelNode, limit_threads
from aot_runtime.ros.worker import Worker

T = TypeVar("T")


class ModelWorker(Worker[T]):
    """A `Worker` named "infer" that tells a node's health what becomes of its items. It begins at once.

    Drops are counted as "<noun>_<cause>". An InputError of `work` rejects the item as "bad_<noun>"; any other exception
    drops it as "<noun>_failed".

    Args:
        node: whose health is told, and that logs.
        work: called with each item in this thread.
        num_threads: of the model on a CPU; 0 leaves them.
        noun: what an item is called.
    """

    def __init__(
        self, node: ModelNode, work: Callable[[T], None], *, num_threads: int = 0, noun: str = "image"
    ) -> None:
        super().__init__("infer", work, capacity=1, policy="drop_oldest", on_error=self._failed)
        self._node = node
        self._noun = noun
        self._num_threads = num_threads
        node.health.count_drops_of(self._named_drops)
        self.start()

    def close(self) -> None:
        """Ends the thread after the item in work; what was counted stays."""
        if not self.stop():
            self._node.get_logger().error(f"the thread '{self.name}' did not end within 10 s")
        self._node.health.remove_drops_of(self._named_drops)

    def _named_drops(self) -> dict[str, int]:
        return {f"{self._noun}_{cause}": n for cause, n in self.drops.items()}

    def _run(self) -> None:
        limit_threads(self._num_threads)
        super()._run()

    def _failed(self, item: T, error: Exception) -> None:
        if isinstance(error, InputError):
            self._node.reject(f"bad_{self._noun}", error)
            return
        reason = f"{type(error).__name__}: {error}"
        self._node.health.dropped(f"{self._noun}_failed")
        self._node.health.failed("infer", reason)
        self._node.warn_throttled("infer", f"{self._noun} dropped: {reason}")
