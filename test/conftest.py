# SPDX-License-Identifier: Apache-2.0
"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference data: `$AOT_PERCEPTION_SHARED`, else `../shared` beside the repository."""
    folder = Path(os.environ.get("AOT_PERCEPTION_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        message = f"reference data folder {folder} is absent; set AOT_PERCEPTION_SHARED"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def artifact_cache() -> Path:
    """A folder that outlives the test session, for artifacts that take long to compile (`.cache/`)."""
    folder = Path(os.environ.get("AOT_PERCEPTION_TEST_CACHE", ROOT / ".cache" / "test_artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
