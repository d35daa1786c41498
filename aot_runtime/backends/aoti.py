# SPDX-License-Identifier: Apache-2.0
"""AOTInductor: compile an exported program to a `.pt2`, and run one.

A loaded package checks nothing about its inputs: a wrong size is read past the buffer, a wrong dtype crashes, wrong
strides are misread. Only compiled_model.py, which checks, should call run().
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import ArtifactError, ExportError
from aot_runtime.files import atomic_write

if TYPE_CHECKING:
    import torch

MODEL_NAME = "model"
# The loader unpacks to a temporary folder and runs static initialisers of a shared library; two at once have crashed.
_LOAD_LOCK = threading.Lock()


@contextlib.contextmanager
def exact_float32(wanted: bool = True) -> Iterator[None]:
    """Convolutions and products of float32 in float32, not in TF32 with its 10 bits, while the block runs.

    cuDNN's convolutions use TF32 unless told otherwise, and ask again at every call of a compiled package: an artifact
    of fp32 would lose three digits (measured on an H200: 1e-4 of a depth map between two builds of one network).
    """
    import torch

    if not wanted or not torch.cuda.is_available():
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def require_compiler() -> str:
    """The path of the C++ compiler that Inductor's host code needs.

    Raises:
        ExportError: none is found.
    """
    compiler = os.environ.get("CXX", "g++")
    found = shutil.which(compiler)
    if found is None:
        raise ExportError(
            f"expected a C++ compiler ({compiler}) on PATH, found none",
            "install one (Ubuntu: sudo apt install g++), or set CXX to yours",
        )
    return os.path.abspath(found)


def _binding_compiler() -> Path:
    """A script that calls the compiler and links shared libraries with -Bsymbolic.

    A package's library instantiates std::regex, and so does libtorch, built by another compiler: where the dynamic
    linker binds the library to libtorch's instances, loading it crashes (seen with torch 2.11 and g++ 13). -Bsymbolic
    makes it use its own. Inductor has no option for linker flags, but one for the compiler. The script lies in
    Inductor's cache at a path that depends on the compiler alone, because that path is part of the cache's keys, and
    keeps the compiler's name, by which Inductor tells gcc from clang.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    compiler = require_compiler()
    text = (
        "#!/bin/sh\n"
        'for argument in "$@"; do\n'
        f'  [ "$argument" = -shared ] && exec {shlex.quote(compiler)} "$@" -Wl,-Bsymbolic\n'
        "done\n"
        f'exec {shlex.quote(compiler)} "$@"\n'
    )
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    script = Path(cache_dir()) / "aot_perception" / key / Path(compiler).name
    if not script.exists() or script.read_text(encoding="utf-8") != text:
        with atomic_write(script) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
    return script


def compile_program(
    program: torch.export.ExportedProgram, path: Path, inductor_configs: Mapping[str, Any] | None = None
) -> None:
    """Compile to `path`, freezing on (weights folded and packed); `inductor_configs` override.

    Raises:
        ExportError: Inductor failed; the message carries its last line.
    """
    import torch._inductor

    require_compiler()
    # A fresh dict of metadata each time: torch writes its own keys into the one it is given.
    configs: dict[str, Any] = {"freezing": True, "epilogue_fusion": True, "aot_inductor.metadata": {}}
    configs.update(inductor_configs or {})
    if sys.platform == "linux":
        configs.setdefault("cpp.cxx", (str(_binding_compiler()),))
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except Exception as error:
        # Inductor raises everything from AttributeError (an unknown option) to CppCompileError.
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ExportError(
            f"expected AOTInductor to compile the network, found {type(error).__name__}: {lines[0] if lines else ''}",
            "see the chained error above; TORCH_LOGS=+inductor shows more",
        ) from error
    if sys.platform == "linux":
        _require_shared_runtime(path)


def _require_shared_runtime(path: Path) -> None:
    """Refuses a package whose library brings its own copy of the C++ runtime.

    Some compilers link libstdc++ statically by default. Two copies of it in one process share some of their objects
    (unique symbols, which -Bsymbolic does not bind) and not others: loading such a package ends the process.

    Raises:
        ExportError: naming the compiler.
    """
    names = (b"libstdc++.so", b"libc++.so")
    with zipfile.ZipFile(path) as package:
        for member in package.namelist():
            if not member.endswith(".so"):
                continue
            tail = b""
            with package.open(member) as library:
                while chunk := library.read(1 << 24):
                    if any(name in tail + chunk for name in names):
                        break
                    tail = chunk[-16:]
                else:
                    raise ExportError(
                        f"expected a C++ compiler that links the C++ runtime as a shared library, found "
                        f"{require_compiler()}, which puts a copy of its own into {member}",
                        "set CXX to the system's compiler, for instance: export CXX=/usr/bin/g++",
                    )


class AotiRunner:
    """One loaded package. Outputs are new, contiguous tensors, in the order of the exported program.

    `export_model` asks for contiguous outputs, but on CUDA Inductor (torch 2.11, freezing) gives some in the layout
    that its last kernel happens to write; where one artifact's output is the next one's input, that will not do.

    With `exact`, for packages of fp32, float32 is not replaced by TF32 on CUDA.
    """

    capturable = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        device_index: int = 0,
        num_runners: int = 1,
        *,
        exact: bool = False,
    ) -> None:
        import torch

        self._exact = exact and device == "cuda"

        # Without thread synchronisation a CUDA graph can capture the call; the caller holds a lock then.
        single = device == "cuda" and num_runners == 1
        index = device_index if device == "cuda" else -1
        with _LOAD_LOCK:
            try:
                self._loader = torch._C._aoti.AOTIModelPackageLoader(
                    os.fspath(path), MODEL_NAME, single, num_runners, index
                )
            except RuntimeError as error:
                raise ArtifactError(
                    f"expected a package that torch {torch.__version__} can load, found {path} rejected: "
                    f"{str(error).splitlines()[0] if str(error) else type(error).__name__}",
                    "export the model again on this machine",
                ) from error

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run on the current stream. The caller has checked the inputs."""
        with exact_float32(self._exact):
            return [output.contiguous() for output in self._loader.run(list(inputs))]

    def metadata(self) -> dict[str, str]:
        """The package's metadata, as C++ sees it."""
        return dict(self._loader.get_metadata())
