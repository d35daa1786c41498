# SPDX-License-Identifier: Apache-2.0
"""The ways in which public data sets store events in HDF5, told apart by content.

| layout | events | time |
|---|---|---|
| m3ed | /prophesee/CAMERA/{x,y,t,p} | us |
| dsec | /events/{x,y,t,p}, /t_offset | us, to which t_offset is added |
| tartanair | /events/{x,y,t,p} | ns |
| mvsec | /davis/CAMERA/events (N,4): x, y, t, p | s of Unix time, float64 |
| mvsec-processed | /davis/CAMERA/events/{x,y,t,p} | us since the attribute absolute_start_time |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError

if TYPE_CHECKING:
    import h5py

_COLUMNS = ("x", "y", "t", "p")


@dataclass
class Hdf5Layout:
    """Where the events of a file are and how to read them.

    Attributes:
        name: layout name of the table above.
        datasets: column -> path; for "mvsec" the one path under "table".
        size: (width, height) in pixels.
        size_source: where the size comes from.
        t_offset_us: added to every time.
        per_us: time units per microsecond (1000 for ns); unused for "mvsec".
        metadata, notices: for `EventReader`.
    """

    name: str
    datasets: dict[str, str]
    size: tuple[int, int]
    size_source: str = "default of the layout"
    t_offset_us: int = 0
    per_us: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def detect_layout(file: h5py.File, camera: str, path: object) -> Hdf5Layout:
    """Find the layout of an open file.

    Args:
        camera: "left" or "right", where the layout has two cameras.
        path: the file's name, for messages.

    Raises:
        InputError: no layout fits; the message lists what the file holds.
    """
    for finder in (_m3ed, _mvsec, _events_group):
        layout = finder(file, camera, path)
        if layout is not None:
            return layout
    raise InputError(
        "expected events as /prophesee/<camera>/{x,y,t,p} (M3ED), /events/{x,y,t,p} (DSEC, TartanAir) or "
        f"/davis/<camera>/events (MVSEC), found {contents(file)} in {path}",
        "convert the file to one of these layouts",
    )


def contents(file: h5py.File, limit: int = 12) -> str:
    """The first data sets of a file with shapes, for messages."""
    import h5py

    names: list[str] = []

    def visit(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset):
            names.append(f"/{name} {item.shape}")
        return True if len(names) > limit else None

    file.visititems(visit)
    shown = ", ".join(names[:limit])
    return f"{shown}, ..." if len(names) > limit else shown or "no data sets"


def _group(file: h5py.File, name: str) -> Any:
    import h5py

    item = file.get(name)
    return item if isinstance(item, h5py.Group) else None


def _camera_group(file: h5py.File, root: str, camera: str, path: object) -> Any:
    """The group of a camera; None if the file is of another layout; an error if only other cameras exist."""
    group = _group(file, root)
    if group is None:
        return None
    if camera in group:
        return group[camera]
    cameras = [name for name in group if _group(group, name) is not None]
    if not cameras:
        return None
    raise InputError(
        f"expected camera {camera!r}, found {', '.join(map(repr, cameras))} under /{root} in {path}",
        "choose one of these cameras",
    )


def _columns(group: Any, path: object) -> dict[str, str]:
    """Column paths of a group, checked: numeric, one-dimensional, equally long."""
    import h5py

    missing = [name for name in _COLUMNS if not isinstance(group.get(name), h5py.Dataset)]
    if missing:
        raise InputError(
            f"expected data sets x, y, t, p in {group.name}, found {sorted(group)} "
            f"(missing {', '.join(missing)}) in {path}",
            "copy or download the file again",
        )
    shapes = {name: group[name].shape for name in _COLUMNS}
    if len(set(shapes.values())) != 1 or len(shapes["t"]) != 1:
        raise InputError(
            f"expected x, y, t, p of one equal length in {group.name}, found shapes {shapes} in {path}",
            "copy or download the file again",
        )
    for name in _COLUMNS:
        kind = group[name].dtype.kind
        if kind not in ("iub" if name != "t" else "iu"):
            raise InputError(
                f"expected integers in {group.name}/{name}, found {group[name].dtype} in {path}",
                "convert the file to one of the supported layouts",
            )
    return {name: group[name].name for name in _COLUMNS}


def _m3ed(file: h5py.File, camera: str, path: object) -> Hdf5Layout | None:
    group = _camera_group(file, "prophesee", camera, path)
    if group is None:
        return None
    layout = Hdf5Layout("m3ed", _columns(group, path), (1280, 720))
    resolution = group.get("calib/resolution")
    if resolution is not None and resolution.shape == (2,) and resolution.dtype.kind in "iuf":
        width, height = (int(v) for v in resolution[()])
        if 1 <= width <= 1 << 16 and 1 <= height <= 1 << 16:
            layout.size, layout.size_source = (width, height), "calib/resolution"
    # our own converter moves the time origin, so that ms_map_idx stays short, and says by how much
    layout.t_offset_us = int(group.attrs.get("t_offset_us", 0))
    intrinsics = group.get("calib/intrinsics")
    if intrinsics is not None:
        layout.metadata["intrinsics"] = np.asarray(intrinsics[()]).ravel().tolist()
    return layout


def _mvsec(file: h5py.File, camera: str, path: object) -> Hdf5Layout | None:
    import h5py

    group = _camera_group(file, "davis", camera, path)
    if group is None:
        return None
    events = group.get("events")
    if isinstance(events, h5py.Dataset):
        if events.ndim != 2 or events.shape[1] != 4 or events.dtype.kind != "f":
            raise InputError(
                f"expected {events.name} of shape (N, 4) and type float64, "
                f"found {events.shape} {events.dtype} in {path}",
                "copy or download the file again",
            )
        return Hdf5Layout("mvsec", {"table": events.name}, (346, 260))
    if isinstance(events, h5py.Group):
        layout = Hdf5Layout("mvsec-processed", _columns(events, path), (346, 260))
        if "absolute_start_time" in file.attrs:
            layout.metadata["absolute_start_time"] = float(file.attrs["absolute_start_time"])
        return layout
    return None


def _events_group(file: h5py.File, camera: str, path: object) -> Hdf5Layout | None:
    group = _group(file, "events")
    if group is None:
        return None
    columns = _columns(group, path)
    offset = file.get("t_offset")
    if offset is not None:
        return Hdf5Layout("dsec", columns, (640, 480), t_offset_us=int(np.asarray(offset[()]).ravel()[0]))
    per_us = _units_per_us(file, group["t"])
    if per_us == 1000:
        return Hdf5Layout("tartanair", columns, (640, 640), per_us=1000)
    layout = Hdf5Layout("dsec", columns, (640, 480))
    layout.notices.append("no /t_offset: times are taken as they are, in microseconds")
    return layout


def _units_per_us(file: h5py.File, t: Any) -> int:
    """1 for microseconds, 1000 for nanoseconds, by the millisecond index: t[ms_to_idx[k]] is k ms."""
    index = file.get("ms_to_idx")
    if index is None or index.ndim != 1 or index.dtype.kind not in "iu" or len(t) == 0:
        return 1 if t.dtype.itemsize <= 4 else (1000 if _span(t) > 10**11 else 1)
    step = max(1, len(index) // 64)
    positions = np.asarray(index[::step]).astype(np.int64)
    for k, position in reversed(list(enumerate(positions.tolist()))):
        if k > 0 and 0 <= position < len(t):
            return 1000 if int(t[position]) / (k * step) > 30_000 else 1
    return 1


def _span(t: Any) -> int:
    return int(t[-1]) - int(t[0])
