# SPDX-License-Identifier: Apache-2.0
"""A rig of calibrated cameras on a vehicle, and the file that holds it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aot_runtime.camera import Camera
from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from aot_runtime.transforms import to_matrix

SCHEMA = 1
DEFAULT_FRAME = "base_link"
# A rotation written with four decimals is off by less.
_ROTATION = 1e-3


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """A camera of a rig.

    Attributes:
        name: of the camera in its rig.
        width, height: of its images, in pixels.
        matrix: (3, 3) of the image (K), for pixel centres at whole coordinates.
        sensor_to_ego: (4, 4), vehicle <- camera, metres. The camera's frame is the optical one: x right, y down,
            z forward; the vehicle's is x forward, y left, z up.
        distortion: coefficients of the lens; empty, or all 0, for an image that is rectified.
        model: of the distortion, as in `sensor_msgs/CameraInfo`: plumb_bob, rational_polynomial, equidistant.

    Raises:
        InputError: a wrong shape, a number that is not finite, a focal length that is not above 0, or a
            `sensor_to_ego` that is not a rotation and a translation.
    """

    name: str
    width: int
    height: int
    matrix: npt.NDArray[np.float64]
    sensor_to_ego: npt.NDArray[np.float64]
    distortion: tuple[float, ...] = ()
    model: str = ""

    def __post_init__(self) -> None:
        what = f"camera {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"expected a camera with a name, found {self.name!r}")
        for side in ("width", "height"):
            value = getattr(self, side)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"expected a {side} from 1 pixel of {what}, found {value!r}")
            object.__setattr__(self, side, int(value))
        matrix = _numbers(self.matrix, (3, 3), f"the matrix of {what}")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or matrix[1, 0] != 0 or not np.array_equal(matrix[2], [0, 0, 1]):
            raise InputError(
                "expected a camera matrix [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with focal lengths above 0 of "
                f"{what}, found {matrix.tolist()}",
                "repair the camera's calibration",
            )
        if not isinstance(self.model, str):
            raise InputError(f"expected the name of a distortion model of {what}, found {self.model!r:.100}")
        pose = checked_pose(self.sensor_to_ego, f"sensor_to_ego of {what}")
        try:
            distortion = tuple(float(value) for value in self.distortion)
        except (TypeError, ValueError):
            raise InputError(f"expected numbers as distortion of {what}, found {self.distortion!r:.100}") from None
        if not np.isfinite(distortion).all():
            raise InputError(f"expected finite distortion of {what}, found {distortion}")
        for name, value in (("matrix", matrix), ("sensor_to_ego", pose), ("distortion", distortion)):
            object.__setattr__(self, name, value)

    @property
    def camera(self) -> Camera:
        """The camera without its pose, as `aot_runtime.undistort` takes it."""
        return Camera(
            self.matrix,
            np.hstack([self.matrix, np.zeros((3, 1))]),
            self.distortion,
            self.model or "plumb_bob",
            rectified=not any(self.distortion),
        )

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "matrix": self.matrix.tolist(),
            "sensor_to_ego": self.sensor_to_ego.tolist(),
            "distortion": list(self.distortion),
            "model": self.model,
        }


@dataclass(frozen=True, eq=False)
class Rig:
    """Cameras in the order in which a network takes them. Rigs are compared by `hash`.

    Attributes:
        cameras: one or more, of different names.
        frame: the vehicle's frame that `sensor_to_ego` leads to.

    Raises:
        InputError: no camera, two of a name, or no frame.
    """

    cameras: tuple[CameraCalibration, ...]
    frame: str = DEFAULT_FRAME

    def __post_init__(self) -> None:
        if not isinstance(self.frame, str) or not self.frame:
            raise InputError(f"expected the name of a frame, found {self.frame!r:.100}")
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if not self.cameras or len(set(self.names)) != len(self.cameras):
            raise InputError(f"expected one or more cameras of different names, found {list(self.names)}")

    def __len__(self) -> int:
        return len(self.cameras)

    def __iter__(self) -> Iterator[CameraCalibration]:
        return iter(self.cameras)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the cameras, in order."""
        return tuple(camera.name for camera in self.cameras)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of everything that a calibration says, the same on every machine."""
        return digest(self.to_json())

    def camera(self, name: str) -> CameraCalibration:
        """The camera of a name.

        Raises:
            InputError: there is none.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise InputError(f"expected a camera out of {', '.join(self.names)}, found {name!r}")

    def ordered(self, names: Sequence[str]) -> Rig:
        """The cameras of these names, in this order.

        Raises:
            InputError: one is missing.
        """
        return replace(self, cameras=tuple(self.camera(name) for name in names))

    def moved(self, poses: Mapping[str, npt.ArrayLike]) -> Rig:
        """The same cameras with other poses (4, 4), vehicle <- camera; who is not named stays where it is.

        Raises:
            InputError: an unknown name, or a pose that is none.
        """
        for name in poses:
            self.camera(name)
        cameras = (
            replace(camera, sensor_to_ego=np.asarray(poses[camera.name])) if camera.name in poses else camera
            for camera in self.cameras
        )
        return replace(self, cameras=tuple(cameras))

    def to_json(self) -> dict[str, Any]:
        """Itself as JSON has it."""
        return {"schema": SCHEMA, "frame": self.frame, "cameras": [camera.to_json() for camera in self.cameras]}

    @classmethod
    def from_json(cls, told: Any, source: str = "the calibration") -> Rig:
        """The rig that `to_json` wrote, or a person.

        In place of the matrices a camera may have `intrinsics` [fx, fy, cx, cy], and `translation` [x, y, z] with
        `rotation` [qx, qy, qz, qw].

        Raises:
            InputError: something is missing, unknown or malformed; the message names `source`.
        """
        if not isinstance(told, Mapping) or not isinstance(told.get("cameras"), list):
            raise InputError(f"expected a calibration with a list `cameras`, found {told!r:.100} in {source}")
        if told.get("schema", SCHEMA) != SCHEMA:
            raise InputError(f"expected schema {SCHEMA}, found {told['schema']!r} in {source}")
        unknown = sorted(str(key) for key in set(told) - {"schema", "frame", "cameras"})
        if unknown:
            raise InputError(f"expected schema, frame and cameras, found {', '.join(unknown)} in {source}")
        try:
            return cls(tuple(_camera(entry) for entry in told["cameras"]), told.get("frame", DEFAULT_FRAME))
        except InputError as error:
            raise InputError(f"{error.reason} in {source}", error.remedy) from error


def read_rig(path: str | os.PathLike[str]) -> Rig:
    """A rig from a .json, .yaml or .yml file.

    Raises:
        InputError: unreadable, not of that format, or malformed; see `Rig.from_json`.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    try:
        text = file.read_text(encoding="utf-8")
        if suffix == ".json":
            told = json.loads(text)
        elif suffix in (".yaml", ".yml"):
            import yaml

            try:
                told = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error)) from error
        else:
            raise InputError(f"expected a calibration .json, .yaml or .yml, found {file}")
    except (OSError, ValueError) as error:
        raise InputError(f"expected a readable calibration, found {error} in {file}") from error
    return Rig.from_json(told, str(file))


def write_rig(rig: Rig, path: str | os.PathLike[str]) -> None:
    """Write a .json, .yaml or .yml file that `read_rig` reads, exactly.

    Raises:
        InputError: another suffix.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix == ".json":
        text = json.dumps(rig.to_json(), indent=1) + "\n"
    elif suffix in (".yaml", ".yml"):
        import yaml

        text = yaml.safe_dump(rig.to_json(), sort_keys=False, default_flow_style=None)
    else:
        raise InputError(f"expected a calibration .json, .yaml or .yml, found {file}")
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def digest(told: Any) -> str:
    """SHA-256 of what JSON can hold, whatever the order of its keys. Floats count by all their digits."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def checked_pose(pose: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    """(4, 4) float64, read-only.

    Raises:
        InputError: not a rotation and a translation.
    """
    matrix = _numbers(pose, (4, 4), what)
    rotation = matrix[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not np.array_equal(matrix[3], [0, 0, 0, 1]) or error > _ROTATION or np.linalg.det(rotation) < 0:
        raise InputError(
            f"expected a rotation and a translation with last row 0 0 0 1 as {what}, found {matrix.tolist()}",
            "a rotation's rows have length 1, are at right angles and right-handed",
        )
    return matrix


def _numbers(given: npt.ArrayLike, shape: tuple[int, ...], what: str) -> npt.NDArray[np.float64]:
    """A read-only copy of `shape`."""
    try:
        # Minus zero is zero, also for a hash.
        array = np.array(given, np.float64) + 0.0
    except (TypeError, ValueError):
        raise InputError(f"expected numbers of shape {shape} as {what}, found {given!r:.100}") from None
    if array.shape != shape:
        raise InputError(f"expected shape {shape} of {what}, found {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"expected finite numbers in {what}, found {array.tolist()}")
    array.setflags(write=False)
    return array


def _camera(entry: Any) -> CameraCalibration:
    if not isinstance(entry, Mapping):
        raise InputError(f"expected a camera with name, width, height, found {entry!r:.100}")
    known = {"name", "width", "height", "matrix", "intrinsics", "sensor_to_ego", "translation", "rotation"}
    known |= {"distortion", "model"}
    name = entry.get("name")
    unknown = sorted(str(key) for key in set(entry) - known)
    if unknown:
        raise InputError(f"expected {', '.join(sorted(known))} of camera {name!r}, found {', '.join(unknown)}")
    missing = [key for key in ("name", "width", "height") if key not in entry]
    if missing:
        raise InputError(f"expected {', '.join(missing)} of camera {name!r}, found none")
    return CameraCalibration(
        entry["name"],
        entry["width"],
        entry["height"],
        _matrix(entry, name),
        _pose(entry, name),
        _coefficients(entry.get("distortion"), name),
        entry.get("model") or "",
    )


def _coefficients(given: Any, name: Any) -> tuple[float, ...]:
    if given is not None and not isinstance(given, list):
        raise InputError(f"expected a list as distortion of camera {name!r}, found {given!r:.100}")
    return tuple(given or ())


def _matrix(entry: Mapping[str, Any], name: Any) -> npt.NDArray[np.float64]:
    if ("matrix" in entry) == ("intrinsics" in entry):
        raise InputError(f"expected `matrix` or `intrinsics` of camera {name!r}, found both or none")
    if "matrix" in entry:
        return _numbers(entry["matrix"], (3, 3), f"the matrix of camera {name!r}")
    fx, fy, cx, cy = _numbers(entry["intrinsics"], (4,), f"the intrinsics of camera {name!r}")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _pose(entry: Mapping[str, Any], name: Any) -> npt.NDArray[np.float64]:
    parts = "translation" in entry and "rotation" in entry
    if ("sensor_to_ego" in entry) == parts:
        raise InputError(
            f"expected `sensor_to_ego`, or `translation` and `rotation`, of camera {name!r}, found both or none"
        )
    if not parts:
        return _numbers(entry["sensor_to_ego"], (4, 4), f"sensor_to_ego of camera {name!r}")
    translation = _numbers(entry["translation"], (3,), f"the translation of camera {name!r}")
    rotation = _numbers(entry["rotation"], (4,), f"the rotation of camera {name!r}")
    try:
        return to_matrix(translation, rotation)
    except InputError as error:
        raise InputError(f"{error.reason} of camera {name!r}", "give x, y, z, w of a unit quaternion") from error
