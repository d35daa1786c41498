# SPDX-License-Identifier: Apache-2.0
"""Shards, what torchrun says, devices; and torchrun itself with two processes that write one store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bev_fakes import FakeSource, make_store, visible_files

from aot_runtime.errors import InputError
from bev_ros import distributed
from bev_ros.distributed import Launch, Shard, device_for, launched
from bev_ros.store.store import BevStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_are_a_partition(count: int) -> None:
    tokens = [f"t{n:02d}" for n in range(17)]
    parts = [Shard(index, count).take(tokens) for index in range(count)]
    assert sorted(token for part in parts for token in part) == tokens
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part) for part in parts)


def test_a_shard_of_a_shard() -> None:
    tokens = [f"t{n:02d}" for n in range(23)]
    for outer in range(3):
        inner = [token for rank in range(2) for token in Shard(outer, 3).split(Shard(rank, 2)).take(tokens)]
        assert sorted(inner) == Shard(outer, 3).take(tokens)
    names = {Shard(outer, 3).split(Shard(rank, 2)).name for outer in range(3) for rank in range(2)}
    assert len(names) == 6
    assert Shard().name == "main"
    assert Shard().split(Shard(1, 2)).name == "shard-1-of-2"


def test_shards_from_text() -> None:
    assert Shard.parse("0/4") == Shard(0, 4)
    assert str(Shard.parse("3/4")) == "3/4"
    for text in ("4/4", "0/0", "1", "1/", "/2", "-1/2", "1/2/3", "a/b", "1.0/2", "", "0x1/2"):
        with pytest.raises(InputError, match="expected"):
            Shard.parse(text)


def test_what_torchrun_says() -> None:
    assert launched({}) == Launch()
    told = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert launched(told) == Launch(5, 8, 1, 4)
    assert launched(told).shard == Shard(5, 8)
    assert launched({"RANK": "1", "WORLD_SIZE": "2"}) == Launch(1, 2, 0, 1)
    for wrong in (
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        told | {"LOCAL_RANK": "4"},
        told | {"LOCAL_WORLD_SIZE": "9"},
    ):
        with pytest.raises(InputError, match="torchrun"):
            launched(wrong)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_for("cpu") == device_for("auto", Launch(1, 2, 1, 2)) == "cpu"
    with pytest.raises(InputError, match="a GPU out of none, found --gpu 0"):
        device_for("0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_for("auto", Launch(rank, 3, rank, 3)) for rank in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_for("1", Launch(rank, 2, rank, 2)) for rank in range(2)] == ["cuda:1", "cuda:1"]
    assert [device_for("1,0", Launch(rank, 2, rank, 2)) for rank in range(2)] == ["cuda:1", "cuda:0"]
    assert device_for("cpu", Launch(1, 2, 1, 2)) == "cpu"
    for wrong in ("2", "0,2", "cuda", "-1", "", "0,"):
        with pytest.raises(InputError, match="expected"):
            device_for(wrong)


_WORKER = """
import sys
from pathlib import Path
import bev_fakes
from bev_ros.distributed import device_for, launched
launch = launched()
print("device", device_for("cpu", launch), "shard", launch.shard, flush=True)
sys.exit(bev_fakes.main([sys.argv[1], "11", "--shard", str(launch.shard)]))
"""


def test_torchrun_with_two_processes_makes_what_one_makes(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(_WORKER)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "test" / "support")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = subprocess.run(
        [*launcher, str(script), str(tmp_path / "two")],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "shard 0/2" in told.stdout
    assert "shard 1/2" in told.stdout
    make_store(tmp_path / "one", source=FakeSource(11))
    assert visible_files(tmp_path / "two") == visible_files(tmp_path / "one")
    assert len(BevStore.open(tmp_path / "two").records("train")[0]) == 11


def test_nothing_is_imported_for_the_cpu() -> None:
    """torch takes seconds."""
    code = "import sys; from bev_ros.distributed import *; device_for('cpu'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert distributed.Launch().shard == Shard()
