# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_artifacts import export_for_test

from aot_runtime.benchmark import benchmark_artifact
from aot_runtime.compiled_model import load_model
from aot_runtime.environment import cuda_devices
from aot_runtime.errors import InputError
from aot_runtime.export import export_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_network: Any, export_arguments: dict[str, Any]) -> Path:
    import copy

    path = tmp_path_factory.mktemp("cuda") / "tiny.pt2"
    export_model(copy.deepcopy(tiny_network), path=path, device="cuda", **export_arguments)
    return path


def test_the_driver_tells_what_torch_tells() -> None:
    capability = ".".join(map(str, torch.cuda.get_device_capability(0)))
    assert cuda_devices()[0] == (torch.cuda.get_device_name(0), capability)


def test_run_and_input_device(artifact: Path, tiny_network: Any) -> None:
    events, scale = torch.rand(33, 4), torch.ones(8)
    with load_model(artifact, "cuda") as model, torch.no_grad():
        outputs = model.run(events=events.cuda(), scale=scale.cuda())
        assert torch.allclose(outputs["features"].cpu(), tiny_network.cpu()(events, scale)["features"], atol=1e-4)
        with pytest.raises(InputError, match="input events: expected device cuda:0, found cpu"):
            model.run(events=events, scale=scale.cuda())


def test_cuda_graph(artifact: Path) -> None:
    with load_model(artifact, "cuda") as model:
        with pytest.raises(InputError, match="found no size for n"):
            model.capture_cuda_graph()
        with pytest.raises(InputError, match="found n = 101"):
            model.capture_cuda_graph({"n": 101})
        graph = model.capture_cuda_graph({"n": 50})
        for seed in range(3):
            torch.manual_seed(seed)
            inputs = {"events": torch.rand(50, 4, device="cuda"), "scale": torch.rand(8, device="cuda") + 0.5}
            replayed = {name: tensor.clone() for name, tensor in graph.run(**inputs).items()}
            for name, tensor in model.run(**inputs).items():
                assert torch.allclose(replayed[name], tensor, atol=1e-5)
        with pytest.raises(InputError, match="expected the captured shape"):
            graph.run(events=torch.rand(49, 4, device="cuda"), scale=torch.ones(8, device="cuda"))


def test_benchmark_with_a_graph(artifact: Path) -> None:
    rows = benchmark_artifact(artifact, "cuda", runs=5, warmup_runs=2, cuda_graph=True)
    assert [row.mode for row in rows] == ["compiled", "CUDA graph"]
    assert all(row.peak_mb > 0 for row in rows)


def test_fp32_artifacts_do_not_use_tf32(tmp_path: Path) -> None:
    """A convolution of 4096 products per output: TF32 would be off by some 1e-4 of the largest value."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(256, 64, 4, bias=False).eval()
    image = torch.rand(1, 256, 24, 24)
    exact = torch.nn.functional.conv2d(image.double(), network.weight.detach().double())
    path = tmp_path / "conv.pt2"
    export_for_test(network, {"image": image}, path, ["result"], device="cuda")
    before = torch.backends.cudnn.allow_tf32
    with load_model(path, "cuda") as model:
        found = model.run(image=image.cuda())["result"].double().cpu()
    assert torch.backends.cudnn.allow_tf32 == before, "other networks in the process keep their setting"
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5
