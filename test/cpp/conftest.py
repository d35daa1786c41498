# SPDX-License-Identifier: Apache-2.0
"""The programs of the C++ package, as `make cpp` builds them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

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
