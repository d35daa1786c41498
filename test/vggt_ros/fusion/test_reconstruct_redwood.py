# SPDX-License-Identifier: Apache-2.0
"""Command `reconstruct` on a depth camera's real frames (Redwood RGB-D): one camera that moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_artifacts import small_depth

from vggt_ros.reconstruct import main

_MATRIX = np.array([[262.5, 0, 159.75], [0, 262.5, 119.75], [0, 0, 1]])
"""Of every second pixel: u' = u / 2, from 525, 319.5, 239.5."""
_BOUND = 0.015
"""Metres, of the median; measured 0.0085 to 0.0092, the noise itself."""


@pytest.fixture(scope="module")
def frames(shared: Path) -> list[np.ndarray]:
    """Depth of five frames, (240, 320) metres, NaN where unknown."""
    folder = shared / "data" / "multiview" / "redwood_rgbd"
    raw = [cv2.imread(str(folder / f"{index:05d}_depth.png"), cv2.IMREAD_UNCHANGED)[::2, ::2] for index in range(5)]
    return [np.where(one > 0, one / 1000.0, np.nan).astype(np.float32) for one in raw]


@pytest.fixture
def reconstruct(shared: Path, frames: list[np.ndarray], tmp_path: Path) -> Callable[..., int]:
    """reconstruct(*arguments): bootstrap from the depth of frame 0, poses of all, images of half the size."""
    source = shared / "data" / "multiview" / "redwood_rgbd"
    (tmp_path / "images" / "cam").mkdir(parents=True)
    for index in range(5):
        image = cv2.imread(str(source / f"{index:05d}.jpg"))[::2, ::2]
        cv2.imwrite(str(tmp_path / "images" / "cam" / f"{index:05d}.png"), image)
    rows = [line.split() for line in (source / "trajectory.log").read_text().splitlines() if line.strip()]
    poses = [np.array(rows[5 * index + 1 : 5 * index + 5], np.float64) for index in range(5)]
    told = [{"camera": "cam", "frame": index, "matrix": pose.tolist()} for index, pose in enumerate(poses)]
    (tmp_path / "poses.json").write_text(json.dumps(told))
    (tmp_path / "intrinsics.yaml").write_text(f"cam: {_MATRIX.tolist()}\n")
    depth = frames[0][None]
    np.savez(tmp_path / "start.npz", names=["cam"], poses=[np.eye(4)], intrinsics=[_MATRIX], depth=0.5 * depth)
    np.savez(tmp_path / "metric.npz", cam=frames[0])

    def run(*more: str) -> int:
        command = ["--images", str(tmp_path / "images"), "--bootstrap", str(tmp_path / "start.npz")]
        command += ["--poses", str(tmp_path / "poses.json"), "--intrinsics", str(tmp_path / "intrinsics.yaml")]
        command += ["--metric_depth", str(tmp_path / "metric.npz"), "--save_per_frame_depth", "1", "--quiet"]
        return main([*command, "--out_dir", str(tmp_path / "out"), *more])

    return run


def test_disparity_of_a_relative_network_becomes_metres(
    frames: list[np.ndarray], reconstruct: Callable[..., int], tmp_path: Path
) -> None:
    """True depth as relative disparity, with a scale and a shift of each frame, noise and gross errors."""
    random = np.random.default_rng(3)
    (tmp_path / "depth" / "cam").mkdir(parents=True)
    truth = []
    for index, depth in enumerate(frames):
        scale, shift = 0.4 * 1.02**index, 0.1 - 0.005 * index
        relative = (1 / depth - shift) / scale + random.normal(0, 0.01, depth.shape)
        gross = random.random(depth.shape) < 0.03
        relative[gross] = random.uniform(0, 3, int(gross.sum()))
        np.save(tmp_path / "depth" / "cam" / f"{index:05d}.npy", relative.astype(np.float32))
        truth.append((scale, shift))
    assert reconstruct("--depth_folder", str(tmp_path / "depth")) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["scale"]["source"] == "metric depth"
    assert metrics["scale"]["factor"] == pytest.approx(2.0, rel=1e-6)
    assert metrics["events"] == []
    assert [row["frame"] for row in metrics["records"]] == [1, 2, 3, 4]
    for row in metrics["records"]:
        assert row["fused"], row["problem"]
        index = row["frame"]
        assert row["scale"] == pytest.approx(truth[index][0], rel=0.02)
        assert row["shift"] == pytest.approx(truth[index][1], abs=0.01)
        with np.load(tmp_path / "out" / "depth_metric" / f"camera_cam_batch_{index:05d}.npz") as file:
            error = np.abs(file["depth"] - frames[index])
        print(f"frame {index}: median {np.nanmedian(error):.4f} m")
        assert np.nanmedian(error) <= _BOUND


def test_a_network_with_random_weights_runs_and_is_never_fused(
    reconstruct: Callable[..., int], artifact_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = small_depth(artifact_cache)
    assert reconstruct("--depth_engine", str(artifact)) == 1
    assert "random weights" in capsys.readouterr().err
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert [row["frame"] for row in metrics["records"]] == [1, 2, 3, 4]
    for row in metrics["records"]:
        assert not row["fused"]
        assert row["problem"].startswith("expected ")
        assert row["coverage"] > 0.6  # it was held against a map that shows the scene
    assert metrics["events"][-1]["problem"].startswith("a new bootstrap is due: 1 of 1 cameras")
    assert (out / "map_updated.ply").read_bytes() == (out / "bootstrap_map.ply").read_bytes()


@pytest.mark.parametrize("workers", [(), ("--depth_workers", "2")])
def test_a_depth_artifact_is_found_in_a_folder(
    reconstruct: Callable[..., int], artifact_cache: Path, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    (tmp_path / "engines" / "deep").mkdir(parents=True)
    artifact = small_depth(artifact_cache)
    (tmp_path / "engines" / "deep" / "some_depth.pt2").write_bytes(artifact.read_bytes())
    (tmp_path / "engines" / "broken.onnx").write_bytes(b"none")
    told = ("--depth_engine_dir", str(tmp_path / "engines"), "--max_batches", "2", *workers)
    assert reconstruct(*told) == 1
    assert len(json.loads((tmp_path / "out" / "metrics.json").read_text())["records"]) == 1
    assert "some_depth.pt2, fp32" in (tmp_path / "out" / "logs" / "reconstruct.log").read_text()
