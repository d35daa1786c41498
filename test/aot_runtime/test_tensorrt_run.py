# SPDX-License-Identifier: Apache-2.0
"""The runner of engines against a stand-in for TensorRT's runtime, and the API over TensorRT's versions."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from picture_engine import RTX, needs_tensorrt_rtx

from aot_runtime.backends import tensorrt
from aot_runtime.backends.tensorrt_run import EngineRejected, TensorRtRunner
from aot_runtime.compiled_model import load_model
from aot_runtime.errors import ArtifactError, ExportError
from aot_runtime.manifest import Manifest
from aot_runtime.verdict import VerdictError, rejected_verdict

pytestmark = needs_tensorrt_rtx


class FakeContext:
    """Computes y = 2 x + 1 (any shape) and total = sum(x), reading and writing the addresses it is given."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= 100

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.engine.data_dependent:
            return (-1,)
        return self.shapes["x"] if name == "y" else (1,)

    def set_tensor_address(self, name: str, address: int) -> None:
        assert address
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.fails:
            self.engine.log.messages.append("Cuda Runtime (an illegal memory access was encountered)")
            return False
        count = int(np.prod(self.shapes["x"]))

        def view(name: str, size: int) -> Any:
            return np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name]))

        if count:
            view("y", count)[:] = 2 * view("x", count) + 1
        view("total", 1)[:] = view("x", count).sum() if count else 0.0
        return True


class FakeEngine:
    data_dependent = False
    fails = False
    # TensorRT lists tensors in an order of its own.
    tensors = (("total", "OUT", "FLOAT"), ("x", "IN", "FLOAT"), ("y", "OUT", "FLOAT"))

    def __init__(self, log: Any) -> None:
        self.log = log
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index][0]

    def get_tensor_mode(self, name: str) -> str:
        return next(tensor[1] for tensor in self.tensors if tensor[0] == name)

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=next(tensor[2] for tensor in self.tensors if tensor[0] == name))

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


def fake_library(kind: type[FakeEngine] = FakeEngine) -> tensorrt.TensorRt:
    log = SimpleNamespace(messages=[])

    class Runtime:
        def __init__(self, given: Any) -> None:
            assert given is log

        def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
            if data != b"good":
                log.messages.append("Serialization assertion magicTagRead == kMAGIC_TAG failed")
                return None
            return kind(log)

    module = SimpleNamespace(Runtime=Runtime, TensorIOMode=SimpleNamespace(INPUT="IN", OUTPUT="OUT"))
    return tensorrt.TensorRt("tensorrt_rtx", module, RTX, log)


@pytest.fixture
def fake_manifest(plain_manifest: dict[str, Any]) -> Manifest:
    """x (n, 4) -> y (n, 4), total (1)."""
    plain_manifest["outputs"] = [
        {"name": "y", "dtype": "float32", "shape": ["n", 4]},
        {"name": "total", "dtype": "float32", "shape": [1]},
    ]
    record = plain_manifest["golden"]["outputs"][0]
    plain_manifest["golden"]["outputs"] = [
        {**record, "shape": [3, 4]},
        {**record, "name": "total", "shape": [1]},
    ]
    return Manifest.from_json(json.dumps(plain_manifest))


def runner(
    manifest: Manifest, folder: Path, kind: type[FakeEngine] = FakeEngine, data: bytes = b"good"
) -> TensorRtRunner:
    path = folder / "f.engine"
    path.write_bytes(data)
    return TensorRtRunner(path, manifest, library=fake_library(kind), device="cpu", num_runners=2)


def test_tensors_are_bound_by_name_and_in_place(fake_manifest: Manifest, tmp_path: Path) -> None:
    loaded = runner(fake_manifest, tmp_path)
    for rows in (3, 1, 100, 0):
        x = torch.rand(rows, 4)
        y, total = loaded.run([x])
        assert torch.equal(y, 2 * x + 1)
        assert total.item() == pytest.approx(float(x.sum()), rel=1e-5)
    kept = y = loaded.run([torch.ones(2, 4)])[0]
    loaded.run([torch.zeros(2, 4)])
    assert torch.equal(kept, torch.full((2, 4), 3.0))


def test_what_tensorrt_refuses_is_told(fake_manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(EngineRejected, match=r"the engine rejected: Serialization .* in .*f\.engine") as caught:
        runner(fake_manifest, tmp_path, data=b"bad")
    verdict = rejected_verdict(fake_manifest, caught.value.reason)
    assert (verdict.kind, verdict.code) == ("REBUILD", "ENGINE_REJECTED")
    assert "export_tiny" in verdict.remedy

    class Other(FakeEngine):
        tensors = (("x", "IN", "HALF"), ("y", "OUT", "FLOAT"), ("total", "OUT", "FLOAT"))

    with pytest.raises(EngineRejected, match=r"found tensors input x float16, .* the manifest has input x float32"):
        runner(fake_manifest, tmp_path, Other)
    with pytest.raises(ArtifactError, match=r"found shape \(101, 4\) of input x refused"):
        runner(fake_manifest, tmp_path).run([torch.zeros(101, 4)])

    class Failing(FakeEngine):
        fails = True

    with pytest.raises(ArtifactError, match=r"that it did not start: Cuda Runtime .an illegal memory access"):
        runner(fake_manifest, tmp_path, Failing).run([torch.zeros(1, 4)])

    class Dependent(FakeEngine):
        data_dependent = True

    with pytest.raises(ArtifactError, match=r"output y of shape .-1,., whose size only its values tell"):
        runner(fake_manifest, tmp_path, Dependent).run([torch.zeros(1, 4)])


def test_load_model_runs_an_engine_and_tells_a_rejected_one(
    fake_manifest: Manifest, own_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the verdict to the runner, as on a machine that has the GPU; this one has none to load on."""
    from aot_runtime import compiled_model
    from aot_runtime.verdict import Verdict

    monkeypatch.setattr(compiled_model, "judge", lambda *_: Verdict("OK", "OK", "fine"))
    opened: list[tuple[Any, ...]] = []

    def refuse(*arguments: Any) -> None:
        opened.append(arguments)
        raise EngineRejected("expected an engine that tensorrt can load, found the engine rejected: magic", "")

    monkeypatch.setattr(compiled_model, "open_runner", refuse)
    with pytest.raises(VerdictError, match=r"REBUILD ENGINE_REJECTED: .*magic; rebuild it on this machine: "):
        load_model(own_engine, "cuda", num_runners=2)
    assert opened[0][2:5] == ("cuda", 0, 2)


def test_versions_and_targets() -> None:
    assert tensorrt.parse_target("sm_89") == "8.9"
    assert tensorrt.parse_target("sm120") == "12.0"
    assert tensorrt.target_name("12.0") == "sm_120"
    for wrong in ("89", "sm_", "sm_8", "sm_1200", "sm_89 "):
        with pytest.raises(ExportError, match="expected a target such as sm_89"):
            tensorrt.parse_target(wrong)
    with pytest.raises(ArtifactError, match="expected tensorrt or tensorrt_rtx, found 'tvm'"):
        tensorrt.load("tvm")
    library = tensorrt.load("tensorrt_rtx")
    assert library is tensorrt.load("tensorrt_rtx")
    assert library.version == RTX


def test_one_api_over_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 10.3 has the flag, plugins and no foreign targets; 11 has typed networks only."""
    called: list[str] = []
    flags = SimpleNamespace(STRONGLY_TYPED=1, EXPLICIT_BATCH=0)
    ten = SimpleNamespace(
        NetworkDefinitionCreationFlag=flags, init_libnvinfer_plugins=lambda log, space: called.append(space)
    )
    library = tensorrt.TensorRt("tensorrt", ten, "10.3.0", SimpleNamespace(messages=[]))
    assert library.network_flags() == 2
    library.init_plugins()
    assert called == [""]
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: (("Orin", "8.7"),))
    library.set_target(None, "8.7")
    with pytest.raises(ExportError, match=r"expected a GPU sm_89 to build for with TensorRT 10\.3\.0, found sm_87"):
        library.set_target(None, "8.9")
    assert tensorrt.own_target() == "8.7"
    eleven = tensorrt.TensorRt("tensorrt", SimpleNamespace(NetworkDefinitionCreationFlag=object()), "11.4.0", None)
    assert eleven.network_flags() == 0
    eleven.init_plugins()


def test_tensorrt_is_chosen_where_its_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(name: str) -> Any:
        asked.append(name)
        return name

    monkeypatch.setattr(tensorrt, "load", load)
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: (("Orin", "8.7"),))
    assert tensorrt.choose("8.7") == "tensorrt"
    assert tensorrt.choose("8.9") == "tensorrt_rtx"
    assert tensorrt.choose("8.7", "tensorrt_rtx") == "tensorrt_rtx"

    def absent(name: str) -> Any:
        raise ArtifactError(f"expected the Python package {name}")

    monkeypatch.setattr(tensorrt, "load", absent)
    with pytest.raises(ArtifactError, match="expected TensorRT with a GPU sm_87 here, or tensorrt_rtx, found neither"):
        tensorrt.choose("8.7")
