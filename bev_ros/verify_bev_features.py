# SPDX-License-Identifier: Apache-2.0
"""Checks a folder of BEV features, file by file, and mends it: command `verify_bev_features`.

Exit status: 0 all is well, 1 something is wrong (or was, and could not be mended), 2 nothing could be checked.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aot_runtime.command import exit_status
from aot_runtime.errors import InputError
from bev_ros.distributed import device_for
from bev_ros.encoder_spec import add_encoder_arguments, encoder_spec
from bev_ros.extraction import Encoder, ExtractionOptions
from bev_ros.extraction_progress import ExtractionProgress
from bev_ros.samples import SampleSource
from bev_ros.selection import add_selection_arguments, selection
from bev_ros.sources import open_source
from bev_ros.sources.options import add_source_arguments, source_options
from bev_ros.stopping import StopOnSignals
from bev_ros.store.disk import told_bytes
from bev_ros.store.manifest import StoreManifest
from bev_ros.store.store import BevStore
from bev_ros.verification import (
    TOLERANCE,
    Report,
    VerifyOptions,
    leftovers,
    repair,
    require_source,
    verify,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verify_bev_features",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=(__doc__ or "").split("\n\n")[1],
    )
    add: Any = parser.add_argument
    add("folder", type=Path, help="that precompute_bev_features wrote")
    add("--source", type=Path, metavar="PATH", help="what the maps were made of: tells which must be there")
    add("--quick", action="store_true", help="sizes and headers only, neither digests nor values")
    add("--recompute", type=int, default=4, help="maps of each split to compute again, with source and encoder (4)")
    add("--tolerance", type=float, default=TOLERANCE, help=f"of those, over their largest value (default {TOLERANCE})")
    add("--repair", action="store_true", help="compute again what is broken or missing, and that only")
    add("--allow-missing-cameras", action="store_true", help="while repairing, as of precompute_bev_features")
    add("--json", metavar="FILE", help="write the report there; - for standard output")
    add("--gpu", default="auto", help="for the encoder: number, cpu, or auto (default)")
    add("--readers", type=int, default=4, help="threads that read files (default 4)")
    add("--show", type=int, default=20, help="problems to print of each split (default 20)")
    add("--quiet", action="store_true", help="no progress")
    add_encoder_arguments(parser)
    add_selection_arguments(parser)
    parser.set_defaults(split=None)
    add_source_arguments(parser)
    return parser


def _run(told: argparse.Namespace) -> int:
    # Whoever wants JSON on standard output wants nothing else there.
    with contextlib.redirect_stdout(sys.stderr if told.json == "-" else sys.stdout):
        reports, store = _check(told)
    _write(reports, store, told.json)
    return 0 if all(report.good for report in reports) else 1


def _check(told: argparse.Namespace) -> tuple[list[Report], BevStore]:
    store = BevStore.open(told.folder)
    splits = list(dict.fromkeys(told.split or sorted(store.manifest.splits)))
    for split in splits:
        if split not in store.manifest.splits:
            known = ", ".join(sorted(store.manifest.splits))
            raise InputError(f"expected a split among {known}, found {split!r} for {told.folder}")
    if not splits:
        raise InputError(f"expected features of a split, found none in {told.folder}")
    source = _open_source(told, store.manifest, splits)
    spec = encoder_spec(told)
    if told.repair and (source is None or spec is None):
        raise InputError("expected --source and --encoder with --repair, found one of them or none")
    encoder = None if spec is None else spec.make(device_for(told.gpu))
    if told.repair and encoder is not None:
        _require_encoder(store, encoder)
    reports: list[Report] = []
    for split in splits:
        report = _verify(told, store, split, source, encoder)
        if told.repair and not report.good and source is not None and encoder is not None:
            _tell(store, report, told.show)
            whole = _repair(told, store, report, source, encoder)
            report = _verify(told, store, split, source, encoder)
            if not whole:
                print("stopped; the rest is as it was", file=sys.stderr)
                return [*reports, report], store
        reports.append(report)
        _tell(store, report, told.show)
    return reports, store


def _open_source(told: argparse.Namespace, manifest: StoreManifest, splits: Sequence[str]) -> SampleSource | None:
    if told.source is None:
        return None
    options = source_options(told)
    if not options.cameras:
        options = dataclasses.replace(options, cameras=manifest.splits[splits[0]].cameras)
    return open_source(told.source, options)


def _require_encoder(store: BevStore, encoder: Encoder) -> None:
    wanted = store.manifest.encoder.identity
    if encoder.identity != wanted:
        raise InputError(
            f"expected the encoder that made the features, {wanted[:12]}, found {encoder.identity[:12]}",
            "give the artifact that they were extracted with",
        )


def _verify(
    told: argparse.Namespace, store: BevStore, split: str, source: SampleSource | None, encoder: Encoder | None
) -> Report:
    tokens = None
    if source is not None:
        require_source(store, split, source)
        tokens = selection(told).of(source.tokens(split))
    options = VerifyOptions(told.quick, told.recompute, readers=told.readers, tolerance=told.tolerance)
    with _progress(split, not told.quiet) as advance:
        report = verify(store, split, tokens=tokens, source=source, encoder=encoder, options=options, advance=advance)
    if rest := leftovers(store.folder(split)):
        report.warnings.append(f"{len(rest)} temporary files of runs that were killed, among them {rest[0]}")
    return report


def _repair(told: argparse.Namespace, store: BevStore, report: Report, source: SampleSource, encoder: Encoder) -> bool:
    """False if a signal ended it."""
    options = ExtractionOptions(True, readers=told.readers, allow_missing_cameras=told.allow_missing_cameras)
    with StopOnSignals() as stop, ExtractionProgress(f"repair {report.split}", enabled=not told.quiet) as progress:
        summary = repair(store, report, source, encoder, options=options, stop=stop, progress=progress)
    failed = f", {summary.failed} failed" if summary.failed else ""
    print(f"{store.folder(report.split)}: {summary.stored} maps made again, {summary.adopted} indexed{failed}")
    return not summary.stopped


def _tell(store: BevStore, report: Report, show: int) -> None:
    expected = "" if report.expected is None else f" of {report.expected}"
    state = "all is well" if report.good else f"{len(report.problems)} problems"
    again = f", {report.recomputed} computed again" if report.recomputed else ""
    size = told_bytes(report.size)
    print(f"{store.folder(report.split)}: {report.indexed}{expected} maps, {size}{again}: {state}")
    for problem in report.problems[:show]:
        print(f"  {problem}")
    if len(report.problems) > show:
        print(f"  and {len(report.problems) - show} more")
    numbers = report.statistics
    if numbers:
        print(
            f"  cells occupied {numbers['coverage_min']:.1%} to {numbers['coverage_max']:.1%}, largest value "
            f"{numbers['largest_min']:.3g} to {numbers['largest_max']:.3g}, mean {numbers['mean_mean']:.3g}"
        )
    for warning in report.warnings:
        print(f"  warning: {warning}")


def _write(reports: Sequence[Report], store: BevStore, place: str | None) -> None:
    if place is None:
        return
    told = {
        "folder": str(store.root),
        "good": all(report.good for report in reports),
        "manifest": store.manifest.to_json(),
        "splits": [report.to_json() for report in reports],
    }
    text = json.dumps(told, indent=1, allow_nan=False) + "\n"
    if place == "-":
        sys.stdout.write(text)
        return
    try:
        Path(place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"expected a file to write the report to, found {error}") from error


@contextlib.contextmanager
def _progress(split: str, enabled: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that takes the numbers of maps done and in all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not (enabled and sys.stderr.isatty()),
    ) as bar:  # fmt: skip
        task = bar.add_task(f"verify {split}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def main(argv: Sequence[str] | None = None) -> int:
    """Command `verify_bev_features`; see the module for the exit status."""
    told = _parser().parse_args(argv)
    return exit_status(lambda: _run(told))


if __name__ == "__main__":
    sys.exit(main())
