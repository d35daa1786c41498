# SPDX-License-Identifier: Apache-2.0
"""May this artifact run here? Answered before anything of it is loaded, without torch, and never by an exception.

Kinds: OK; REBUILD (sound, but made for another machine or library: export again); REFUSE (do not run these bytes).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aot_runtime.backends import engine_file, package
from aot_runtime.container import ENGINE, Container, container_of
from aot_runtime.environment import Host, this_host
from aot_runtime.errors import ArtifactError
from aot_runtime.files import AllowList, permission_problem, sha256_file
from aot_runtime.manifest import TENSORRT_RUNTIMES, Manifest, UnsupportedSchema

Kind = Literal["OK", "REBUILD", "REFUSE"]


@dataclass(frozen=True)
class Verdict:
    """kind OK, REBUILD or REFUSE; `code` names the case; reason and remedy are for people."""

    kind: Kind
    code: str
    reason: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        return self.kind == "OK"

    @property
    def random_weights(self) -> bool:
        """Runs, but its numbers mean nothing."""
        return self.code == "RANDOM_WEIGHTS"

    def __str__(self) -> str:
        text = f"{self.kind} {self.code}: {self.reason}"
        return f"{text}; {self.remedy}" if self.remedy else text


class VerdictError(ArtifactError):
    """An artifact may not run here; `.verdict` says why."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"{verdict.kind} {verdict.code}: {verdict.reason}", verdict.remedy)
        self.verdict = verdict


def parse_device(device: str) -> tuple[str, int]:
    """ "cpu" -> ("cpu", 0); "cuda" -> ("cuda", 0); "cuda:1" -> ("cuda", 1).

    Raises:
        ArtifactError: anything else.
    """
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,3}))?", device)
    if match is None or (match.group(1) == "cpu" and match.group(2)):
        raise ArtifactError(f"expected a device cpu, cuda or cuda:N, found {device!r:.60}")
    return match.group(1), int(match.group(2) or 0)


def judge(
    path: str | os.PathLike[str],
    device: str,
    allow_list: AllowList | Collection[str] | None = None,
    *,
    host: Host | None = None,
    check_bytes: bool = True,
) -> Verdict:
    """The verdict on a `.pt2`, `.onnx` or `.engine` file for a device of this machine.

    Args:
        allow_list: an AllowList, or a collection of SHA-256 digests; None accepts every digest.
        host: the machine to judge for; this one by default.
        check_bytes: compare the bytes with the checksums of the file (about 1 s per GB); an allow-list makes it
            needless, except that an engine is always compared with the manifest beside it.
    """
    file = Path(path)
    try:
        return _judge(file, device, allow_list, host or this_host(), check_bytes)
    except OSError as error:
        return _unreadable(file, error)


def judge_with_manifest(
    path: str | os.PathLike[str],
    device: str | None = None,
    allow_list: AllowList | Collection[str] | None = None,
    *,
    check_bytes: bool = True,
) -> tuple[Verdict, Manifest | None]:
    """As judge(), with the manifest where the file has a readable one; device None: the one the artifact is for."""
    try:
        manifest = read_manifest(path)
    except (ArtifactError, OSError):
        manifest = None
    chosen = device or (manifest.target.device if manifest is not None else "cpu")
    return judge(path, chosen, allow_list, check_bytes=check_bytes), manifest


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an artifact, read without torch, ONNX or TensorRT.

    Raises:
        ArtifactError: no package, no manifest, or a malformed one; the message says which.
        OSError: the file cannot be opened.
    """
    return Manifest.from_json(container_of(path).read_manifest_json(path), source=str(path))


def _judge(
    file: Path, device: str, allow_list: AllowList | Collection[str] | None, host: Host, check_bytes: bool
) -> Verdict:
    parse_device(device)
    if not file.exists():
        return Verdict(
            "REFUSE",
            "MISSING_FILE",
            f"expected an artifact, found no file {file}",
            "check the path, or export the model",
        )
    if not file.is_file():
        return Verdict(
            "REFUSE", "UNREADABLE", f"expected an artifact file, found {file} is no regular file", "check the path"
        )
    container = container_of(file)
    problem = permission_problem(file)
    if problem is None and container is ENGINE and engine_file.manifest_path(file).exists():
        problem = permission_problem(engine_file.manifest_path(file))
    if problem is not None:
        return Verdict("REFUSE", "WORLD_WRITABLE", *problem)
    digest = None
    if allow_list is not None:
        digest = sha256_file(file)
        if digest not in allow_list:
            source = allow_list.source if isinstance(allow_list, AllowList) else "the allow-list"
            return Verdict(
                "REFUSE",
                "NOT_ALLOWED",
                f"expected a digest of {source}, found SHA-256 {digest} of {file}",
                f"if you trust the file, add the line: {digest}  {file.name}",
            )
    try:
        if container is ENGINE and (check_bytes or digest is not None):
            engine_file.check_digest(file, digest)
        elif check_bytes and digest is None:
            container.check_bytes(file)
        text = container.read_manifest_json(file)
    except package.DamagedPackage as error:
        return _damaged(file, container, error)
    except package.NotAPackage as error:
        return Verdict("REFUSE", "NOT_A_PACKAGE", error.reason, error.remedy)
    except package.NoManifest as error:
        return Verdict("REFUSE", "NO_MANIFEST", error.reason, error.remedy)
    try:
        manifest = Manifest.from_json(text, source=str(file))
    except UnsupportedSchema as error:
        return Verdict("REBUILD", "SCHEMA_VERSION", error.reason, error.remedy)
    except ArtifactError as error:
        return Verdict("REFUSE", "BAD_MANIFEST", error.reason, error.remedy)
    if manifest.target.runtime not in container.runtimes:
        return Verdict(
            "REFUSE",
            "BAD_MANIFEST",
            f"expected a manifest for {container.suffix}, found one for runtime "
            f"{manifest.target.runtime or 'AOTInductor'} in {file}",
            "give the file the suffix that it was written with",
        )
    return judge_manifest(manifest, device, host, str(file))


def _damaged(file: Path, container: Container, error: package.DamagedPackage) -> Verdict:
    """Damaged bytes are refused; an engine can be built again, by the command in the manifest beside it."""
    if container is ENGINE:
        try:
            return Verdict("REBUILD", "DAMAGED", error.reason, _rebuild_remedy(read_manifest(file)))
        except ArtifactError:
            pass
    return Verdict("REFUSE", "DAMAGED", error.reason, error.remedy)


def _unreadable(file: Path, error: OSError) -> Verdict:
    reason = f"expected a readable artifact, found {file} unreadable ({error.strerror or error})"
    return Verdict("REFUSE", "UNREADABLE", reason, "check its owner and mode with: ls -l")


def judge_manifest(manifest: Manifest, device: str, host: Host, file: str) -> Verdict:
    """The part of the verdict that needs only the manifest and the machine; driven by test/data/verdict_cases.json."""
    kind, index = parse_device(device)
    target = manifest.target
    if target.runtime == "onnxruntime":
        found = _judge_onnx(manifest, kind, index, host, file)
    elif target.runtime in TENSORRT_RUNTIMES:
        found = _judge_engine(manifest, kind, index, host, file)
    else:
        found = _judge_package(manifest, kind, index, host, file)
    if found is not None:
        return found
    if manifest.checkpoint.is_random:
        return Verdict(
            "OK",
            "RANDOM_WEIGHTS",
            f"{file} runs here, but its weights are random (seed {manifest.checkpoint.random_seed}): "
            "its output means nothing",
            "export it with --checkpoint to get real output",
        )
    return Verdict("OK", "OK", f"{file} may run here")


def _judge_package(manifest: Manifest, kind: str, index: int, host: Host, file: str) -> Verdict | None:
    """What keeps a `.pt2` from running, or None."""
    target = manifest.target
    found = _other_device(manifest, kind, file) or _other_platform(manifest, host, file)
    if found is not None:
        return found
    if _major_minor(target.torch) != _major_minor(host.torch):
        return _rebuild_for(
            manifest, file, "TORCH_VERSION", f"torch {host.torch or '(not installed)'}", f"torch {target.torch}"
        )
    if kind == "cuda":
        if index >= len(host.compute_capabilities):
            return _no_device(index, host, file)
        if target.cuda.split(".")[0] != host.cuda.split(".")[0]:
            return _rebuild_for(
                manifest,
                file,
                "CUDA_VERSION",
                f"CUDA {host.cuda or '(a CPU build of torch)'}",
                f"CUDA {target.cuda}",
            )
        found = _other_capability(manifest, index, host, file)
        if found is not None:
            return found
    missing = sorted(set(target.cpu_flags) - host.cpu_flags)
    if missing:
        return Verdict(
            "REBUILD",
            "CPU_ISA",
            f"expected code for this CPU, found {file} compiled for {target.cpu_isa or 'a CPU'} that uses "
            f"{', '.join(missing)}, which this CPU lacks",
            _rebuild_remedy(manifest),
        )
    return None


def _judge_onnx(manifest: Manifest, kind: str, index: int, host: Host, file: str) -> Verdict | None:
    """What keeps an ONNX file from running, or None: it is data, and runs wherever ONNX Runtime does."""
    if not host.onnxruntime:
        return Verdict(
            "REFUSE",
            "RUNTIME_MISSING",
            f"expected onnxruntime to run {file}, found it not installed",
            "run pip install onnxruntime (or onnxruntime-gpu)",
        )
    if kind == "cuda" and index >= len(host.compute_capabilities):
        return _no_device(index, host, file)
    return None


def _judge_engine(manifest: Manifest, kind: str, index: int, host: Host, file: str) -> Verdict | None:
    """What keeps an engine from running, or None: it is bound to the TensorRT, the GPU and the platform."""
    target = manifest.target
    found = _other_device(manifest, kind, file) or _other_platform(manifest, host, file)
    if found is not None:
        return found
    version = host.tensorrt if target.runtime == "tensorrt" else host.tensorrt_rtx
    if not version:
        other, other_version = (
            ("tensorrt_rtx", host.tensorrt_rtx) if target.runtime == "tensorrt" else ("tensorrt", host.tensorrt)
        )
        return Verdict(
            "REBUILD",
            "RUNTIME_MISSING",
            f"expected {target.runtime} {target.runtime_version} to run {file}, found "
            f"{f'only {other} {other_version}' if other_version else 'no TensorRT'} installed",
            f"install {target.runtime} {target.runtime_version}, or {_rebuild_remedy(manifest)}",
        )
    if not _same_version(target.runtime_version, version):
        return _rebuild_for(
            manifest,
            file,
            "RUNTIME_VERSION",
            f"{target.runtime} {version}",
            f"{target.runtime} {target.runtime_version}",
        )
    if index >= len(host.compute_capabilities):
        return _no_device(index, host, file)
    return _other_capability(manifest, index, host, file)


def _other_device(manifest: Manifest, kind: str, file: str) -> Verdict | None:
    target = manifest.target
    if target.device == kind:
        return None
    again = f", or export it again with --device {kind}" if not target.runtime else ""
    return Verdict(
        "REBUILD",
        "DEVICE_KIND",
        f"expected an artifact for device {kind}, found one for {target.device} in {file}",
        f"load it with device {target.device}{again}",
    )


def _other_platform(manifest: Manifest, host: Host, file: str) -> Verdict | None:
    target = manifest.target
    if target.os != host.os:
        return _rebuild_for(manifest, file, "OS", f"operating system {host.os}", target.os)
    if target.machine != host.machine:
        return _rebuild_for(manifest, file, "MACHINE", f"machine type {host.machine}", target.machine)
    return None


def _other_capability(manifest: Manifest, index: int, host: Host, file: str) -> Verdict | None:
    here, there = host.compute_capabilities[index], manifest.target.compute_capability
    if here == there:
        return None
    return _rebuild_for(
        manifest, file, "COMPUTE_CAPABILITY", f"compute capability {here}", f"compute capability {there}"
    )


def _no_device(index: int, host: Host, file: str) -> Verdict:
    return Verdict(
        "REFUSE",
        "NO_DEVICE",
        f"expected CUDA device {index}, found {len(host.compute_capabilities)} CUDA devices here (for {file})",
        "check the driver with nvidia-smi, or export the model for the CPU with --device cpu",
    )


def _rebuild_for(manifest: Manifest, file: str, code: str, expected: str, found: str) -> Verdict:
    reason = f"expected {expected}, found an artifact for {found} in {file}"
    return Verdict("REBUILD", code, reason, _rebuild_remedy(manifest))


def _same_version(made_with: str, here: str) -> bool:
    """Whether the parts that both versions name are equal, three at least: apt says 10.3.0 where pip says 10.3.0.26."""
    left, right = made_with.split("."), here.split(".")
    count = min(len(left), len(right))
    return count >= 3 and left[:count] == right[:count]


def _major_minor(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]


def _rebuild_remedy(manifest: Manifest) -> str:
    if manifest.rebuild_command:
        return f"rebuild it on this machine: {shlex.join(manifest.rebuild_command)}"
    return f"export {manifest.family} {manifest.variant} again on this machine"


def self_test_verdict(manifest: Manifest, file: str, output: str, text: str, non_finite: bool) -> Verdict:
    """The verdict when the golden self-test fails: `text` is "A, found B" of `output`."""
    return Verdict(
        "REFUSE",
        "SELF_TEST_NON_FINITE" if non_finite else "SELF_TEST_WRONG",
        f"self-test of {file}: expected output {output} to be {text}",
        _rebuild_remedy(manifest),
    )


def rejected_verdict(manifest: Manifest, reason: str) -> Verdict:
    """The verdict when TensorRT refuses an engine that manifest and digest vouch for."""
    return Verdict("REBUILD", "ENGINE_REJECTED", reason, _rebuild_remedy(manifest))
