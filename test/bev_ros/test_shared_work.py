# SPDX-License-Identifier: Apache-2.0
"""The command precompute_bev_features shared among processes: by torchrun, by shards, and by Ray, over every source."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from bev_fakes import visible_files
from nuscenes_folder import write_nuscenes
from rig_bags import write_rig_bag

ROOT = Path(__file__).resolve().parents[2]
_COMMAND = "bev_ros.precompute_bev_features"
_TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")

Run = Callable[..., str]


@pytest.fixture
def precompute(tmp_path: Path) -> Run:
    """precompute(source, out, *options, launcher=...) -> stderr; a tiny encoder with random weights, on the CPU."""
    config = tmp_path / "tiny.yaml"
    config.write_text("preset: tiny\n")

    def run(source: Path, out: Path, *options: str, launcher: Sequence[str] = ()) -> str:
        told = subprocess.run(
            [
                *(sys.executable, "-m", *launcher, _COMMAND, "--source", str(source), "--output_dir", str(out)),
                *("--encoder-config", str(config), "--allow-random-weights", "--gpu", "cpu", *options),
            ],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        return told.stderr

    return run


def test_nuscenes_by_torchrun(tmp_path: Path, precompute: Run) -> None:
    source = write_nuscenes(tmp_path / "data", cameras=("CAM_FRONT", "CAM_BACK")).root
    precompute(source, tmp_path / "one", "--split", "train", "val")
    told = precompute(source, tmp_path / "two", "--split", "train", "val", launcher=_TORCHRUN)
    assert "train 0/2: 2 samples to do" in told
    assert "train 1/2: 1 samples to do" in told
    assert visible_files(tmp_path / "two") == visible_files(tmp_path / "one")


def test_a_bag_by_shards(tmp_path: Path, precompute: Run) -> None:
    source = write_rig_bag(tmp_path / "drive", cameras=("front", "rear")).path
    precompute(source, tmp_path / "one")
    for shard in ("1/2", "0/2"):
        precompute(source, tmp_path / "two", "--shard", shard)
    assert visible_files(tmp_path / "two") == visible_files(tmp_path / "one")
    assert len(list((tmp_path / "one" / "all").glob("*.safetensors"))) == 5


def test_nuscenes_by_ray(tmp_path: Path, precompute: Run) -> None:
    pytest.importorskip("ray.data", reason="ray[data] is not installed")
    source = write_nuscenes(tmp_path / "data", cameras=("CAM_FRONT", "CAM_BACK")).root
    precompute(source, tmp_path / "one")
    precompute(source, tmp_path / "ray", "--ray", "local", "--ray-workers", "2")
    assert visible_files(tmp_path / "ray") == visible_files(tmp_path / "one")
