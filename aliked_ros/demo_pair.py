# SPDX-License-Identifier: Apache-2.0
"""Command `demo_pair IMAGE IMAGE`: keypoints of two images, their matches, and the geometry that these agree on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aliked_ros.geometry import Homography, RelativePose, find_homography, find_pose
from aliked_ros.matching import Matches, match
from aliked_ros.network_options import (
    Networks,
    add_matching_arguments,
    add_network_arguments,
    open_networks,
    ratio_of,
    write_json,
)
from aliked_ros.pictures import matches_picture
from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.frames import read_image
from aot_runtime.video import write_picture

if TYPE_CHECKING:
    from aliked_ros.pipeline import AlikedResult


@dataclass(frozen=True)
class PairResult:
    """What two images have in common.

    Attributes:
        results: of the two images.
        first, second: (M, 2) float32, pixels of the matched keypoints.
        homography: what fits if the scene is flat or the camera only turned.
        pose: of the second camera, if the intrinsics are known.
    """

    results: tuple[AlikedResult, AlikedResult]
    matches: Matches
    first: np.ndarray
    second: np.ndarray
    homography: Homography
    pose: RelativePose | None

    @property
    def inliers(self) -> np.ndarray:
        """(M,) bool: of the pose if there is one, because it holds for any scene; else of the homography."""
        return self.homography.inliers if self.pose is None else self.pose.inliers

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers: counts, and the geometry where it was found."""
        told: dict[str, Any] = {
            "keypoints": [len(result) for result in self.results],
            "matches": len(self.matches),
            "homography": _listed(self.homography.matrix),
            "homography_inliers": int(self.homography.inliers.sum()),
        }
        if self.pose is not None:
            told["rotation"] = _listed(self.pose.rotation)
            told["translation"] = _listed(self.pose.translation)
            told["pose_inliers"] = int(self.pose.inliers.sum())
        return told


def _listed(array: np.ndarray | None) -> Any:
    return None if array is None else array.tolist()


def match_pair(
    networks: Networks,
    first: np.ndarray,
    second: np.ndarray,
    *,
    min_similarity: float,
    ratio: float | None = None,
    camera: np.ndarray | None = None,
    homography_error: float = 3.0,
    pose_error: float = 1.0,
) -> PairResult:
    """Keypoints, matches and geometry of two images (H, W, 3) uint8 RGB.

    Args:
        camera: (3, 3) intrinsics of both, for their relative pose.
        homography_error, pose_error: pixels that an inlier may be off.
    """
    results = networks.pipeline_for(first).process(first), networks.pipeline_for(second).process(second)
    pairs = match(results[0].descriptors, results[1].descriptors, min_similarity=min_similarity, ratio=ratio)
    points = results[0].keypoints[pairs.first], results[1].keypoints[pairs.second]
    return PairResult(
        results,
        pairs,
        *points,
        find_homography(*points, homography_error),
        None if camera is None else find_pose(*points, camera, pose_error),
    )


def camera_matrix(numbers: Sequence[float]) -> np.ndarray:
    """(3, 3) intrinsics from fx, fy, cx, cy.

    Raises:
        InputError: a focal length is not above 0, or a number is not finite.
    """
    fx, fy, cx, cy = numbers
    if not (np.isfinite(numbers).all() and min(fx, fy) > 0):
        raise InputError(f"expected --intrinsics FX FY CX CY with focal lengths above 0, found {list(numbers)}")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo_pair",
        description="Keypoints of two images, their matches, and the geometry that these agree on (green lines).",
    )
    parser.add_argument("images", nargs=2, type=Path, metavar="IMAGE", help="two image files of any size")
    add_network_arguments(parser)
    add_matching_arguments(parser)
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("matches.png"), help="picture of the matches (default matches.png)")
    add("--intrinsics", nargs=4, type=float, metavar=("FX", "FY", "CX", "CY"), help="of both cameras: relative pose")
    add("--homography-error", type=float, default=3.0, help="pixels that an inlier may be off (default 3)")
    add("--pose-error", type=float, default=1.0, help="pixels off the epipolar line (default 1)")
    add("--json", metavar="FILE", help="write the numbers here ('-' for standard output, and nothing else there)")
    return parser


def _run(told: argparse.Namespace) -> int:
    camera = None if told.intrinsics is None else camera_matrix(told.intrinsics)
    ratio = ratio_of(told)
    images = [read_image(path) for path in told.images]
    networks = open_networks(told)
    try:
        if networks.has_random_weights:
            print("the artifact has random weights: its matches mean nothing", file=sys.stderr)
        found = match_pair(
            networks,
            *images,
            min_similarity=told.min_similarity,
            ratio=ratio,
            camera=camera,
            homography_error=told.homography_error,
            pose_error=told.pose_error,
        )
    finally:
        networks.close()
    for path, result in zip(told.images, found.results):
        for warning in result.warnings:
            print(f"{path}: {warning}", file=sys.stderr)
    bgr = [image[:, :, ::-1] for image in images]
    write_picture(told.output, matches_picture(bgr[0], bgr[1], found.first, found.second, found.inliers))
    if told.json != "-":
        _print(networks.name, told.images, found)
        print(f"wrote {told.output}")
    if told.json is not None:
        names = {"network": networks.name, "images": [str(path) for path in told.images], "picture": str(told.output)}
        write_json(told.json, {**names, **found.as_dict()})
    return 0


def _print(name: str, paths: Sequence[Path], found: PairResult) -> None:
    total = len(found.matches)
    print(f"network: {name}")
    for path, result in zip(paths, found.results):
        print(f"{path.name}: {len(result)} keypoints")
    print(f"matches: {total}")
    agree = f"{int(found.homography.inliers.sum())} of {total} matches agree"
    print("homography: none" if found.homography.matrix is None else f"homography: {agree}")
    if found.pose is None:
        return
    if found.pose.rotation is None or found.pose.translation is None:
        print("pose: none")
        return
    angle = np.degrees(np.arccos(np.clip((np.trace(found.pose.rotation) - 1) / 2, -1, 1)))
    direction = ", ".join(f"{value:.3f}" for value in found.pose.translation)
    print(f"pose: {int(found.pose.inliers.sum())} of {total} matches agree; {angle:.2f} degrees, towards ({direction})")


def main(argv: Sequence[str] | None = None) -> int:
    """Command `demo_pair`: exit status 0, 2 for a mistake. Images without matches are no mistake."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


if __name__ == "__main__":
    sys.exit(main())
