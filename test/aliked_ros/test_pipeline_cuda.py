# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show of the pipeline: the graph against plain runs, image after image, from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aliked_ros.pipeline import AlikedPipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """t16 for 160x120, compiled on this machine for CUDA: from plain operations, and from kernels of our own."""
    from aliked_ros.export_aliked import export_aliked, read_network

    path = tmp_path_factory.mktemp("aliked_cuda") / "t16.pt2"
    model, checkpoint = read_network("t16", shared / "weights" / "aliked" / "aliked-t16.pth")
    options: dict[str, Any] = {"height": 120, "width": 160, "top_k": 300, "device": "cuda", "progress": False}
    export_aliked(model, path, checkpoint=checkpoint, precision=request.param, **options)
    return path


def test_graph_and_plain_runs_agree(artifact: Path, read_image: Callable[[str], np.ndarray]) -> None:
    graphed, plain = (AlikedPipeline(artifact, "cuda", cuda_graph=on) for on in (True, False))
    assert graphed._runner.graphed
    assert not plain._runner.graphed
    names = ("tum_1311868169.163498.png", "kitti_000100.png", "tum_1311868169.163498.png")
    results = []

    def run() -> None:  # as a node: captured in one thread, replayed in another
        results.extend((graphed.process(read_image(name)), plain.process(read_image(name))) for name in names)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(results) == len(names)
    for one, other in results:
        assert len(one) > 100
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.descriptors, other.descriptors)
    # Results are the caller's own: the next replay does not change them.
    np.testing.assert_array_equal(results[0][0].keypoints, results[2][0].keypoints)
    assert not np.array_equal(results[0][0].keypoints, results[1][0].keypoints)
    graphed.close()
    plain.close()
