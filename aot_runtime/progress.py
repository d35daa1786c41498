# SPDX-License-Identifier: Apache-2.0
"""Tells a waiting person what a long command is doing: a live line on a terminal, one line per step elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_BETWEEN_LINES = 10.0


def table_console() -> Console:
    """Standard output for tables: the terminal's width, or wide where there is none, so that no number is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


class Steps:
    """Names the steps of one long job on stderr; `enabled=False` is silent.

    Example:
        steps = Steps("export f3", 3)
        with steps.step("compile (minutes)"):
            ...
    """

    def __init__(self, title: str, total: int, *, enabled: bool = True, stream: TextIO | None = None) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._enabled = enabled
        self._stream = stream if stream is not None else sys.stderr
        self._show: Callable[[str], None] | None = None
        self._label = ""
        self._told = 0.0

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show `name` with the seconds passed while the body runs."""
        self._done += 1
        if not self._enabled:
            yield
            return
        label = f"{self._title} [{self._done}/{self._total}] {name}"
        start = self._told = time.monotonic()
        self._label = label
        outcome = "failed"
        try:
            if self._stream.isatty():
                with self._live(label):
                    yield
            else:
                yield
            outcome = "done"
        finally:
            self._show = None
            print(f"{label}: {outcome}, {time.monotonic() - start:.1f} s", file=self._stream, flush=True)

    def detail(self, text: str) -> None:
        """What the current step is at: beside its name on a terminal, as a line every ten seconds elsewhere."""
        if not self._enabled:
            return
        if self._show is not None:
            self._show(text)
        elif time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            print(f"{self._label}: {text}", file=self._stream, flush=True)

    @contextlib.contextmanager
    def _live(self, label: str) -> Iterator[None]:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        console = Console(file=self._stream)
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(label.replace("[", r"\["), total=None)
            self._show = lambda text: progress.update(task, description=f"{label}: {text}".replace("[", r"\["))
            yield
