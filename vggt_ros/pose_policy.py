# SPDX-License-Identifier: Apache-2.0
"""Which poses a reconstruction may use, and what its first bootstrap waits for. No ROS.

Known poses make the map metric; so the first bootstrap waits a while for all cameras and their poses. With fewer than
two poses a metric depth network gives metres, and one pose, if there is one, the world. Without one the scale is
arbitrary, if that is allowed. What it was stays until the map is begun anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vggt_ros.pipeline import ReconstructionPipeline
    from vggt_ros.views import PosedViews


@dataclass(frozen=True)
class Decision:
    """What to do with a set of views.

    Attributes:
        views: those to use, with the poses to use.
        wait: why nothing is to be done yet; "" if it is.
        arbitrary: why the scale of the map that begins now is arbitrary; "" if it is not, or the map has begun.
    """

    views: PosedViews
    wait: str = ""
    arbitrary: str = ""


class PosePolicy:
    """Decides for one set of views after the other.

    Args:
        source: "tf" (poses are needed), "network" (they are not looked for) or "auto" (they are used if they are
            there when the map begins).
        patience_s: how long a map that is to begin waits for all cameras and poses.
        clock: seconds, monotonic.
    """

    def __init__(self, source: str, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._patience_s = patience_s
        self._clock = clock
        self._since: float | None = None

    def decide(
        self, pipeline: ReconstructionPipeline, placed: PosedViews, missing: Mapping[str, str], *, hurry: bool
    ) -> Decision:
        """What to do with these views.

        Args:
            missing: cameras without an image, and why.
            hurry: a map that is to begin does not wait.
        """
        if pipeline.map.size:
            self._since = None
            if self._source == "network":
                return Decision(placed)
            if not pipeline.scale.anchored:
                return Decision(placed.without_poses())
            # A camera without a pose might be anywhere.
            return Decision(placed.posed())
        lacking = {**missing, **placed.problems, **placed.unposed}
        if lacking and not hurry and self._waits():
            return Decision(placed, wait=f"the first bootstrap waits for {_listed(lacking)}")
        count = len(placed.posed().views)
        if self._source == "network" or count >= 2:
            return Decision(placed if self._source == "network" else placed.posed())
        network = pipeline.metric_network
        metres = network is not None and not network.doubt
        if metres and count:
            return Decision(placed)
        why = _listed(placed.unposed) or "one camera alone tells no scale"
        if network is not None and network.doubt:
            why = f"{why}; {network.doubt}"
        if self._source == "tf":
            least = "1 camera for the world" if metres else "at least 2 cameras for the scale"
            return Decision(placed, wait=f"expected tf of {least}, found {count} ({why})")
        return Decision(placed.without_poses(), arbitrary="" if metres else why)

    def _waits(self) -> bool:
        now = self._clock()
        if self._since is None:
            self._since = now
        return now - self._since < self._patience_s


def _listed(told: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in told.items())
