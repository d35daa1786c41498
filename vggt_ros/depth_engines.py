# SPDX-License-Identifier: Apache-2.0
"""Which depth artifact of a folder to take: one that may run here, in the precision that is asked for."""

from __future__ import annotations

from pathlib import Path

from aot_runtime.container import SUFFIXES
from aot_runtime.errors import AotError, InputError
from aot_runtime.verdict import judge, read_manifest

PREFERRED = ("int8", "fp8", "fp16", "bf16", "fp32")
"""What "auto" takes first: the fastest, as the toolkit that the option comes from has it."""
_KINDS = (".engine", ".pt2", ".onnx")


def choose_depth_engine(folder: Path, precision: str = "auto", device: str = "cpu") -> tuple[Path, str]:
    """A depth artifact for RGB images in a folder or below it, and its precision.

    Manifests decide what a file is, not its name. Of one precision engines come first, then `.pt2`, then `.onnx`, then
    the order of paths.

    Raises:
        InputError: there is none, or none that may run here; the message says why.
    """
    if precision != "auto" and precision not in PREFERRED:
        raise InputError(f"expected a precision of auto, {', '.join(PREFERRED)}, found {precision!r}")
    if not folder.is_dir():
        raise InputError(f"expected a folder of depth artifacts, found nothing at {folder}", "check --depth_engine_dir")
    found: list[tuple[int, int, str, Path, str]] = []
    refused: list[str] = []
    others: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
        try:
            manifest = read_manifest(path)
        except AotError as error:
            refused.append(f"{path.name}: {error.reason}")
            continue
        if manifest.family != "depth" or manifest.preprocessing.get("input") != "rgb_image":
            continue
        if precision not in ("auto", manifest.precision):
            others.append(f"{path.name}: {manifest.precision}")
            continue
        verdict = judge(path, device)
        if not verdict.ok:
            refused.append(f"{path.name}: {verdict.reason}")
            continue
        order = PREFERRED.index(manifest.precision) if manifest.precision in PREFERRED else len(PREFERRED)
        found.append((order, _KINDS.index(path.suffix), str(path), path, manifest.precision))
    if not found:
        why = "; ".join([*others, *refused]) or "no artifact of the family depth for RGB images"
        raise InputError(
            f"expected a depth artifact in precision {precision} that runs on {device} in {folder}, found {why}",
            "export one with export_dav2_to_pt2 --input-channels 3",
        )
    best = min(found)
    return best[3], best[4]
