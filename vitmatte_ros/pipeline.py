# SPDX-License-Identifier: Apache-2.0
"""From an image and its trimap to alpha at the image's size, without ROS: what node, command line and tests share."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.host_runner import HostRunner
from vitmatte_ros.tiling import Blend, Window, plan_tiles, unknown_window
from vitmatte_ros.trimap import BACKGROUND, FOREGROUND, UNKNOWN, counts_of

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel

_SOFT = np.full(256, 0.5, np.float32)
_SOFT[BACKGROUND], _SOFT[FOREGROUND] = 0.0, 1.0


@dataclass(frozen=True)
class MatteResult:
    """The matte of one image.

    Attributes:
        alpha: (H, W) float32, 0 (background) .. 1 (foreground), of the image's size.
        trimap: (H, W) uint8, as it was used.
        windows: parts of the image that the network saw; none if nothing was unknown.
        warnings: sentences for a log, empty if all is well.
    """

    alpha: np.ndarray
    trimap: np.ndarray
    windows: tuple[Window, ...]
    warnings: tuple[str, ...] = field(default=())


class MattePipeline:
    """Runs a VitMatte artifact. Calls of `process` wait for each other.

    An image that does not fit the artifact, or `max_pixels`, is cropped to its unknown region; if that does not fit
    either, it goes through in overlapping tiles (see `vitmatte_ros.tiling`).

    Args:
        model: a loaded artifact of the family "vitmatte", or the path of one.
        device: where to load a path: "cpu", "cuda" or "cuda:N".
        clamp_known: alpha is exactly 0 and 1 where the trimap says so; the network itself only comes near.
        max_pixels: of one run of an artifact for any size: memory grows with the square of it.
        overlap: pixels that neighbouring tiles share.
        margin: known pixels around the unknown region that the network sees as well.
        cuda_graph: on CUDA, replay the network as one graph where that can be.
        **options: further arguments of `load_model` for a path (allow_list, self_test, ...).

    Attributes:
        size: (height, width) that the artifact is made for, or None if it takes any.
        largest: (height, width) that one run takes at most.
        batch: tiles per run.

    Raises:
        ArtifactError: the artifact is no matting network, or asks for preprocessing that is not known here.
        InputError: an option makes no sense.
    """

    def __init__(
        self,
        model: CompiledModel | str | os.PathLike[str],
        device: str = "cpu",
        *,
        clamp_known: bool = True,
        max_pixels: int = 1_500_000,
        overlap: int = 64,
        margin: int = 64,
        cuda_graph: bool = True,
        **options: Any,
    ) -> None:
        if max_pixels < 1 or overlap < 0 or margin < 0:
            raise InputError(
                f"expected max_pixels of at least 1, overlap and margin of at least 0, found {max_pixels}, {overlap} "
                f"and {margin}"
            )
        if isinstance(model, (str, os.PathLike)):
            from aot_runtime.compiled_model import load_model

            model = load_model(model, device, **options)
        self.model = model
        self._clamp_known, self._overlap, self._margin, self._max_pixels = clamp_known, overlap, margin, max_pixels
        self._lock = threading.Lock()
        try:
            self._read_manifest()
            self._runner = HostRunner(model, cuda_graph)
        except Exception:
            model.close()
            raise
        self._input: torch.Tensor | None = None

    def _read_manifest(self) -> None:
        manifest, path = self.model.manifest, self.model.path
        if manifest.family != "vitmatte":
            raise ArtifactError(
                f"expected an artifact of the family vitmatte, found {manifest.family} in {path}",
                "export one with export_vitmatte",
            )
        told = manifest.preprocessing
        again = "export it again with export_vitmatte of this version"
        if told.get("input") != "rgb_trimap" or told.get("colour_order") != "RGB":
            raise ArtifactError(
                f"expected preprocessing for an RGB image and a trimap, found {told.get('input')!r} and "
                f"{told.get('colour_order')!r} in {path}",
                again,
            )
        try:
            scale, trimap_scale = float(told["scale"]), float(told["trimap_scale"])
            mean, std = (np.array([float(value) for value in told[name]]) for name in ("mean", "std"))
            codes = tuple(int(told["trimap"][name]) for name in ("background", "unknown", "foreground"))
            if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
                raise ValueError("mean and std need three numbers, std above 0")
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"expected scale, mean, std, trimap and trimap_scale in the manifest's preprocessing, found {told} in "
                f"{path} ({error!r})",
                again,
            ) from error
        self._gain = (scale / std).astype(np.float32)[:, None, None]
        self._bias = (-mean / std).astype(np.float32)[:, None, None]
        self._trimap_values = np.zeros(256, np.float32)
        for code, value in zip((BACKGROUND, UNKNOWN, FOREGROUND), codes):
            self._trimap_values[code] = value * trimap_scale
        self._read_shape()

    def _read_shape(self) -> None:
        manifest = self.model.manifest
        batch, _, height, width = manifest.inputs[0].shape
        self._output = manifest.outputs[0].name
        self.batch = int(batch)
        self.size: tuple[int, int] | None = None
        if isinstance(height, int) and isinstance(width, int):
            self.size = self.largest = self._smallest = (height, width)
            return
        rows, columns = manifest.dim(str(height)), manifest.dim(str(width))
        self._smallest = (rows.min, columns.min)
        self.largest = (rows.max, columns.max)

    def process(self, image: np.ndarray, trimap: np.ndarray) -> MatteResult:
        """The matte of one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size.
            trimap: (H, W) uint8 with `BACKGROUND`, `UNKNOWN` and `FOREGROUND` only, see `vitmatte_ros.trimap`.

        Raises:
            InputError: shape or dtype of either is another, or they differ in size.
        """
        _check(image, trimap)
        alpha = _SOFT[trimap]
        windows = self._plan(trimap)
        if not windows:
            return MatteResult(alpha, trimap, (), ("nothing unknown: alpha is the trimap itself",))
        warnings = []
        counts = counts_of(trimap)
        if counts["unknown"] == trimap.size:
            warnings.append("nothing known: the trimap is all unknown, so alpha is a guess")
        blend = Blend(alpha.shape, self._overlap)
        bad = 0
        with self._lock:
            for start in range(0, len(windows), self.batch):
                group = windows[start : start + self.batch]
                for window, values in zip(group, self._run(image, trimap, group)):
                    finite = np.isfinite(values)
                    bad += values.size - int(np.count_nonzero(finite))
                    blend.add(window, np.where(finite, np.clip(values, 0, 1), alpha[window.slices]))
        if bad:
            warnings.append(f"not finite: {bad} pixels of the network's output; they take the trimap's value")
        result = blend.result(alpha)
        if self._clamp_known:
            result = np.where(trimap == UNKNOWN, result, alpha)
        return MatteResult(result, trimap, tuple(windows), tuple(warnings))

    def _plan(self, trimap: np.ndarray) -> list[Window]:
        """What of the image goes through the network, in this order."""
        if self.size is not None:
            return plan_tiles(trimap, self.size, overlap=self._overlap, margin=self._margin)
        region = unknown_window(trimap, self._margin)
        if region is None:
            return []
        for window in (Window(0, 0, trimap.shape[0], trimap.shape[1]), region):
            if self._fits(window):
                return [window]
        side = int(self._max_pixels**0.5)
        size = (min(side, self.largest[0]), min(side, self.largest[1]))
        return plan_tiles(trimap, size, overlap=self._overlap, margin=self._margin)

    def _fits(self, window: Window) -> bool:
        height, width = max(window.height, self._smallest[0]), max(window.width, self._smallest[1])
        return height <= self.largest[0] and width <= self.largest[1] and height * width <= self._max_pixels

    def _run(self, image: np.ndarray, trimap: np.ndarray, windows: Sequence[Window]) -> list[np.ndarray]:
        """The network's alpha of each window, (h, w) float32; at most `batch` windows, all that fit one run."""
        if self.size is not None:
            height, width = self.size
        else:
            height = max(self._smallest[0], *(window.height for window in windows), 0)
            width = max(self._smallest[1], *(window.width for window in windows), 0)
        shape = (self.batch, 4, height, width)
        if self._input is None or tuple(self._input.shape) != shape:
            self._input = self._runner.make_input(shape)
        pixels = self._input.numpy()
        for n in range(self.batch):
            if n < len(windows):
                self._fill(pixels[n], image[windows[n].slices], trimap[windows[n].slices])
            else:
                pixels[n] = 0.0
        output = self._runner.run(self._input)[self._output].numpy()
        return [output[n, 0, : window.height, : window.width] for n, window in enumerate(windows)]

    def _fill(self, out: np.ndarray, image: np.ndarray, trimap: np.ndarray) -> None:
        """One part of the image as the network takes it, at the top left of `out` (4, H, W); 0 elsewhere."""
        height, width = trimap.shape
        out[:, height:] = 0.0
        out[:, :height, width:] = 0.0
        colours = out[:3, :height, :width]
        np.multiply(image.transpose(2, 0, 1), self._gain, out=colours)
        colours += self._bias
        out[3, :height, :width] = self._trimap_values[trimap]

    def close(self) -> None:
        """Free the model's memory."""
        self._runner.close()
        self.model.close()


def _check(image: np.ndarray, trimap: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InputError(
            f"expected an RGB image (height, width, 3) uint8, found {image.shape} {image.dtype}", "convert the image"
        )
    if trimap.ndim != 2 or trimap.dtype != np.uint8:
        raise InputError(
            f"expected a trimap (height, width) uint8, found {trimap.shape} {trimap.dtype}", "convert the trimap"
        )
    if trimap.shape != image.shape[:2]:
        raise InputError(
            f"expected a trimap of the image's {image.shape[1]}x{image.shape[0]} pixels, found "
            f"{trimap.shape[1]}x{trimap.shape[0]}",
            "give the trimap of this image",
        )
    foreign = sorted(set(np.unique(trimap).tolist()) - {BACKGROUND, UNKNOWN, FOREGROUND})
    if foreign:
        raise InputError(
            f"expected {BACKGROUND}, {UNKNOWN} and {FOREGROUND} in the trimap, found {foreign[0]}",
            "decode it with vitmatte_ros.trimap.TrimapCoding",
        )
