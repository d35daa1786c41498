# SPDX-License-Identifier: Apache-2.0
"""From a bootstrap's arbitrary unit to metres: by known camera poses, by metric depth, or not at all.

Nothing is called metric without a source; a `Scale` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.errors import InputError
from vggt_ros.fusion.cameras import checked_pose

if TYPE_CHECKING:
    from vggt_ros.fusion.bootstrap import Bootstrap

SOURCES = ("arbitrary", "baselines", "metric depth", "metric depth network")
_LEAST_BASELINE = 1e-6
_LEAST_PIXELS = 100


@dataclass(frozen=True)
class Scale:
    """What a unit of length is worth.

    Attributes:
        source: one of `SOURCES`.
        factor: metres in a unit of the bootstrap before it was applied; 1 if arbitrary.
        spread: how far the estimates disagree, as a share of `factor`; half of the middle-most 68 %.
        rotation_error: degrees between given and estimated rotations, the largest; baselines only.
        position_error: metres between given and estimated centres, the largest; baselines only.
        anchored: whether the world is that of the poses that were given, so that later ones mean the same.
        file: of the network, if the source is one.
    """

    source: str = "arbitrary"
    factor: float = 1.0
    spread: float = 0.0
    rotation_error: float = 0.0
    position_error: float = 0.0
    anchored: bool = False
    file: str = ""

    @property
    def name(self) -> str:
        """The source, with its file."""
        return f"{self.source} {self.file}".strip()

    @property
    def metric(self) -> bool:
        """Whether lengths are metres."""
        return self.source != "arbitrary"

    @property
    def unit(self) -> str:
        """For labels of numbers."""
        return "m" if self.metric else "arbitrary units"


ARBITRARY = Scale()


def scale_arrays(scale: Scale) -> dict[str, np.ndarray]:
    """A scale as arrays for a file."""
    numbers = [scale.factor, scale.spread, scale.rotation_error, scale.position_error]
    return {
        "scale_source": np.array(scale.source),
        "scale_numbers": np.array(numbers, np.float64),
        "scale_anchored": np.array(scale.anchored),
        "scale_file": np.array(scale.file),
    }


def scale_from_arrays(arrays: Mapping[str, np.ndarray], where: str) -> Scale:
    """The scale of a file that has `scale_arrays`; arbitrary if it has none.

    Raises:
        InputError: what it has is no scale.
    """
    if "scale_source" not in arrays:
        return ARBITRARY
    source, numbers = str(arrays["scale_source"]), arrays.get("scale_numbers")
    if source not in SOURCES or numbers is None or numbers.shape != (4,) or not np.isfinite(numbers).all():
        raise InputError(f"expected a scale by one of {', '.join(SOURCES)}, found {source!r} in {where}")
    # Files that do not say are of a time when all metric maps were begun with poses.
    anchored = bool(arrays.get("scale_anchored", np.array(source != "arbitrary")).all())
    file = str(arrays.get("scale_file", ""))
    factor, spread, rotation, position = (float(number) for number in numbers)
    return Scale(source, factor, spread, rotation, position, anchored, file)


def scaled_by_poses(
    bootstrap: Bootstrap,
    poses: Mapping[str, np.ndarray],
    *,
    keep_given: bool = True,
    max_rotation: float = 5.0,
    max_position: float = 0.1,
) -> Bootstrap:
    """The bootstrap in metres and in the world of known camera poses.

    The rotation between the worlds is the mean of what each camera says, the factor the median over pairs of cameras of
    the ratio of their distances (so one bad view does not spoil it).

    Args:
        poses: camera -> (4, 4) world <- camera, in metres, of at least two cameras of the bootstrap.
        keep_given: take the given poses for the cameras that have one (a calibrated rig); else all poses are the
            bootstrap's own, moved.
        max_rotation: degrees by which a camera may disagree with the mean.
        max_position: how far a centre may lie from the given one, as a share of the largest distance between cameras.

    Raises:
        InputError: fewer than two known cameras, no distance between them, or the bootstrap disagrees with the poses.
    """
    known = [index for index, name in enumerate(bootstrap.names) if name in poses]
    if len(known) < 2:
        raise InputError(
            f"expected poses of at least 2 of {list(bootstrap.names)}, found {sorted(poses)}",
            "give their poses, use metric depth, or declare the scale arbitrary",
        )
    given = np.stack([checked_pose(poses[bootstrap.names[index]], bootstrap.names[index]) for index in known])
    found = bootstrap.poses[known]
    rotation, degrees = _mean_rotation(given[:, :3, :3] @ found[:, :3, :3].transpose(0, 2, 1))
    if degrees.max() > max_rotation:
        worst = bootstrap.names[known[int(degrees.argmax())]]
        raise InputError(
            f"expected cameras turned as their poses say within {max_rotation} degrees,"
            f" found {degrees.max():.1f} for {worst}",
            "check the given poses and the order of the cameras",
        )
    ratios = _distance_ratios(given[:, :3, 3], found[:, :3, 3])
    factor = float(np.median(ratios))
    shift = np.median(given[:, :3, 3] - factor * found[:, :3, 3] @ rotation.T, axis=0)
    errors = np.linalg.norm(factor * found[:, :3, 3] @ rotation.T + shift - given[:, :3, 3], axis=1)
    baseline = _distances(given[:, :3, 3]).max()
    if errors.max() > max_position * baseline:
        worst = bootstrap.names[known[int(errors.argmax())]]
        raise InputError(
            f"expected cameras where their poses say within {max_position:.0%} of the {baseline:.3g} m between them,"
            f" found {errors.max():.3g} m for {worst}",
            "check the given poses and the order of the cameras",
        )
    moved = bootstrap.poses.copy()
    moved[:, :3, :3] = rotation @ moved[:, :3, :3]
    moved[:, :3, 3] = factor * moved[:, :3, 3] @ rotation.T + shift
    if keep_given:
        moved[known] = given
    scale = Scale("baselines", factor, _spread(ratios), float(degrees.max()), float(errors.max()), anchored=True)
    return replace(bootstrap, poses=moved, depth=(bootstrap.depth * factor).astype(np.float32), scale=scale)


def scaled_by_depth(
    bootstrap: Bootstrap, depth: Mapping[str, np.ndarray], *, network: str = "", max_spread: float = 0.2
) -> Bootstrap:
    """The bootstrap in metres by metric depth (a depth camera, a metric network) of some views.

    Args:
        depth: camera -> (H, W) metres on the bootstrap's grid; NaN or 0 where unknown.
        network: the file of the network that it is of; "" if it was measured.
        max_spread: how far the pixels' ratios may disagree, as a share of their median.

    Raises:
        InputError: no view has enough pixels with both depths, sizes differ, or the ratios disagree.
    """
    logs: dict[str, np.ndarray] = {}
    for index, name in enumerate(bootstrap.names):
        if name not in depth:
            continue
        metres = np.asarray(depth[name], np.float64)
        if metres.shape != bootstrap.depth.shape[1:]:
            raise InputError(
                f"expected metric depth {bootstrap.depth.shape[1:]}, found {metres.shape} for {name}",
                "resample it to the bootstrap's grid",
            )
        ours = bootstrap.depth[index].astype(np.float64)
        sure = bootstrap.confidence[index] > 0
        good = np.isfinite(metres) & (metres > 0) & np.isfinite(ours) & (ours > 0) & sure
        logs[name] = np.log(metres[good] / ours[good])
    if depth and not logs:
        raise InputError(
            f"expected metric depth of some of {list(bootstrap.names)}, found it of {sorted(depth)}",
            "name the arrays as the cameras",
        )
    pixels = sum(len(part) for part in logs.values())
    if pixels < _LEAST_PIXELS:
        raise InputError(
            f"expected {_LEAST_PIXELS} pixels with metric depth, found {pixels} for {list(bootstrap.names)}",
            "give metric depth of the bootstrap's cameras, or declare the scale arbitrary",
        )
    ratios = np.exp(np.concatenate(list(logs.values())))
    factor, spread = float(np.median(ratios)), _spread(ratios)
    if spread > max_spread:
        views = ", ".join(f"{np.exp(np.median(part)):.3g} by {name}" for name, part in logs.items() if len(part))
        raise InputError(
            f"expected ratios of metric to found depth that agree within {max_spread:.0%}, found {spread:.0%} ({views})"
            + (f" with {network}" if network else ""),
            "check that the depth is metric, z and of the same cameras, or give poses of two cameras",
        )
    poses = bootstrap.poses.copy()
    poses[:, :3, 3] *= factor
    return replace(
        bootstrap,
        poses=poses,
        depth=(bootstrap.depth * factor).astype(np.float32),
        scale=Scale("metric depth network" if network else "metric depth", factor, spread, file=network),
    )


def _mean_rotation(turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation nearest to all (chordal mean), and each one's angle to it in degrees."""
    left, _, right = np.linalg.svd(turns.sum(0))
    mean = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    cosine = (np.trace(turns @ mean.T, axis1=1, axis2=2) - 1) / 2
    return mean, np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _distances(centres: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(len(centres), 1)
    return np.asarray(np.linalg.norm(centres[first] - centres[second], axis=1))


def _distance_ratios(given: np.ndarray, found: np.ndarray) -> np.ndarray:
    metres, units = _distances(given), _distances(found)
    apart = (metres > _LEAST_BASELINE) & (units > _LEAST_BASELINE)
    if not apart.any():
        raise InputError(
            "expected cameras that stand apart, found no distance between them",
            "use metric depth, or declare the scale arbitrary",
        )
    return np.asarray(metres[apart] / units[apart])


def _spread(ratios: np.ndarray) -> float:
    low, middle, high = np.quantile(ratios, [0.16, 0.5, 0.84])
    return float((high - low) / 2 / middle)
