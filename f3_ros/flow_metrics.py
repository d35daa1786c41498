# SPDX-License-Identifier: Apache-2.0
"""How good an optical flow is against ground truth: the official evaluation's numbers. numpy only.

Over n valid pixels, with prediction (u, v) and truth (u', v') in pixels:

    aepe           mean endpoint error |(u - u', v - v')|, pixels
    1pe, 2pe, 3pe  percentage of pixels whose endpoint error is above 1, 2, 3 pixels
    aae            mean angle between (u, v, 1) and (u', v', 1), degrees

Sums are in double precision.
"""

from __future__ import annotations

import numpy as np

from aot_runtime.errors import InputError

MVSEC_ROWS = 193
"""The official evaluation leaves out the rows from here on in MVSEC: the car's hood."""


def eval_flow(prediction: np.ndarray, truth: np.ndarray, valid: np.ndarray | None = None) -> dict[str, float]:
    """1pe, 2pe, 3pe, aepe, aae of two flows; see the module.

    Args:
        prediction, truth: (2, ...) in the same pixels over the same interval.
        valid: bool (...), the pixels that count; all if None.

    Raises:
        InputError: the shapes differ, no pixel is valid, or a valid one is not finite.
    """
    if prediction.shape != truth.shape or len(truth) != 2:
        raise InputError(f"expected flows (2, ...) of one shape, found {prediction.shape} and {truth.shape}")
    chosen = np.ones(truth.shape[1:], bool) if valid is None else np.asarray(valid, bool)
    p, t = (np.asarray(flow, np.float64)[:, chosen] for flow in (prediction, truth))
    if p.shape[1] == 0:
        raise InputError("expected one or more valid pixels, found none")
    if not (np.isfinite(p).all() and np.isfinite(t).all()):
        raise InputError("expected finite flow in valid pixels, found others", "select pixels with valid_flow first")
    error = np.hypot(*(p - t))
    cosine = (1 + (p * t).sum(0)) / np.sqrt((1 + (p**2).sum(0)) * (1 + (t**2).sum(0)))
    return {
        **{f"{pixels}pe": float(np.mean(error > pixels) * 100) for pixels in (1, 2, 3)},
        "aepe": float(error.mean()),
        "aae": float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))).mean()),
    }


def valid_flow(truth: np.ndarray, events: np.ndarray | None = None, rows: int | None = None) -> np.ndarray:
    """Where the truth counts, bool (H, W): known (finite and not 0 in both parts), and with an event.

    Args:
        truth: (2, H, W); 0 in both parts means unknown, as in the data sets.
        events: (H, W), True where an event fell in the window; everywhere if None.
        rows: leave out the rows from this one on, e.g. MVSEC_ROWS.
    """
    valid = np.isfinite(truth).all(axis=0) & (truth != 0).any(axis=0)
    if events is not None:
        if events.shape != valid.shape:
            raise InputError(f"expected a mask of events {valid.shape} as the truth, found {events.shape}")
        valid = valid & events.astype(bool)
    if rows is not None:
        valid[rows:] = False
    return np.asarray(valid)
