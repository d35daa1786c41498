# SPDX-License-Identifier: Apache-2.0
"""Command `evaluate_keypoints`: does another precision harm what keypoints are for? Warped views and real pairs.

The first network is the reference. A measure is harmed if it is worse, on average over the seeds, by more than the
reference's own standard deviation from seed to seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from aliked_ros.config import from_name
from aliked_ros.evaluation import (
    Comparison,
    as_plain,
    compare_runs,
    evaluate_pairs,
    evaluate_warps,
    fit_image,
    read_pairs,
)
from aliked_ros.export_aliked import DEFAULT_MODEL, DEFAULT_TOP_K
from aliked_ros.network_options import EagerOptions, Networks, write_json
from aliked_ros.warps import KINDS
from aot_runtime.command import exit_status
from aot_runtime.environment import Stamp, stamp
from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from aot_runtime.frames import open_frames

# What the printed table holds; the JSON has everything.
_SHOWN = (
    *("matches", "repeatability @3px", "MMA @1px", "MMA @3px", "matching score @3px", "homography AUC @1px"),
    *("homography AUC @3px", "homography AUC @5px", "homography accuracy @1px", "homography accuracy @3px"),
    *("corner error, median px", "homography inliers", "pose inliers"),
    *("rotation error, degrees", "translation error, degrees"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate_keypoints", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", nargs="*", type=Path, help="images, or folders of them, to be warped by known homographies")
    add(
        "--artifacts", nargs="+", type=Path, default=[], help="models made by export_aliked; the first is the reference"
    )
    add("-c", "--checkpoint", type=Path, help="official checkpoint, run by PyTorch in --precisions, before --artifacts")
    add("-m", "--model", default=DEFAULT_MODEL, help=f"of --checkpoint (default {DEFAULT_MODEL})")
    add("--precisions", nargs="+", choices=("fp32", "fp16", "bf16"), default=["fp32", "fp16"], help="of --checkpoint")
    add("--top_k", "--top-k", type=int, default=DEFAULT_TOP_K, help=f"of --checkpoint (default {DEFAULT_TOP_K})")
    add("--width", type=int, default=640, help="images are cut and scaled to this for warping (default 640)")
    add("--height", type=int, default=480, help="with --width (default 480); artifacts must take this size")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of warps (default: all)")
    add("--seeds", type=int, default=8, help="repetitions with other warps and other noise (default 8)")
    add("--pairs", type=Path, help="JSON list of real pairs: name, images, intrinsics and pose if they are known")
    add("--root", type=Path, help="what the paths in --pairs are relative to (default: the file's folder)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    add("--json", metavar="FILE", help="write everything here")
    add("--markdown", metavar="FILE", help="write the tables here")
    add("--fail-if-harmed", action="store_true", help="exit status 1 where a network is worse than the spread")
    return parser


def _networks(told: argparse.Namespace) -> list[Networks]:
    """All networks, open; the first is the reference."""
    sources: list[Path | EagerOptions] = []
    if told.checkpoint is not None:
        name = from_name(told.model).name
        # Beside artifacts, eager networks take the artifacts' size, so that all see the same pixels.
        size = (told.height, told.width) if told.artifacts else (None, None)
        sources += [EagerOptions(name, told.checkpoint, told.top_k, precision, *size) for precision in told.precisions]
    sources += told.artifacts
    if len(sources) < 2:
        raise InputError(
            f"expected two or more networks, found {len(sources)}", "give --artifacts A B, or --checkpoint FILE"
        )
    opened: list[Networks] = []
    try:
        for source in sources:
            opened.append(Networks(source, told.device, allow_list=told.allow_list))
            fixed = opened[-1].fixed_size
            if fixed is not None and fixed != (told.height, told.width):
                raise InputError(
                    f"expected an artifact for images of {told.width}x{told.height}, found one for "
                    f"{fixed[1]}x{fixed[0]} in {source}",
                    "give its size as --width and --height",
                )
    except BaseException:
        for networks in opened:
            networks.close()
        raise
    return opened


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A function to call after each image or pair of a network."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=total)
        yield lambda: bar.advance(task)


def evaluate(told: argparse.Namespace) -> tuple[list[str], list[list[Comparison]], dict[str, Any]]:
    """(names of the networks, for each but the first its comparisons with the first, and all numbers by task,
    network and measure).

    Raises:
        AotError: an image, a pair or a network is unusable, or there is nothing to do.
    """
    if not told.images and told.pairs is None:
        raise InputError("expected images to warp or --pairs FILE, found neither")
    if told.seeds < 2:
        raise InputError(f"expected two or more --seeds, which have a spread, found {told.seeds}")
    size = (told.height, told.width)
    images = [fit_image(np.ascontiguousarray(frame.load()), size) for frame in open_frames(told.images)]
    pairs = [] if told.pairs is None else read_pairs(told.pairs, told.root or told.pairs.parent)
    networks = _networks(told)
    try:
        views = len(images) * len(told.kinds) + len(pairs)
        tables: dict[str, list[list[dict[str, float]]]] = {}
        with _progress(views * told.seeds * len(networks)) as advance:
            if images:
                tables |= {
                    f"warps: {kind}": rows
                    for kind, rows in evaluate_warps(networks, images, told.kinds, range(told.seeds), advance).items()
                }
            tables |= {
                f"pair: {name}": rows
                for name, rows in evaluate_pairs(networks, pairs, range(told.seeds), advance).items()
            }
        names = [network.name for network in networks]
    finally:
        for network in networks:
            network.close()
    compared = [
        [row for task, rows in tables.items() for row in compare_runs(task, rows[0], rows[i])]
        for i in range(1, len(names))
    ]
    return names, compared, {task: dict(zip(names, map(by_measure, rows))) for task, rows in tables.items()}


def by_measure(runs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Measure -> its values, seed by seed."""
    return {measure: [run[measure] for run in runs] for measure in runs[0]}


def markdown(names: Sequence[str], compared: Sequence[Sequence[Comparison]], environment: Stamp) -> str:
    """A table a network: measures beside the reference's, with the spread and the difference."""
    lines = [f"Reference: {names[0]}. {environment.line()}", ""]
    for name, rows in zip(names[1:], compared):
        harmed = [row for row in rows if row.harmed]
        lines += [
            f"**{name}**: {len(rows) - len(harmed)} of {len(rows)} measures unharmed "
            "(not worse than the reference by more than its spread over the seeds)"
            + ("" if not harmed else "; harmed: " + ", ".join(f"{row.task} {row.measure}" for row in harmed)),
            "",
            "| task | measure | reference ± spread | this | difference ± spread | |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            if row.measure in _SHOWN:
                lines.append(
                    f"| {row.task} | {row.measure} | {row.reference:.4g} ± {row.spread:.2g} | {row.value:.4g} "
                    f"| {row.difference:+.2g} ± {row.difference_spread:.2g} | {'HARMED' if row.harmed else ''} |"
                )
        lines.append("")
    return "\n".join(lines)


def _run(told: argparse.Namespace, command: list[str]) -> int:
    names, compared, numbers = evaluate(told)
    environment = stamp(command)
    text = markdown(names, compared, environment)
    print(text)
    if told.markdown is not None:
        with atomic_write(told.markdown) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if told.json is not None:
        document = {
            "environment": environment.as_dict(),
            "reference": names[0],
            "seeds": told.seeds,
            "comparisons": {name: [asdict(row) for row in rows] for name, rows in zip(names[1:], compared)},
            "runs": numbers,
        }
        write_json(told.json, as_plain(document))
    harmed = any(row.harmed for rows in compared for row in rows)
    return 1 if harmed and told.fail_if_harmed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command `evaluate_keypoints`: exit status 0, 1 with --fail-if-harmed, 2 for a mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    told = _parser().parse_args(arguments)
    return exit_status(lambda: _run(told, ["evaluate_keypoints", *arguments]))


if __name__ == "__main__":
    sys.exit(main())
