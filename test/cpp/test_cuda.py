# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show of the C++ runtime: packages for CUDA, their graphs, and F3 with heads, beside Python's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_artifacts import tiny_encoder
from cpp_programs import find_program, run_json

from aot_runtime.compiled_model import load_model
from aot_runtime.export import export_model
from aot_runtime.golden import make_inputs, uniform
from aot_runtime.manifest import CheckpointInfo, DynamicDim, Manifest
from aot_runtime.verdict import read_manifest
from f3_ros.events.types import Events
from f3_ros.events.windows import EventWindow
from f3_ros.perception import PerceptionPipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CHANNELS = 16
F3: dict[str, dict[str, Any]] = {
    "variable": {"variable": True, "n_events": 1500, "max_events": 40_000},
    "fixed": {"n_events": 1600, "hashed": True, "downsample": (21, 17)},
}


class Blurred(torch.nn.Module):
    """A channels-last convolution, whose result Inductor leaves channels-last, and the means of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blurred = self.conv(image)
        return blurred, blurred.mean(-1)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """packages(name): a `.pt2` for CUDA, made once."""
    folder = tmp_path_factory.mktemp("cpp_cuda")

    def get(name: str) -> Path:
        path = folder / f"{name}.pt2"
        if path.is_file():
            pass
        elif name == "convolution":
            torch.manual_seed(1)
            network: torch.nn.Module = Blurred()
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            export_model(
                network,
                {"image": torch.zeros(2, 3, 24, 32)},
                path=path,
                family="test",
                variant="blurred",
                task="test",
                outputs=[("blurred", "", ""), ("means", "", "")],
                checkpoint=CheckpointInfo.random(1),
                device="cuda",
                dynamic_dims={"image": {0: DynamicDim("n", 1, 8)}},
                golden_laws={"image": uniform(-1.0, 1.0)},
                progress=False,
            )
        else:
            from bev_ros.artifact import export_part

            info = CheckpointInfo.random(4)
            export_part(tiny_encoder(), name, path, checkpoint=info, device="cuda", progress=False)
        return path

    return get


def sizes_of(manifest: Manifest, **changed: int) -> dict[str, int]:
    """The dynamic dims as the self-test has them, some changed: a graph needs them all."""
    shapes = {spec.name: spec.shape for spec in manifest.inputs}
    sizes = {
        dim: size for one in manifest.golden.inputs for dim, size in zip(shapes[one.name], one.shape) if dim != size
    }
    return {str(dim): changed.get(str(dim), size) for dim, size in sizes.items()}


def golden_inputs(manifest: Manifest, sizes: dict[str, int]) -> dict[str, torch.Tensor]:
    """The self-test's inputs at these sizes."""
    shapes = {spec.name: tuple(sizes.get(str(side), side) for side in spec.shape) for spec in manifest.inputs}
    golden = tuple(replace(one, shape=shapes[one.name]) for one in manifest.golden.inputs)  # type: ignore[arg-type]
    return make_inputs(golden, {spec.name: spec.dtype for spec in manifest.inputs}, manifest.golden.seed, "cuda")


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", ["convolution", "fused", "pool"])
def test_outputs_equal_pythons(packages: Callable[[str], Path], name: str, graph: bool, tmp_path: Path) -> None:
    """ "fused" and "pool" carry a Triton kernel of ours, "pool" gives a map whose channels lie side by side."""
    path = packages(name)
    sizes = sizes_of(read_manifest(path), n=5)
    words = ["--artifact", path, "--device", "cuda", "--golden", "--output-folder", tmp_path]
    words += ["--cuda-graph"] * graph
    for dim, size in sizes.items():
        words += ["--size", f"{dim}={size}"]
    told = run_json(find_program("test/runtime/run_artifact"), [str(word) for word in words])
    assert not told["error"]
    assert told["verdict"]["code"] == "RANDOM_WEIGHTS"
    with load_model(path, "cuda") as model:
        expected = model.run(**golden_inputs(model.manifest, sizes))
        assert told["outputs"].keys() == expected.keys()
        for output, wanted in expected.items():
            found = np.frombuffer((tmp_path / f"{output}.bin").read_bytes(), np.float32)
            assert told["outputs"][output]["shape"] == list(wanted.shape)
            # The same machine code on the same bytes.
            np.testing.assert_array_equal(found, wanted.cpu().numpy().ravel())
            assert np.abs(found).max() > 0


def window(count: int, seed: int = 0) -> EventWindow:
    """Random events of a 64x48 sensor in 20 ms."""
    rng = np.random.default_rng(seed)
    events = Events(
        rng.integers(0, 64, count).astype(np.uint16),
        rng.integers(0, 48, count).astype(np.uint16),
        np.sort(rng.integers(980_000, 1_000_000, count)),
        rng.integers(0, 2, count).astype(np.uint8),
    )
    return EventWindow(980_000, 1_000_000, events, True, count)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kind", F3)
def test_f3_and_heads_give_what_python_gives(
    kind: str, graph: bool, f3_golden: Any, stand_in_head: Any, tmp_path: Path, tmp_path_factory: Any
) -> None:
    from f3_ros.export_f3 import export_f3

    f3 = tmp_path_factory.getbasetemp() / f"f3_cuda_{kind}.pt2"
    if not f3.is_file():
        info = CheckpointInfo("f3_small_direct.npz", "0" * 64, "Apache-2.0")
        export_f3(f3_golden("f3_small_direct").model(), f3, checkpoint=info, device="cuda", progress=False, **F3[kind])
    depth = stand_in_head("depth", CHANNELS, 28, 42, device="cuda")
    flow = stand_in_head("flow", CHANNELS, 28, 42, device="cuda")
    windows, told_windows = [], []
    for index, count in enumerate((300, 1600, 1, 900)):
        windows.append(window(count, index))
        e = windows[-1].events
        file = tmp_path / f"{index}.events"
        file.write_bytes(e.x.tobytes() + e.y.tobytes() + e.t.tobytes() + e.p.tobytes())
        told_windows.append({
            "file": str(file), "n": len(e), "start_us": 980_000, "end_us": 1_000_000, "n_received": len(e),
            "width": 64, "height": 48, "want": ["features", "depth", "flow"],
        })  # fmt: skip
    request = {
        "f3": str(f3), "depth": str(depth), "flow": str(flow), "folder": str(tmp_path), "windows": told_windows,
        "device": "cuda", "cuda_graph": graph, "repeat_self_test": True,
    }  # fmt: skip
    told = run_json(find_program("test/pipelines/run_f3"), request=request)
    assert not told["error"], json.dumps(told)[:2000]
    pipeline = PerceptionPipeline.load(f3, "cuda", depth=depth, flow=flow, cuda_graph=False)
    try:
        for index, one in enumerate(windows):
            expected = pipeline.process(one, 64, 48)
            assert expected.features is not None
            wanted = {
                "features": expected.features.transpose(1, 2, 0),
                "depth": expected.depth,
                "flow": expected.flow,
            }
            for name, array in wanted.items():
                assert array is not None
                shape = told["results"][index]["shapes"][name]
                found = np.frombuffer((tmp_path / f"{index}_{name}.bin").read_bytes(), np.float32).reshape(shape)
                # Sums of features over events run in any order on a GPU.
                limit = 1e-4 * max(float(np.abs(array).max()), 1e-6)
                np.testing.assert_allclose(found, array, rtol=0, atol=limit, err_msg=f"{name} of window {index}")
                assert np.abs(array).max() > 0
    finally:
        pipeline.close()
