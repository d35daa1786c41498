# SPDX-License-Identifier: Apache-2.0
"""Which of ONNX Runtime's execution providers an artifact runs on; a stand-in plays onnxruntime-gpu."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aot_runtime import verdict
from aot_runtime.backends import onnx as backend
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.backends.onnx_providers import CPU, CUDA, TENSORRT, choose_providers
from aot_runtime.environment import Host
from aot_runtime.errors import ArtifactError
from aot_runtime.manifest import Manifest
from aot_runtime.runner import open_runner

GPU_BUILD = [TENSORRT, CUDA, CPU]
ON_CPU = (CPU, {})
ON_CUDA = (CUDA, {"device_id": "1", "use_tf32": "0"})
ON_TENSORRT = (TENSORRT, {"device_id": "1"})


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ([CPU], [ON_CPU]),
        ([CUDA], [ON_CUDA, ON_CPU]),
        # Nodes that TensorRT does not have stay on the GPU.
        ([TENSORRT], [ON_TENSORRT, ON_CUDA, ON_CPU]),
        ([TENSORRT, CUDA], [ON_TENSORRT, ON_CUDA, ON_CPU]),
        ([TENSORRT, CPU, CUDA], [ON_TENSORRT, ON_CPU, ON_CUDA]),
    ],
)
def test_the_order(wanted: list[str], chosen: Any) -> None:
    assert choose_providers(wanted, 1, GPU_BUILD, "m.onnx") == chosen


def test_tensorrt_without_cuda() -> None:
    assert choose_providers([TENSORRT], 1, [TENSORRT, CPU], "m.onnx") == [ON_TENSORRT, ON_CPU]


class Session:
    """Keeps how it was made; starts every provider but those that are `broken`."""

    def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        self.providers = providers

    broken: tuple[str, ...] = ()

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers if name not in self.broken]

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """gpu_build(available, broken): an onnxruntime with these providers."""

    def install(available: list[str] = GPU_BUILD, broken: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(Session, "broken", broken)
        module = SimpleNamespace(get_available_providers=lambda: available, InferenceSession=Session, __version__="1")
        monkeypatch.setattr(backend, "_import_onnxruntime", lambda: module)
        monkeypatch.setattr(backend, "_session_options", lambda *_: None)

    return install


def providers(runner: OnnxRunner) -> list[str]:
    return [name for name, _ in runner._session.providers]


def test_the_device_chooses(gpu_build: Callable[..., None]) -> None:
    """TensorRT's is taken only where it is asked for: it builds engines for minutes when it starts."""
    gpu_build()
    assert providers(OnnxRunner("m.onnx", "cpu")) == [CPU]
    assert providers(OnnxRunner("m.onnx", "cuda", 1)) == [CUDA, CPU]
    assert OnnxRunner("m.onnx", "cuda", 1)._session.providers[0] == ON_CUDA
    assert providers(OnnxRunner("m.onnx", "cuda", providers=[TENSORRT])) == [TENSORRT, CUDA, CPU]


def test_an_onnxruntime_without_cuda(gpu_build: Callable[..., None]) -> None:
    gpu_build([CPU])
    with pytest.raises(ArtifactError, match=f"expected onnxruntime with {CUDA} to run m.onnx, found {CPU}") as caught:
        OnnxRunner("m.onnx", "cuda")
    assert caught.value.remedy == "install onnxruntime-gpu in place of onnxruntime, or load it with device cpu"
    with pytest.raises(ArtifactError, match="expected onnxruntime with Nonsense") as caught:
        OnnxRunner("m.onnx", "cpu", providers=["Nonsense"])
    assert caught.value.remedy == f"name one of {CPU}"


def test_a_provider_that_does_not_start(gpu_build: Callable[..., None]) -> None:
    gpu_build(broken=(CUDA,))
    with pytest.raises(ArtifactError, match=f"expected {CUDA} to run m.onnx, found that .* {CPU} would") as caught:
        OnnxRunner("m.onnx", "cuda")
    assert "CUDA and cuDNN" in caught.value.remedy
    gpu_build(broken=(TENSORRT,))
    with pytest.raises(ArtifactError, match=f"expected {TENSORRT} to run m.onnx, found that .* {CUDA} would"):
        OnnxRunner("m.onnx", "cuda", providers=[TENSORRT])


def test_from_the_verdict_to_the_provider(
    gpu_build: Callable[..., None], plain_manifest: dict[str, Any], tmp_path: Path
) -> None:
    """A machine without a GPU refuses before anything is loaded; one with a GPU needs the build for it."""
    target = {**plain_manifest["target"], "runtime": "onnxruntime", "runtime_version": "1.31.1"}
    manifest = Manifest.from_json(json.dumps({**plain_manifest, "target": target}))
    host = Host("linux", "x86_64", frozenset(), "", onnxruntime="1.31.1")
    found = verdict.judge_manifest(manifest, "cuda", host, "m.onnx")
    assert (found.kind, found.code) == ("REFUSE", "NO_DEVICE")
    assert "found 0 CUDA devices here (for m.onnx)" in found.reason
    host = Host("linux", "x86_64", frozenset(), "", onnxruntime="1.31.1", compute_capabilities=("8.9", "8.9"))
    assert verdict.judge_manifest(manifest, "cuda:1", host, "m.onnx").ok
    gpu_build()
    runner = open_runner(tmp_path / "m.onnx", manifest, "cuda", 1)
    assert isinstance(runner, OnnxRunner)
    assert runner._session.providers == [ON_CUDA, ON_CPU]
    runner = open_runner(tmp_path / "m.onnx", manifest, "cuda", 1, providers=[TENSORRT])
    assert isinstance(runner, OnnxRunner)
    assert runner._session.providers == [ON_TENSORRT, ON_CUDA, ON_CPU]
