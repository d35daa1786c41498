# SPDX-License-Identifier: Apache-2.0
"""From windows of events to what the networks take: tensors of normalised events, and occupancy grids.

A row of the tensor is `x / W, y / H, k / T, p` in float32 with k = age of the event in time bins: bin 0 is the newest
(F3's `dataloader.py` and `test_exported_pt2.py`). Two rules exist, and a millisecond edge falls one bin apart in them:

* deployment (the reference's exported-model script): window [t0 - T ms, t0), k = t0_ms - floor(t / 1000) - 1. The
  rule of the nodes.
* training (the reference's loaders): k = floor((t0 - t) / bin), on events chosen through an index file with its own
  off-by-one. For parity with training and evaluation only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from aot_runtime.errors import InputError
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow, thinning_indices

RULES = ("deployment", "training")
CAR_HOOD_ROWS_DSEC = 40


def deployment_bins(t_us: np.ndarray, end_us: int, bin_us: int = 1000) -> np.ndarray:
    """Age bins by the deployment rule, int64: 0 for the newest `bin_us` before `end_us` (exclusive).

    For a window that ends on a multiple of `bin_us` this is the reference's `end_us // bin_us - t_us // bin_us - 1`.
    """
    return np.asarray((end_us - 1 - t_us) // bin_us)


def training_bins(t_us: np.ndarray, end_us: int, bin_us: int = 1000) -> np.ndarray:
    """Age bins by the training rule, int64: floor((end_us - t_us) / bin_us)."""
    return np.asarray((end_us - t_us) // bin_us)


def centring_offset(sensor_size: tuple[int, int], model_size: tuple[int, int]) -> tuple[int, int]:
    """Where a sensor's pixel (0, 0) lies on the model's frame when the sensor is centred on it; sizes are (W, H)."""
    return (model_size[0] - sensor_size[0]) // 2, (model_size[1] - sensor_size[1]) // 2


def events_to_tensor(
    window: EventWindow | Events,
    width: int,
    height: int,
    bins: int,
    *,
    model_size: tuple[int, int] | None = None,
    rule: str = "deployment",
    with_polarity: bool = True,
    bin_us: int = 1000,
    end_us: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Normalised events for the network.

    Args:
        window: events with t in microseconds; an `EventWindow` brings its own end.
        width, height: sensor size in pixels.
        bins: number of time bins T; older (or newer) events are left out.
        model_size: (W, H) of the frame that the network was built for, with the sensor in its centre; None = the
            sensor's.
        rule: "deployment" or "training".
        with_polarity: four columns, else three.
        bin_us: length of a time bin, microseconds.
        end_us: end of the window (t0) if `window` is plain `Events`.
        out: write into these rows, float32 C-contiguous (at least N, 4 or 3), instead of new memory.
    Returns:
        float32 (N', 4 or 3), rows `x / W, y / H, k / T, p`, in the events' order; N' is less than N where
        events lie outside the bins or the model's frame. A view of `out` if given.
    Raises:
        InputError: unknown rule, missing end, or an `out` that does not fit.
    """
    if rule not in RULES:
        raise InputError(f"expected a binning rule out of {', '.join(RULES)}, found {rule!r}")
    if isinstance(window, EventWindow):
        events, end = window.events, window.end_us
    elif end_us is None:
        raise InputError("expected the end of the window, found none", "give end_us with plain events")
    else:
        events, end = window, end_us
    size = model_size or (width, height)
    columns = 4 if with_polarity else 3
    if out is None:
        out = np.empty((len(events), columns), np.float32)
    elif out.dtype != np.float32 or out.ndim != 2 or out.shape[1] != columns or not out.flags.c_contiguous:
        raise InputError(f"expected a contiguous float32 (N, {columns}) array, found {out.dtype} {out.shape}")
    elif len(out) < len(events):
        raise InputError(f"expected room for {len(events)} events, found {len(out)}")
    tables = _tables(size[0], size[1], bins)
    offset = centring_offset((width, height), size)
    newest = end - 1 if rule == "deployment" else end
    n = _fill(events.x, events.y, events.t, events.p, newest, bin_us, offset[0], offset[1], *tables, out)
    return out[:n]


_TABLES: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}


def _tables(width: int, height: int, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All quotients that occur: looking one up is faster than dividing, and exactly the float32 division."""
    key = (width, height, bins)
    if key not in _TABLES:
        if len(_TABLES) >= 8:
            _TABLES.clear()
        _TABLES[key] = (
            np.arange(width, dtype=np.float32) / np.float32(width),
            np.arange(height, dtype=np.float32) / np.float32(height),
            np.arange(bins, dtype=np.float32) / np.float32(bins),
        )
    return _TABLES[key]


@numba.njit(nogil=True, cache=True, boundscheck=False, error_model="numpy")
def _fill(x, y, t, p, newest, bin_us, offset_x, offset_y, x_table, y_table, k_table, out):
    """Write the rows; return how many."""
    width, height, bins = len(x_table), len(y_table), len(k_table)
    polarity = out.shape[1] == 4
    # Ages fit 32 bits, where dividing is cheaper, after those beyond the last bin are set apart.
    span = min(bins * bin_us, 0x7FFFFFFF)
    divisor = np.uint32(min(bin_us, 0x7FFFFFFF))
    n = 0
    for i in range(len(t)):
        age = newest - t[i]
        column = np.int64(x[i]) + offset_x
        row = np.int64(y[i]) + offset_y
        if age < 0 or age >= span or column < 0 or column >= width or row < 0 or row >= height:
            continue
        out[n, 0] = x_table[column]
        out[n, 1] = y_table[row]
        out[n, 2] = k_table[np.uint32(age) // divisor]
        if polarity:
            out[n, 3] = p[i]
        n += 1
    return n


# Which events a window holds, through the index files of the data sets


@dataclass(frozen=True)
class TimeIndex:
    """First event at or after every multiple of `step_us`, as the data sets store it.

    Attributes:
        first: rising event indices; entry i belongs to `i * step_us`.
        step_us: 1000 for `ms_map_idx` / `ms_to_idx`, 20 for F3's 50 kHz files.
    """

    first: np.ndarray
    step_us: int = 1000

    def at(self, step: int) -> int:
        """Event index of one step.

        Raises:
            InputError: the step lies outside the recording.
        """
        if not 0 <= step < len(self.first):
            raise InputError(
                f"expected a time up to {(len(self.first) - 1) * self.step_us} us, found {step * self.step_us} us",
                "choose a time inside the recording",
            )
        return int(self.first[step])


def deployment_range(index: TimeIndex, end_ms: int, window_ms: int) -> tuple[int, int]:
    """First and last (exclusive) event of the deployment window [end - window, end)."""
    return index.at(end_ms - window_ms), index.at(end_ms)


def training_range(index: TimeIndex, end_us: int, window_us: int) -> tuple[int, int]:
    """First and last (exclusive) event that the training loader takes before `end_us`.

    It skips the first index step of the window and always the last event, as the reference does; with a millisecond
    index that loses a whole millisecond.
    """
    return index.at((end_us - window_us) // index.step_us + 1), index.at(end_us // index.step_us) - 1


def prediction_range(index: TimeIndex, start_us: int, window_us: int) -> tuple[int, int]:
    """First and last (exclusive) event of the window after `start_us` that training predicts, less the last one."""
    return index.at(start_us // index.step_us), index.at((start_us + window_us) // index.step_us) - 1


def prediction_events(
    events: Events, start_us: int, bin_us: int = 1000, offset: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Future events as training's target takes them: int32 (N, 4), rows x, y, floor((t - start) / bin), p."""
    k = (events.t - start_us) // bin_us
    columns = [events.x.astype(np.int64) + offset[0], events.y.astype(np.int64) + offset[1], k, events.p]
    return np.stack(columns, axis=1).astype(np.int32)


def thin_for_evaluation(events: Events, limit: int) -> Events:
    """At most `limit` events, evenly spaced by index, as the reference's evaluation takes them."""
    return events[thinning_indices(len(events), limit)]


def valid_mask(sensor_size: tuple[int, int], model_size: tuple[int, int], bottom_rows_hidden: int = 0) -> np.ndarray:
    """Where a centred sensor sees something: bool (W, H) of the model's frame.

    Args:
        bottom_rows_hidden: rows at the sensor's bottom that show the car (`CAR_HOOD_ROWS_DSEC` for DSEC).
    """
    mask = np.zeros(model_size, bool)
    x, y = centring_offset(sensor_size, model_size)
    mask[x : x + sensor_size[0], y : y + sensor_size[1] - bottom_rows_hidden] = True
    return mask


def occupancy_grid(events: np.ndarray, counts: np.ndarray, width: int, height: int, bins: int) -> np.ndarray:
    """Where and when events happened: bool (B, W, H, T).

    Args:
        events: normalised events (N, 3 or more), the samples of a batch one after the other; rows x / W, y / H, k / T.
        counts: events per sample, (B,).
    """
    grid = np.zeros((len(counts), width, height, bins), bool)
    sample = np.repeat(np.arange(len(counts)), counts)
    x, y, k = (np.rint(events[:, i] * np.float32(n)).astype(np.int64) for i, n in enumerate((width, height, bins)))
    grid[sample, x, y, k] = True
    return grid


def occupancy_frames(grid: np.ndarray) -> np.ndarray:
    """Pictures of a grid: uint8 (B, W, H), 255 where any event happened."""
    return np.where(grid.any(axis=-1), np.uint8(255), np.uint8(0))


def crop_and_resize(
    events: np.ndarray,
    counts: np.ndarray,
    boxes: np.ndarray,
    from_size: tuple[int, int, int],
    to_size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Training's augmentation: crop each sample to a box, scale the box to another frame, keep one event per voxel.

    Args:
        events: normalised events (N, 3 or more), the samples of a batch one after the other; rows x / W, y / H, k / T.
        counts: events per sample, (B,).
        boxes: pixels x0, y0, x1, y1 per sample, the last ones exclusive, (B, 4).
        from_size: (W, H, T) of `events`.
        to_size: (W', H') of the result.
    Returns:
        float32 (N', 3) rows x / W', y / H', k / T, ordered by sample, x, y, k; and the new counts (B,).
    """
    x, y, k = (np.rint(events[:, i] * np.float32(n)) for i, n in enumerate(from_size))
    parts = []
    for (x0, y0, x1, y1), last, n in zip(boxes.tolist(), np.cumsum(counts).tolist(), counts.tolist()):
        one = slice(last - n, last)
        inside = (x[one] >= x0) & (x[one] < x1) & (y[one] >= y0) & (y[one] < y1)
        new_x = np.rint((x[one][inside] - x0) * (to_size[0] / (x1 - x0))).clip(0, to_size[0] - 1)
        new_y = np.rint((y[one][inside] - y0) * (to_size[1] / (y1 - y0))).clip(0, to_size[1] - 1)
        parts.append(np.unique(np.stack([new_x, new_y, k[one][inside]], axis=1), axis=0))
    resized = np.concatenate(parts).astype(np.float32) / np.array([*to_size, from_size[2]], np.float32)
    return resized, np.array([len(part) for part in parts])
