# SPDX-License-Identifier: Apache-2.0
"""Command `compare_fp32_fp16`: keypoints of two networks on the same images, point by point.

Outputs come sorted by scores that differ in the last bit, so points are first matched by place: mutual nearest
neighbours. A is the reference: an artifact, or the checkpoint run by PyTorch; so is B.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aliked_ros.config import CONFIGS
from aliked_ros.export_aliked import DEFAULT_MODEL, DEFAULT_TOP_K
from aliked_ros.network_options import Networks, eager_options, write_json
from aliked_ros.pipeline import AlikedResult
from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from aot_runtime.frames import open_frames
from aot_runtime.keypoints import mutual_nearest
from aot_runtime.progress import table_console

DEFAULT_DISTANCE = 3.0


@dataclass(frozen=True)
class PointErrors:
    """B against A on one image, of the matched points: pixels (M,), |score| (M,), cosine of descriptors (M,)."""

    name: str
    count_a: int
    count_b: int
    position: np.ndarray
    score: np.ndarray
    cosine: np.ndarray


@dataclass(frozen=True)
class Summary:
    """Over the matched points of one image, or of all.

    Attributes:
        missed: keypoints of A without a counterpart in B.
        extra: keypoints of B without one in A.
        position_mean, ...: pixels.
        score_mean, score_max: absolute differences.
        cosine_mean, ...: of the descriptors; `p01` is the 1st percentile.
    """

    name: str
    count_a: int
    count_b: int
    missed: int
    extra: int
    position_mean: float
    position_p50: float
    position_p99: float
    position_max: float
    score_mean: float
    score_max: float
    cosine_mean: float
    cosine_p01: float
    cosine_min: float


def compare_results(name: str, a: AlikedResult, b: AlikedResult, distance: float = DEFAULT_DISTANCE) -> PointErrors:
    """Match by place and compare.

    Args:
        distance: pixels within which two keypoints may be the same one.

    Raises:
        InputError: the descriptors have different lengths.
    """
    if a.descriptors.shape[1] != b.descriptors.shape[1]:
        raise InputError(
            f"expected descriptors of one length, found {a.descriptors.shape[1]} and {b.descriptors.shape[1]}",
            "compare two artifacts of one network",
        )
    left, right = mutual_nearest(a.keypoints.astype(np.float64), b.keypoints.astype(np.float64), distance)
    return PointErrors(
        name,
        len(a),
        len(b),
        np.linalg.norm(a.keypoints[left].astype(np.float64) - b.keypoints[right], axis=1),
        np.abs(a.scores[left].astype(np.float64) - b.scores[right]),
        (a.descriptors[left].astype(np.float64) * b.descriptors[right]).sum(axis=1),
    )


def summarise(name: str, images: Sequence[PointErrors]) -> Summary:
    """All points of some images together; 0 where nothing matched (cosine 1)."""
    position, score, cosine = (
        np.concatenate([getattr(image, what) for image in images]) for what in ("position", "score", "cosine")
    )
    counts = sum(image.count_a for image in images), sum(image.count_b for image in images)
    if not len(position):
        position, score, cosine = np.zeros(1), np.zeros(1), np.ones(1)
        matched = 0
    else:
        matched = len(position)
    return Summary(
        name=name,
        count_a=counts[0],
        count_b=counts[1],
        missed=counts[0] - matched,
        extra=counts[1] - matched,
        position_mean=float(position.mean()),
        position_p50=float(np.percentile(position, 50)),
        position_p99=float(np.percentile(position, 99)),
        position_max=float(position.max()),
        score_mean=float(score.mean()),
        score_max=float(score.max()),
        cosine_mean=float(cosine.mean()),
        cosine_p01=float(np.percentile(cosine, 1)),
        cosine_min=float(cosine.min()),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare_fp32_fp16", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="+", type=Path, help="images, folders of them, or rosbag2 recordings")
    add("-a", "--artifact-a", type=Path, help="the reference (default: --checkpoint in --precision-a)")
    add("-b", "--artifact-b", type=Path, help="what is compared with it (default: --checkpoint in --precision-b)")
    add("-c", "--checkpoint", type=Path, help="official checkpoint, run by PyTorch")
    add("-m", "--model", default=DEFAULT_MODEL, help=f"of --checkpoint: {', '.join(CONFIGS)} (default {DEFAULT_MODEL})")
    add("--precision-a", choices=("fp32", "fp16", "bf16"), default="fp32", help="of --checkpoint (default fp32)")
    add("--precision-b", choices=("fp32", "fp16", "bf16"), default="fp16", help="of --checkpoint (default fp16)")
    add("--top_k", "--top-k", type=int, default=DEFAULT_TOP_K, help=f"of --checkpoint (default {DEFAULT_TOP_K})")
    add("--height", type=int, help="of --checkpoint: scale images to this size (default: the artifact's, or their own)")
    add("--width", type=int, help="with --height")
    add("--topic", help="image topic of a bag with several")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    add("--threshold", type=float, default=0.0, help="compare keypoints with a peak score above this")
    add("--distance", type=float, default=DEFAULT_DISTANCE, help="px between the same keypoint in both (default 3)")
    add("--max-missed", type=float, help="exit with 1 where a larger share of A's keypoints is missed")
    add("--max-position", type=float, help="exit with 1 where the 99th percentile of position errors is larger [px]")
    add("--json", metavar="FILE", help="write the numbers here ('-' for standard output, and nothing else there)")
    return parser


def _open(told: argparse.Namespace) -> list[Networks]:
    """A and B; a checkpoint takes the size of an artifact on the other side."""
    opened: dict[str, Networks] = {}
    options = {"threshold": told.threshold, "allow_list": told.allow_list}
    try:
        for side, artifact in (("a", told.artifact_a), ("b", told.artifact_b)):
            if artifact is not None:
                opened[side] = Networks(artifact, told.device, **options)
        if opened and told.height is None and told.width is None:
            told.height, told.width = next(iter(opened.values())).fixed_size or (None, None)
        for side, precision in (("a", told.precision_a), ("b", told.precision_b)):
            if side not in opened:
                opened[side] = Networks(eager_options(told, precision), told.device, **options)
    except BaseException:
        for networks in opened.values():
            networks.close()
        raise
    return [opened["a"], opened["b"]]


def _compare_all(told: argparse.Namespace, networks: Sequence[Networks]) -> tuple[list[PointErrors], int]:
    """Every readable image, and how many failed."""
    from rich.console import Console
    from rich.progress import Progress

    found, failed = [], 0
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        for frame in open_frames(told.images, told.topic):
            try:
                image = frame.load()
                results = [network.pipeline_for(image).process(image) for network in networks]
            except InputError as error:
                failed += 1
                print(f"{frame.name}: {error}", file=sys.stderr)
            else:
                found.append(compare_results(frame.name, results[0], results[1], told.distance))
            bar.advance(task)
    if not found:
        raise InputError(f"expected images to compare on, found none of {failed} usable")
    return found, failed


def _print(names: Sequence[str], rows: Sequence[Summary]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("image", "keypoints", "missed", "extra", "position mean", "p50", "p99", "max px")
    for column in ("score mean", "max", "cosine mean", "p01", "min"):
        table.add_column(column)
    for row in rows:
        position = (row.position_mean, row.position_p50, row.position_p99, row.position_max)
        table.add_row(
            Text(row.name),
            f"{row.count_a}, {row.count_b}",
            f"{row.missed} ({100 * row.missed / max(1, row.count_a):.2f} %)",
            str(row.extra),
            *(f"{value:.2g}" for value in (*position, row.score_mean, row.score_max)),
            *(f"{value:.6f}" for value in (row.cosine_mean, row.cosine_p01, row.cosine_min)),
        )
    print(f"A: {names[0]}\nB: {names[1]}")
    table_console().print(table)


def _run(told: argparse.Namespace) -> int:
    if not told.distance > 0:
        raise InputError(f"expected --distance above 0, found {told.distance}")
    networks = _open(told)
    try:
        found, failed = _compare_all(told, networks)
        names = [network.name for network in networks]
    finally:
        for network in networks:
            network.close()
    total = summarise("all", found)
    rows = [summarise(image.name, [image]) for image in found]
    document = {"a": names[0], "b": names[1], "all": asdict(total), "images": [asdict(row) for row in rows]}
    if told.json != "-":
        _print(names, [*rows, total])
    if told.json is not None:
        write_json(told.json, document)
    beyond = told.max_missed is not None and total.missed > told.max_missed * total.count_a
    # Without a single match there is no position to be right.
    none = total.missed == total.count_a > 0
    far = told.max_position is not None and (none or total.position_p99 > told.max_position)
    return 1 if failed or beyond or far else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command `compare_fp32_fp16`: exit status 0, 1 beyond a limit or if single images failed, 2 for a mistake."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


if __name__ == "__main__":
    sys.exit(main())
