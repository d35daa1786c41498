# SPDX-License-Identifier: Apache-2.0
"""Images from folders that grow while they are read: each camera's next image by name, as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.frames import IMAGE_SUFFIXES, read_image
from vggt_ros.feeds import Batch


def live_batches(
    folders: Mapping[str, Path],
    step: int = 1,
    *,
    patience_s: float = 10.0,
    poll_s: float = 0.1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Batch]:
    """Instants until nothing has come for `patience_s`.

    An instant is complete when every camera has its next image, and is given without those that have none when this
    takes longer than the patience. A file counts when its name is greater than the last one's and it can be read; one
    that is still being written is looked at again, and is a problem if it stays unreadable.
    """
    last = dict.fromkeys(folders, "")
    number = 0
    while True:
        images: dict[str, np.ndarray] = {}
        names: dict[str, str] = {}
        problems: dict[str, str] = {}
        files: dict[str, str] = {}
        begun = clock()
        while len(images) < len(folders) and clock() - begun < patience_s:
            for camera in [name for name in folders if name not in images]:
                path = _next(folders[camera], last[camera])
                if path is None:
                    continue
                files[camera] = path.name
                try:
                    images[camera], names[camera] = read_image(path), path.stem
                    problems.pop(camera, None)
                except InputError as error:
                    problems[camera] = str(error)
            if len(images) < len(folders):
                sleep(poll_s)
        if not files:
            return
        last.update(files)
        for camera in folders:
            if camera not in files:
                problems[camera] = f"no image came within {patience_s:g} s"
        if number % step == 0:
            yield Batch(number, images, names, problems)
        number += 1


def _next(folder: Path, last: str) -> Path | None:
    """The first image by name after the last one; empty files have only been opened yet."""
    try:
        later = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and path.name > last and path.stat().st_size
        ]
    except OSError:
        return None  # not made yet, or just being renamed
    return min(later, key=lambda path: path.name, default=None)
