# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show of the C++ runtime: packages for CUDA and their graphs, beside Python's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bev_artifacts import tiny_encoder
from cpp_programs import find_program, run_json
from small_artifacts import export_for_test

from aot_runtime.compiled_model import load_model
from aot_runtime.golden import make_inputs, uniform
from aot_runtime.manifest import CheckpointInfo, DynamicDim, Manifest
from aot_runtime.verdict import read_manifest

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


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
            export_for_test(
                network,
                {"image": torch.zeros(2, 3, 24, 32)},
                path,
                ["blurred", "means"],
                device="cuda",
                dynamic_dims={"image": {0: DynamicDim("n", 1, 8)}},
                golden_laws={"image": uniform(-1.0, 1.0)},
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
