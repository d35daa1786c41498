# SPDX-License-Identifier: Apache-2.0
"""Depth of images by several threads: `DepthAnythingPool`, for callers whose images come one by one.

One artifact with a batch (`export_dav2_to_pt2 --batch`) and `ImageDepthPipeline.process_batch` is the better choice
where several images are there at once: docs/vggt.md has numbers.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np

from aot_runtime.errors import AotError, InputError
from depth_ros.pipeline import DepthResult, ImageDepthPipeline


class DepthAnythingPool:
    """Several `ImageDepthPipeline`s over one loaded model; its weights are in memory once.

    Use it as a context manager, or call `close`.

    Args:
        path: of the artifact.
        device: "cpu", "cuda" or "cuda:N".
        workers: images that are worked on at once.
        output_resolution, focal_baseline, max_range, cuda_graph: see `ImageDepthPipeline`.
        **options: further arguments of `load_model`.

    Raises:
        ArtifactError: the artifact may not run here, or is no depth network for RGB images. It is loaded before a
            thread starts, so nothing is left waiting.
        InputError: an argument is not usable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        *,
        workers: int = 2,
        output_resolution: str = "image",
        focal_baseline: float | None = None,
        max_range: float = 0.0,
        cuda_graph: bool = True,
        **options: Any,
    ) -> None:
        if workers < 1:
            raise InputError(f"expected at least one worker, found {workers}")
        settings: dict[str, Any] = {
            "output_resolution": output_resolution,
            "focal_baseline": focal_baseline,
            "max_range": max_range,
            "cuda_graph": cuda_graph,
        }
        first = ImageDepthPipeline(path, device, **settings, num_runners=workers, **options)
        self._pipelines = [first]
        try:
            self._pipelines += [ImageDepthPipeline(first.model, **settings) for _ in range(workers - 1)]
        except BaseException:
            first.close()
            raise
        self._idle: queue.SimpleQueue[ImageDepthPipeline] = queue.SimpleQueue()
        for pipeline in self._pipelines:
            self._idle.put(pipeline)
        self._threads: ThreadPoolExecutor | None = ThreadPoolExecutor(workers, "depth")
        self.model = first.model
        self.kind = first.kind

    def submit(self, image: np.ndarray, camera_matrix: np.ndarray | None = None) -> Future[DepthResult]:
        """Depth of one image (h, w, 3) uint8 RGB, as soon as a worker is free; a malformed one fails its future.

        Raises:
            InputError: the pool is closed.
        """
        if self._threads is None:
            raise InputError("expected an open pool, found a closed one", "make a new one")
        return self._threads.submit(self._work, image, camera_matrix)

    def infer_batch(self, images: Iterable[np.ndarray]) -> list[DepthResult | AotError]:
        """Depth of all images in their order; what failed is the error in its place, and the others are done.

        Raises:
            InputError: the pool is closed.
        """
        futures = [self.submit(image) for image in images]
        found: list[DepthResult | AotError] = []
        for future in futures:
            try:
                found.append(future.result())
            except AotError as error:
                found.append(error)
        return found

    def close(self) -> None:
        """Finish what has begun, drop what has not, free the model. Closing twice is fine."""
        if self._threads is None:
            return
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads = None
        for pipeline in self._pipelines:
            pipeline.close()

    def _work(self, image: np.ndarray, camera_matrix: np.ndarray | None) -> DepthResult:
        pipeline = self._idle.get()
        try:
            return pipeline.process(image, camera_matrix)
        finally:
            self._idle.put(pipeline)

    def __enter__(self) -> DepthAnythingPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
