# SPDX-License-Identifier: Apache-2.0
"""How good a depth is against ground truth: the official evaluation's numbers, and alignment of relative depth. numpy.

Formulas over n valid pixels, prediction p, truth t, e = p - t, l = ln p - ln t:

    d1, d2, d3   share of pixels with max(p/t, t/p) < 1.25, 1.25^2, 1.25^3
    abs_rel      mean |e| / t
    sq_rel       mean e^2 / t^2   (F3's definition; elsewhere often e^2 / t)
    rmse         sqrt mean e^2
    rmse_log     sqrt mean l^2
    log10        mean |log10 p - log10 t|
    silog        sqrt(mean l^2 - 1/2 (mean l)^2)
    1pe, 2pe, 3pe  of disparity: percentage of pixels with |e| > 1, 2, 3 pixels
    mae_10, ...  mean |e| over pixels with t < 10, 20, 30 m

Sums are in double precision.
"""

from __future__ import annotations

import numpy as np

from aot_runtime.errors import InputError

MAE_RANGES_M = (10.0, 20.0, 30.0)
_MIN_DISPARITY = 1e-6


def eval_depth(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """d1, d2, d3, abs_rel, sq_rel, rmse, rmse_log, log10, silog of depths above 0; see the module.

    Args:
        prediction, truth: one shape, one unit; only valid pixels (`valid_depth`).

    Raises:
        InputError: the shapes differ, there is no pixel, or a value is not above 0 and finite.
    """
    p, t = _pair(prediction, truth)
    if not (p.min() > 0 and t.min() > 0 and np.isfinite(p).all() and np.isfinite(t).all()):
        raise InputError("expected depths above 0, found others", "select pixels with valid_depth first")
    ratio = np.maximum(p / t, t / p)
    error = p - t
    return {
        **{f"d{power}": float(np.mean(ratio < 1.25**power)) for power in (1, 2, 3)},
        "abs_rel": float(np.mean(np.abs(error) / t)),
        "sq_rel": float(np.mean(error**2 / t**2)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        **_logarithmic(p, t),
    }


def eval_disparity(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """1pe, 2pe, 3pe, rmse, rmse_log, log10, silog of disparities in pixels; below 1e-6 they count as 1e-6.

    As in the official code silog is taken of |l| here, so that it differs from that of `eval_depth`.
    """
    p, t = (np.maximum(values, _MIN_DISPARITY) for values in _pair(prediction, truth))
    error = np.abs(p - t)
    return {
        **{f"{pixels}pe": float(np.mean(error > pixels) * 100) for pixels in (1, 2, 3)},
        "rmse": float(np.sqrt(np.mean(error**2))),
        **_logarithmic(p, t, absolute=True),
    }


def near_errors(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """mae_10, mae_20, mae_30: mean absolute error of metric depths where the truth is nearer than that many metres.

    NaN where no pixel is.
    """
    p, t = _pair(prediction, truth)
    error = np.abs(p - t)
    found = {}
    for limit in MAE_RANGES_M:
        near = t < limit
        found[f"mae_{limit:g}"] = float(error[near].mean()) if near.any() else float("nan")
    return found


def valid_depth(prediction: np.ndarray, truth: np.ndarray, max_depth: float | None = None) -> np.ndarray:
    """Where both depths are finite and above 0, and the truth is not beyond `max_depth`: bool of their shape."""
    if prediction.shape != truth.shape:
        raise InputError(f"expected a prediction {truth.shape} as the truth, found {prediction.shape}")
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(prediction) & np.isfinite(truth) & (prediction > 0) & (truth > 0)
        if max_depth is not None:
            valid &= truth <= max_depth
    return np.asarray(valid)


def fit_disparity(relative: np.ndarray, truth_disparity: np.ndarray, how: str = "least_squares") -> tuple[float, float]:
    """Scale and shift that turn a relative depth into the truth's disparity: disparity = scale * relative + shift.

    Args:
        relative: larger is nearer, valid pixels only.
        truth_disparity: of the same pixels, in any unit (1 / depth, or pixels).
        how: "least_squares": of the squared error in disparity. "median": so that the medians agree, and the medians
            of the deviations from them, which outliers do not move.

    Raises:
        InputError: fewer than two pixels, or a relative depth that is the same everywhere.
    """
    p, t = _pair(relative, truth_disparity)
    if how == "least_squares":
        centred = p - p.mean()
        spread = float(np.mean(centred**2))
        scale = float(np.mean(centred * (t - t.mean()))) / spread if spread > 0 else 0.0
        shift = float(t.mean() - scale * p.mean())
    elif how == "median":
        spread = float(np.median(np.abs(p - np.median(p))))
        scale = float(np.median(np.abs(t - np.median(t)))) / spread if spread > 0 else 0.0
        shift = float(np.median(t) - scale * np.median(p))
    else:
        raise InputError(f"expected alignment least_squares or median, found {how!r}")
    if not spread > 0:
        raise InputError("expected a relative depth that varies over two or more pixels, found one value")
    return scale, shift


def aligned_depth(
    relative: np.ndarray,
    truth: np.ndarray,
    how: str = "least_squares",
    *,
    mask: np.ndarray | None = None,
    min_disparity: float = 1e-3,
) -> np.ndarray:
    """A relative depth as metres, with the scale and shift that fit the truth best; what is left is its error.

    Args:
        relative: (H, W), larger is nearer, known up to scale and shift.
        truth: (H, W) metres; what is not finite or not above 0 is not used for the fit.
        mask: (H, W) bool, pixels to use for the fit.
        min_disparity: 1 / metres: smaller fitted disparities become this (1 km away by default).

    Returns:
        (H, W) float64 metres everywhere where `relative` is finite.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = np.isfinite(relative) & np.isfinite(truth) & (truth > 0)
        if mask is not None:
            usable &= mask
        if not usable.any():
            raise InputError("expected pixels with truth to align the relative depth to, found none")
        scale, shift = fit_disparity(relative[usable], 1.0 / truth[usable].astype(np.float64), how)
        return np.asarray(1.0 / np.maximum(scale * relative.astype(np.float64) + shift, min_disparity))


def _logarithmic(p: np.ndarray, t: np.ndarray, absolute: bool = False) -> dict[str, float]:
    difference = np.log(p) - np.log(t)
    if absolute:
        difference = np.abs(difference)
    mean, square = float(difference.mean()), float(np.mean(difference**2))
    return {
        "rmse_log": square**0.5,
        "log10": float(np.abs(difference).mean() / np.log(10)),
        "silog": max(square - 0.5 * mean**2, 0.0) ** 0.5,
    }


def _pair(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both flat, in double precision."""
    p, t = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape:
        raise InputError(f"expected a prediction {t.shape} as the truth, found {p.shape}")
    if p.size == 0:
        raise InputError("expected one or more valid pixels, found none")
    return p.reshape(-1), t.reshape(-1)
