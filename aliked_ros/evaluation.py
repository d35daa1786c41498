# SPDX-License-Identifier: Apache-2.0
"""What networks of another precision do to the tasks that use keypoints: warped views, and real pairs.

Every network sees the same images; what is random comes from seeds. The spread of one network's numbers from seed to
seed is the measure for the difference between two networks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.geometry import find_homography, find_pose
from aliked_ros.matching import MIN_SIMILARITY, match
from aliked_ros.metrics import (
    THRESHOLDS,
    ViewScore,
    angle_between,
    corner_error,
    recall_area,
    rotation_angle,
    score_views,
)
from aliked_ros.network_options import Networks
from aliked_ros.pipeline import AlikedResult
from aliked_ros.warps import Warp, add_noise, draw_warp
from aot_runtime.errors import InputError
from aot_runtime.frames import read_image

PAIR_NOISE = 2.0
"""Grey levels of noise on the images of real pairs, other noise for every seed: what differs from shot to shot."""
SHUFFLES = 9
"""A robust estimate hangs on the order of the matches, which the last bit of a score decides: the median of so many."""
LOWER_IS_BETTER = ("corner error", "rotation error", "translation error")


@dataclass(frozen=True)
class RealPair:
    """Two photographs.

    Attributes:
        camera: (3, 3) intrinsics of both, or None.
        pose: (4, 4) points of the first camera's frame to the second's, or None if it is not known.
    """

    name: str
    images: tuple[np.ndarray, np.ndarray]
    camera: np.ndarray | None = None
    pose: np.ndarray | None = None


def read_pairs(path: Path, root: Path) -> list[RealPair]:
    """Pairs from a JSON list of {"name", "images": [a, b], "intrinsics": [fx, fy, cx, cy]?, "pose": 4x4?}.

    Args:
        root: what the paths of images are relative to.

    Raises:
        InputError: the file or an image is unreadable, or something is missing; the message names the pair.
    """
    from aliked_ros.demo_pair import camera_matrix

    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        pairs = []
        for item in listed:
            first, second = (read_image(root / name) for name in item["images"])
            pose = np.array(item["pose"], np.float64).reshape(4, 4) if "pose" in item else None
            camera = camera_matrix([float(number) for number in item["intrinsics"]]) if "intrinsics" in item else None
            pairs.append(RealPair(str(item["name"]), (first, second), camera, pose))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"expected a JSON list of pairs with name and images, found {error!r:.120} in {path}"
        ) from error
    return pairs


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of an image (H, W, 3) in `size` = (height, width): scaled to cover it, then cut."""
    import cv2

    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(want, round(length * scale)) for want, length in zip(size, image.shape))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, (width, height), interpolation=how) if scale != 1 else image
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return np.ascontiguousarray(scaled[top : top + size[0], left : left + size[1]])


def evaluate_warps(
    networks: Sequence[Networks],
    images: Sequence[np.ndarray],
    kinds: Sequence[str],
    seeds: Iterable[int],
    on_view: Callable[[], object] | None = None,
) -> dict[str, list[list[dict[str, float]]]]:
    """Kind of warp, and "all" -> for each network -> for each seed: measures by name, means over the images.

    Args:
        images: (H, W, 3) uint8 RGB, all of one size, which the networks take as it is.
    """
    plain = [[network.pipeline_for(image).process(image) for image in images] for network in networks]
    table: dict[str, list[list[dict[str, float]]]] = {kind: [[] for _ in networks] for kind in (*kinds, "all")}
    for seed in seeds:
        scores: list[dict[str, list[ViewScore]]] = [{kind: [] for kind in kinds} for _ in networks]
        for kind in kinds:
            for number, image in enumerate(images):
                # Another warp for each image: few images, but many warps.
                size = (image.shape[0], image.shape[1])
                warp = draw_warp(kind, size, seed * len(images) + number)
                view = warp.apply(image)
                for i, network in enumerate(networks):
                    second = network.pipeline_for(view).process(view)
                    scores[i][kind].append(_score(plain[i][number], second, warp, size, seed))
                    if on_view is not None:
                        on_view()
        for i, by_kind in enumerate(scores):
            for kind in kinds:
                table[kind][i].append(summarise(by_kind[kind]))
            table["all"][i].append(summarise([score for some in by_kind.values() for score in some]))
    return table


def _score(first: AlikedResult, second: AlikedResult, warp: Warp, size: tuple[int, int], seed: int) -> ViewScore:
    pairs = match(first.descriptors, second.descriptors, min_similarity=MIN_SIMILARITY)
    points = first.keypoints[pairs.first], second.keypoints[pairs.second]
    found = [find_homography(*shuffled).matrix for shuffled in _shuffles(*points, seed)]
    errors = [np.inf if matrix is None else corner_error(matrix, warp.matrix, size) for matrix in found]
    indices = pairs.first, pairs.second
    return score_views(first.keypoints, second.keypoints, indices, warp.matrix, float(np.median(errors)), size)


def _shuffles(first: np.ndarray, second: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The matched points in `SHUFFLES` random orders; the same ones for a seed and a number of matches."""
    generator = np.random.default_rng([seed, len(first)])
    for _ in range(SHUFFLES):
        order = generator.permutation(len(first))
        yield first[order], second[order]


def summarise(scores: Sequence[ViewScore]) -> dict[str, float]:
    """Means over pairs of views; of the corner errors their shares and areas up to each threshold."""
    told: dict[str, float] = {"matches": float(np.mean([score.matches for score in scores]))}
    errors = [score.corner_error for score in scores]
    for name, field in (("repeatability", "repeatability"), ("MMA", "accuracy"), ("matching score", "matching")):
        for i, limit in enumerate(THRESHOLDS):
            told[f"{name} @{limit:g}px"] = float(np.mean([getattr(score, field)[i] for score in scores]))
    for limit in THRESHOLDS:
        told[f"homography accuracy @{limit:g}px"] = float(np.mean([error <= limit for error in errors]))
        told[f"homography AUC @{limit:g}px"] = recall_area(errors, limit)
    told["corner error, median px"] = float(np.median(errors))
    return told


def evaluate_pairs(
    networks: Sequence[Networks],
    pairs: Sequence[RealPair],
    seeds: Iterable[int],
    on_pair: Callable[[], object] | None = None,
) -> dict[str, list[list[dict[str, float]]]]:
    """Name of pair -> for each network -> for each seed: matches, inliers, and errors of the pose.

    Where the true pose is not known, the first network's on the images without noise stands for it.
    """
    table: dict[str, list[list[dict[str, float]]]] = {}
    chosen = list(seeds)
    for pair in pairs:
        truth = pair.pose
        if truth is None and pair.camera is not None:
            truth = _pose_of(networks[0], pair.images, pair.camera)
        rows: list[list[dict[str, float]]] = [[] for _ in networks]
        for seed in chosen:
            noisy = [add_noise(image, PAIR_NOISE, 2 * seed + i) for i, image in enumerate(pair.images)]
            for i, network in enumerate(networks):
                rows[i].append(_pair_numbers(network, noisy, pair.camera, truth, seed))
                if on_pair is not None:
                    on_pair()
        table[pair.name] = rows
    return table


def _matched(network: Networks, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    first, second = (network.pipeline_for(image).process(image) for image in images)
    pairs = match(first.descriptors, second.descriptors)
    return first.keypoints[pairs.first], second.keypoints[pairs.second]


def _pose_of(network: Networks, images: Sequence[np.ndarray], camera: np.ndarray) -> np.ndarray | None:
    found = find_pose(*_matched(network, images), camera)
    if found.rotation is None or found.translation is None:
        return None
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = found.rotation, found.translation
    return pose


def _pair_numbers(
    network: Networks, images: Sequence[np.ndarray], camera: np.ndarray | None, truth: np.ndarray | None, seed: int
) -> dict[str, float]:
    points = _matched(network, images)
    told = {"matches": float(len(points[0]))}
    rounds = [_geometry(*shuffled, camera, truth) for shuffled in _shuffles(*points, seed)]
    return told | {name: float(np.median([found[name] for found in rounds])) for name in rounds[0]}


def _geometry(
    first: np.ndarray, second: np.ndarray, camera: np.ndarray | None, truth: np.ndarray | None
) -> dict[str, float]:
    told = {"homography inliers": float(find_homography(first, second).inliers.sum())}
    if camera is None:
        return told
    found = find_pose(first, second, camera)
    told["pose inliers"] = float(found.inliers.sum())
    if truth is None:
        return told
    # A pose that was not found is as wrong as can be.
    told["rotation error, degrees"] = told["translation error, degrees"] = 180.0
    if found.rotation is not None and found.translation is not None:
        told["rotation error, degrees"] = rotation_angle(found.rotation @ truth[:3, :3].T)
        told["translation error, degrees"] = angle_between(found.translation, truth[:3, 3])
    return told


@dataclass(frozen=True)
class Comparison:
    """One measure of a network beside the reference's.

    Attributes:
        reference, value: means over the seeds.
        spread: standard deviation of the reference over the seeds.
        difference: value - reference, mean over the seeds; each seed is the same images for both.
        difference_spread: standard deviation of that difference over the seeds.
        harmed: whether it is worse by more than the spread.
    """

    task: str
    measure: str
    reference: float
    spread: float
    value: float
    difference: float
    difference_spread: float
    harmed: bool


def compare_runs(
    task: str, reference: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]
) -> list[Comparison]:
    """Every measure of two networks over the same seeds.

    Raises:
        InputError: fewer than two seeds, which have no spread, or other seeds.
    """
    if len(reference) != len(other) or len(reference) < 2:
        raise InputError(f"expected two or more seeds, the same for both, found {len(reference)} and {len(other)}")
    rows = []
    for measure in reference[0]:
        a, b = (np.array([run[measure] for run in runs]) for runs in (reference, other))
        # Without an estimated homography the median corner error is infinite, and differences have no meaning.
        finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
        delta = b - a if finite else np.where(a == b, 0.0, np.inf)
        spread = float(a.std(ddof=1)) if finite else float("inf")
        worse = float(delta.mean()) * (1 if measure.startswith(LOWER_IS_BETTER) else -1)
        rows.append(
            Comparison(
                task,
                measure,
                float(a.mean()),
                spread,
                float(b.mean()),
                float(delta.mean()),
                float(delta.std(ddof=1)) if finite else float("inf"),
                # Rounding of a mean is no harm.
                bool(worse > spread + 1e-9),
            )
        )
    return rows


def as_plain(value: Any) -> Any:
    """Numbers for JSON: six digits, and None for infinity, which it has no word for."""
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
