# SPDX-License-Identifier: Apache-2.0
"""How far an extraction is: a bar with rate and remaining time on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO

from bev_ros.store.index import MapRecord


class ExtractionProgress:
    """Tells on stderr; failures are told one by one.

    Args:
        title: of the work.
        every: samples between two lines where there is no terminal.
        enabled: False: only failures are told.
        stream: instead of stderr.

    Example:
        with ExtractionProgress("train") as progress:
            extract(..., progress=progress)
    """

    def __init__(self, title: str, *, every: int = 50, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._title = title
        self._every = max(1, every)
        self._enabled = enabled
        self._stream = stream if stream is not None else sys.stderr
        self._bar: Any = None
        self._task: Any = None
        self._total = self._done = self._failed = 0
        self._begun = time.monotonic()

    def __enter__(self) -> ExtractionProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, total: int) -> None:
        """So many samples are to be done."""
        self._total, self._done, self._failed, self._begun = total, 0, 0, time.monotonic()
        if not self._enabled or not total:
            return
        if self._stream.isatty():
            self._start_bar(total)
        else:
            self._line(f"{total} samples to do")

    def done(self, token: str, record: MapRecord) -> None:
        """A map is stored."""
        self._advance()

    def failed(self, token: str, reason: str) -> None:
        """A sample has failed."""
        self._failed += 1
        text = f"{token}: {reason}"
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)
        self._advance()

    def _advance(self) -> None:
        self._done += 1
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, told=self._told())
        elif self._done % self._every == 0 or self._done == self._total:
            self._line(f"{self._done} of {self._total}, {self._told()}")

    def _told(self) -> str:
        """Rate, remaining time, failures."""
        passed = max(time.monotonic() - self._begun, 1e-9)
        rate = self._done / passed
        left = (self._total - self._done) / rate if rate else 0.0
        speed = f"{rate:.1f} /s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return f"{speed}, {told_time(left)} left" + (f", {self._failed} failed" if self._failed else "")

    def _line(self, text: str) -> None:
        print(f"{self._title}: {text}", file=self._stream, flush=True)

    def _start_bar(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", markup=False),
        )
        self._bar = Progress(*columns, console=Console(file=self._stream), transient=True)
        self._task = self._bar.add_task(self._title, total=total, told="")
        self._bar.start()


def told_time(seconds: float) -> str:
    """A time for people: 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
