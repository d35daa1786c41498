# SPDX-License-Identifier: Apache-2.0
"""Signals that end a long run where it may be ended."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopOnSignals:
    """Turns SIGINT and SIGTERM into the wish to stop after the present sample; a second one ends the process at once.

    Example:
        with StopOnSignals() as stop:
            extract(..., stop=stop)
    """

    def __init__(self) -> None:
        self._name = ""
        self.number = 0
        self._before: dict[int, Any] = {}

    def __call__(self) -> str:
        return self._name

    def __enter__(self) -> StopOnSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._name, self.number = signal.Signals(number).name, number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
