# SPDX-License-Identifier: Apache-2.0
"""The programs of the C++ package, as `make cpp` builds them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from cpp_programs import find_program


@pytest.fixture(scope="session")
def run_cpp() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_cpp("tools/event_info", *arguments, env={}, fails=False) -> the finished process, its output as text.

    Skips where the program is not built; in CI that fails.
    """

    def run(
        name: str, *arguments: object, env: dict[str, str] | None = None, fails: bool = False
    ) -> subprocess.CompletedProcess[str]:
        command = [str(find_program(name)), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=300)
        assert (done.returncode != 0) == fails, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture(scope="session")
def recordings(shared: Path) -> Path:
    """Small real recordings of events."""
    return shared / "data" / "events"


def _fixtures_of_f3() -> ModuleType:
    """test/f3_ros/conftest.py, whose artifacts the C++ pipelines run too."""
    path = Path(__file__).resolve().parent.parent / "f3_ros" / "conftest.py"
    spec = importlib.util.spec_from_file_location("f3_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_F3 = _fixtures_of_f3()
f3_golden, f3_artifact, stand_in_head = _F3.f3_golden, _F3.f3_artifact, _F3.stand_in_head
