# SPDX-License-Identifier: Apache-2.0
"""Key frames of a data set in nuScenes' format, from its JSON tables, without the devkit.

Tables that are read, in ROOT/VERSION/: scene, sample, sensor, calibrated_sensor, sample_data, ego_pose. The format is
described in nuscenes-devkit's docs/schema_nuscenes.md; its quaternions have w first. Which scenes are "train" and "val"
is not in the tables, so it comes from a splits.json (see `splits.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.transforms import inverse, to_matrix
from bev_ros.calibration import CameraCalibration, Rig
from bev_ros.samples import ALL, Sample, checked_name, unknown_split, unknown_token
from bev_ros.sources.images import load_image
from bev_ros.sources.splits import read_splits
from bev_ros.sources.tables import table_records, text_of, value_of, whole_of

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
REFERENCE = "LIDAR_TOP"
_TABLES = ("scene", "sample", "sensor", "calibrated_sensor", "sample_data", "ego_pose")
_NS_PER_US = 1000


class _KeyFrame(NamedTuple):
    """What is kept of a record of sample_data."""

    file: str
    calibration: str
    pose: str
    stamp_us: int
    width: int
    height: int


class _Instant(NamedTuple):
    """What is kept of a record of sample: its time, the scene's name, and channel -> key frame."""

    stamp_us: int
    scene: str
    frames: dict[str, _KeyFrame]


def version_folders(root: Path) -> list[Path]:
    """The folders with tables in or at a path, sorted by name; none if it is no such data set."""
    if not root.is_dir():
        return []
    return [folder for folder in (root, *sorted(root.iterdir())) if (folder / "sample_data.json").is_file()]


class NuScenesSource:
    """The key frames of a data set in nuScenes' format.

    Args:
        root: the folder with samples/ and v1.0-.../, or the latter.
        version: which tables; None takes the only ones.
        cameras: channels to use, in this order; none: those of `CAMERAS` that there are, else every camera by name.
        splits_file: {split: [scene names]}; None takes splits.json beside the tables or in `root`, if it is there.
        motion_compensation: bring every camera's pose to the moment of the LIDAR_TOP key frame by the vehicle's motion.
            Off: each camera counts at its own moment, as BEVDepth was trained.

    Raises:
        InputError: no or several versions, a table is missing or malformed, or there is no such camera.
    """

    def __init__(
        self,
        root: Path,
        *,
        version: str | None = None,
        cameras: Sequence[str] = (),
        splits_file: Path | None = None,
        motion_compensation: bool = True,
    ) -> None:
        self._tables = _choose_version(root, version)
        self._root = self._tables.parent
        self.version = checked_name(self._tables.name, "version", str(root))
        for table in _TABLES:
            if not self._path(table).is_file():
                raise InputError(f"expected the table {table}.json, found none in {self._tables}", "check the download")
        channels = self._read_channels()
        self._cameras = self._choose_cameras(channels, cameras)
        self._compensate = motion_compensation
        self._has_reference = any(channel == REFERENCE for channel, _ in channels.values())
        self._splits = read_splits(splits_file, self._tables, self._root)
        kept = {token: channel for token, (channel, _) in channels.items() if channel in (*self._cameras, REFERENCE)}
        self._calibrations = self._read_calibrations(kept)
        self._instants = self._read_instants()
        self._read_key_frames(kept)
        self._pose_rows, self._poses = self._read_poses()

    @property
    def identity(self) -> str:
        """Version, cameras and what became of the vehicle's motion."""
        moment = "at each camera's own moment"
        if self._compensate:
            moment = f"at the {REFERENCE} key frame" if self._has_reference else "at the camera nearest to the sample"
        return f"nuScenes format, {self.version}, {', '.join(self._cameras)}, poses {moment}"

    @property
    def calibration(self) -> str:
        """The table."""
        return "calibrated_sensor and ego_pose of the data set"

    @property
    def warnings(self) -> Sequence[str]:
        """Scenes of the splits file that are not in this version."""
        there = self._scenes
        return [
            f"{len(scenes - there)} of the {len(scenes)} scenes of the split {split} are not in {self.version}"
            for split, scenes in self._splits.items()
            if scenes & there and scenes - there
        ]

    @functools.cached_property
    def _scenes(self) -> frozenset[str]:
        return frozenset(instant.scene for instant in self._instants.values())

    def splits(self) -> tuple[str, ...]:
        """`ALL`, the version, which is everything too, and those of the splits file that have scenes here."""
        told = [split for split, scenes in self._splits.items() if scenes & self._scenes and split != self.version]
        return (ALL, self.version, *told)

    def tokens(self, split: str) -> list[str]:
        """See `SampleSource`; sorted by token."""
        if split in (ALL, self.version):
            return sorted(self._instants)
        if split not in self.splits():
            raise unknown_split(split, self.splits(), self._tables)
        scenes = self._splits[split]
        return sorted(token for token, instant in self._instants.items() if instant.scene in scenes)

    def sample(self, split: str, token: str) -> Sample:
        """See `SampleSource`."""
        instant = self._instants.get(token)
        if split not in self.splits():
            raise unknown_split(split, self.splits(), self._tables)
        if instant is None or not (split in (ALL, self.version) or instant.scene in self._splits[split]):
            raise unknown_token(split, token, self._tables)
        reference = self._reference(token, instant)
        world_from_ego = self._pose(reference)
        cameras, images = [], {}
        for channel in self._cameras:
            frame = self._frame(token, instant, channel)
            cameras.append(self._camera(channel, frame, world_from_ego))
            images[channel] = self._loader(token, frame)
        stamp_ns = reference.stamp_us * _NS_PER_US
        return Sample(token, split, stamp_ns, images, Rig(tuple(cameras)), world_from_ego, instant.scene)

    # -- one sample ----------------------------------------------------------------------------------------------------

    def _frame(self, token: str, instant: _Instant, channel: str) -> _KeyFrame:
        try:
            return instant.frames[channel]
        except KeyError:
            raise InputError(
                f"expected a key frame of {channel} for the sample {token}, found none in {self._path('sample_data')}",
                "complete the data set, or choose the cameras that it has with --cameras",
            ) from None

    def _reference(self, token: str, instant: _Instant) -> _KeyFrame:
        """The key frame whose moment and ego pose are the sample's: the lidar's, else the one nearest in time."""
        if self._has_reference:
            return self._frame(token, instant, REFERENCE)
        frames = [self._frame(token, instant, channel) for channel in self._cameras]
        return min(frames, key=lambda frame: abs(frame.stamp_us - instant.stamp_us))

    def _camera(self, channel: str, frame: _KeyFrame, world_from_ego: np.ndarray) -> CameraCalibration:
        path = self._path("calibrated_sensor")
        record = self._calibrations[frame.calibration]
        sensor_to_ego = _rigid(record, path)
        if self._compensate:
            sensor_to_ego = inverse(world_from_ego) @ self._pose(frame) @ sensor_to_ego
        matrix = value_of(record, "camera_intrinsic", path)
        try:
            return CameraCalibration(channel, frame.width, frame.height, matrix, sensor_to_ego)
        except InputError as error:
            raise InputError(
                f"{error.reason}, the record {frame.calibration} of {path} for {frame.file}", error.remedy
            ) from error

    def _pose(self, frame: _KeyFrame) -> np.ndarray:
        """(4, 4) float64: world <- ego at the frame's moment."""
        path = self._path("ego_pose")
        row = self._pose_rows[frame.pose]
        if row < 0:
            raise InputError(f"expected the ego pose {frame.pose} of {frame.file}, found none in {path}")
        told = self._poses[row]
        return _rigid({"token": frame.pose, "translation": told[:3], "rotation": told[3:]}, path)

    def _loader(self, token: str, frame: _KeyFrame) -> Callable[[], np.ndarray]:
        path, size = self._root / frame.file, (frame.width, frame.height)
        return lambda: load_image(path, size, f"the sample {token}")

    # -- tables --------------------------------------------------------------------------------------------------------

    def _path(self, table: str) -> Path:
        return self._tables / f"{table}.json"

    def _read_channels(self) -> dict[str, tuple[str, str]]:
        """Token of a sensor -> (channel, modality)."""
        path = self._path("sensor")
        return {
            text_of(record, "token", path): (text_of(record, "channel", path), text_of(record, "modality", path))
            for record in table_records(path)
        }

    def _choose_cameras(self, channels: Mapping[str, tuple[str, str]], wanted: Sequence[str]) -> tuple[str, ...]:
        there = sorted(channel for channel, modality in channels.values() if modality == "camera")
        unknown = [channel for channel in wanted if channel not in there]
        if unknown or len(set(wanted)) != len(wanted) or not there:
            raise InputError(
                f"expected different cameras among {', '.join(there) or 'none'}, found {', '.join(wanted)} for "
                f"{self._path('sensor')}",
                "check --cameras",
            )
        usual = tuple(channel for channel in CAMERAS if channel in there)
        return tuple(wanted) or usual or tuple(there)

    def _read_calibrations(self, kept: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Token -> record of calibrated_sensor, of the sensors that are used."""
        path = self._path("calibrated_sensor")
        return {
            text_of(record, "token", path): record
            for record in table_records(path)
            if text_of(record, "sensor_token", path) in kept
        }

    def _read_instants(self) -> dict[str, _Instant]:
        path = self._path("scene")
        names = {text_of(record, "token", path): text_of(record, "name", path) for record in table_records(path)}
        path = self._path("sample")
        found = {}
        for record in table_records(path):
            token = checked_name(text_of(record, "token", path), "token", str(path))
            scene = text_of(record, "scene_token", path)
            if scene not in names:
                raise InputError(f"expected the scene {scene} of the sample {token} in {self._path('scene')}")
            found[token] = _Instant(whole_of(record, "timestamp", path), names[scene], {})
        return found

    def _read_key_frames(self, kept: Mapping[str, str]) -> None:
        """Fills the instants. This table has a record for every sweep of every sensor: 2.6 million in v1.0-trainval."""
        path = self._path("sample_data")
        channel_of = {token: kept[record["sensor_token"]] for token, record in self._calibrations.items()}
        same = {token: token for token in channel_of}  # one string for all frames instead of one for each
        for record in table_records(path):
            calibration = text_of(record, "calibrated_sensor_token", path)
            channel = channel_of.get(calibration)
            if channel is None or not value_of(record, "is_key_frame", path):
                continue
            sample = text_of(record, "sample_token", path)
            instant = self._instants.get(sample)
            if instant is None:
                raise InputError(
                    f"expected the sample {sample} of the record {record.get('token')} of {path.name}, found none in "
                    f"{self._path('sample')}"
                )
            instant.frames[channel] = _KeyFrame(
                text_of(record, "filename", path),
                same[calibration],
                text_of(record, "ego_pose_token", path),
                whole_of(record, "timestamp", path),
                *(whole_of(record, side, path) if record.get(side) else 0 for side in ("width", "height")),
            )

    def _read_poses(self) -> tuple[dict[str, int], np.ndarray]:
        """Token of an ego pose -> its row (-1: it has none), and the rows: x, y, z, qw, qx, qy, qz."""
        path = self._path("ego_pose")
        rows = {frame.pose: -1 for instant in self._instants.values() for frame in instant.frames.values()}
        poses = np.empty((len(rows), 7))
        count = 0
        for record in table_records(path):
            token = text_of(record, "token", path)
            if rows.get(token) != -1:
                continue
            try:
                poses[count] = (*value_of(record, "translation", path), *value_of(record, "rotation", path))
            except (TypeError, ValueError) as error:
                raise InputError(f"expected 3 and 4 numbers in the record {token}, found {error} in {path}") from error
            rows[token] = count
            count += 1
        return rows, poses[:count]


def _choose_version(root: Path, version: str | None) -> Path:
    folders = version_folders(root)
    names = ", ".join(folder.name for folder in folders)
    if version is not None:
        folders = [folder for folder in folders if folder.name == version]
    if len(folders) != 1:
        wanted = f"the version {version}" if version is not None else "one version of nuScenes' tables"
        raise InputError(
            f"expected {wanted} (a folder with sample_data.json), found {names or 'none'} in {root}",
            "choose one with --nuscenes-version",
        )
    return folders[0]


def _rigid(record: Mapping[str, Any], path: Path) -> np.ndarray:
    """(4, 4) float64 from a record's translation and rotation (w first)."""
    rotation, translation = value_of(record, "rotation", path), value_of(record, "translation", path)
    try:
        w, x, y, z = (float(value) for value in rotation)
        return to_matrix([float(value) for value in translation], (x, y, z, w))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected 3 + 4 numbers in the record {record.get('token')}, found {error} in {path}"
        ) from error
    except InputError as error:
        raise InputError(
            f"{error.reason} in the record {record.get('token')} of {path}", "repair the data set"
        ) from error
