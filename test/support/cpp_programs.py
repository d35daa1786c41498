# SPDX-License-Identifier: Apache-2.0
"""The programs of the C++ package's build folder ($AOT_PERCEPTION_CPP_BUILD, else .cache/cpp), for tests beside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def find_program(name: str) -> Path:
    """`<build folder>/<name>`; skips the test where it is not built, and fails it in CI."""
    path = Path(os.environ.get("AOT_PERCEPTION_CPP_BUILD", ROOT / ".cache" / "cpp")) / name
    if not path.is_file():
        message = f"{path} is not built; run make cpp, or set AOT_PERCEPTION_CPP_BUILD"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


def run_json(program: Path, arguments: list[str] = [], request: Any = None) -> dict[str, Any]:  # noqa: B006
    """What a program that tells JSON on its last line of stdout says; its exit status may be 0 or 1."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        input=None if request is None else json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told
