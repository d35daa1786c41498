# SPDX-License-Identifier: Apache-2.0
"""From RGB images to depth, without ROS: what `depth_node`, `depth_offline`, reconstruction and tests share.

Before the network, as the official Depth Anything V2 does it: scale to 0 .. 1, cubic resize (OpenCV's), mean and
standard deviation. After it, if asked, back to the image's size with align_corners=True, as there.

Two resizes, two pixel maps: the first keeps the outer edges of the image, u_n + 1/2 = (u + 1/2) * W_n / W; the second
keeps the centres of the corner pixels, u_p = u_n * (W - 1) / (W_n - 1). Depth at the image's size is therefore not
quite on the image's grid: at the edges it is off by (W / W_n - 1) / 2 pixels, in the centre by nothing.
`DepthResult.grid` and `DepthResult.camera_matrix` hold for the published pixels exactly.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.camera import PixelMap, Size
from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.host_runner import HostRunner

if TYPE_CHECKING:
    import torch

    from aot_runtime.compiled_model import CompiledModel

RESOLUTIONS = ("image", "grid")
KINDS = ("relative", "metric", "disparity")
_RULES = {"colour_order": ("RGB",), "interpolation": ("cubic",), "resize": ("stretch", "keep_aspect"), "kind": KINDS}


@dataclass(frozen=True)
class DepthResult:
    """Depth of one image.

    Attributes:
        depth: (H, W) float32; NaN where `valid` is False.
        kind: what the numbers are: "metric" (metres along the optical axis), "relative" (like disparity, known up to
            scale and shift; larger is nearer), or "disparity" (pixels; larger is nearer).
        valid: (H, W) bool: the network gave a finite number that means a depth (if metric: above 0, within the range).
        grid: from the image's pixels to those of `depth`.
        camera_matrix: (3, 3) of the depth's grid, or None if none was given for the image.
        warnings: sentences for a log, empty if all is well.
    """

    depth: np.ndarray
    kind: str
    valid: np.ndarray
    grid: PixelMap
    camera_matrix: np.ndarray | None = None
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Layout:
    """Where an image lies on the network's input.

    Attributes:
        image: the image's size.
        inner: the size of the resized image.
        offset: (x, y) of its first pixel on the input.
    """

    image: Size
    inner: Size
    offset: tuple[int, int]

    @classmethod
    def of(cls, image: Size, network: Size, keep_aspect: bool) -> Layout:
        """Stretched over the input, or as large as fits into it with its aspect kept to a pixel, and centred."""
        if not keep_aspect:
            return cls(image, network, (0, 0))
        scale = min(network[0] / image[0], network[1] / image[1])
        inner = (max(1, round(image[0] * scale)), max(1, round(image[1] * scale)))
        return cls(image, inner, ((network[0] - inner[0]) // 2, (network[1] - inner[1]) // 2))

    @property
    def window(self) -> tuple[slice, slice]:
        """(rows, columns) of the input that hold the image."""
        (x, y), (width, height) = self.offset, self.inner
        return slice(y, y + height), slice(x, x + width)


class ImageDepthPipeline:
    """Runs a depth artifact for RGB images. Calls of `process` and `process_batch` wait for each other.

    Args:
        model: a loaded artifact of the family "depth", or the path of one.
        device: where to load a path: "cpu", "cuda" or "cuda:N".
        output_resolution: "image" resizes the depth to the image's size; "grid" leaves it as the network gives it
            (without the padding of keep_aspect).
        focal_baseline: pixels * metres, to turn a disparity artifact's output into metres; None or 0: as the artifact
            says, which may be not at all.
        max_range: metric depth beyond this [m] is invalid; 0: no limit.
        cuda_graph: on CUDA, replay the network as one graph, unless it is a `.onnx`, which cannot be captured.
        **options: further arguments of `load_model` for a path (allow_list, self_test, ...).

    Attributes:
        width, height: the network's input in pixels.
        batch: (fewest, most) images that a call of the network takes.
        kind: of the results; see `DepthResult`.
        keep_aspect: whether images are fitted in, not stretched.

    Raises:
        ArtifactError: the artifact is no depth network for RGB images, or its manifest asks for preprocessing that is
            not known here.
        InputError: an argument is not usable, or OpenCV is not installed.
    """

    def __init__(
        self,
        model: CompiledModel | str | os.PathLike[str],
        device: str = "cpu",
        *,
        output_resolution: str = "image",
        focal_baseline: float | None = None,
        max_range: float = 0.0,
        cuda_graph: bool = True,
        **options: Any,
    ) -> None:
        if output_resolution not in RESOLUTIONS:
            raise InputError(
                f"expected output_resolution to be {' or '.join(RESOLUTIONS)}, found {output_resolution!r}"
            )
        _require_opencv()
        if isinstance(model, (str, os.PathLike)):
            from aot_runtime.compiled_model import load_model

            model = load_model(model, device, **options)
        self.model = model
        try:
            self._read_manifest(focal_baseline)
        except Exception:
            model.close()
            raise
        self._resize_back = output_resolution == "image"
        self._max_range = max_range
        self._output = model.manifest.outputs[0].name
        self._lock = threading.Lock()
        self._runner = HostRunner(model, cuda_graph)
        self._make_buffer(self.batch[0])

    def _read_manifest(self, focal_baseline: float | None) -> None:
        manifest, path = self.model.manifest, self.model.path
        told = manifest.preprocessing
        if manifest.family != "depth":
            raise ArtifactError(
                f"expected an artifact of the family depth, found {manifest.family} in {path}",
                "export one with export_dav2_to_pt2",
            )
        if told.get("input") != "rgb_image":
            raise ArtifactError(
                f"expected a depth network for RGB images, found one for {told.get('input')} in {path}",
                "export one with export_dav2_to_pt2 --input-channels 3, or use this one in f3_node",
            )
        for rule, known in _RULES.items():
            if told.get(rule) not in known:
                raise ArtifactError(
                    f"expected preprocessing {rule} to be {' or '.join(known)}, found {told.get(rule)!r} in {path}",
                    "export it again with export_dav2_to_pt2 of this version",
                )
        try:
            self.height, self.width = (int(side) for side in told["size"])
            mean, std = (np.array([float(value) for value in told[name]]) for name in ("mean", "std"))
            scale = float(told["scale"])
            told_fb = told.get("focal_baseline")
            self.focal_baseline = float(focal_baseline or told_fb or 0.0) or None
            if mean.shape != (3,) or std.shape != (3,) or not (std > 0).all():
                raise ValueError("mean and std need three numbers, std above 0")
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"expected size, scale, mean and std in the manifest's preprocessing, found {told} in {path} "
                f"({error!r})",
                "export it again with export_dav2_to_pt2 of this version",
            ) from error
        found = manifest.inputs[0].shape
        if len(found) != 4 or found[1:] != (3, self.height, self.width) or found[0] == 0:
            shape = (found[0] or 1 if len(found) == 4 else 1, 3, self.height, self.width)
            raise ArtifactError(
                f"expected an input of shape {shape} as the preprocessing says, found {found} in {path}",
                "export it again with export_dav2_to_pt2 of this version",
            )
        dim = manifest.dim(found[0]) if isinstance(found[0], str) else None
        self.batch = (dim.min, dim.max) if dim is not None else (int(found[0]), int(found[0]))
        self.network_kind = str(told["kind"])
        to_metres = self.network_kind == "disparity" and self.focal_baseline is not None
        self.kind = "metric" if to_metres else self.network_kind
        self.keep_aspect = told["resize"] == "keep_aspect"
        self._gain = (scale / std).astype(np.float32)
        self._bias = (-mean / std).astype(np.float32)

    def _make_buffer(self, count: int) -> None:
        # One buffer for all images: pinned on CUDA, so that the upload needs no second copy.
        self._input = self._runner.make_input((count, 3, self.height, self.width))
        self._pixels = self._input.numpy()
        self._filled: list[tuple[slice, slice] | None] = [None] * count

    def prepare(self, image: np.ndarray, place: int = 0) -> tuple[np.ndarray, Layout]:
        """The network's input (3, H, W) float32 for an image (h, w, 3) uint8 RGB, and where the image lies on it.

        The array is the pipeline's own, at this place of its batch, and changes with the next call.

        Raises:
            InputError: shape or dtype is another, or the image is empty.
        """
        import cv2

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(
                f"expected an RGB image (height, width, 3) uint8, found {image.shape} {image.dtype}",
                "convert the image",
            )
        layout = Layout.of((image.shape[1], image.shape[0]), (self.width, self.height), self.keep_aspect)
        # In float, as the official code: a cubic kernel overshoots, which 8 bits would clip and round. Not in double as
        # there: OpenCV's float32 resize differs from that by 1e-4 of the range at most and takes a quarter of the time.
        resized = cv2.resize(image.astype(np.float32), layout.inner, interpolation=cv2.INTER_CUBIC)
        pixels = self._pixels[place]
        if layout.window != self._filled[place]:
            pixels[...] = 0.0  # the mean colour
            self._filled[place] = layout.window
        rows, columns = layout.window
        inside = pixels[:, rows, columns]
        np.multiply(resized.transpose(2, 0, 1), self._gain[:, None, None], out=inside)
        inside += self._bias[:, None, None]
        return pixels, layout

    def process(self, image: np.ndarray, camera_matrix: np.ndarray | None = None) -> DepthResult:
        """Depth of one image.

        Args:
            image: (h, w, 3) uint8 RGB.
            camera_matrix: (3, 3) of the image.

        Raises:
            InputError: the image has another shape or dtype, or is empty.
        """
        return self.process_batch([image], None if camera_matrix is None else [camera_matrix])[0]

    def process_batch(
        self, images: Sequence[np.ndarray], camera_matrices: Sequence[np.ndarray | None] | None = None
    ) -> list[DepthResult]:
        """Depth of several images, in as few calls of the network as its batch allows.

        Images do not influence each other, so a network for more of them than there are is filled up with old ones.

        Args:
            images: (h, w, 3) uint8 RGB each; their sizes may differ.
            camera_matrices: (3, 3) of each image, or None.

        Raises:
            InputError: an image has another shape or dtype, or is empty; none is done then.
        """
        matrices = list(camera_matrices) if camera_matrices is not None else [None] * len(images)
        if len(matrices) != len(images):
            raise InputError(f"expected a camera matrix for each of {len(images)} images, found {len(matrices)}")
        results: list[tuple[Layout, np.ndarray]] = []
        most = self.batch[1]
        with self._lock:
            for start in range(0, len(images), most):
                some = images[start : start + most]
                if len(some) > len(self._pixels):
                    self._make_buffer(len(some))
                layouts = [self.prepare(image, place)[1] for place, image in enumerate(some)]
                results += zip(layouts, self._run(layouts))
        return [self._result(layout, raw, matrix) for (layout, raw), matrix in zip(results, matrices)]

    def _result(self, layout: Layout, raw: np.ndarray, camera_matrix: np.ndarray | None) -> DepthResult:
        grid = PixelMap.half_pixel(layout.image, layout.inner)
        if self._resize_back:
            grid = grid.then(PixelMap.align_corners(layout.inner, layout.image))
        finite = np.isfinite(raw)
        n_bad = raw.size - int(np.count_nonzero(finite))
        depth, valid = self._interpret(raw, finite)
        return DepthResult(
            depth=depth,
            kind=self.kind,
            valid=valid,
            grid=grid,
            camera_matrix=None if camera_matrix is None else grid.applied_to(camera_matrix),
            warnings=(f"not finite: {n_bad} of {raw.size} pixels of the network's output",) if n_bad else (),
        )

    def _run(self, layouts: Sequence[Layout]) -> list[np.ndarray]:
        """The network's outputs for what `prepare` left in the buffer, (H, W) float32 of the published sizes."""

        def finish(outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            found = outputs[self._output].float()
            return {str(place): self._finished(found[place], layout) for place, layout in enumerate(layouts)}

        outputs = self._runner.run(self._input[: max(len(layouts), self.batch[0])], finish)
        return [np.asarray(outputs[str(place)].numpy()) for place in range(len(layouts))]

    def _finished(self, depth: torch.Tensor, layout: Layout) -> torch.Tensor:
        """(H, W) of the network's grid -> the published size."""
        import torch

        rows, columns = layout.window
        inner = depth[rows, columns]
        if not self._resize_back:
            return inner.contiguous()
        size = (layout.image[1], layout.image[0])
        return torch.nn.functional.interpolate(inner[None, None], size, mode="bilinear", align_corners=True)[0, 0]

    def _interpret(self, raw: np.ndarray, finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth with NaN where it is invalid, and where it is valid (in the array `finite`)."""
        depth, valid = raw, finite
        if self.kind == "metric":
            valid &= raw > 0
            if self.network_kind == "disparity":
                with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                    depth = np.float32(self.focal_baseline) / raw
                valid &= np.isfinite(depth)
            if self._max_range:
                valid &= depth <= np.float32(self._max_range)
        if not valid.all():
            depth = np.where(valid, depth, np.float32(np.nan))
        return depth, valid

    def close(self) -> None:
        """Free the model's memory."""
        self._runner.close()
        self.model.close()


def _require_opencv() -> None:
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise InputError(
            "expected OpenCV for resizing images, found no module cv2", "install python3-opencv"
        ) from error
