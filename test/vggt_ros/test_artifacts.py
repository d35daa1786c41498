# SPDX-License-Identifier: Apache-2.0
"""Compiled VGGT: packages, ONNX files and engines of the golden network, and of a small one where compiling is long."""

from __future__ import annotations

import copy
import importlib.util
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_engine import RTX, host, needs_tensorrt_rtx

from aot_runtime.compiled_model import load_model
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.errors import ArtifactError, ExportError, InputError
from aot_runtime.verdict import judge, read_manifest
from vggt_ros import calibration, quantise
from vggt_ros.deploy import DeployedVggt, Form
from vggt_ros.model.widened import Widened

CASE = "case_3x56x70"
SIZE = {"height": 56, "width": 70}
SMALL = {"height": 28, "width": 42, "cams": 2}
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


def assert_golden(golden: Any, found: dict[str, Any], tolerance: float = 2e-5) -> None:
    for name in ("pose_enc", "depth", "depth_conf"):
        np.testing.assert_allclose(found[name].numpy(), golden.expected(CASE, name), rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_static(suffix: str, vggt_artifact: Callable[..., Path], vggt_golden: Any) -> None:
    path = vggt_artifact(suffix, cams=3, **SIZE)
    with load_model(path, "cpu") as model:
        assert_golden(vggt_golden, model.run(images=vggt_golden.images(CASE)))
        with pytest.raises(InputError, match="images"):
            model.run(images=vggt_golden.images(CASE)[:2])
    manifest = read_manifest(path)
    assert manifest.preprocessing["cams"] == [3, 3]
    assert manifest.preprocessing["pcd_only"] is True
    assert manifest.checkpoint.licence == "VGGT License (non-commercial)"
    assert [spec.name for spec in manifest.outputs] == ["pose_enc", "depth", "depth_conf"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_any_number_of_cameras(suffix: str, vggt_artifact: Callable[..., Path], vggt_golden: Any) -> None:
    """One artifact equals eager with 1 to 8 cameras, and the official outputs with the golden's three."""
    path = vggt_artifact(suffix, cams=(1, 8), **SIZE)
    eager = DeployedVggt(vggt_golden.model(points=False), 56, 70)
    frames = torch.rand(8, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    with load_model(path, "cpu") as model, torch.no_grad():
        assert_golden(vggt_golden, model.run(images=vggt_golden.images(CASE)))
        for cams in range(1, 9):
            wanted, found = eager(frames[:cams]), model.run(images=frames[:cams])
            for name, value in wanted.items():
                torch.testing.assert_close(found[name], value, rtol=0, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
        with pytest.raises(InputError, match="cams"):
            model.run(images=torch.rand(9, 3, 56, 70))


@needs_tensorrt_rtx
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("cams", [2, (1, 8)])
def test_engine(cams: Any, vggt_artifact: Callable[..., Path]) -> None:
    """The whole network, cast with its islands in float32, becomes an engine for a GPU that is not here."""
    path = vggt_artifact(".engine", small=True, target="sm_89", precision="fp16", **{**SMALL, "cams": cams})
    manifest = read_manifest(path)
    assert (manifest.precision, manifest.target.compute_capability) == ("fp16", "8.9")
    assert manifest.parity_of == "onnx"
    assert [(dim.name, dim.min, dim.max) for dim in manifest.dims] == ([] if cams == 2 else [("cams", 1, 8)])
    assert judge(path, "cuda", host=host()).ok
    assert (manifest.target.runtime, manifest.target.runtime_version) == ("tensorrt_rtx", RTX)


# Measured, of a depth around 1: int8 0.018, fp8 0.034.
@needs_tensorrt_rtx
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("precision", "error"), [("bf16", 3e-3), ("int8", 3e-2), ("fp8", 6e-2)])
def test_engines_in_few_bits(
    precision: str, error: float, vggt_artifact: Callable[..., Path], shared: Path, tmp_path: Path
) -> None:
    """Ranges are measured on pictures; the graph is compared with float32, and engines are built of it."""
    source = vggt_artifact(".onnx", small=True, **SMALL)
    samples = calibration.draw(shared / "data" / "multiview" / "kitchen", 2, 28, 42)
    options = EngineOptions(target="sm_89", samples=samples, quantiser="onnxruntime")
    manifest = build_engine(source, tmp_path / "v.engine", precision, options, progress=False)
    assert (manifest.precision, manifest.parity_of) == (precision, "graph")
    found = {item.name: item.max_abs for item in manifest.parity}
    assert 0 < found["depth"] < error
    assert judge(tmp_path / "v.engine", "cuda", host=host()).ok


@needs_torchao
@pytest.mark.parametrize(
    ("mode", "kind", "error"),
    [
        ("int8-weight-only", torch.int8, 2e-3),
        ("int8-dynamic", torch.int8, 2e-3),
        ("fp8", torch.float8_e4m3fn, 1e-2),
    ],
)
def test_quantised_weights_are_what_is_exported(mode: str, kind: torch.dtype, error: float, small_network: Any) -> None:
    """Every linear layer of every block, and nothing else; and depth is nearly what it was."""
    images = torch.rand(2, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    deployed = DeployedVggt(small_network, 28, 42, form=Form(quantisation=mode))
    with torch.no_grad():
        exact = deployed(images)
        found = deployed.cast_precision(torch.float32)(images)
        # Casting again must not quantise what is quantised.
        again = deployed.cast_precision(torch.float32)(images)
        program = torch.export.export(deployed, (images,), strict=False)
    assert 0 < (found["depth"] - exact["depth"]).abs().max() < error
    assert torch.equal(again["depth"], found["depth"])
    products = {name for name, value in small_network.state_dict().items() if _is_block_product(name, value)}
    quantised = {name.removeprefix("network.") for name, value in program.state_dict.items() if _stores(value, kind)}
    assert len(products) == 4 * (2 * 4 + 1 + 1)
    if mode == "int8-dynamic":
        products = {name for name in products if not name.startswith("camera_head.")}
    assert quantised == products


@needs_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_8_bits_are_widened_where_products_are_those_of_16(dtype: torch.dtype) -> None:
    import torchao.quantization as torchao

    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 48).to(dtype)
    x = torch.randn(3, 5, 64).to(dtype)
    exact = plain(x)
    torchao.quantize_(plain, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    widened = Widened(plain)
    assert widened.qdata.dtype == torch.int8
    assert set(dict(widened.named_parameters())) == {"bias"}
    rounding = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(widened(x), plain(x), atol=rounding, rtol=rounding)
    assert 0 < (widened(x) - exact).abs().max() < 0.05


@needs_torchao
def test_a_network_of_widened_weights_computes_the_same(small_network: Any) -> None:
    """As it is exported for CUDA: 8 bits are stored, and who asks a layer for its dtype gets that of products."""
    images = torch.rand(2, 3, 28, 42, generator=torch.Generator().manual_seed(0))
    deployed = DeployedVggt(small_network, 28, 42, form=Form(quantisation="int8-weight-only"))
    with torch.no_grad():
        deployed.cast_precision(torch.bfloat16)
        expected = deployed(images)
        names = [name for name, part in deployed.network.named_modules() if _is_quantised(part)]
        quantise.widen(deployed.network, names)
        found = deployed(images)
        program = torch.export.export(deployed, (images,), strict=False)
    assert len(names) == 4 * (2 * 4 + 1 + 1)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=3e-2)
    stored = [value for name, value in program.state_dict.items() if name.endswith(".qdata")]
    assert len(stored) == len(names)
    assert {value.dtype for value in stored} == {torch.int8}


def _is_quantised(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Linear) and hasattr(part.weight, "qdata")


def _stores(value: Any, kind: torch.dtype) -> bool:
    """Whether a tensor subclass of torchao keeps its values in a dtype."""
    inner = getattr(value, "qdata", None)
    return inner is not None and inner.dtype == kind


@needs_torchao
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", ["int8-weight-only", "int8-dynamic"])
def test_a_quantised_package_is_smaller(mode: str, vggt_artifact: Callable[..., Path], small_network: Any) -> None:
    """The compiler does not undo it: three quarters of the bytes of the weights are gone, but for their scales."""
    # Without freezing, as the quantised ones: it packs weights for the CPU, which takes room too.
    plain = vggt_artifact(small=True, inductor_configs={"freezing": False}, **SMALL)
    path = vggt_artifact(small=True, form=Form(quantisation=mode), **SMALL)
    manifest = read_manifest(path)
    assert manifest.preprocessing["quantisation"] == mode
    assert manifest.preprocessing["quantiser"].startswith("torchao ")
    assert 0 < manifest.preprocessing["float32_error"]["depth"] < 2e-3
    products = [
        value
        for name, value in small_network.state_dict().items()
        if _is_block_product(name, value) and not (mode == "int8-dynamic" and name.startswith("camera_head."))
    ]
    weights = sum(value.numel() * 4 for value in products)
    saved = _constants(plain) - _constants(path)
    assert saved > 0.7 * weights, f"{saved} bytes saved of {weights}"


def _is_block_product(name: str, value: torch.Tensor) -> bool:
    inside = "blocks." in name or "trunk." in name
    return inside and value.dim() == 2 and name.endswith(".weight")


def _constants(path: Path) -> int:
    """Bytes of read-only data in the libraries of a package, which are its constants for the most."""
    total = 0
    with zipfile.ZipFile(path) as package:
        for info in package.infolist():
            if info.filename.endswith(".so"):
                total += sum(size for name, size in _sections(package.read(info)) if "rodata" in name)
    return total


def _sections(library: bytes) -> list[tuple[str, int]]:
    """(name, size) of the sections of a 64-bit little-endian ELF file."""
    (table,) = struct.unpack_from("<Q", library, 40)
    entry, count, names = struct.unpack_from("<HHH", library, 58)
    headers = [struct.unpack_from("<IIQQQQ", library, table + entry * i) for i in range(count)]
    start = headers[names][4]
    return [(library[start + h[0] : library.index(b"\0", start + h[0])].decode(), h[5]) for h in headers]


def test_refusals(small_network: Any, tmp_path: Path) -> None:
    from aot_runtime.manifest import CheckpointInfo
    from vggt_ros.artifact import export_vggt

    info = CheckpointInfo.random(3)
    path = tmp_path / "v.pt2"
    with pytest.raises(InputError, match="multiples of 14, found 30 x 42") as caught:
        export_vggt(small_network, path, checkpoint=info, height=30, width=42)
    assert "28 or 42" in caught.value.remedy
    for cams in (0, (0, 4), (4, 2), (3, 3)):
        with pytest.raises(InputError, match="one or more frames"):
            export_vggt(small_network, path, checkpoint=info, height=28, width=42, cams=cams)
    with pytest.raises(InputError, match=r"int8-dynamic for a \.pt2 only"):
        export_vggt(
            small_network,
            tmp_path / "v.onnx",
            checkpoint=info,
            height=28,
            width=42,
            form=Form(quantisation="int8-dynamic"),
        )
    for form in ({"heads": "fp8"}, {"stream": "bf16"}, {"patches": "unfold"}, {"quantisation": "nf4"}):
        with pytest.raises(InputError, match=f"expected {next(iter(form))} "):
            Form(**form)
    loud = copy.deepcopy(small_network)
    with torch.no_grad():
        loud.aggregator.frame_blocks[1].mlp.fc1.weight.mul_(1e6)
    with pytest.raises(ExportError, match=r"range of float16 .* first in layer aggregator\.frame_blocks\.1\.mlp\.fc1"):
        export_vggt(loud, path, checkpoint=info, height=28, width=42, cams=2, precision="fp16")
    assert not path.exists()


def test_a_file_that_is_no_artifact_is_refused(vggt_golden: Any) -> None:
    with pytest.raises((ArtifactError, InputError)):
        load_model(vggt_golden.weights, "cpu")
