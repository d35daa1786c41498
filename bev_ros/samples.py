# SPDX-License-Identifier: Apache-2.0
"""What the extractor works on: one instant of a camera rig, and where such instants come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aot_runtime.errors import InputError

if TYPE_CHECKING:
    from bev_ros.calibration import Rig

ALL = "all"
"""The split that every source has: everything."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")


@dataclass(frozen=True)
class Sample:
    """One instant of a rig.

    Attributes:
        token: its name, unique in the source and fit to be a file name.
        split: the split it was asked for under.
        stamp_ns: the instant that the poses refer to, nanoseconds since the epoch.
        images: camera -> a function that gives its image (H, W, 3) uint8 RGB, as the rig describes it (distortion
            undone). It raises InputError if the image is missing or malformed. Functions may be called from any thread.
        rig: the cameras with `sensor_to_ego` at `stamp_ns`: the vehicle's motion between that and a camera's own moment
            is in there. It may hold cameras without an image: those saw nothing at this instant.
        ego_pose: (4, 4) float64, world <- ego at `stamp_ns`, or None if it is not known.
        scene: the recording that the sample belongs to; "" if there is no such thing.
    """

    token: str
    split: str
    stamp_ns: int
    images: Mapping[str, Callable[[], np.ndarray]]
    rig: Rig
    ego_pose: np.ndarray | None = None
    scene: str = field(default="")


class SampleSource(Protocol):
    """Samples of a data set or a recording. Not thread-safe: `sample` is called from one thread at a time."""

    @property
    def identity(self) -> str:
        """What is read and with which options that change the samples: equal for equal samples, wherever they lie."""

    @property
    def calibration(self) -> str:
        """Where the cameras' matrices and poses come from, in words."""

    @property
    def warnings(self) -> Sequence[str]:
        """What one should know about the whole: images that belong to no sample, settings that were guessed."""

    def splits(self) -> tuple[str, ...]:
        """The splits there are; `ALL` is one of them."""

    def tokens(self, split: str) -> list[str]:
        """The tokens of a split, sorted: the same list wherever and whenever the same data are read.

        Samples that are known to be unusable are among them; `sample` says why.

        Raises:
            InputError: there is no such split; the message names those there are.
        """

    def sample(self, split: str, token: str) -> Sample:
        """A sample. Images are read only when one asks for them.

        Raises:
            InputError: there is no such sample in the split, or something that it needs is missing or malformed.
        """


def checked_name(text: str, what: str, where: str) -> str:
    """The text, if it is fit to be the name of a file or folder: a token or split that cannot lead elsewhere.

    Raises:
        InputError: it is not; `what` and `where` tell what it is and where it stands.
    """
    if not _NAME.fullmatch(text) or text.endswith("."):
        raise InputError(
            f"expected a {what} of at most 200 letters, digits, '_', '-', '+' and '.' without a leading '.', found "
            f"{text[:80]!r} in {where}",
            "rename it",
        )
    return text


def unknown_split(split: str, known: Sequence[str], where: object) -> InputError:
    """The error for a split that is not there."""
    return InputError(
        f"expected a split among {', '.join(known)}, found {split!r} for {where}",
        "choose one with --split, or name the scenes of yours with --splits-file",
    )


def unknown_token(split: str, token: str, where: object) -> InputError:
    """The error for a token that is not in the split."""
    return InputError(
        f"expected a token of the split {split}, found {token!r} for {where}", "list the tokens with --list-tokens"
    )


def read_token_list(path: Path) -> list[str]:
    """The tokens in a text file, one a line, in its order; empty lines and lines that begin with # are skipped.

    Raises:
        InputError: the file cannot be read, holds no token, or a line is no token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a list of tokens, found {error} for {path}", "check the path") from error
    found = dict.fromkeys(
        checked_name(line.strip(), "token", f"{path} line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    )
    if not found:
        raise InputError(
            f"expected a token in each line, found none in {path}", "precompute_bev_features --list-tokens writes one"
        )
    return list(found)
