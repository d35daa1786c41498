# SPDX-License-Identifier: Apache-2.0
"""A picture of a recording: where the events of one window fell, and the event rate over time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write
from f3_ros.events.readers.base import EventReader
from f3_ros.events.summary import MillisecondCounter
from f3_ros.events.types import Events


def plot_recording(
    reader: EventReader,
    out: Path,
    *,
    start_us: int | None = None,
    window_us: int = 20_000,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write a PNG: the event picture of one window above the rate curve of the whole recording.

    Args:
        start_us: start of the window, counted from the first event; None takes the middle of the recording.
        window_us: its length.
        progress: called with the sensor time [us] that has been read.

    Returns:
        Number of events in the window.

    Raises:
        InputError: matplotlib is absent, or the recording has no event.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "expected the library matplotlib for plots, found none", "install it with: python -m pip install matplotlib"
        ) from error
    from f3_ros.pictures import event_picture

    first = reader.t_first_us
    if first is None:
        raise InputError(f"expected events to plot, found none in {reader.path}", "record again")
    counter = MillisecondCounter()
    newest = 0
    for events in reader.chunks():
        counter.add(events.t - first)
        newest = max(newest, int(events.t.max()) - first)
        if progress is not None:
            progress(newest)
    if start_us is None:
        start_us = max(0, (newest - window_us) // 2)
    window = Events.concatenate(list(reader.chunks(start_us, window_us)))
    picture = event_picture(window.x, window.y, window.p, reader.width, reader.height)

    figure = Figure(figsize=(8, 8 * reader.height / reader.width + 2.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    image, curve = figure.subplots(2, 1, height_ratios=[8 * reader.height / reader.width, 2])
    image.imshow(picture[..., ::-1], interpolation="nearest")  # the picture is BGR
    n_on = int(np.count_nonzero(window.p))
    image.set_title(
        f"{reader.path.name}: {len(window)} events ({n_on} ON blue, {len(window) - n_on} OFF red), "
        f"{start_us / 1e3:g} to {(start_us + window_us) / 1e3:g} ms",
        fontsize=9,
    )
    time_s, rate = rate_curve(counter, newest)
    curve.step(time_s, rate / 1e6, where="post", linewidth=0.8)
    curve.axvspan(start_us / 1e6, (start_us + window_us) / 1e6, alpha=0.25, color="tab:orange")
    curve.set(xlabel="time since the first event [s]", ylabel="Mev/s", ylim=(0, None))
    with atomic_write(out) as temporary:
        figure.savefig(temporary, format="png")
    return len(window)


def rate_curve(counter: MillisecondCounter, duration_us: int, points: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """(bin starts [s], events per second) in at most `points` bins of whole milliseconds."""
    index, counts = counter.counts()
    total = duration_us // 1000 + 1
    width = -(-total // points)
    n_bins = -(-total // width)
    inside = (index >= 0) & (index < total)
    binned = np.bincount(index[inside] // width, counts[inside], n_bins)
    return np.arange(n_bins) * width * 1e-3, binned / (width * 1e-3)
