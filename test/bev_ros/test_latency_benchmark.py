# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_benchmark_on_the_cpu(bev_artifacts: Callable[..., Path], tmp_path: Path) -> None:
    for part in ("image", "fused"):
        shutil.copy(bev_artifacts(part), tmp_path / f"bev_tiny_fp32_{part}.pt2")
    command = [sys.executable, ROOT / "benchmarks" / "bev_latency.py", "--preset", "tiny", "--runs", "3"]
    subprocess.run([*command, "--keep", tmp_path, "--json", tmp_path / "out.json"], check=True, capture_output=True)
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["command"][:3] == ["benchmarks/bev_latency.py", "--preset", "tiny"]
    rows = {(row["part"], row["mode"]): row["timing"] for row in told["results"]}
    assert set(rows) == {
        *((part, mode) for part in ("image", "whole") for mode in ("eager", "compiled")),
        ("pipeline", "compiled"),
        *((f"pipeline: {part}", "compiled") for part in ("prepare", "tables", "network", "tables, first")),
    }
    assert all(0 < timing["min_ms"] <= timing["p50_ms"] <= timing["p99_ms"] for timing in rows.values())
    assert rows["pipeline", "compiled"]["runs"] == 3
