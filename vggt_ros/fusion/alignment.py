# SPDX-License-Identifier: Apache-2.0
"""Relative disparity -> depth: 1 / z = scale * relative + shift, fitted robustly to the depth that the map shows.

Depth Anything V2's relative output is inverse depth up to scale and shift, so the fit is made in disparity, where it
is linear, and nowhere else. First two-point hypotheses, scored by their median residual, then reweighted least squares
with Tukey's biweight (Beaton and Tukey 1974), c = 4.685 standard deviations estimated by 1.4826 * MAD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aot_runtime.errors import InputError

_TUKEY = 4.685
MAD_TO_SIGMA = 1.4826
_HYPOTHESES = 64
_ROUNDS = 10
_TRIM = (0.05, 0.95)


@dataclass(frozen=True)
class AlignmentLimits:
    """What a fit must satisfy to be believed.

    Attributes:
        least_pixels: with both a prediction and a depth of the map.
        least_share: of the image's pixels that these are.
        least_inliers: share of those pixels within the biweight's reach.
        least_spread: of the prediction's 5..95 % range, over its largest magnitude; below, the shift is undetermined.
        max_residual: median of |fitted / map's disparity - 1|; a wrong pose shows here.
        max_samples: pixels used, evenly spaced; more cost time without changing the result.
        independent: pixels that carry independent errors. A network's errors are smooth, so many pixels say little
            more than few; the covariance is that of so many.
    """

    least_pixels: int = 500
    least_share: float = 0.02
    least_inliers: float = 0.5
    least_spread: float = 0.02
    max_residual: float = 0.08
    max_samples: int = 20_000
    independent: int = 400


@dataclass(frozen=True)
class DisparityFit:
    """A fit of scale and shift.

    Attributes:
        parameters: (2,) float64 scale and shift, in 1 / length.
        covariance: (2, 2) float64 of them.
        residual: median of |fitted / map's disparity - 1|.
        inliers: share of the pixels within the biweight's reach.
        pixels: that could be used.
        problem: why it must not be believed; "" if it may.
    """

    parameters: np.ndarray
    covariance: np.ndarray
    residual: float
    inliers: float
    pixels: int
    problem: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the fit may be believed."""
        return not self.problem


def fit_disparity(
    relative: np.ndarray,
    reference: np.ndarray,
    weight: np.ndarray | None = None,
    limits: AlignmentLimits | None = None,
) -> DisparityFit:
    """Scale and shift that take relative disparity to the inverse of the map's depth.

    Args:
        relative: (H, W) network output, greater is nearer; not finite where unknown.
        reference: (H, W) depth that the map shows there; not finite, or 0, where none.
        weight: (H, W) >= 0, of the map's confidence; 1 without.

    Returns:
        a fit; what the limits exclude has a `problem`, and parameters of NaN if there was nothing to fit.

    Raises:
        InputError: the images differ in size.
    """
    limits = limits or AlignmentLimits()
    if relative.shape != reference.shape or (weight is not None and weight.shape != relative.shape):
        raise InputError(f"expected two images of one size, found {relative.shape} and {reference.shape}")
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(relative) & np.isfinite(reference) & (reference > 0)
    if weight is not None:
        usable &= weight > 0
    places = np.flatnonzero(usable)
    pixels = len(places)
    least = max(limits.least_pixels, limits.least_share * relative.size)
    if pixels < least:
        return _none(pixels, f"expected {least:.0f} pixels that the map shows, found {pixels}")
    places = places[np.linspace(0, pixels - 1, min(pixels, limits.max_samples)).astype(np.int64)]
    x = relative.reshape(-1)[places].astype(np.float64)
    y = 1.0 / reference.reshape(-1)[places].astype(np.float64)
    base = np.ones_like(x) if weight is None else weight.reshape(-1)[places].astype(np.float64)
    low, high = np.quantile(x, _TRIM)
    if high - low < limits.least_spread * np.abs(x).max():
        return _none(pixels, "expected a prediction that varies over the image, found one disparity everywhere")
    fitted = _reweighted(x, y, base, _hypothesis(x, y))
    if fitted is None:
        return _none(pixels, "expected pixels that agree on a scale, found none")
    parameters, covariance, inliers = fitted
    covariance = covariance * max(1.0, len(x) / limits.independent)
    residual = float(np.median(np.abs((parameters[0] * x + parameters[1]) / y - 1)))
    problem = ""
    if parameters[0] <= 0:
        problem = f"expected a scale above 0, found {parameters[0]:.3g}"
    elif inliers < limits.least_inliers:
        problem = f"expected {limits.least_inliers:.0%} of pixels to agree, found {inliers:.0%}"
    elif residual > limits.max_residual:
        problem = f"expected disparities within {limits.max_residual:.0%} of the map's, found {residual:.0%}"
    return DisparityFit(parameters, covariance, residual, inliers, pixels, problem)


def depth_from_disparity(relative: np.ndarray, parameters: np.ndarray, range_max: float = 100.0) -> np.ndarray:
    """(H, W) float32 depth; NaN where the disparity is unknown, or not nearer than `range_max`."""
    disparity = parameters[0] * np.asarray(relative, np.float64) + parameters[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        near = np.isfinite(disparity) & (disparity > 1.0 / range_max)
        return np.where(near, 1.0 / disparity, np.nan).astype(np.float32)


def _none(pixels: int, problem: str) -> DisparityFit:
    return DisparityFit(np.full(2, np.nan), np.full((2, 2), np.nan), float("nan"), 0.0, pixels, problem)


def _hypothesis(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The line through two pixels, one of the far third and one of the near third, with the least median residual."""
    order = np.argsort(x, kind="stable")
    third = max(1, len(x) // 3)
    random = np.random.default_rng(0)
    far, near = order[random.integers(0, third, _HYPOTHESES)], order[-1 - random.integers(0, third, _HYPOTHESES)]
    apart = x[near] > x[far]
    far, near = far[apart], near[apart]
    if not len(far):
        return np.array([0.0, float(np.median(y))])
    slopes = (y[near] - y[far]) / (x[near] - x[far])
    shifts = y[far] - slopes * x[far]
    some = slice(None, None, max(1, len(x) // 4000))
    scores = np.median(np.abs(slopes[:, None] * x[some] + shifts[:, None] - y[some]), axis=1)
    best = int(scores.argmin())
    return np.array([slopes[best], shifts[best]])


def _reweighted(
    x: np.ndarray, y: np.ndarray, base: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """(parameters, covariance, share of inliers) by Tukey's biweight; None if too few pixels keep a weight."""
    parameters = start
    for _ in range(_ROUNDS):
        residual = parameters[0] * x + parameters[1] - y
        sigma = max(MAD_TO_SIGMA * float(np.median(np.abs(residual))), 1e-9)
        inside = np.clip(1 - (residual / (_TUKEY * sigma)) ** 2, 0, None)
        weight = base * inside**2
        total = weight.sum()
        if total <= 0:
            return None
        mean_x, mean_y = (weight * x).sum() / total, (weight * y).sum() / total
        square = (weight * (x - mean_x) ** 2).sum()
        if square <= 1e-18 * total:
            return None
        slope = (weight * (x - mean_x) * (y - mean_y)).sum() / square
        parameters = np.array([slope, mean_y - slope * mean_x])
    weight /= base.mean()
    total, square = weight.sum(), square / base.mean()
    residual = parameters[0] * x + parameters[1] - y
    variance = float((weight * residual**2).sum() / total)
    # (J^T W J)^-1 of a line, from its centred form.
    covariance = variance * np.array(
        [[1 / square, -mean_x / square], [-mean_x / square, 1 / total + mean_x * mean_x / square]]
    )
    return parameters, covariance, float((inside > 0).mean())
