# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines of the four ALIKED networks, built on this CPU for GPUs that are not here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kept_artifacts import cached
from picture_engine import RTX, host, needs_tensorrt_rtx

from aliked_ros import export_aliked
from aot_runtime.backends import engine_file
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.inspect import main as inspect_artifact
from aot_runtime.verdict import judge, read_manifest

VARIANTS = ("t16", "n16", "n16rot", "n32")
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
SIZE = {"height": 64, "width": 96, "top_k": 50}
SOURCES = (
    *(f"aot_runtime/{name}.py" for name in ("engine", "engine_checks", "engine_graph", "manifest", "keypoints")),
    *(f"aot_runtime/backends/{name}.py" for name in ("engine_file", "tensorrt", "tensorrt_build")),
)

Engine = Callable[..., Path]


@pytest.fixture(scope="session")
def aliked_engine(aliked_artifact: Callable[..., Path], artifact_cache: Path) -> Engine:
    """The engine of a network, built once and kept: its name holds what it is built from and with; read-only."""

    def get(variant: str, precision: str = "fp16", target: str = "sm_89") -> Path:
        source = aliked_artifact(variant, suffix=".onnx", precision=precision, **SIZE)
        command = ["export_aliked", "-m", variant, "--target", target]
        return cached(
            artifact_cache,
            f"aliked_{variant}_{precision}_{target}",
            ".engine",
            (*SOURCES, str(source)),
            lambda path: build_engine(
                source, path, options=EngineOptions(target=target), rebuild_command=command, progress=False
            ),
            asked=RTX,
            good=lambda path: judge(path, "cuda", host=host_of(target)).ok,
        )

    return get


def host_of(target: str, **changes: Any) -> Any:
    """A machine with one GPU: "sm_120" -> compute capability 12.0."""
    number = target.removeprefix("sm_")
    return host(compute_capabilities=(f"{number[:-1]}.{number[-1]}",), **changes)


@needs_tensorrt_rtx
@pytest.mark.parametrize(
    ("variant", "precision", "target"),
    # fp32 once a network, for one GPU each, to save time.
    [(variant, "fp16", target) for variant in VARIANTS for target in TARGETS]
    + [(variant, "fp32", target) for variant, target in zip(VARIANTS, TARGETS)],
)
def test_every_network_becomes_an_engine_for_every_gpu(
    variant: str, precision: str, target: str, aliked_engine: Engine
) -> None:
    """The parser takes every node of the graph: none is left to a plugin or unsupported."""
    path = aliked_engine(variant, precision, target)
    verdict = judge(path, "cuda", host=host_of(target))
    assert (verdict.kind, verdict.code) == ("OK", "OK")
    manifest = read_manifest(path)
    assert (manifest.family, manifest.variant, manifest.precision) == ("aliked", f"aliked-{variant}", precision)
    assert (manifest.target.device_name, manifest.target.runtime) == (target, "tensorrt_rtx")
    assert manifest.target.runtime_version == RTX
    assert manifest.parity_of == "onnx"
    assert manifest.inputs[0].shape == (1, 64, 96, 3)
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    dim = 64 if variant == "t16" else 128
    assert shapes["keypoints"] == (1, 50, 2)
    assert shapes["descriptors"] == (1, 50, dim)
    assert {spec.dtype for spec in manifest.outputs} == {"float32"}
    # The self-test looks at sums; points in another order must not fail it.
    tolerances = {item.name: item.tolerance for item in manifest.golden.outputs}
    assert tolerances["keypoints"] == 96
    assert tolerances["checks"] < (5e-3 if precision == "fp32" else 2e-2)
    assert manifest.preprocessing["top_k"] == 50


@needs_tensorrt_rtx
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_graph_avoids_what_tensorrt_reads_otherwise(variant: str, aliked_artifact: Callable[..., Path]) -> None:
    """Newer spellings of GridSample are taken for nearest; DeformConv needs a plugin that TensorRT-RTX lacks."""
    import onnx

    for precision in ("fp32", "fp16"):
        model = onnx.load(aliked_artifact(variant, suffix=".onnx", precision=precision, **SIZE))
        kinds = {node.op_type for node in model.graph.node}
        assert not kinds & {"GridSample", "DeformConv", "NonZero", "If", "Loop", "Scan"}
        assert {item.domain for item in model.opset_import} == {""}
        types = {tensor.data_type for tensor in model.graph.initializer}
        assert (onnx.TensorProto.FLOAT16 in types) == (precision == "fp16")


@pytest.fixture
def own_engine(aliked_engine: Engine, tmp_path: Path) -> Path:
    """A copy of n16rot's engine for sm_89, to be spoiled."""
    source = aliked_engine("n16rot")
    for file in (source, engine_file.manifest_path(source)):
        shutil.copy(file, tmp_path / file.name.replace(source.stem, "own"))
    return tmp_path / "own.engine"


REBUILD = "rebuild it on this machine: export_aliked -m n16rot --target sm_89"


def edit(path: Path, **target: str) -> None:
    """Change the manifest's target."""
    beside = engine_file.manifest_path(path)
    document = json.loads(beside.read_text())
    document["target"].update(target)
    beside.write_text(json.dumps(document))


@needs_tensorrt_rtx
def test_one_byte_another_gpu_another_version(own_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verdict(**changes: Any) -> tuple[str, str, str]:
        found = judge(own_engine, "cuda", host=host_of("sm_89", **changes))
        return found.kind, found.code, found.remedy

    assert verdict()[:2] == ("OK", "OK")
    here = read_manifest(own_engine).target.machine
    edit(own_engine, compute_capability="8.6")
    assert verdict() == ("REBUILD", "COMPUTE_CAPABILITY", REBUILD)
    edit(own_engine, compute_capability="8.9", runtime_version="1.2.0.54")
    assert verdict() == ("REBUILD", "RUNTIME_VERSION", REBUILD)
    edit(own_engine, runtime_version=RTX)
    assert verdict(tensorrt_rtx="9.9.9.9") == ("REBUILD", "RUNTIME_VERSION", REBUILD)
    assert verdict(tensorrt_rtx="")[:2] == ("REBUILD", "RUNTIME_MISSING")
    edit(own_engine, machine="riscv64")
    assert verdict() == ("REBUILD", "MACHINE", REBUILD)
    edit(own_engine, machine=here)
    assert verdict()[:2] == ("OK", "OK")
    content = bytearray(own_engine.read_bytes())
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        own_engine.write_bytes(changed)
        assert verdict() == ("REBUILD", "DAMAGED", REBUILD)
    assert inspect_artifact([str(own_engine)]) == 1
    printed = capsys.readouterr().out
    assert "REBUILD DAMAGED" in printed
    assert "the ONNX file against eager at export; the engine is not measured" in printed


# The command.


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small export into an empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    return ["-m", "t16", "--random-weights", "--height", "48", "--width", "64", "--top_k", "20"]


@needs_tensorrt_rtx
def test_the_command_builds_an_engine(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A build needs no GPU, and where the target's is not here there is nothing to measure.
    options = ["--format", "engine", "--target", "sm_120", "--keep-onnx", "kept.onnx", "--workspace-gb", "0.5"]
    options += ["--opt-level", "1", "--device", "cpu"]
    assert export_aliked.main([*command, *options]) == 0
    told = capsys.readouterr()
    path = tmp_path / "aliked-t16_64x48_k20.engine"
    assert f"wrote {path.name} (" in told.out
    if not torch.cuda.is_available():
        assert "note: not measured here: " in told.err
    manifest = read_manifest(path)
    # By default engines are fp16: they are for a GPU.
    assert (manifest.precision, manifest.target.device_name) == ("fp16", "sm_120")
    assert manifest.rebuild_command == ("export_aliked", *command, *options)
    assert read_manifest(tmp_path / "kept.onnx").precision == "fp16"
    verdict = judge(path, "cuda", host=host_of("sm_120"))
    assert (verdict.kind, verdict.code) == ("OK", "RANDOM_WEIGHTS")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "sm_89"], "expected --target for engines only, found it for aliked-t16_64x48_k20.pt2"),
        (["--format", "onnx", "--workspace-gb", "1"], "expected --workspace-gb for engines only"),
        (["--format", "onnx", "--keep-onnx", "a.onnx"], "expected --keep-onnx for engines only"),
        (["--format", "engine", "--target", "sm89x"], "expected a target such as sm_89, found 'sm89x'"),
        (["--format", "engine", "--target", "sm_89", "--workspace-gb", "0"], "expected --workspace-gb > 0, found 0"),
    ],
)
def test_options_of_engines_are_checked(
    command: list[str], arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export_aliked.main([*command, *arguments]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not [entry.name for entry in tmp_path.iterdir() if entry.suffix in (".pt2", ".onnx", ".engine")]


@pytest.mark.parametrize("arguments", [["--precision", "int8"], ["--precision", "bf16"], ["--calib-data", "x"]])
def test_precisions_that_aliked_has_not(
    command: list[str], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export_aliked.main([*command, "--format", "engine", *arguments])
    assert arguments[0] in capsys.readouterr().err
