# SPDX-License-Identifier: Apache-2.0
"""Everything that says where samples come from: as one value to give to other processes, and on a command line."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from bev_ros.sources.matching import Matching

if TYPE_CHECKING:
    import argparse

AUTO = "auto"
KINDS = ("nuscenes", "bag", "folder")


@dataclass(frozen=True)
class SourceOptions:
    """Options of all kinds of sources; each takes those that concern it, see there.

    Attributes:
        kind: one of `KINDS`, or "auto" to go by what lies at the path.
        cameras: which to use, in order; of a bag also as "name=topic".
        splits_file: {split: [scene names]}.
        version, motion_compensation: of nuScenes.
        calibration: of a folder or a bag.
        matching, base_frame, fixed_frame, rectified: of a bag.
    """

    kind: str = AUTO
    cameras: tuple[str, ...] = ()
    splits_file: Path | None = None
    version: str | None = None
    motion_compensation: bool = True
    calibration: Path | None = None
    matching: Matching = field(default_factory=Matching)
    base_frame: str = ""
    fixed_frame: str = AUTO
    rectified: bool | None = None

    def resolved(self) -> SourceOptions:
        """The same with absolute paths, for a process in another folder."""
        splits_file, calibration = (
            None if path is None else path.resolve() for path in (self.splits_file, self.calibration)
        )
        return replace(self, splits_file=splits_file, calibration=calibration)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's arguments for `source_options`."""
    defaults = Matching()
    group = parser.add_argument_group("samples")
    add: Any = group.add_argument
    add("--source-kind", choices=(AUTO, *KINDS), default=AUTO, help="what lies at --source")
    add("--cameras", help="cameras to use, in order, separated by commas; of a bag also as NAME=TOPIC")
    add("--splits-file", type=Path, help='JSON {"split": ["scene", ...]}; default: splits.json in the data set')
    add("--calibration", type=Path, help="YAML or JSON of the rig, of a folder or a bag")
    add("--nuscenes-version", help="folder of the tables, such as v1.0-trainval, if there are several")
    add(
        "--no-motion-compensation",
        action="store_true",
        help="leave out the vehicle's motion between the moments of a sample's images",
    )
    group = parser.add_argument_group("samples of a bag")
    add = group.add_argument
    add("--slop", type=float, default=defaults.slop_ns * 1e-9, help="largest difference of stamps in a set [s]")
    add("--patience", type=float, default=defaults.patience_ns * 1e-9, help="wait so long for optional cameras [s]")
    add("--required", help="cameras without which there is no sample, separated by commas; '' for none; default: all")
    add("--least", type=int, default=defaults.least, help="so many cameras are needed at least")
    add("--interval", type=float, default=0.0, help="time between samples at least [s]")
    add("--base-frame", default="", help="the vehicle's frame; default: the calibration's, else base_link")
    add("--fixed-frame", default=AUTO, help="frame for the vehicle's motion, '' for none; default: odom, map or world")
    rectified = group.add_mutually_exclusive_group()
    rectified.add_argument("--rectified", action="store_true", default=None, help="images are rectified")
    rectified.add_argument("--raw", dest="rectified", action="store_false", help="images are not; default: by topic")


def source_options(args: argparse.Namespace) -> SourceOptions:
    """What the arguments say.

    Raises:
        InputError: a time is negative or no number.
    """
    for name in ("slop", "patience", "interval"):
        if not 0 <= getattr(args, name) < 3600:
            raise InputError(f"expected --{name} of 0 to 3600 s, found {getattr(args, name)}")
    matching = Matching(
        slop_ns=round(args.slop * 1e9),
        patience_ns=round(args.patience * 1e9),
        required=None if args.required is None else _names(args.required),
        least=args.least,
        interval_ns=round(args.interval * 1e9),
    )
    return SourceOptions(
        kind=args.source_kind,
        cameras=_names(args.cameras or ""),
        splits_file=args.splits_file,
        version=args.nuscenes_version,
        motion_compensation=not args.no_motion_compensation,
        calibration=args.calibration,
        matching=matching,
        base_frame=args.base_frame,
        fixed_frame="" if args.no_motion_compensation else args.fixed_frame,
        rectified=args.rectified,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
