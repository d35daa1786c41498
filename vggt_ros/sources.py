# SPDX-License-Identifier: Apache-2.0
"""Opens what `vggt_node` reconstructs with: networks or files that stand in for them, as its parameters say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import ArtifactError
from aot_runtime.licences import require_commercial
from vggt_ros.parameters import existing

if TYPE_CHECKING:
    from aot_runtime.compiled_model import CompiledModel
    from vggt_ros.depth_sources import DisparitySource
    from vggt_ros.fusion.bootstrap import BootstrapSource
    from vggt_ros.parameters import VggtSettings


class Sources:
    """A bootstrap source and a source of streaming depth, each of which may be absent.

    Args:
        settings: of the node.

    Attributes:
        bootstrap, disparity: for the pipeline.
        introductions: prefix, model and a sentence about it, for the log and diagnostics.

    Raises:
        ArtifactError: an artifact may not run here, is of the wrong family or for another number of cameras, or its
            weights are for non-commercial use, which was not accepted.
        InputError: a file is absent.
    """

    def __init__(self, settings: VggtSettings) -> None:
        self.bootstrap: BootstrapSource | None = None
        self.disparity: DisparitySource | None = None
        self.introductions: list[tuple[str, CompiledModel, str]] = []
        self._settings = settings
        self._models: list[Any] = []
        self._warm_up: list[Any] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def warm_up(self) -> None:
        """Self-tests of all networks, and each once on images of nothing."""
        for _, model, _ in self.introductions:
            model.self_test()
        for run in self._warm_up:
            run()

    def close(self) -> None:
        """Releases the networks."""
        for model in self._models:
            model.close()
        self._models.clear()

    def _open(self) -> None:
        settings = self._settings
        if settings.vggt_model:
            self._open_network(existing(settings.vggt_model, "vggt_model"))
        elif settings.bootstrap_file:
            from vggt_ros.fusion.bootstrap import NpzSource

            source = NpzSource(existing(settings.bootstrap_file, "bootstrap_file"), settings.cameras)
            source.bootstrap({})  # a file that is none is told now, not with the first images
            self.bootstrap = source
        if settings.depth_model:
            self._open_depth(existing(settings.depth_model, "depth_model"))
        elif settings.depth_folder:
            from vggt_ros.depth_sources import FolderDisparity

            self.disparity = FolderDisparity(existing(settings.depth_folder, "depth_folder"))

    def _open_network(self, path: Path) -> None:
        from aot_runtime.compiled_model import load_model
        from vggt_ros.network_source import NetworkSource

        settings = self._settings
        self._check_licence(path)
        model = load_model(path, settings.device, allow_list=settings.allow_list or None, self_test=False)
        self._models.append(model)
        source = NetworkSource(model)
        count, _, height, width = model.manifest.inputs[0].shape
        dim = model.manifest.dim(count) if isinstance(count, str) else None
        low, high = (dim.min, dim.max) if dim is not None else (int(count), int(count))
        if not low <= len(settings.cameras) <= high:
            takes = f"{low}" if low == high else f"{low} to {high}"
            raise ArtifactError(
                f"expected a network for {len(settings.cameras)} cameras, found one for {takes} in {path}",
                f"export_vggt --num-cams {len(settings.cameras)}, or --dynamic-cams 1..{len(settings.cameras)} to do "
                "with fewer where cameras drop out",
            )
        size = (int(height), int(width))
        blank: Mapping[str, np.ndarray] = {name: np.zeros((*size, 3), np.uint8) for name in settings.cameras}
        matrix = np.array([[size[1], 0, size[1] / 2], [0, size[1], size[0] / 2], [0, 0, 1.0]])
        self._warm_up.append(lambda: source.bootstrap(blank, dict.fromkeys(blank, matrix)))
        self.bootstrap = source
        self.introductions.append(("", model, f"images of {width}x{height} -> poses and depth, for bootstraps"))

    def _open_depth(self, path: Path) -> None:
        from depth_ros.pipeline import ImageDepthPipeline
        from vggt_ros.depth_sources import ArtifactDisparity

        settings = self._settings
        self._check_licence(path)
        pipeline = ImageDepthPipeline(
            path,
            settings.device,
            cuda_graph=settings.cuda_graph,
            allow_list=settings.allow_list or None,
            self_test=False,
        )
        self._models.append(pipeline)
        self._warm_up.append(lambda: pipeline.process(np.zeros((pipeline.height, pipeline.width, 3), np.uint8)))
        self.disparity = ArtifactDisparity(pipeline)
        work = f"images of {pipeline.width}x{pipeline.height} -> {pipeline.kind} depth, for streaming"
        self.introductions.append(("depth ", pipeline.model, work))

    def _check_licence(self, path: Path) -> None:
        from aot_runtime.verdict import read_manifest

        require_commercial(read_manifest(path), path, accepted=self._settings.accept_noncommercial_weights)
