# SPDX-License-Identifier: Apache-2.0
"""The options by which a command line names the network to run: an artifact, or a checkpoint that PyTorch runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aliked_ros.config import CONFIGS, from_name
from aliked_ros.export_aliked import DEFAULT_MODEL, DEFAULT_TOP_K
from aliked_ros.matching import MIN_SIMILARITY
from aot_runtime.errors import InputError
from aot_runtime.files import atomic_write

if TYPE_CHECKING:
    import numpy as np

    from aliked_ros.pipeline import AlikedPipeline

# A folder of images of many sizes needs a network for each; no more than this are kept.
_MAX_OPEN = 4


@dataclass(frozen=True)
class EagerOptions:
    """A checkpoint to be run by PyTorch: `height` and `width` None for each image's own size, as the original did."""

    model: str
    checkpoint: Path
    top_k: int
    precision: str = "fp32"
    height: int | None = None
    width: int | None = None


class Networks:
    """Gives the pipeline for an image: an artifact's, or one of PyTorch for the image's own size.

    Args:
        source: an artifact, or how to run a checkpoint.
        threshold, max_keypoints: see `AlikedPipeline`.
        allow_list: file of digests that may be loaded.

    Raises:
        AotError: the artifact may not run here, or the checkpoint does not load.
    """

    def __init__(
        self,
        source: Path | EagerOptions,
        device: str,
        *,
        threshold: float = 0.0,
        max_keypoints: int = 0,
        allow_list: Path | None = None,
        cuda_graph: bool = True,
    ) -> None:
        from aliked_ros.pipeline import AlikedPipeline

        # Pipelines of a checkpoint are made when the first image comes; a mistake is to be told before.
        if not threshold < 1:
            raise InputError(f"expected a threshold below 1, found {threshold}", "scores are probabilities")
        self._open: dict[tuple[int, int], AlikedPipeline] = {}
        self._fixed: AlikedPipeline | None = None
        if isinstance(source, EagerOptions):
            self.name = f"{from_name(source.model).name} {source.precision}, PyTorch"
            self._make = _eager_maker(source, device, threshold, max_keypoints)
            if source.height is not None and source.width is not None:
                self._fixed = self._make((source.height, source.width))
        else:
            self._fixed = AlikedPipeline(
                source,
                device,
                threshold=threshold,
                max_keypoints=max_keypoints,
                allow_list=allow_list,
                cuda_graph=cuda_graph,
            )
            manifest = self._fixed.model.manifest
            self.name = f"{manifest.variant} {manifest.precision}, {source.name}"

    def pipeline_for(self, image: np.ndarray) -> AlikedPipeline:
        """The pipeline that takes an image (H, W, ...).

        Raises:
            InputError: the image is too small for a network of its size.
        """
        if self._fixed is not None:
            return self._fixed
        size = (image.shape[0], image.shape[1])
        if size not in self._open:
            if len(self._open) >= _MAX_OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[size] = self._make(size)
        return self._open[size]

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) that all images are scaled to, None for each image's own."""
        return None if self._fixed is None else (self._fixed.height, self._fixed.width)

    @property
    def has_random_weights(self) -> bool:
        """Whether the keypoints mean nothing."""
        return self._fixed is not None and self._fixed.model.manifest.checkpoint.is_random

    def close(self) -> None:
        """Free all memory."""
        for pipeline in (*self._open.values(), *([self._fixed] if self._fixed is not None else [])):
            pipeline.close()
        self._open.clear()


def _eager_maker(
    source: EagerOptions, device: str, threshold: float, max_keypoints: int
) -> Callable[[tuple[int, int]], AlikedPipeline]:
    """A function from (height, width) to a pipeline; the checkpoint is read once."""
    from aliked_ros.eager import eager_model
    from aliked_ros.export_aliked import read_network
    from aliked_ros.pipeline import AlikedPipeline

    network, checkpoint = read_network(source.model, source.checkpoint)

    def make(size: tuple[int, int]) -> AlikedPipeline:
        model = eager_model(
            network,
            checkpoint,
            height=size[0],
            width=size[1],
            top_k=source.top_k,
            precision=source.precision,
            device=device,
        )
        return AlikedPipeline(model, threshold=threshold, max_keypoints=max_keypoints)

    return make


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """--artifact, or --model and --checkpoint; device, threshold and count. Spellings of the original's work too."""
    add = parser.add_argument
    add("--artifact", type=Path, help="model made by export_aliked (.pt2, .onnx or .engine)")
    add("-c", "--checkpoint", type=Path, help="instead of --artifact: official checkpoint, run by PyTorch, slower")
    add("-m", "--model", default=DEFAULT_MODEL, help=f"of --checkpoint: {', '.join(CONFIGS)} (default {DEFAULT_MODEL})")
    add("--top_k", "--top-k", type=int, default=DEFAULT_TOP_K, help=f"of --checkpoint (default {DEFAULT_TOP_K})")
    add("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of --checkpoint (default fp32)")
    add("--height", type=int, help="of --checkpoint: scale images to this size (default: each image's own)")
    add("--width", type=int, help="with --height")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--allow-list", type=Path, help="file of SHA-256 digests that may be loaded")
    add("--threshold", "--scores_th", type=float, default=0.0, help="leave out keypoints with a peak score up to this")
    add("--max-keypoints", "--n_limit", type=int, default=0, help="only so many, the strongest; 0: all")


def add_matching_arguments(parser: argparse.ArgumentParser) -> None:
    """--min-similarity and --ratio."""
    add = parser.add_argument
    add("--min-similarity", type=float, default=MIN_SIMILARITY, help="smallest dot product of a match (default 0.75)")
    add("--ratio", type=float, default=1.0, help="largest distance to the nearest over that to the second; 1: any")


def ratio_of(told: argparse.Namespace) -> float | None:
    """--ratio for `aliked_ros.matching.match`: None where any will do.

    Raises:
        InputError: it is no ratio.
    """
    if not 0 < told.ratio <= 1:
        raise InputError(f"expected a ratio above 0 and up to 1, found {told.ratio}")
    return None if told.ratio == 1 else float(told.ratio)


def open_networks(told: argparse.Namespace) -> Networks:
    """What add_network_arguments() asked for.

    Raises:
        InputError: neither an artifact nor a checkpoint, or both, or half a size.
        AotError: see `Networks`.
    """
    if (told.artifact is None) == (told.checkpoint is None):
        found = "neither" if told.artifact is None else "both"
        raise InputError(
            f"expected either --artifact FILE or --checkpoint FILE, found {found}",
            "export an artifact with export_aliked, or name an official checkpoint to run it by PyTorch",
        )
    return Networks(
        told.artifact if told.artifact is not None else eager_options(told, told.precision),
        told.device,
        threshold=told.threshold,
        max_keypoints=told.max_keypoints,
        allow_list=told.allow_list,
    )


def eager_options(told: argparse.Namespace, precision: str) -> EagerOptions:
    """--checkpoint with what belongs to it.

    Raises:
        InputError: no checkpoint, or half a size.
    """
    if told.checkpoint is None:
        raise InputError("expected --checkpoint FILE, found none", "name an official checkpoint, or give an artifact")
    if (told.height is None) != (told.width is None):
        raise InputError("expected --height and --width, found one of them", "give both, or none")
    return EagerOptions(told.model, told.checkpoint, told.top_k, precision, told.height, told.width)


def write_json(target: str, document: Mapping[str, Any]) -> None:
    """A document as a JSON file, or on standard output for "-"."""
    text = json.dumps(document, indent=1)
    if target == "-":
        print(text)
        return
    with atomic_write(target) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
