# SPDX-License-Identifier: Apache-2.0
"""A bootstrap in a world and a unit: the first one by what is known, every later one where the map says it belongs.

A later bootstrap comes in an origin and a unit of its own. Poses of two cameras tell both, as for the first. Else each
camera whose place is known gives a candidate: its pose, and the ratio of the depth that the map shows there to its own.
Either way the views are then held against the map: what does not agree where both show a surface is not taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from aot_runtime.errors import InputError
from vggt_ros.fusion.bootstrap import Bootstrap
from vggt_ros.fusion.maps import FusedMap
from vggt_ros.fusion.scale import Scale, scaled_by_depth, scaled_by_poses


@dataclass(frozen=True)
class PlacementLimits:
    """What a later bootstrap must satisfy.

    Attributes:
        least_pixels: of a view where it and the map show something; with fewer it is not judged.
        least_share: of the view's pixels that these are.
        max_residual: median of |view's disparity / map's - 1|.
        least_agree: share of these pixels within `agree` of the map; the rest may have moved or be new.
        agree: see there.
    """

    least_pixels: int = 200
    least_share: float = 0.02
    max_residual: float = 0.06
    least_agree: float = 0.6
    agree: float = 0.1


@dataclass(frozen=True)
class Placement:
    """Views in the map's world and unit.

    Attributes:
        views: those that may be fused.
        how: "poses" or "map": what placed them.
        residuals: camera -> see `PlacementLimits.max_residual`; of those that overlap with the map.
        left_out: camera -> why it is not among `views`.
    """

    views: Bootstrap
    how: str
    residuals: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def place_first(
    views: Bootstrap,
    poses: Mapping[str, np.ndarray],
    metric_depth: Mapping[str, np.ndarray],
    *,
    network: str = "",
    arbitrary: bool = False,
    doubt: str = "",
) -> Bootstrap:
    """The first bootstrap, in metres by known poses or metric depth; as it is if `arbitrary` and neither is known.

    A single known pose with metric depth says where its world lies.

    Args:
        network: see `scaled_by_depth`.
        doubt: why there is no metric depth where one could think that there is.

    Raises:
        InputError: nothing metric is known and the scale was not declared arbitrary, or what is known contradicts.
    """
    known = [name for name in views.names if name in poses]
    if len(known) >= 2:
        return scaled_by_poses(views, poses)
    if metric_depth:
        scaled = scaled_by_depth(views, metric_depth, network=network)
        if not known:
            return scaled
        moved = moved_to(scaled, known[0], poses[known[0]])
        return replace(moved, scale=replace(scaled.scale, anchored=True))
    if arbitrary:
        return views
    raise InputError(
        "expected something metric, found neither poses of two cameras nor metric depth"
        + (f" ({doubt})" if doubt else ""),
        "give --poses, --metric_depth or a metric depth network, or say --arbitrary_scale",
    )


def place_again(
    views: Bootstrap,
    fused: FusedMap,
    scale: Scale,
    given: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    limits: PlacementLimits | None = None,
) -> Placement:
    """A later bootstrap in the world and unit of a map that is not empty.

    Args:
        scale: the map's.
        given: camera -> (4, 4) world <- camera that is known for certain, in metres; of use if the map is anchored.
        before: camera -> pose in the map's world that it had before; it need not hold any more.

    Raises:
        InputError: its place cannot be found, or it contradicts the map.
    """
    limits = limits or PlacementLimits()
    poses = {name: pose for name, pose in given.items() if name in views.names} if scale.anchored else {}
    if len(poses) >= 2:
        return _judged(_with_scale(scaled_by_poses(views, poses), scale), fused, limits, "poses")
    anchors = poses or {name: pose for name, pose in before.items() if name in views.names}
    if not anchors:
        raise InputError(
            f"expected a camera whose place is known among {list(views.names)}, found none",
            "give poses, or keep a camera of the first bootstrap",
        )
    problems = []
    for candidate in _candidates(views, fused, anchors, limits):
        try:
            placed = _judged(_with_scale(candidate, scale), fused, limits, "map")
        except InputError as error:
            problems.append(str(error))
            continue
        if placed.residuals:
            return placed
        problems.append("expected views that the map shows too, found none")
    raise InputError(problems[0] if problems else "expected a known camera that sees the map, found none")


def moved_to(views: Bootstrap, name: str, pose: np.ndarray) -> Bootstrap:
    """The views as one rigid body, moved so that one camera has this pose (4, 4)."""
    motion = pose @ np.linalg.inv(views.poses[views.names.index(name)])
    moved = np.array([_rigid(motion @ one) for one in views.poses])
    moved[views.names.index(name)] = pose
    return replace(views, poses=moved)


def _candidates(
    views: Bootstrap, fused: FusedMap, anchors: Mapping[str, np.ndarray], limits: PlacementLimits
) -> Iterator[Bootstrap]:
    """Placements worth a look: by all anchors together if they agree, else by each alone, the most consistent first.

    Anchors that agree have not moved. If the depth then says otherwise it is wrong, and a single anchor would only hide
    it: before a wall, a camera in a wrong place sees much the same depth.
    """
    if len(anchors) >= 2:
        with contextlib.suppress(InputError):  # some of them have moved
            yield scaled_by_poses(views, anchors)
            return
    found = []
    for order, name in enumerate(views.names):
        if name not in anchors:
            continue
        index = views.names.index(name)
        there = replace(views.camera(index), pose=anchors[name])
        shown = fused.render(there).depth.cpu().numpy()
        ratio = _ratios(shown, views.depth[index], views.confidence[index], limits)
        if ratio is None:
            continue
        factor = float(np.exp(np.median(ratio)))
        residual = float(np.median(np.abs(ratio - np.log(factor))))
        found.append((residual, order, name, factor))
    for _, _, name, factor in sorted(found):
        yield moved_to(_scaled(views, factor), name, anchors[name])


def _judged(views: Bootstrap, fused: FusedMap, limits: PlacementLimits, how: str) -> Placement:
    """The views that agree with the map, or that see nothing of it.

    Raises:
        InputError: of the views that see the map, not more than half agree with it.
    """
    residuals: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for index, name in enumerate(views.names):
        shown = fused.render(views.camera(index)).depth.cpu().numpy()
        ratio = _ratios(shown, views.depth[index], views.confidence[index], limits)
        if ratio is None:
            continue
        apart = np.abs(np.expm1(ratio))
        residuals[name] = float(np.median(apart))
        agree = float((apart < limits.agree).mean())
        if residuals[name] > limits.max_residual:
            left_out[name] = (
                f"expected depth within {limits.max_residual:.0%} of the map's, found {residuals[name]:.0%} for {name}"
            )
        elif agree < limits.least_agree:
            left_out[name] = (
                f"expected {limits.least_agree:.0%} of the pixels to agree with the map, found {agree:.0%} for {name}"
            )
    if residuals and 2 * len(left_out) >= len(residuals):
        raise InputError(
            f"{next(iter(left_out.values()))}, {len(left_out)} of {len(residuals)} views contradict the map",
            "if the map is wrong, reset it",
        )
    kept = [name for name in views.names if name not in left_out]
    return Placement(views.subset(kept), how, residuals, left_out)


def _ratios(shown: np.ndarray, depth: np.ndarray, confidence: np.ndarray, limits: PlacementLimits) -> np.ndarray | None:
    """log(map's depth / view's) where both are known; None if too few."""
    with np.errstate(invalid="ignore"):
        both = np.isfinite(shown) & (shown > 0) & np.isfinite(depth) & (depth > 0) & (confidence > 0)
    if both.sum() < max(limits.least_pixels, limits.least_share * depth.size):
        return None
    return np.asarray(np.log(shown[both].astype(np.float64) / depth[both]))


def _scaled(views: Bootstrap, factor: float) -> Bootstrap:
    poses = views.poses.copy()
    poses[:, :3, 3] *= factor
    return replace(views, poses=poses, depth=(views.depth * factor).astype(np.float32))


def _with_scale(views: Bootstrap, scale: Scale) -> Bootstrap:
    """The map's unit keeps the source that it has; its numbers are of the first bootstrap."""
    return replace(views, scale=scale)


def _rigid(pose: np.ndarray) -> np.ndarray:
    """A product of poses whose rotation is one again to the last bit that matters."""
    left, _, right = np.linalg.svd(pose[:3, :3])
    out = np.array(pose)
    out[:3, :3] = left @ right
    return out
