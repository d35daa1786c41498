# SPDX-License-Identifier: Apache-2.0
"""Depth Anything V2 in int8 and fp8: calibrated graphs in ONNX Runtime, and engines of them for a GPU not here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from picture_engine import RTX, host, needs_tensorrt_rtx

from aot_runtime.backends import quantise
from aot_runtime.backends.onnx import OnnxRunner
from aot_runtime.engine import EngineOptions, build_engine
from aot_runtime.errors import ExportError
from aot_runtime.verdict import judge, read_manifest
from depth_ros import export_dav2
from depth_ros.export_dav2 import RGB_MEAN, RGB_STD

PHOTOS = ("kitti_000100.png", "piazza_san_marco_1.jpg", "tum_1311868169.163498.png")
HELD_OUT = "piazza_san_marco_4.jpg"


@pytest.fixture(scope="session")
def photo(shared: Path) -> Callable[..., np.ndarray]:
    """photo(name, height, width): a real image as the network takes it, (1, 3, H, W)."""

    def read(name: str, height: int, width: int) -> np.ndarray:
        image = cv2.imread(str(shared / "data" / "images" / name))[:, :, ::-1]
        scaled = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA) / 255.0
        return ((scaled - RGB_MEAN) / RGB_STD).transpose(2, 0, 1)[None].astype(np.float32)

    return read


def test_int8_on_a_photo_it_was_not_calibrated_on(
    depth_artifact: Callable[..., Path], photo: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    """A network of 24 channels suffers more than a real one, see below for vits."""
    source = depth_artifact("dav2_swiglu_rgb", suffix=".onnx")
    samples = [{"image": photo(name, 42, 56)} for name in PHOTOS]
    quantise.quantise(source, tmp_path / "q.onnx", "int8", samples, tool="onnxruntime")
    inputs = [torch.from_numpy(photo(HELD_OUT, 42, 56))]
    exact, found = OnnxRunner(source).run(inputs)[0], OnnxRunner(tmp_path / "q.onnx").run(inputs)[0]
    # Root mean square of the error over that of the depth.
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.12


@needs_tensorrt_rtx
def test_an_engine_that_is_too_coarse_is_refused(depth_artifact: Callable[..., Path], tmp_path: Path) -> None:
    source = depth_artifact("dav2_metric20", suffix=".onnx")
    channels = read_manifest(source).inputs[0].shape[1]
    samples = [
        {"features": np.random.default_rng(seed).uniform(-1, 1, (1, channels, 42, 56)).astype(np.float32)}
        for seed in range(4)
    ]
    options = EngineOptions(target="sm_89", samples=samples, quantiser="onnxruntime")
    manifest = build_engine(source, tmp_path / "d.engine", "int8", options, progress=False)
    assert (manifest.precision, manifest.parity_of) == ("int8", "graph")
    assert 0.99 < (manifest.parity[0].cosine or 0) < 1
    assert judge(tmp_path / "d.engine", "cuda", host=host()).ok
    with pytest.raises(ExportError, match=r"compiled output depth of fp8 within .* found max abs error") as caught:
        build_engine(source, tmp_path / "e.engine", "fp8", options, progress=False)
    assert "--calib-data" in caught.value.remedy
    assert "--exclude NODE" in caught.value.remedy
    assert not (tmp_path / "e.engine").exists()


@needs_tensorrt_rtx
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_vits_by_the_command(
    photo: Callable[..., np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The encoder of the smallest official network at a small size; int8 is less than half as large as fp32."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in PHOTOS:
        np.save(folder / f"{name}.npy", photo(name, 56, 70))
    kept = tmp_path / "vits.onnx"
    command = ["-e", "vits", "-i", "3", "--height", "56", "--width", "70", "--random-weights", "--runs", "1"]
    command += ["--precision", "int8", "--target", "sm_89", "--quantiser", "onnxruntime", "--device", "cpu"]
    path = tmp_path / "vits.engine"
    command += ["-o", str(path), "--keep-onnx", str(kept), "--calib-batches", "3"]
    assert export_dav2.main([*command]) == 2
    assert "expected calibration data for int8, found none; give --calib-data" in capsys.readouterr().err
    assert export_dav2.main([*command, "--calib-data", str(folder)]) == 0
    manifest = read_manifest(path)
    assert (manifest.variant, manifest.precision, manifest.parity_of) == ("depth_anything_v2_vits", "int8", "graph")
    assert manifest.parity[0].max_rel < 0.1
    assert (manifest.parity[0].cosine or 0) > 0.999
    assert manifest.target.runtime_version == RTX
    verdict = judge(path, "cuda", host=host())
    assert (verdict.kind, verdict.code) == ("OK", "RANDOM_WEIGHTS")
    assert read_manifest(kept).precision == "fp32"
    assert path.stat().st_size < 0.45 * kept.stat().st_size
    # fp8 from the same ONNX file and folder.
    options: dict[str, Any] = {"calib_data": str(folder), "quantiser": "onnxruntime"}
    again = build_engine(kept, path, "fp8", EngineOptions(target="sm_120", **options), progress=False)
    assert (again.precision, again.target.device_name) == ("fp8", "sm_120")
    assert (again.parity[0].cosine or 0) > 0.995
    assert path.stat().st_size < 0.45 * kept.stat().st_size
