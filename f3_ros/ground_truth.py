# SPDX-License-Identifier: Apache-2.0
"""Ground truth of depth and flow in the forms in which data sets (and our simulator) publish it.

| kind | where | depth | flow |
|---|---|---|---|
| M3ED, simulator | HDF5, /ts in us as the events | /depth/prophesee/CAMERA, m | /flow/prophesee/CAMERA/{x,y}, px |
| MVSEC | HDF5, seconds of Unix time | /davis/CAMERA/depth_image_raw(_ts), m | /davis/CAMERA/flow_dist(_ts), px |
| DSEC disparity | folder: timestamps.txt, event/*.png | 16 bit / 256 px, 0 = unknown | |
| DSEC flow | folder: forward_timestamps.txt, forward/*.png | | 16 bit: (v - 2^15) / 128 px, third channel: known |

A flow begins at its label's time. It spans what the file says (simulator: attribute dt_us; DSEC: its second column),
else the time to the next label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError

if TYPE_CHECKING:
    from f3_ros.events.readers import EventReader


@dataclass(frozen=True)
class Truth:
    """What is true at one moment.

    Attributes:
        time_us: sensor time, as the event reader counts it.
        depth: (H, W) metres; unknown where not finite or not above 0.
        flow: (2, H, W) pixels over `flow_us` from `time_us` on; unknown where not finite, or 0 in both parts.
        flow_us: microseconds.
    """

    time_us: int
    depth: np.ndarray | None = None
    flow: np.ndarray | None = None
    flow_us: int = 0


def read_truth(
    path: Path, reader: EventReader, camera: str = "left", focal_baseline: float | None = None
) -> Iterator[Truth]:
    """All labels of a file or folder, in order of time.

    Args:
        reader: the events that it belongs to; tells the clock.
        focal_baseline: pixel metres, to turn DSEC's disparity into depth.

    Raises:
        InputError: there is no truth of a known kind; the message lists what is needed.
    """
    if path.is_dir():
        yield from _dsec_labels(path, focal_baseline)
        return
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"expected ground truth, found {path} unreadable as HDF5 ({error})", "check --truth"
        ) from error
    with file:
        if f"davis/{camera}/depth_image_raw" in file or f"davis/{camera}/flow_dist" in file:
            yield from _mvsec_labels(file, reader, camera)
        elif "ts" in file and (f"depth/prophesee/{camera}" in file or f"flow/prophesee/{camera}/x" in file):
            yield from _m3ed_labels(file, reader, camera)
        else:
            from f3_ros.events.readers.hdf5_layouts import contents

            raise InputError(
                f"expected /ts with /depth/prophesee/{camera} or /flow/prophesee/{camera} (M3ED, simulator), or "
                f"/davis/{camera}/depth_image_raw or flow_dist (MVSEC), found {contents(file)} in {path}",
                "give the file with ground truth as --truth",
            )


def _m3ed_labels(file: Any, reader: EventReader, camera: str) -> Iterator[Truth]:
    depth, flow = file.get(f"depth/prophesee/{camera}"), file.get(f"flow/prophesee/{camera}")
    # Our own converter moves the events' clock and says by how much; the labels stay in the file's.
    times = np.asarray(file["ts"][()]).astype(np.int64) + int(reader.metadata.get("t_offset_us", 0))
    if reader.metadata.get("layout") != "m3ed":
        raise InputError(
            f"expected events in M3ED's layout beside its ground truth, found {reader.format} in {reader.path}",
            "give the events that the truth was made for",
        )
    spans = _spans(times, None if flow is None else file["flow"].attrs.get("dt_us"))
    for i, (time, span) in enumerate(zip(times.tolist(), spans.tolist())):
        yield Truth(
            time,
            None if depth is None or i >= len(depth) else np.asarray(depth[i], np.float32),
            None if flow is None or span <= 0 or i >= len(flow["x"]) else np.stack([flow["x"][i], flow["y"][i]]),
            span,
        )


def _mvsec_labels(file: Any, reader: EventReader, camera: str) -> Iterator[Truth]:
    start_s = 0.0
    if reader.metadata.get("layout") != "mvsec":
        if "absolute_start_time" not in reader.metadata:
            raise InputError(
                f"expected MVSEC events (raw, or with the attribute absolute_start_time), found none in {reader.path}",
                "give the events that the truth was made for",
            )
        start_s = float(reader.metadata["absolute_start_time"])
    labels = []
    for name in ("depth_image_raw", "flow_dist"):
        values = file.get(f"davis/{camera}/{name}")
        if values is not None:
            stamps = np.asarray(file[f"davis/{camera}/{name}_ts"][()], np.float64)
            times = np.rint((stamps - start_s) * 1e6).astype(np.int64)
            spans = _spans(times, None)
            labels += [(time, name, i, span) for i, (time, span) in enumerate(zip(times.tolist(), spans.tolist()))]
    for time, name, i, span in sorted(labels):
        if name == "depth_image_raw":
            yield Truth(time, depth=np.asarray(file[f"davis/{camera}/{name}"][i], np.float32))
        elif span > 0:
            yield Truth(time, flow=np.asarray(file[f"davis/{camera}/{name}"][i], np.float32), flow_us=span)


def _spans(times: np.ndarray, fixed_us: Any) -> np.ndarray:
    """How long each flow lasts; 0 for the last one if that is not known."""
    if fixed_us is not None:
        return np.full(len(times), int(fixed_us))
    return np.append(np.diff(times), 0) if len(times) else times


def _dsec_labels(folder: Path, focal_baseline: float | None) -> Iterator[Truth]:
    if (folder / "forward_timestamps.txt").is_file():
        rows, files = _read_stamps(folder / "forward_timestamps.txt", 2), sorted((folder / "forward").glob("*.png"))
        _check_count(rows, files, folder)
        for (begin, end), file in zip(rows, files):
            picture = _read_png16(file, 3)
            # OpenCV reverses the channels: known, dy, dx.
            flow = (picture[..., [2, 1]].astype(np.float32) - 2**15) / 128
            flow[picture[..., 0] == 0] = np.nan
            yield Truth(begin, flow=flow.transpose(2, 0, 1), flow_us=end - begin)
    elif (folder / "timestamps.txt").is_file():
        if not (focal_baseline or 0) > 0:
            raise InputError(f"expected --focal-baseline (px m) for the disparities in {folder}, found none")
        stamps, files = _read_stamps(folder / "timestamps.txt", 1), sorted((folder / "event").glob("*.png"))
        _check_count(stamps, files, folder)
        for (time,), file in zip(stamps, files):
            disparity = _read_png16(file, 1).astype(np.float32) / 256
            depth = np.full(disparity.shape, np.nan, np.float32)
            depth[disparity > 0] = np.float32(focal_baseline) / disparity[disparity > 0]
            yield Truth(time, depth=depth)
    else:
        raise InputError(
            f"expected timestamps.txt and event/*.png, or forward_timestamps.txt and forward/*.png (DSEC), "
            f"found neither in {folder}",
            "give the folder of the disparity or of the flow as --truth",
        )


def _read_stamps(file: Path, columns: int) -> list[tuple[int, ...]]:
    """Rows of whole microseconds."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text:
            try:
                values = tuple(int(value) for value in text.split(","))
            except ValueError:
                values = ()
            if len(values) < columns:
                raise InputError(f"expected {columns} time(s) in microseconds a line, found {line!r:.60} in {file}")
            rows.append(values[:columns])
    return rows


def _check_count(rows: Sequence[object], files: Sequence[Path], folder: Path) -> None:
    if len(rows) != len(files):
        raise InputError(f"expected a picture for each of {len(rows)} times, found {len(files)} pictures in {folder}")


def _read_png16(file: Path, channels: int) -> np.ndarray:
    import cv2

    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint16 or (picture.ndim == 3) != (channels == 3):
        found = "no picture" if picture is None else f"{picture.dtype} {picture.shape}"
        raise InputError(f"expected a PNG of 16 bits and {channels} channel(s), found {found} in {file}")
    return np.asarray(picture)
