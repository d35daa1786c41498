# SPDX-License-Identifier: Apache-2.0
"""What commands that run a model over images have in common: frames one by one, a results folder, an exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.frames import Frame

if TYPE_CHECKING:
    import argparse

    from aot_runtime.manifest import Manifest


class ResultFolder:
    """A folder with what came of frames: NAME_something files that a subclass writes, and frames.json, a row for each.

    Args:
        folder: made if it does not exist.
        formats: the kinds of files wanted.
        known: the kinds of files there are.

    Raises:
        InputError: a kind is unknown.
    """

    def __init__(self, folder: Path, formats: Sequence[str], known: Sequence[str]) -> None:
        unknown = sorted(set(formats) - set(known))
        if unknown:
            raise InputError(f"expected formats of {', '.join(known)}, found {unknown[0]}")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._formats = formats
        self._rows: list[dict[str, Any]] = []

    def wants(self, kind: str) -> bool:
        """Whether files of this kind are wanted."""
        return kind in self._formats

    def path(self, frame: Frame, ending: str) -> Path:
        """FOLDER/NAME_ending."""
        return self.folder / f"{frame.name}_{ending}"

    def add_row(self, frame: Frame, image: np.ndarray, **values: Any) -> None:
        """The frame's row of frames.json: where it comes from, its size (width, height), and these values."""
        size = [image.shape[1], image.shape[0]]
        came = {"name": frame.name, "stamp_ns": frame.stamp_ns, "frame_id": frame.frame_id, "image_size": size}
        self._rows.append({**came, **values})

    def close(self) -> None:
        """Writes frames.json."""
        text = json.dumps(self._rows, indent=1)
        (self.folder / "frames.json").write_text(text + "\n", encoding="utf-8")


def add_common_arguments(parser: argparse.ArgumentParser, exporter: str) -> None:
    """Arguments of every such command; `exporter` names the command that makes its artifacts."""
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, help="images, folders of images, or rosbag2 recordings")
    add("--artifact", type=Path, required=True, help=f"model made by {exporter} (.pt2, .onnx or .engine)")
    add("--output", type=Path, required=True, help="folder for the results")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    add("--no-cuda-graph", action="store_true", help="run the network kernel by kernel")
    add("--topic", help="image topic of a bag with several")


def warn_of_random_weights(manifest: Manifest, outputs: str) -> None:
    """Says on stderr that these outputs mean nothing if the weights are random; `outputs` with its verb."""
    if manifest.checkpoint.is_random:
        print(f"the artifact has random weights: {outputs} nothing", file=sys.stderr)


def tell_warnings(frame: Frame, warnings: Iterable[str]) -> None:
    """Warnings about a frame, on stderr."""
    for warning in warnings:
        print(f"{frame.name}: {warning}", file=sys.stderr)


def run_frames(
    frames: Iterable[Frame], work: Callable[[Frame], None], results: ResultFolder, what: str, kind: str = ""
) -> int:
    """Does the work for each frame under a progress display, closes the results, and prints how many there were.

    A frame whose work raises InputError is named on stderr, and the others are done.

    Args:
        frames: as `open_frames` gives them.
        work: loads the frame and adds to the results.
        results: closed in any case.
        what: of the images, for the progress display.
        kind: of the results, for the last line.

    Returns:
        The exit status: 0, or 1 if a frame failed.
    """
    done = failed = 0
    with _progress(what) as advance:
        try:
            for frame in frames:
                try:
                    work(frame)
                    done += 1
                except InputError as error:
                    failed += 1
                    tell_warnings(frame, [str(error)])
                advance()
        finally:
            results.close()
    print(f"{results.folder}: {done} images{kind and f', {kind}'}{f', {failed} failed' if failed else ''}")
    return 1 if failed else 0


@contextmanager
def _progress(what: str) -> Iterator[Callable[[], None]]:
    """A function to call after each frame."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    with Progress(
        SpinnerColumn(), TextColumn(what + " of {task.completed:.0f} images"),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=None)
        yield lambda: bar.advance(task)
