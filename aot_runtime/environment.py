# SPDX-License-Identifier: Apache-2.0
"""The machine this runs on: what a verdict compares and what a measurement is stamped with. Imports no torch."""

from __future__ import annotations

import ctypes
import datetime
import importlib.util
import os
import platform
import re
import shlex
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Extensions that gcc -march=native may use in compiled float code, as /proc/cpuinfo spells them. Security,
# virtualisation and power flags are left out: they differ between machines that run the same code.
_X86_FLAGS = (
    *("sse4_1", "sse4_2", "popcnt", "movbe", "avx", "f16c", "fma", "avx2", "bmi1", "bmi2", "abm", "adx", "gfni"),
    *("vaes", "vpclmulqdq", "avx_vnni", "avx_ifma", "avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"),
    *("avx512ifma", "avx512vbmi", "avx512_vbmi2", "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq", "avx512_bf16"),
    *("avx512_fp16", "avx512_vp2intersect", "amx_bf16", "amx_tile", "amx_int8", "amx_fp16"),
)
_ARM_FLAGS = (
    *("asimd", "fphp", "asimdhp", "asimddp", "asimdrdm", "asimdfhm", "fcma", "jscvt", "lrcpc", "ilrcpc", "atomics"),
    *("crc32", "sve", "sve2", "svei8mm", "svebf16", "i8mm", "bf16"),
)
ISA_FLAGS = frozenset(_X86_FLAGS + _ARM_FLAGS)


@dataclass(frozen=True)
class Host:
    """What decides whether an artifact may run here; empty strings where a library or device is absent."""

    os: str
    machine: str
    cpu_flags: frozenset[str]
    torch: str
    cuda: str = ""
    compute_capabilities: tuple[str, ...] = ()
    onnxruntime: str = ""
    tensorrt: str = ""
    tensorrt_rtx: str = ""


@cache
def this_host() -> Host:
    """The machine and the Python environment of this process."""
    version, cuda = torch_build()
    return Host(
        os=sys.platform,
        machine=platform.machine(),
        cpu_flags=cpu_flags(),
        torch=version,
        cuda=cuda,
        compute_capabilities=tuple(capability for _, capability in cuda_devices()),
        onnxruntime=module_version("onnxruntime"),
        tensorrt=module_version("tensorrt"),
        tensorrt_rtx=module_version("tensorrt_rtx"),
    )


def module_version(name: str) -> str:
    """__version__ of an installed module, read from its source so that nothing is loaded; "" where it is absent.

    TensorRT's modules say it in `<name>_bindings` where pip brought them, and in themselves where apt did.
    """
    for candidate in (f"{name}_bindings", name):
        try:
            spec = importlib.util.find_spec(candidate)
        except (ImportError, ValueError):
            continue
        if spec is None or spec.origin is None:
            continue
        try:
            text = Path(spec.origin).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
        if version:
            return version.group(1)
    return ""


def torch_build() -> tuple[str, str]:
    """(version, CUDA version) of the installed torch, from its version.py; empty strings if absent or a CPU build."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "", ""
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return "", ""
    version = re.search(r"^__version__\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\s*(?::[^=]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    return (version.group(1) if version else ""), (cuda.group(1) if cuda else "")


@cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_flags() -> frozenset[str]:
    """The instruction-set extensions of this CPU that compiled code may use (a subset of ISA_FLAGS)."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return frozenset(match.group(1).split()) & ISA_FLAGS if match else frozenset()


def cpu_model() -> str:
    """The CPU's marketing name, or the machine type where the kernel does not tell."""
    match = re.search(r"^model name\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return match.group(1).strip() if match else platform.machine()


@cache
def cuda_devices() -> tuple[tuple[str, str], ...]:
    """(name, compute capability "9.0") of each CUDA device, asked from the driver, so that torch need not be loaded."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for index in range(count.value):
        device, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, 256, device)
        # 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver API.
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        found.append((name.value.decode(errors="replace"), f"{major.value}.{minor.value}"))
    return tuple(found)


@dataclass(frozen=True)
class Stamp:
    """What a measurement needs beside it to mean anything."""

    cpu: str
    cores: int
    threads: int
    gpu: str
    torch: str
    cuda: str
    python: str
    system: str
    date: str
    command: str

    def line(self) -> str:
        """One line for people."""
        gpu = f"; GPU {self.gpu}, CUDA {self.cuda}" if self.gpu else ""
        return (
            f"{self.cpu}, {self.cores} cores, {self.threads} torch threads{gpu}; torch {self.torch}; "
            f"Python {self.python}; {self.system}; {self.date}; {self.command}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stamp(argv: list[str] | None = None) -> Stamp:
    """The environment of this process now; `argv` is the command to record (default: this process's)."""
    host = this_host()
    torch_module = sys.modules.get("torch")
    return Stamp(
        cpu=cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=int(torch_module.get_num_threads()) if torch_module is not None else 0,
        gpu=", ".join(name for name, _ in cuda_devices()),
        torch=host.torch,
        cuda=host.cuda,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=shlex.join(argv if argv is not None else [Path(sys.argv[0]).name, *sys.argv[1:]]),
    )
