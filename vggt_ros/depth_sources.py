# SPDX-License-Identifier: Apache-2.0
"""Where streaming depth comes from: a Depth Anything artifact, or files computed before. Always as disparity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from aot_runtime.errors import AotError, InputError

if TYPE_CHECKING:
    from depth_ros.pipeline import DepthResult, ImageDepthPipeline
    from depth_ros.pool import DepthAnythingPool


class DisparitySource(Protocol):
    """Relative disparity of images."""

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        """(H, W) float32 of the image's size, greater is nearer, up to scale and shift; NaN where unknown.

        Raises:
            InputError: there is none for this image.
        """
        ...


@dataclass(frozen=True)
class DepthRequest:
    """An image (H, W, 3) uint8 RGB of a camera, with its name."""

    camera: str
    name: str
    image: np.ndarray


@dataclass(frozen=True)
class DepthAnswer:
    """The disparity of a request, or why there is none, and the milliseconds that it took (a batch's: its share)."""

    disparity: np.ndarray | AotError
    milliseconds: float


@runtime_checkable
class BatchDisparitySource(Protocol):
    """A `DisparitySource` that does several images at once better than one after the other."""

    def disparities(self, requests: Sequence[DepthRequest]) -> list[np.ndarray | AotError]:
        """See `DisparitySource`; what fails is an error in its place, and the others are done."""
        ...


@dataclass(frozen=True)
class MetricClaim:
    """That 1 / disparity is metres.

    Attributes:
        file: of the network that says so.
        doubt: why it is not to be believed; "" if it is.
    """

    file: str
    doubt: str = ""


@runtime_checkable
class MetricDisparitySource(Protocol):
    """A `DisparitySource` that may know metres."""

    @property
    def metric(self) -> MetricClaim | None:
        """None if its disparity has a scale and a shift of its own."""
        ...


def metric_claim(source: object) -> MetricClaim | None:
    """What a source says of its unit; None if it says nothing."""
    return source.metric if isinstance(source, MetricDisparitySource) else None


def disparities_of(source: DisparitySource, requests: Sequence[DepthRequest]) -> list[DepthAnswer]:
    """Disparities of all requests in their order, at once if the source can."""
    if isinstance(source, BatchDisparitySource):
        begun = time.perf_counter()
        found = source.disparities(requests)
        share = 1000 * (time.perf_counter() - begun) / max(1, len(requests))
        return [DepthAnswer(one, share) for one in found]
    answers = []
    for request in requests:
        begun = time.perf_counter()
        one: np.ndarray | AotError
        try:
            one = source.disparity(request.camera, request.name, request.image)
        except AotError as error:
            one = error
        answers.append(DepthAnswer(one, 1000 * (time.perf_counter() - begun)))
    return answers


class ArtifactDisparity:
    """A depth network, all cameras in one call where its batch allows; a `DisparitySource` and a batched one.

    What it gives is turned into disparity by what its manifest says that it is.
    """

    def __init__(self, pipeline: ImageDepthPipeline) -> None:
        self._pipeline = pipeline

    @property
    def metric(self) -> MetricClaim | None:
        """See `MetricDisparitySource`."""
        return _claim_of(self._pipeline)

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        """See `DisparitySource`."""
        return disparity_of(self._pipeline.process(image))

    def disparities(self, requests: Sequence[DepthRequest]) -> list[np.ndarray | AotError]:
        """See `BatchDisparitySource`."""
        try:
            return [disparity_of(result) for result in self._pipeline.process_batch([one.image for one in requests])]
        except AotError:
            return [self._alone(request) for request in requests]  # one of them is malformed: which?

    def close(self) -> None:
        """Free the network."""
        self._pipeline.close()

    def _alone(self, request: DepthRequest) -> np.ndarray | AotError:
        try:
            return self.disparity(request.camera, request.name, request.image)
        except AotError as error:
            return error


class PoolDisparity:
    """A `DepthAnythingPool` as a batched `DisparitySource`: each image by a thread of its own."""

    def __init__(self, pool: DepthAnythingPool) -> None:
        self._pool = pool

    @property
    def metric(self) -> MetricClaim | None:
        """See `MetricDisparitySource`."""
        return _claim_of(self._pool)

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        """See `DisparitySource`."""
        return disparity_of(self._pool.submit(image).result())

    def disparities(self, requests: Sequence[DepthRequest]) -> list[np.ndarray | AotError]:
        """See `BatchDisparitySource`."""
        found = self._pool.infer_batch(one.image for one in requests)
        return [one if isinstance(one, AotError) else disparity_of(one) for one in found]

    def close(self) -> None:
        """End the threads and free the network."""
        self._pool.close()


def disparity_of(result: DepthResult) -> np.ndarray:
    """(H, W) float32 disparity, up to scale and shift, of depth of any kind."""
    if result.kind != "metric":
        return result.depth
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(1 / result.depth, np.float32)


def _claim_of(network: ImageDepthPipeline | DepthAnythingPool) -> MetricClaim | None:
    if network.kind != "metric":
        return None
    name, random = network.model.path.name, network.model.manifest.checkpoint.is_random
    return MetricClaim(name, f"{name} is metric, but its weights are random" if random else "")


class FolderDisparity:
    """Files ROOT/CAMERA/NAME.npy, NAME being the image's without suffix, for example of another network.

    Raises:
        InputError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"expected a folder of disparities, found nothing at {root}", "check --depth_folder")
        self._root = root

    def disparity(self, camera: str, name: str, image: np.ndarray) -> np.ndarray:
        """See `DisparitySource`."""
        path = self._root / camera / f"{name}.npy"
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"expected a disparity image, found {error} for {path}") from error
        if found.shape != image.shape[:2] or found.dtype.kind != "f":
            raise InputError(
                f"expected floating-point disparity {image.shape[:2]}, found {found.dtype} {found.shape} in {path}"
            )
        return np.asarray(found, np.float32)
