# SPDX-License-Identifier: Apache-2.0
"""A plain folder: a JSON file for each sample, image files, and a calibration.

    ROOT/samples/TOKEN.json
    ROOT/calibration.yaml     (or .yml, .json) cameras that are the same in all samples, see `bev_ros.calibration`
    ROOT/splits.json          {split: [scene names]}, beside what the samples say themselves; see `splits.py`

A sample:

    {"stamp_ns": 1700000000000000000,      or "stamp": seconds
     "cameras": {"front": {"image": "images/front/000.jpg"},            from ROOT; calibrated in calibration.yaml
                 "rear": {"image": "images/rear/000.jpg", "matrix": 3x3, "sensor_to_ego": 4x4,
                          "distortion": [...], "model": "plumb_bob", "width": 1600, "height": 900},
                 "left": null},                                         no image this time
     "ego_pose": 4x4, "scene": "drive-1", "split": "train"}             all three optional

A camera's entry may hold whatever its entry in a calibration file may; it goes before the common calibration. Width and
height may be left out: they are the image's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aot_runtime.errors import InputError
from bev_ros.calibration import CameraCalibration, Rig, checked_pose, read_rig
from bev_ros.lenses import Lenses
from bev_ros.samples import ALL, Sample, checked_name, unknown_split, unknown_token
from bev_ros.sources.images import load_image
from bev_ros.sources.splits import read_splits

_KNOWN = {"stamp", "stamp_ns", "cameras", "ego_pose", "scene", "split"}
# What in a sample's entry makes which part of the common calibration void.
_INSTEAD = {"matrix": "matrix", "intrinsics": "matrix"} | dict.fromkeys(
    ("sensor_to_ego", "translation", "rotation"), "sensor_to_ego"
)
_CALIBRATIONS = ("calibration.yaml", "calibration.yml", "calibration.json")
_LARGEST_STAMP_NS = 2**63 - 1


def is_sample_folder(root: Path) -> bool:
    """Whether there are samples as this module reads them."""
    return next((root / "samples").glob("*.json"), None) is not None


class FolderSource:
    """The samples of a plain folder. All of their JSON files are read once, to know the splits.

    Args:
        root: the folder.
        calibration: a file for the common calibration; None takes that in `root`, if there is one.
        cameras: which to use, in this order; none: all, in the calibration's order and then as they come.
        splits_file: None takes splits.json in `root`, if there is one.

    Raises:
        InputError: there are no samples, or the calibration or the splits are malformed. A malformed sample is said
            when one asks for it; it belongs to every split, so that it is not overlooked.
    """

    def __init__(
        self,
        root: Path,
        *,
        calibration: Path | None = None,
        cameras: Sequence[str] = (),
        splits_file: Path | None = None,
    ) -> None:
        if not is_sample_folder(root):
            raise InputError(f"expected samples (samples/*.json), found none in {root}", "check the path")
        if calibration is None:
            calibration = next((root / name for name in _CALIBRATIONS if (root / name).is_file()), None)
        self._root = root
        self._calibration = calibration
        self._rig = read_rig(calibration) if calibration else None
        self._wanted = tuple(cameras)
        self._scenes = read_splits(splits_file, root)
        self._lenses = Lenses()
        self._splits: dict[str, set[str]] = {}
        self._tokens: set[str] = set()
        self._unreadable: set[str] = set()
        for path in (root / "samples").glob("*.json"):
            self._add(checked_name(path.stem, "token", str(path)))

    @property
    def identity(self) -> str:
        """The cameras that were asked for, and the common calibration."""
        rig = f", calibration {self._rig.hash}" if self._rig else ""
        return f"folder of samples, {', '.join(self._wanted) or 'all cameras'}{rig}"

    @property
    def calibration(self) -> str:
        """The common file, if there is one, by name."""
        return f"{self._calibration.name} and the samples" if self._calibration else "the samples"

    @property
    def warnings(self) -> Sequence[str]:
        """Samples that cannot be read."""
        if not self._unreadable:
            return []
        return [f"{len(self._unreadable)} samples cannot be read, among them {min(self._unreadable)}"]

    def splits(self) -> tuple[str, ...]:
        """`ALL`, and what samples and splits file say, sorted."""
        return (ALL, *sorted(self._splits))

    def tokens(self, split: str) -> list[str]:
        """See `SampleSource`; sorted."""
        if split == ALL:
            return sorted(self._tokens)
        if split not in self._splits:
            raise unknown_split(split, self.splits(), self._root)
        return sorted(self._splits[split] | self._unreadable)

    def sample(self, split: str, token: str) -> Sample:
        """See `SampleSource`."""
        if split != ALL and split not in self._splits:
            raise unknown_split(split, self.splits(), self._root)
        if token not in (self._tokens if split == ALL else self._splits[split] | self._unreadable):
            raise unknown_token(split, token, self._root)
        path = self._path(token)
        told = _read(path)
        (scene, _), stamp_ns = _scene_and_split(told, path), _stamp_ns(told, path)
        cameras, images = [], {}
        for name, entry in self._entries(told, path).items():
            camera, load = self._camera(name, entry, path)
            if camera is not None:
                cameras.append(camera)
            if load is not None:
                images[name] = load
        if not images:
            raise InputError(f"expected an image of some camera, found none in {path}")
        pose = told.get("ego_pose")
        ego_pose = None if pose is None else checked_pose(pose, f"ego_pose in {path}")
        frame = self._rig.frame if self._rig else Rig((cameras[0],)).frame
        return Sample(token, split, stamp_ns, images, Rig(tuple(cameras), frame), ego_pose, scene)

    # -- splits --------------------------------------------------------------------------------------------------------

    def _path(self, token: str) -> Path:
        return self._root / "samples" / f"{token}.json"

    def _add(self, token: str) -> None:
        self._tokens.add(token)
        path = self._path(token)
        try:
            told = _read(path)
            scene, split = _scene_and_split(told, path)
        except InputError:
            self._unreadable.add(token)
            return
        listed = [name for name, scenes in self._scenes.items() if scene in scenes]
        for name in {*listed, *([split] if split else [])}:
            self._splits.setdefault(name, set()).add(token)

    # -- one sample ----------------------------------------------------------------------------------------------------

    def _entries(self, told: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Name -> entry of the cameras to use, in order; None where there is no image."""
        entries = told.get("cameras")
        if not isinstance(entries, dict) or not entries:
            raise InputError(f"expected 'cameras' {{name: {{image, ...}}}}, found {entries!r:.60} in {path}")
        common = self._rig.names if self._rig else ()
        order = self._wanted or tuple(dict.fromkeys((*common, *entries)))
        unknown = [name for name in order if name not in entries and name not in common]
        if unknown:
            raise InputError(
                f"expected the camera {unknown[0]}, found {', '.join(entries)} in {path}", "check --cameras"
            )
        return {name: entries.get(name) for name in order}

    def _camera(
        self, name: str, entry: Any, path: Path
    ) -> tuple[CameraCalibration | None, Callable[[], np.ndarray] | None]:
        """The camera as its image is after undistortion, and the image; None: not known, or none."""
        common: dict[str, Any] = {}
        if self._rig and name in self._rig.names:
            common = self._rig.camera(name).to_json()
        if entry is None:
            known = CameraCalibration(**common) if common else None
            return known and self._lenses.pinhole(known), None
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
            raise InputError(f"expected {{image: file, ...}} for the camera '{name}', found {entry!r:.60} in {path}")
        void = {_INSTEAD[key] for key in entry if key in _INSTEAD}
        merged = {key: value for key, value in common.items() if key not in void}
        merged |= {key: value for key, value in entry.items() if key != "image"} | {"name": name}
        file = self._root / entry["image"]
        image: np.ndarray | None = None
        if not ("width" in merged and "height" in merged):
            image = load_image(file, None, f"'{name}' of {path}")
            merged |= {"width": image.shape[1], "height": image.shape[0]}
        camera = Rig.from_json({"cameras": [merged]}, f"the camera '{name}' of {path}").cameras[0]
        size = (camera.width, camera.height)

        def load() -> np.ndarray:
            raw = image if image is not None else load_image(file, size, f"'{name}' of {path}")
            return self._lenses.undistorted(camera, raw)

        try:
            return self._lenses.pinhole(camera), load
        except InputError as error:
            raise InputError(f"{error.reason}, the camera '{name}' of {path}", error.remedy) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"expected a sample as JSON, found {error} for {path}") from error
    if not isinstance(told, dict):
        raise InputError(f"expected a JSON object, found a {type(told).__name__} in {path}")
    unknown = sorted(set(told) - _KNOWN)
    if unknown:
        raise InputError(f"expected fields among {', '.join(sorted(_KNOWN))}, found '{unknown[0]}' in {path}")
    return told


def _stamp_ns(told: Mapping[str, Any], path: Path) -> int:
    stamp, stamp_ns = told.get("stamp"), told.get("stamp_ns")
    numbers = [value for value in (stamp, stamp_ns) if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != 1 or (stamp is None) == (stamp_ns is None) or not isinstance(stamp_ns, (int, type(None))):
        raise InputError(
            f"expected either 'stamp' in seconds or 'stamp_ns' as a whole number, found {stamp!r} and {stamp_ns!r} in "
            f"{path}"
        )
    found = numbers[0] if stamp is None else numbers[0] * 1e9
    if not 0 <= found <= _LARGEST_STAMP_NS:
        raise InputError(
            f"expected a stamp from 1970 on that fits 63 bits of nanoseconds, found {numbers[0]} in {path}"
        )
    return round(found)


def _scene_and_split(told: Mapping[str, Any], path: Path) -> tuple[str, str]:
    scene, split = told.get("scene", ""), told.get("split", "")
    if not isinstance(scene, str):
        raise InputError(f"expected the name of a scene, found {scene!r:.60} in {path}")
    if not isinstance(split, str) or split == ALL:
        raise InputError(f"expected the name of a split other than '{ALL}', found {split!r:.60} in {path}")
    return scene, checked_name(split, "split", str(path)) if split else ""
