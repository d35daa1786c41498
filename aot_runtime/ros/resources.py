# SPDX-License-Identifier: Apache-2.0
"""Where the package's own data files (config/, launch/) are, installed or not."""

from __future__ import annotations

import contextlib
from pathlib import Path

from aot_runtime.errors import InputError

PACKAGE = "aot_perception"
_SOURCE_ROOT = Path(__file__).resolve().parents[2]


def _roots() -> list[Path]:
    roots: list[Path] = []
    try:
        from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

        with contextlib.suppress(PackageNotFoundError, OSError):  # not installed, or AMENT_PREFIX_PATH is not set
            roots.append(Path(get_package_share_directory(PACKAGE)))
    except ImportError:
        pass  # no ROS at all: the source tree below serves
    # A source tree is recognised by its config folder; an installed site-packages has none beside it.
    if (_SOURCE_ROOT / "config").is_dir():
        roots.append(_SOURCE_ROOT)
    return roots


def share_path(relative: str) -> Path:
    """The path of a data file such as "config/f3.yaml".

    The source tree wins over an ament prefix when this module itself runs from the source tree, so that an edit is
    seen at once; an installed package finds its share folder through the ament index.

    Raises:
        InputError: the file is in neither place.
    """
    roots = _roots()
    for root in sorted(roots, key=lambda r: r != _SOURCE_ROOT):
        candidate = root / relative
        if candidate.is_file():
            return candidate
    looked = ", ".join(str(r) for r in roots) or "no place (the package is neither installed nor a source tree)"
    raise InputError(
        f"expected the package file {relative}, found none in {looked}",
        "build and source the workspace (colcon build) or run from the source tree",
    )
