# SPDX-License-Identifier: Apache-2.0
"""An engine and its manifest as files: damage, other versions and GPUs, and two builds of one engine."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from picture_engine import host, needs_tensorrt_rtx

from aot_runtime.backends import engine_file
from aot_runtime.compiled_model import load_model
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.errors import ExportError
from aot_runtime.files import AllowList, sha256_file
from aot_runtime.manifest import Manifest
from aot_runtime.verdict import VerdictError, judge

pytestmark = needs_tensorrt_rtx

REBUILD = "rebuild it on this machine: build_engine picture.onnx --target sm_89"


def expect(path: Path, kind: str, code: str, *words: str, **changes: Any) -> None:
    verdict = judge(path, "cuda", host=host(**changes))
    assert (verdict.kind, verdict.code) == (kind, code), verdict
    for word in words:
        assert word in f"{verdict.reason}; {verdict.remedy}", verdict


def test_one_changed_byte(own_engine: Path) -> None:
    content = bytearray(own_engine.read_bytes())
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        own_engine.write_bytes(changed)
        expect(own_engine, "REBUILD", "DAMAGED", f"in {own_engine}", REBUILD)
    # Known to the allow-list, but not what the manifest is about.
    verdict = judge(own_engine, "cuda", AllowList(frozenset({sha256_file(own_engine)})), host=host())
    assert (verdict.kind, verdict.code) == ("REBUILD", "DAMAGED")
    with pytest.raises(VerdictError, match="REBUILD DAMAGED"):
        load_model(own_engine, "cuda")


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_truncated(own_engine: Path, keep: int) -> None:
    own_engine.write_bytes(own_engine.read_bytes()[:keep])
    expect(own_engine, "REBUILD", "DAMAGED", f"({own_engine.stat().st_size} bytes)", REBUILD)


def test_the_manifest_beside(own_engine: Path, engine: tuple[Path, Manifest]) -> None:
    beside = engine_file.manifest_path(own_engine)
    text = beside.read_text()
    expect(own_engine, "OK", "OK")
    beside.unlink()
    expect(own_engine, "REFUSE", "NO_MANIFEST", f"expected the manifest {beside}, found no such file", "build_engine")
    beside.write_bytes(b"\xff\xfe")
    expect(own_engine, "REFUSE", "NO_MANIFEST", "in UTF-8")
    beside.write_text("{")
    expect(own_engine, "REFUSE", "BAD_MANIFEST", "expected JSON")
    beside.write_text(text.replace('"family"', '"familie"'))
    expect(own_engine, "REFUSE", "BAD_MANIFEST", "familie")
    document = json.loads(text)
    del document["file_sha256"]
    beside.write_text(json.dumps(document))
    expect(own_engine, "REFUSE", "NO_MANIFEST", "file_sha256")
    beside.write_text(json.dumps({**json.loads(text), "schema_version": 2}))
    expect(own_engine, "REBUILD", "SCHEMA_VERSION")
    # The manifest of another engine.
    beside.write_text(json.dumps({**json.loads(text), "file_sha256": "ab" * 32}))
    expect(own_engine, "REBUILD", "DAMAGED", "expected the engine of SHA-256 abababababab", REBUILD)
    changed = dataclasses.replace(
        engine[1], target=dataclasses.replace(engine[1].target, runtime="", runtime_version="")
    )
    beside.write_text(changed.to_json())
    expect(own_engine, "REFUSE", "BAD_MANIFEST", "found one for runtime AOTInductor")
    beside.write_text(text)
    beside.chmod(0o666)
    expect(own_engine, "REFUSE", "WORLD_WRITABLE", f"{beside} writable")


def test_another_version_or_gpu(own_engine: Path) -> None:
    expect(own_engine, "REBUILD", "RUNTIME_VERSION", "tensorrt_rtx 1.2.0.54", REBUILD, tensorrt_rtx="1.2.0.54")
    expect(own_engine, "REBUILD", "RUNTIME_MISSING", "found no TensorRT installed", tensorrt_rtx="")
    expect(own_engine, "REBUILD", "COMPUTE_CAPABILITY", "compute capability 12.0", compute_capabilities=("12.0",))
    expect(own_engine, "REFUSE", "NO_DEVICE", compute_capabilities=())
    beside = engine_file.manifest_path(own_engine)
    beside.write_text(beside.read_text().replace('"8.9"', '"8.6"'))
    expect(own_engine, "REBUILD", "COMPUTE_CAPABILITY", "an artifact for compute capability 8.6", REBUILD)


def hold(path: str, seconds: float, ready: Any) -> None:
    with engine_file.build_lock(path):
        ready.set()
        time.sleep(seconds)


def hold_and_build(path: str, source: str, ready: Any) -> None:
    """Stands for a slow build: takes the lock, says so, waits, leaves the engine of a copy."""
    with engine_file.build_lock(path):
        ready.set()
        time.sleep(1.0)
        shutil.copy(f"{source}.json", f"{path}.json")
        shutil.copy(source, path)


@pytest.fixture
def other_process() -> Callable[..., Any]:
    """Starts a function in another process and waits until it is ready."""
    context = multiprocessing.get_context("fork")

    def start(function: Callable[..., None], *arguments: Any) -> Any:
        ready = context.Event()
        process = context.Process(target=function, args=(*arguments, ready))
        process.start()
        assert ready.wait(30)
        return process

    return start


def test_the_lock_is_held(picture_onnx: Path, tmp_path: Path, other_process: Callable[..., Any]) -> None:
    path = tmp_path / "p.engine"
    process = other_process(hold, str(path), 60.0)
    try:
        options = EngineOptions(target="sm_89", wait=False)
        with pytest.raises(ExportError, match=rf"to build .* alone, found process {process.pid} building it"):
            build_engine(picture_onnx, path, options=options, progress=False)
    finally:
        process.kill()
        process.join()
    # The kernel freed the lock of the dead.
    build_engine(picture_onnx, path, options=options, progress=False)


def test_the_engine_of_the_process_before_is_taken(
    engine: tuple[Path, Manifest], picture_onnx: Path, tmp_path: Path, other_process: Callable[..., Any]
) -> None:
    path = tmp_path / "p.engine"
    process = other_process(hold_and_build, str(path), str(engine[0]))
    manifest = build_engine(picture_onnx, path, options=EngineOptions(target="sm_89"), progress=False)
    process.join()
    assert manifest == engine[1]
    # Another GPU is asked for: what the other process left does not serve.
    process = other_process(hold_and_build, str(path), str(engine[0]))
    manifest = build_engine(picture_onnx, path, options=EngineOptions(target="sm_120"), progress=False)
    process.join()
    assert manifest.target.compute_capability == "12.0"
