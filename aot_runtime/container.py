# SPDX-License-Identifier: Apache-2.0
"""The three files an artifact can be, by suffix: how to read the manifest of each and how to check its bytes.

Nothing here loads torch, ONNX or TensorRT.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aot_runtime.backends import engine_file, onnx_file, package
from aot_runtime.manifest import TENSORRT_RUNTIMES

_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Container:
    """A suffix, the runtimes that run such files, and the readers.

    Attributes:
        read_manifest_json: raises package.NotAPackage, DamagedPackage or NoManifest, or OSError.
        check_bytes: raises the same where the bytes differ from what the export wrote.
    """

    suffix: str
    runtimes: tuple[str, ...]
    read_manifest_json: Callable[[_Path], str]
    check_bytes: Callable[[_Path], None]


PT2 = Container(".pt2", ("",), package.read_manifest_json, package.check_members)
ONNX = Container(".onnx", ("onnxruntime",), onnx_file.read_manifest_json, onnx_file.check_digest)
ENGINE = Container(".engine", TENSORRT_RUNTIMES, engine_file.read_manifest_json, engine_file.check_digest)
CONTAINERS = (PT2, ONNX, ENGINE)
SUFFIXES = tuple(container.suffix for container in CONTAINERS)


def container_of(path: _Path) -> Container:
    """The container of a file name; a name without a known suffix is taken for a `.pt2`."""
    suffix = Path(path).suffix
    return next((container for container in CONTAINERS if container.suffix == suffix), PT2)
