# SPDX-License-Identifier: Apache-2.0
"""From an image to keypoints in its pixels, without ROS: what the node, the command lines and tests share."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import ArtifactError, InputError
from aot_runtime.host_runner import HostRunner

if TYPE_CHECKING:
    from aot_runtime.compiled_model import CompiledModel

_OUTPUTS = ("keypoints", "scores", "peak_scores", "descriptors")


@dataclass(frozen=True)
class AlikedResult:
    """Keypoints of one image, by falling peak score; fillers and what is not above the threshold are left out.

    Attributes:
        keypoints: (N, 2) float32, x and y in pixels of the image as given; (0, 0) is the centre of its first pixel.
        scores: (N,) float32, probability at the refined point; not sorted, see `aliked_ros.detection.Points`.
        peak_scores: (N,) float32, probability at the peak; the threshold looks at these.
        descriptors: (N, D) float32, of length 1.
        not_finite: how many more there would be if the network had given finite numbers for them.
        warnings: sentences for a log, empty if all is well.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    peak_scores: np.ndarray
    descriptors: np.ndarray
    not_finite: int = 0
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True)
class Placement:
    """How an image sits in the artifact's input: scaled from `size` to `inner`, in the upper left corner.

    Both are (height, width).
    """

    size: tuple[int, int]
    inner: tuple[int, int]

    @staticmethod
    def fit(size: tuple[int, int], frame: tuple[int, int]) -> Placement:
        """The largest image of the same aspect inside `frame`, at least one pixel, rounded to whole pixels."""
        scale = min(frame[0] / size[0], frame[1] / size[1])
        inner = tuple(min(limit, max(1, round(length * scale))) for length, limit in zip(size, frame))
        return Placement(size, (inner[0], inner[1]))

    def to_image(self, keypoints: np.ndarray) -> np.ndarray:
        """Keypoints (N, 2) of the artifact's input in pixels of the image. Pixels are areas: edges map to edges."""
        if self.inner == self.size:
            return keypoints
        factor = np.array([self.size[1] / self.inner[1], self.size[0] / self.inner[0]])
        moved: np.ndarray = ((keypoints.astype(np.float64) + 0.5) * factor - 0.5).astype(np.float32)
        return moved

    def contains(self, keypoints: np.ndarray) -> np.ndarray:
        """Which keypoints (N, 2) of the artifact's input lie on the image and not beyond it."""
        return np.asarray((keypoints <= np.array([self.inner[1], self.inner[0]]) - 0.5).all(axis=1))


class AlikedPipeline:
    """Runs an ALIKED artifact on images.

    Args:
        model: a loaded artifact of the family "aliked", or the path of one.
        device: where to load a path: "cpu", "cuda" or "cuda:N".
        threshold: keep points whose peak score is above it; 0 keeps all real points, as the official top-k mode.
        max_keypoints: keep only so many, the strongest; 0 keeps all that the artifact gives.
        resize: whether images of another size than the artifact's are scaled to fit; False refuses them.
        cuda_graph: on CUDA, replay the network as one graph.
        **options: further arguments of `load_model` for a path (allow_list, self_test, ...).

    Attributes:
        width, height: pixels of the image that the artifact takes; others are scaled to fit, keeping their aspect.
        top_k: most keypoints of an image.
        descriptor_dim: length of a descriptor.

    Raises:
        ArtifactError: the artifact is not one of ALIKED, or no CUDA graph can hold it.
        InputError: the threshold is not below 1, or the artifact gives fewer keypoints than `max_keypoints`.
    """

    def __init__(
        self,
        model: CompiledModel | str | os.PathLike[str],
        device: str = "cpu",
        *,
        threshold: float = 0.0,
        max_keypoints: int = 0,
        resize: bool = True,
        cuda_graph: bool = True,
        **options: Any,
    ) -> None:
        self.threshold = _checked(threshold)
        self._lock = threading.Lock()
        self._resize = resize
        if isinstance(model, (str, os.PathLike)):
            from aot_runtime.compiled_model import load_model

            model = load_model(model, device, **options)
        self.model = model
        try:
            self._read_manifest()
            self.max_keypoints = self._checked_count(max_keypoints)
            self._runner = HostRunner(model, cuda_graph)
            self._input = self._runner.make_input((1, self.height, self.width, 3))
        except Exception:
            model.close()
            raise

    def _read_manifest(self) -> None:
        manifest, model = self.model.manifest, self.model
        if manifest.family != "aliked":
            raise ArtifactError(
                f"expected an artifact of the family aliked, found {manifest.family} in {model.path}",
                "export one with export_aliked",
            )
        told = manifest.preprocessing
        try:
            self.width, self.height = int(told["width"]), int(told["height"])
            self.top_k, self.descriptor_dim = int(told["top_k"]), int(told["descriptor_dim"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"expected width, height, top_k and descriptor_dim in the manifest's preprocessing, found {told} in "
                f"{model.path} ({error!r})",
                "export it again with export_aliked",
            ) from error

    def _checked_count(self, count: int) -> int:
        if not 0 <= count <= self.top_k:
            raise InputError(
                f"expected max_keypoints from 0 to {self.top_k}, the artifact's top_k, found {count} "
                f"for {self.model.path}",
                f"export another with export_aliked --top_k {count}" if count > 0 else "give 0 for all",
            )
        return count

    def place(self, image: np.ndarray) -> tuple[np.ndarray, Placement]:
        """The artifact's input (H, W, 3) uint8, and where in it the image sits.

        Raises:
            InputError: see `process`.
        """
        rgb = _as_rgb(image)
        frame = (self.height, self.width)
        placement = Placement.fit((rgb.shape[0], rgb.shape[1]), frame)
        if not self._resize and placement.size != frame:
            raise InputError(
                f"expected images of {self.width}x{self.height} as the artifact takes, found "
                f"{rgb.shape[1]}x{rgb.shape[0]} for {self.model.path}",
                f"export one with export_aliked --width {rgb.shape[1]} --height {rgb.shape[0]}, or allow resizing",
            )
        if placement.inner != placement.size:
            rgb = _resize(rgb, placement.inner)
        if placement.inner != frame:
            below, beside = frame[0] - placement.inner[0], frame[1] - placement.inner[1]
            rgb = np.pad(rgb, ((0, below), (0, beside), (0, 0)), mode="edge")
        return np.ascontiguousarray(rgb), placement

    def process(self, image: np.ndarray, threshold: float | None = None) -> AlikedResult:
        """Keypoints of one image.

        Args:
            image: (H, W, 3) uint8 RGB, or (H, W) or (H, W, 1) uint8 grey; any size.
            threshold: for this image, instead of the pipeline's.

        Raises:
            InputError: the image has another dtype or shape, or no pixels.
        """
        limit = self.threshold if threshold is None else _checked(threshold)
        canvas, placement = self.place(image)
        keypoints, scores, peak_scores, descriptors = self._run(canvas)
        finite = np.isfinite(np.column_stack([keypoints, scores, peak_scores, descriptors])).all(axis=1)
        strong = peak_scores > max(0.0, limit)
        kept = strong & finite & placement.contains(keypoints)
        not_finite = int(np.count_nonzero(~finite & (strong | np.isnan(peak_scores))))
        warnings = []
        if not_finite:
            warnings.append(f"not finite: {not_finite} of {self.top_k} keypoints of the network's output")
        elif not kept.any():
            warnings.append(f"no keypoint above {limit:g}: the image is dark, blank or out of focus")
        elif limit > 0 and not self.max_keypoints and kept.all():
            warnings.append(
                f"all {self.top_k} keypoints are above {limit:g}, there may be more: export a larger --top_k"
            )
        if self.max_keypoints:  # the artifact sorts by peak score
            kept = np.flatnonzero(kept)[: self.max_keypoints]
        return AlikedResult(
            keypoints=placement.to_image(keypoints[kept]),
            scores=scores[kept],
            peak_scores=peak_scores[kept],
            descriptors=descriptors[kept],
            not_finite=not_finite,
            warnings=tuple(warnings),
        )

    def _run(self, canvas: np.ndarray) -> tuple[np.ndarray, ...]:
        """`_OUTPUTS` of the network for a canvas of `place`, float32, without the batch."""
        with self._lock:
            self._input.numpy()[0] = canvas
            outputs = self._runner.run(
                self._input, lambda device: {name: device[name][0].float().contiguous() for name in _OUTPUTS}
            )
        return tuple(outputs[name].numpy() for name in _OUTPUTS)

    def close(self) -> None:
        """Free the model's memory."""
        self._runner.close()
        self.model.close()


def _checked(threshold: float) -> float:
    if not threshold < 1:
        raise InputError(f"expected a threshold below 1, found {threshold}", "scores are probabilities; 0.2 is usual")
    return float(threshold)


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """The image as (H, W, 3) uint8.

    Raises:
        InputError: it is no image of 8 bits and 1 or 3 channels, or has no pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = f"dtype {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"expected an image as a uint8 array, found {found}", "scale it to 0 .. 255 and convert it")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise InputError(f"expected an image (H, W, 3), (H, W, 1) or (H, W), found {image.shape}")
    if image.size == 0:
        raise InputError(f"expected an image with pixels, found {image.shape}")
    return np.broadcast_to(image, (*image.shape[:2], 3)) if image.shape[2] == 1 else image


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at `size` = (height, width): averaged when it shrinks, bilinear when it grows."""
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"expected an image of the artifact's size, found {image.shape[1]}x{image.shape[0]} and no OpenCV",
            "pip install opencv-python-headless, or export the artifact for this size",
        ) from error
    how = cv2.INTER_AREA if size[0] <= image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(image), (size[1], size[0]), interpolation=how))
