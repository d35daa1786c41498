# SPDX-License-Identifier: Apache-2.0
"""`.onnx`: the container, the export and the runner."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aot_runtime.backends import onnx_file
from aot_runtime.backends.onnx import OnnxOptions, OnnxRunner
from aot_runtime.compiled_model import load_model
from aot_runtime.environment import Host
from aot_runtime.errors import ArtifactError, ExportError, InputError
from aot_runtime.export import export_model
from aot_runtime.manifest import METADATA_KEY, CheckpointInfo, DynamicDim, Manifest
from aot_runtime.verdict import VerdictError, judge, judge_with_manifest, read_manifest

HOST = Host(os="linux", machine="x86_64", cpu_flags=frozenset(), torch="", onnxruntime="1.31.1")


def bare_model() -> bytes:
    """y = x + 1 without a manifest."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10).SerializeToString()


@pytest.fixture
def make_onnx(tmp_path: Path, plain_manifest: dict[str, Any]) -> Callable[..., Path]:
    """An ONNX artifact around a manifest (text, or None for the plain one)."""

    def make(manifest: str | None = None, name: str = "m.onnx") -> Path:
        target = {**plain_manifest["target"], "runtime": "onnxruntime", "runtime_version": "1.31.1"}
        text = json.dumps({**plain_manifest, "target": target}) if manifest is None else manifest
        bare = tmp_path / "bare"
        bare.write_bytes(bare_model())
        onnx_file.write_with_manifest(bare, tmp_path / name, text)
        bare.unlink()
        return tmp_path / name

    return make


def code(path: Path, **arguments: Any) -> tuple[str, str]:
    verdict = judge(path, "cpu", host=HOST, **arguments)
    assert verdict.ok or (verdict.reason and verdict.remedy)
    return verdict.kind, verdict.code


def test_the_manifest_is_a_metadata_property_that_onnx_and_onnxruntime_read(make_onnx: Callable[..., Path]) -> None:
    path = make_onnx()
    assert code(path) == ("OK", "OK")
    properties = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert properties == onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert properties == onnx_file.read_properties(path)
    assert Manifest.from_json(properties[METADATA_KEY]) == read_manifest(path)
    content = path.read_bytes()
    # The last field's tag and length, then its key's.
    covered = content[: content.index(onnx_file.DIGEST_KEY.encode()) - 4]
    assert hashlib.sha256(covered).hexdigest() == properties[onnx_file.DIGEST_KEY]


def test_every_changed_byte_is_seen(make_onnx: Callable[..., Path]) -> None:
    path = make_onnx()
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        kind, _ = code(path)
        assert kind != "OK", position
    # A weight, without touching the structure.
    changed = bytearray(whole)
    changed[whole.index(b"\x00\x00\x80\x3f")] ^= 1
    path.write_bytes(changed)
    assert code(path) == ("REFUSE", "DAMAGED")
    assert code(path, check_bytes=False) == ("OK", "OK")


@pytest.mark.parametrize("keep", [0, 1, 30, -1, -40])
def test_truncated(make_onnx: Callable[..., Path], keep: int) -> None:
    path = make_onnx()
    path.write_bytes(path.read_bytes()[:keep])
    assert code(path) == ("REFUSE", "NOT_A_PACKAGE")


def test_other_files(tmp_path: Path, make_onnx: Callable[..., Path]) -> None:
    path = tmp_path / "a.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert code(path) == ("REFUSE", "NOT_A_PACKAGE")
    path.write_bytes(bare_model())
    assert code(path) == ("REFUSE", "NO_MANIFEST")
    path.write_bytes(make_onnx().read_bytes() + bare_model())
    assert code(path) == ("REFUSE", "DAMAGED")
    assert code(make_onnx("{")) == ("REFUSE", "BAD_MANIFEST")
    make_onnx().rename(tmp_path / "renamed.pt2")
    assert code(tmp_path / "renamed.pt2") == ("REFUSE", "NOT_A_PACKAGE")


def test_a_package_named_onnx(make_package: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    assert code(make_package(plain_manifest, "m.onnx"))[0] == "REFUSE"


def test_a_manifest_of_another_runtime(make_onnx: Callable[..., Path], plain_manifest: dict[str, Any]) -> None:
    verdict = judge(make_onnx(json.dumps({**plain_manifest})), "cpu", host=HOST)
    assert verdict.code == "BAD_MANIFEST"
    assert "expected a manifest for .onnx, found one for runtime AOTInductor" in verdict.reason


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bytes_get_a_verdict_and_nothing_else(make_onnx: Callable[..., Path], data: st.DataObject) -> None:
    path = make_onnx(name="fuzz.onnx")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        position = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "delete", "insert"]))
        if kind == "set":
            content[position] = data.draw(st.integers(0, 255))
        elif kind == "delete":
            del content[position : position + data.draw(st.integers(1, 40))]
        else:
            content[position:position] = data.draw(st.binary(min_size=1, max_size=40))
        if not content:
            break
    path.write_bytes(content)
    verdict, _ = judge_with_manifest(path)
    assert verdict.kind in ("OK", "REBUILD", "REFUSE")
    assert judge(path, "cpu", host=HOST, check_bytes=False).kind in ("OK", "REBUILD", "REFUSE")


@pytest.fixture(scope="session")
def tiny_onnx(
    tmp_path_factory: pytest.TempPathFactory, tiny_network: Any, export_arguments: dict[str, Any]
) -> tuple[Path, Manifest]:
    """The tiny network as ONNX; treat it as read-only."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return path, export_model(copy.deepcopy(tiny_network), path=path, **export_arguments)


def test_the_manifest_of_an_export(tiny_onnx: tuple[Path, Manifest], tiny_artifact: tuple[Path, Manifest]) -> None:
    path, manifest = tiny_onnx
    assert read_manifest(path) == manifest
    assert (manifest.target.runtime, manifest.target.runtime_version) == ("onnxruntime", onnxruntime.__version__)
    assert manifest.target.cpu_flags == ()
    package = tiny_artifact[1]
    for field in ("inputs", "outputs", "dims", "preprocessing", "checkpoint", "precision", "rebuild_command"):
        assert getattr(manifest, field) == getattr(package, field)
    assert [item.values for item in manifest.golden.outputs] == [item.values for item in package.golden.outputs]
    assert all(item.max_abs <= item.tolerance for item in manifest.parity)
    assert [entry.name for entry in path.parent.iterdir()] == ["tiny.onnx"]


def test_the_file_is_a_valid_model_with_our_names(tiny_onnx: tuple[Path, Manifest]) -> None:
    model = onnx.load(tiny_onnx[0])
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 19)]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"events": ["n", 4], "scale": [8], "features": ["n", 8], "total": [4]}


@pytest.mark.parametrize("n", [0, 1, 2, 16, 99, 100])
def test_the_same_numbers_as_eager_at_every_size(tiny_onnx: tuple[Path, Manifest], tiny_network: Any, n: int) -> None:
    events, scale = torch.rand(n, 4), torch.rand(8) + 0.5
    with load_model(tiny_onnx[0]) as model, torch.no_grad():
        outputs = model.run(events=events, scale=scale)
        eager = tiny_network(events, scale)
    assert list(outputs) == ["features", "total"]
    for name, tensor in outputs.items():
        assert torch.allclose(tensor, eager[name], atol=1e-5)


def test_inputs_are_checked_and_outputs_are_new(tiny_onnx: tuple[Path, Manifest]) -> None:
    with load_model(tiny_onnx[0], num_runners=2) as model:
        with pytest.raises(InputError, match="input events: expected shape"):
            model.run(events=torch.zeros(3, 5), scale=torch.ones(8))
        first = model.run(events=torch.ones(2, 4), scale=torch.ones(8))["total"]
        model.run(events=torch.zeros(2, 4), scale=torch.ones(8))
        assert first.tolist() == [2.0] * 4
        with pytest.raises(ArtifactError, match=r"expected a .pt2 or .engine to capture, found .*tiny.onnx"):
            model.capture_cuda_graph({"n": 4})


def test_the_self_test_refuses_other_numbers(tiny_onnx: tuple[Path, Manifest], tmp_path: Path) -> None:
    path, manifest = tiny_onnx
    text = manifest.to_json().replace('"seed": 20250101', '"seed": 7')
    assert text != manifest.to_json()
    bare = tmp_path / "bare"
    model = onnx.load(path)
    del model.metadata_props[:]
    bare.write_bytes(model.SerializeToString())
    onnx_file.write_with_manifest(bare, tmp_path / "w.onnx", text)
    with pytest.raises(VerdictError, match="REFUSE SELF_TEST_WRONG"):
        load_model(tmp_path / "w.onnx")


def test_providers(tiny_onnx: tuple[Path, Manifest], tiny_artifact: tuple[Path, Manifest]) -> None:
    load_model(tiny_onnx[0], onnx_providers=["CPUExecutionProvider"]).close()
    with pytest.raises(ArtifactError, match=r"expected onnxruntime with NoSuchProvider to run .*, found .*CPUExec"):
        load_model(tiny_onnx[0], onnx_providers=["NoSuchProvider"])
    with pytest.raises(ArtifactError, match=r"expected a .onnx file for onnx_providers, found .*tiny.pt2"):
        load_model(tiny_artifact[0], onnx_providers=["CPUExecutionProvider"])


def test_a_provider_that_does_not_start_is_an_error(
    tiny_onnx: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu without CUDA's libraries runs on the CPU, and says so on stderr only."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(ArtifactError, match=r"CUDAExecutionProvider"):
        OnnxRunner(tiny_onnx[0], providers=["CUDAExecutionProvider"])


def test_a_file_that_onnxruntime_rejects(tmp_path: Path, make_onnx: Callable[..., Path]) -> None:
    path = make_onnx()
    path.write_bytes(path.read_bytes().replace(b"Add", b"Adx"))
    with pytest.raises(ArtifactError, match=r"expected a model that onnxruntime .* can load, found .*m.onnx rejected"):
        OnnxRunner(path)


class Half(torch.nn.Module):
    """Convolution and product at the precision, the rest in float32, a size computed from the input's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.body, self.head = torch.nn.Conv1d(3, 64, 3, padding=1), torch.nn.Linear(64, 4)

    def cast_precision(self, dtype: torch.dtype) -> None:
        self.body.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.body(x.to(self.body.weight.dtype)))
        wide = torch.cat([hidden, hidden[..., :1]], -1).transpose(1, 2)
        return self.head(wide.float())


def export_half(path: Path, precision: str, **arguments: Any) -> Manifest:
    return export_model(
        Half(),
        {"x": torch.zeros(1, 3, 16)},
        path=path,
        family="half",
        variant="v1",
        task="test",
        outputs=[("y", "", "")],
        checkpoint=CheckpointInfo.random(5),
        precision=precision,
        dynamic_dims={"x": {2: DynamicDim("w", 2, 64)}},
        progress=False,
        **arguments,
    )


def test_fp16_with_a_float32_island_and_a_computed_size(tmp_path: Path) -> None:
    manifest = export_half(tmp_path / "h.onnx", "fp16")
    assert manifest.precision == "fp16"
    assert manifest.outputs[0].shape == (1, "y.1", 4)
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "h.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    x = torch.rand(1, 3, 30)
    with load_model(tmp_path / "h.onnx") as model, torch.no_grad():
        assert torch.allclose(model.run(x=x)["y"], Half()(x), atol=2e-3)


def test_bf16_that_the_opset_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"expected a valid ONNX model of opset 19, found .*bfloat16") as caught:
        export_half(tmp_path / "h.onnx", "bf16")
    assert "--precision fp32" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_large_weights_go_to_a_file_beside(tmp_path: Path) -> None:
    path = tmp_path / "h.onnx"
    options = OnnxOptions(max_inline_bytes=100)
    export_half(path, "fp32", onnx_options=options)
    weights = onnx_file.external_file(path)
    assert weights is not None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["h.onnx", weights.name]
    assert weights.name == f"h.onnx.{hashlib.sha256(weights.read_bytes()).hexdigest()[:12]}.data"
    x = torch.rand(1, 3, 30)
    with load_model(path) as model, torch.no_grad():
        assert torch.allclose(model.run(x=x)["y"], Half()(x), atol=1e-5)
    # Another export leaves no weights of the older one, and needs none if they fit inside.
    export_half(path, "fp16", onnx_options=options)
    second = onnx_file.external_file(path)
    assert second is not None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["h.onnx", second.name]
    assert second.name != weights.name
    content = bytearray(second.read_bytes())
    content[10] ^= 1
    second.write_bytes(content)
    assert code(path) == ("REFUSE", "DAMAGED")
    second.unlink()
    verdict = judge(path, "cpu", host=HOST)
    assert (verdict.kind, verdict.code) == ("REFUSE", "DAMAGED")
    assert f"found no file {second}" in verdict.reason
    export_half(path, "fp32")
    assert [entry.name for entry in tmp_path.iterdir()] == ["h.onnx"]


def test_a_simplified_graph_that_is_wrong_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch.onnx import ONNXProgram

    def spoil(program: ONNXProgram) -> None:
        # Reverses the order of a weight's bytes' consumer: relu becomes neg.
        for node in program.model.graph.all_nodes():
            if node.op_type == "Relu":
                node.op_type = "Neg"

    monkeypatch.setattr(ONNXProgram, "optimize", spoil)
    with caplog.at_level(logging.WARNING):
        manifest = export_half(tmp_path / "h.onnx", "fp32")
    assert "the simplified ONNX graph is left out: expected compiled output y within" in caplog.text
    assert manifest.parity[0].max_abs < 1e-5
    kinds = {node.op_type for node in onnx.load(tmp_path / "h.onnx").graph.node}
    assert "Relu" in kinds


def test_a_wrong_graph_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnnxRunner.run
    monkeypatch.setattr(OnnxRunner, "run", lambda self, inputs: [tensor + 0.1 for tensor in run(self, inputs)])
    path = tmp_path / "h.onnx"
    path.write_bytes(b"the previous artifact")
    with pytest.raises(ExportError, match=r"expected compiled output y within .* found max abs error 0.1"):
        export_half(path, "fp32")
    assert path.read_bytes() == b"the previous artifact"
    assert [entry.name for entry in tmp_path.iterdir()] == ["h.onnx"]


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ExportError, match="expected the Python package onnxscript to export ONNX") as caught:
        export_half(tmp_path / "h.onnx", "fp32")
    assert "pip install onnx onnxscript onnxruntime" in caught.value.remedy


def test_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ends in .pt2, .onnx, .engine, found .*h.trt"):
        export_half(tmp_path / "h.trt", "fp32")


class Inverse(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x)[1]


def test_an_operator_that_onnx_lacks(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"expected a network that torch\.onnx exports, found"):
        export_model(
            Inverse(),
            {"x": torch.zeros(3, 3)},
            path=tmp_path / "t.onnx",
            family="f",
            variant="v",
            task="t",
            outputs=[("y", "", "")],
            checkpoint=CheckpointInfo.random(0),
            progress=False,
        )
    assert list(tmp_path.iterdir()) == []
