# SPDX-License-Identifier: Apache-2.0
"""When to bootstrap again: the map no longer shows what the cameras see, or no longer agrees with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyframeConfig:
    """When a batch of frames asks for a new bootstrap.

    Attributes:
        least_coverage: share of the pixels that the map shows, mean over cameras.
        max_residual: see `alignment.DisparityFit.residual`, median over cameras.
        most_rejected: share of the cameras whose alignment is rejected.
        patience: batches in a row that must be bad, so that a hand before a lens does not cost a bootstrap.
        period_s: bootstrap after so many seconds in any case; None: never.
        least_pause_s: never sooner than this after the last one.
    """

    least_coverage: float = 0.3
    max_residual: float = 0.06
    most_rejected: float = 0.5
    patience: int = 3
    period_s: float | None = None
    least_pause_s: float = 1.0


class KeyframeDecision:
    """Watches batches of frames; says when, and why, the map needs a new bootstrap."""

    def __init__(self, config: KeyframeConfig | None = None) -> None:
        self.config = config or KeyframeConfig()
        self._bad = 0
        self._last_s: float | None = None

    def bootstrapped(self, time_s: float) -> None:
        """A bootstrap was taken into the map."""
        self._bad, self._last_s = 0, time_s

    def judge(self, time_s: float, coverage: Sequence[float], residual: Sequence[float], rejected: int) -> str | None:
        """Why to bootstrap now; None to go on.

        Args:
            time_s: of the batch; a time before the last bootstrap's starts the count of seconds anew.
            coverage: of each camera that is there.
            residual: of each accepted alignment.
            rejected: how many alignments were rejected.
        """
        if self._last_s is None:
            return "there was no bootstrap yet"
        if time_s < self._last_s:
            self._last_s = time_s
        passed = time_s - self._last_s
        problem = self._problem(coverage, residual, rejected)
        self._bad = self._bad + 1 if problem else 0
        if passed < self.config.least_pause_s:
            return None
        if self.config.period_s is not None and passed >= self.config.period_s:
            return f"{passed:.1f} s passed since the last bootstrap"
        return problem if self._bad >= self.config.patience else None

    def _problem(self, coverage: Sequence[float], residual: Sequence[float], rejected: int) -> str | None:
        if not coverage:
            return None  # no camera: a bootstrap would not have one either
        mean = sum(coverage) / len(coverage)
        if mean < self.config.least_coverage:
            return f"the map shows {mean:.0%} of the pixels, less than {self.config.least_coverage:.0%}"
        if rejected > self.config.most_rejected * len(coverage):
            return f"{rejected} of {len(coverage)} cameras do not agree with the map"
        middle = sorted(residual)[len(residual) // 2] if residual else 0.0
        if middle > self.config.max_residual:
            return f"disparities differ from the map's by {middle:.0%}, more than {self.config.max_residual:.0%}"
        return None
