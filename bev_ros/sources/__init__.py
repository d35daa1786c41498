# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: data sets in nuScenes' format, recordings of topics, plain folders."""

from __future__ import annotations

from pathlib import Path

from aot_runtime.bags import is_bag, is_rosbag1
from aot_runtime.errors import InputError
from bev_ros.samples import SampleSource
from bev_ros.sources.options import AUTO, SourceOptions


def open_source(path: Path, options: SourceOptions | None = None) -> SampleSource:
    """The samples at a path.

    Args:
        path: a folder with samples/ and v1.0-.../ (nuScenes), a rosbag2 or rosbag1, or a folder with samples/*.json.
        options: default: what lies there is recognised, and all cameras are used.

    Raises:
        InputError: it is none of them, or what `options.kind` says is not there; see the sources.
    """
    options = options or SourceOptions()
    kind = _recognised(path) if options.kind == AUTO else options.kind
    if kind == "nuscenes":
        from bev_ros.sources.nuscenes import NuScenesSource

        return NuScenesSource(
            path,
            version=options.version,
            cameras=options.cameras,
            splits_file=options.splits_file,
            motion_compensation=options.motion_compensation,
        )
    if kind == "bag":
        from bev_ros.sources.bag import BagFrames, BagSource

        frames = BagFrames(options.base_frame, options.fixed_frame, options.calibration, options.rectified)
        return BagSource(path, cameras=options.cameras, matching=options.matching, frames=frames)
    from bev_ros.sources.folder import FolderSource

    return FolderSource(path, calibration=options.calibration, cameras=options.cameras, splits_file=options.splits_file)


def _recognised(path: Path) -> str:
    from bev_ros.sources.folder import is_sample_folder
    from bev_ros.sources.nuscenes import version_folders

    if not path.exists():
        raise InputError(f"expected a data set or a bag, found nothing at {path}", "check the path")
    if version_folders(path):
        return "nuscenes"
    if is_bag(path) or is_rosbag1(path):
        return "bag"
    if path.is_dir() and is_sample_folder(path):
        return "folder"
    raise InputError(
        "expected a data set in nuScenes' format (a version folder with sample_data.json), a bag (metadata.yaml, "
        f".mcap, .db3 or .bag), or a folder with samples/*.json, found none of them at {path}",
        "check the path, or say what it is with --source-kind",
    )
