# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from aot_runtime.backends import aoti
from aot_runtime.backends.package import read_manifest_json
from aot_runtime.errors import ExportError
from aot_runtime.export import export_model
from aot_runtime.golden import tensor_sha256
from aot_runtime.manifest import CheckpointInfo, DynamicDim, Manifest
from aot_runtime.parity import Tolerance


def test_the_manifest_of_an_export(tiny_artifact: tuple[Path, Manifest]) -> None:
    path, manifest = tiny_artifact
    assert Manifest.from_json(read_manifest_json(path)) == manifest
    assert [(s.name, s.dtype, s.shape, s.meaning, s.unit) for s in manifest.inputs] == [
        ("events", "float32", ("n", 4), "x/W, y/H, k/T, p", "1"),
        ("scale", "float32", (8,), "", ""),
    ]
    # The network returns a dict in another order: outputs are taken by name.
    assert [(s.name, s.dtype, s.shape, s.unit) for s in manifest.outputs] == [
        ("features", "float32", ("n", 8), "1"),
        ("total", "float32", (4,), "px"),
    ]
    assert manifest.dims == (DynamicDim("n", 0, 100),)
    assert manifest.precision == "fp32"
    assert manifest.preprocessing == {"bin_us": 1000}
    assert manifest.checkpoint == CheckpointInfo("tiny.pth", "ab" * 32, "MIT")
    assert manifest.rebuild_command == ("export_tiny", "--output-name", "tiny.pt2")
    assert manifest.target.device == "cpu"
    assert manifest.target.torch == torch.__version__
    assert manifest.golden.inputs[0].shape == (16, 4)
    assert [parity.name for parity in manifest.parity] == ["features", "total"]
    assert all(parity.max_abs <= parity.tolerance for parity in manifest.parity)


def test_the_golden_is_what_eager_computes(tiny_artifact: tuple[Path, Manifest], tiny_network: Any) -> None:
    from aot_runtime import golden as goldens

    _, manifest = tiny_artifact
    inputs = goldens.make_inputs(
        manifest.golden.inputs, {"events": "float32", "scale": "float32"}, manifest.golden.seed
    )
    with torch.no_grad():
        eager = tiny_network(inputs["events"], inputs["scale"])
    assert goldens.compare(manifest.golden, eager) is None
    for index, record in enumerate(manifest.golden.outputs):
        assert list(record.values) == goldens.sampled_values(eager[record.name], manifest.golden.seed, index).tolist()


def test_nothing_but_the_artifact_is_left(tiny_artifact: tuple[Path, Manifest]) -> None:
    path, _ = tiny_artifact
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.pt2"]
    assert not path.stat().st_mode & 0o002


class Half(torch.nn.Module):
    """Casts its input itself, keeps its last layer in float32."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body, self.head = torch.nn.Linear(16, 16), torch.nn.Linear(16, 4)

    def cast_precision(self, dtype: torch.dtype) -> None:
        self.body.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.body(x.to(self.body.weight.dtype)))
        return self.head(hidden.float())


def test_bf16_with_a_float32_island(tmp_path: Path) -> None:
    from aot_runtime.compiled_model import load_model

    module = Half()
    manifest = export_model(
        module,
        {"x": torch.zeros(32, 16)},
        path=tmp_path / "h.pt2",
        family="half",
        variant="v1",
        task="test",
        outputs=[("y", "", "")],
        checkpoint=CheckpointInfo.random(5),
        precision="bf16",
        progress=False,
    )
    assert module.body.weight.dtype == torch.bfloat16
    assert module.head.weight.dtype == torch.float32
    assert manifest.precision == "bf16"
    assert manifest.inputs[0].dtype == "float32"
    assert manifest.parity[0].cosine is not None
    assert manifest.parity[0].cosine > 0.999
    x = torch.rand(32, 16)
    with load_model(tmp_path / "h.pt2") as model, torch.no_grad():
        assert model.verdict.random_weights
        assert torch.allclose(model.run(x=x)["y"], module(x), atol=0.02)


class FakeRunner:
    """Stands for the compiled network: eager plus an error."""

    network: Any = None
    error = 0.0

    def __init__(self, *_: Any) -> None:
        pass

    def run(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        out = type(self).network(*inputs)
        return [out["features"] + type(self).error, out["total"]]


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch, tiny_network: Any) -> type[FakeRunner]:
    """Replaces the compiler by a zip with metadata, and the loader by FakeRunner."""

    def compile_program(program: Any, path: Path, configs: Any = None) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/data/aotinductor/model/a.wrapper_metadata.json", json.dumps({"AOTI_CPU_ISA": "AVX2"}))

    class Runner(FakeRunner):
        network = tiny_network

    monkeypatch.setattr(aoti, "compile_program", compile_program)
    monkeypatch.setattr(aoti, "AotiRunner", Runner)
    return Runner


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_failed_parity_leaves_what_was_there(
    fake_compiler: type[FakeRunner], tmp_path: Path, tiny_network: Any, export_arguments: dict[str, Any], error: float
) -> None:
    path = tmp_path / "tiny.pt2"
    path.write_bytes(b"the previous artifact")
    fake_compiler.error = error
    words = "NaN or infinite" if error != error else r"within 0\.000\d+ of eager, found max abs error 0\.01"
    with pytest.raises(ExportError, match=rf"compiled output features.*{words}"):
        export_model(tiny_network, path=path, **export_arguments)
    assert path.read_bytes() == b"the previous artifact"
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.pt2"]


def test_a_larger_tolerance_is_accepted_and_recorded(
    fake_compiler: type[FakeRunner], tmp_path: Path, tiny_network: Any, export_arguments: dict[str, Any]
) -> None:
    fake_compiler.error = 0.01
    tolerances = {"features": Tolerance(0.1, 0.0)}
    manifest = export_model(tiny_network, path=tmp_path / "t.pt2", **{**export_arguments, "tolerances": tolerances})
    assert manifest.parity[0].max_abs == pytest.approx(0.01, abs=1e-6)
    assert manifest.golden.outputs[0].tolerance == manifest.parity[0].tolerance == 0.1
    assert manifest.golden.outputs[0].sha256 != tensor_sha256(torch.zeros(1))
    assert manifest.target.cpu_isa == "AVX2"


def test_a_network_with_nan_weights_is_refused_before_compiling(
    tmp_path: Path, export_arguments: dict[str, Any], tiny_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import copy

    monkeypatch.setattr(aoti, "compile_program", None)
    broken = copy.deepcopy(tiny_network)
    with torch.no_grad():
        broken.layer.weight[0, 0] = float("nan")
    with pytest.raises(ExportError, match="finite numbers in eager output features, found 16 of 128 elements NaN"):
        export_model(broken, path=tmp_path / "t.pt2", **export_arguments)
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler(
    tmp_path: Path, export_arguments: dict[str, Any], tiny_network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ExportError) as caught:
        export_model(tiny_network, path=tmp_path / "t.pt2", **export_arguments)
    assert caught.value.reason == "expected a C++ compiler (g++) on PATH, found none"
    assert "sudo apt install g++" in caught.value.remedy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "int8"}, "expected precision fp32, fp16, bf16, found 'int8'"),
        ({"example_inputs": {}}, "one or more example inputs, found none"),
        ({"outputs": [("a", "", ""), ("a", "", "")]}, "outputs of different names"),
        (
            {"outputs": [("features", "", "")], "dynamic_dims": {"x": {0: DynamicDim("n", 0, 9)}}},
            "dynamic dims of inputs",
        ),
        ({"dynamic_dims": {"events": {0: DynamicDim("n", 0, 9)}}}, r"axis 0 in 0 .. 9 \(n\), found shape \(16, 4\)"),
        ({"dynamic_dims": {"events": {2: DynamicDim("n", 0, 99)}}}, "axis 2"),
        ({"golden_laws": {"y": {}}}, r"golden laws of inputs .* found \['y'\]"),
        ({"check_sizes": [{"m": 3}]}, r"sizes of dynamic dims \['n'\], found \['m'\]"),
        ({"device": "cuda:99"}, "expected CUDA device 99, found"),
        ({"outputs": [("features", "", ""), ("other", "", "")]}, "expected the network to run .* KeyError"),
    ],
)
def test_wrong_arguments_are_named(
    fake_compiler: type[FakeRunner],
    tmp_path: Path,
    tiny_network: Any,
    export_arguments: dict[str, Any],
    change: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(ExportError, match=words):
        export_model(tiny_network, path=tmp_path / "t.pt2", **{**export_arguments, **change})
    assert list(tmp_path.iterdir()) == []


def test_an_integer_input_needs_a_law(tmp_path: Path, export_arguments: dict[str, Any], tiny_network: Any) -> None:
    inputs = {"events": torch.zeros(16, 4), "scale": torch.ones(8, dtype=torch.int64)}
    with pytest.raises(ExportError, match="a golden law for the int64 input scale, found none"):
        export_model(
            tiny_network,
            path=tmp_path / "t.pt2",
            **{**export_arguments, "example_inputs": inputs, "golden_laws": {}},
        )


class DataDependent(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if float(x.sum()) > 0 else x - 1


def test_what_torch_export_refuses(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"expected a network that torch.export accepts, found"):
        export_model(
            DataDependent(),
            {"x": torch.zeros(3)},
            path=tmp_path / "t.pt2",
            family="f",
            variant="v",
            task="t",
            outputs=[("y", "", "")],
            checkpoint=CheckpointInfo.random(0),
            progress=False,
        )


def test_an_unknown_inductor_option_is_an_export_error(
    tmp_path: Path, export_arguments: dict[str, Any], tiny_network: Any
) -> None:
    with pytest.raises(ExportError, match=r"AOTInductor to compile the network, found .*no_such_option"):
        export_model(tiny_network, path=tmp_path / "t.pt2", **export_arguments, inductor_configs={"no_such_option": 1})
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys, torch
from aot_runtime.export import export_model
from aot_runtime.manifest import CheckpointInfo
export_model(torch.nn.Conv2d(3, 5, 3), {"x": torch.zeros(1, 3, 17, 19)}, path=sys.argv[1], family="f", variant="v",
             task="t", outputs=[("y", "", "")], checkpoint=CheckpointInfo.random(0))
"""


def test_a_killed_export_leaves_no_artifact(tmp_path: Path) -> None:
    folder, scratch = tmp_path / "out", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    root = Path(__file__).resolve().parents[2]
    # A cache of its own, so that the compile really runs and is killed half-way.
    environment = {**os.environ, "TMPDIR": str(scratch), "TORCHINDUCTOR_CACHE_DIR": str(scratch / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", SCRIPT, str(folder / "a.pt2")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stderr is not None
        steps = []
        for line in process.stderr:
            steps.append(line)
            if "torch.export: done" in line:
                break
        os.killpg(process.pid, signal.SIGKILL)
    assert steps
    assert "[2/5] torch.export: done" in steps[-1], steps
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("library", "accepted"), [(b"\0libc.so.6\0", False), (b"\0libc.so.6\0libstdc++.so.6\0", True)])
def test_a_library_with_a_runtime_of_its_own_is_refused(tmp_path: Path, library: bytes, accepted: bool) -> None:
    """Loading it would end the process; seen with a compiler outside the system's folders, named by CXX."""
    path = tmp_path / "compiled.pt2"
    # The name lies across the border of two blocks that are read.
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("model/data/model.wrapper.so", bytes((1 << 24) - len(library) + 4) + library + bytes(100))
        package.writestr("model/data/metadata.json", "{}")
    if accepted:
        aoti._require_shared_runtime(path)
        return
    with pytest.raises(
        ExportError, match=r"links the C.. runtime as a shared library, found .*model.wrapper.so"
    ) as caught:
        aoti._require_shared_runtime(path)
    assert "export CXX=" in caught.value.remedy
