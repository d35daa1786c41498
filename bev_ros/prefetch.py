# SPDX-License-Identifier: Apache-2.0
"""Reads the images of the next samples while the encoder works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from aot_runtime.errors import AotError, InputError

if TYPE_CHECKING:
    from bev_ros.samples import Sample, SampleSource


@dataclass(frozen=True)
class LoadedSample:
    """A sample with its images in memory, or why there is none.

    Attributes:
        token: of the sample.
        sample: None if the source could not give it.
        images: camera -> (H, W, 3) uint8 RGB, of those that could be read.
        problems: camera -> why it could not be read.
        reason: why there is no sample; "" if there is one.
    """

    token: str
    sample: Sample | None
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def load_sample(source: SampleSource, split: str, token: str) -> LoadedSample:
    """A sample with its images; what is wrong with it is in the result, not raised."""
    try:
        return _with_images(token, source.sample(split, token))
    except Exception as error:
        return LoadedSample(token, None, reason=told(error))


def load_samples(
    source: SampleSource, split: str, tokens: Iterable[str], *, ahead: int = 4, readers: int = 4
) -> Generator[LoadedSample, None, None]:
    """The samples in order, as `load_sample` gives them; closing the iterator ends the reading.

    Args:
        source: asked from one thread at a time.
        split, tokens: which samples.
        ahead: samples in memory or being read beside the one in use, from 1.
        readers: threads that read images, from 1.
    """
    if ahead < 1 or readers < 1:
        raise InputError(f"expected from 1 sample ahead and from 1 reader, found {ahead} and {readers}")
    with ThreadPoolExecutor(1, "bev-samples") as asking, ThreadPoolExecutor(readers, "bev-images") as reading:

        def read(asked: Future[Sample], token: str) -> LoadedSample:
            try:
                return _with_images(token, asked.result())
            except Exception as error:
                return LoadedSample(token, None, reason=told(error))

        waiting: deque[Future[LoadedSample]] = deque()
        todo = iter(tokens)

        def fill() -> None:
            while len(waiting) < ahead and (token := next(todo, None)) is not None:
                waiting.append(reading.submit(read, asking.submit(source.sample, split, token), token))

        try:
            fill()
            while waiting:
                loaded = waiting.popleft().result()
                fill()
                yield loaded
        finally:
            for future in waiting:
                future.cancel()


def told(error: Exception) -> str:
    """An error in one line, with its kind if it is not one of ours."""
    if isinstance(error, AotError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _with_images(token: str, sample: Sample) -> LoadedSample:
    images: dict[str, np.ndarray] = {}
    problems: dict[str, str] = {}
    for name, read in sample.images.items():
        try:
            images[name] = read()
        except Exception as error:
            problems[name] = told(error)
    return LoadedSample(token, sample, images, problems)
