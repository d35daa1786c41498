# SPDX-License-Identifier: Apache-2.0
"""Maps of a data set or a recording, computed once and stored for training: command `precompute_bev_features`.

Exit status: 0 all is stored; 1 some samples failed, or the disk filled up meanwhile; 2 nothing could be done; 130 or
143 after Ctrl-C or SIGTERM, which end the run after the present sample.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aot_runtime.command import exit_status
from aot_runtime.errors import AotError, InputError
from bev_ros.distributed import Shard, device_for, launched
from bev_ros.encoder_spec import EncoderSpec, add_encoder_arguments, encoder_spec
from bev_ros.extraction import (
    ExtractionOptions,
    Progress,
    Summary,
    extract,
    manifest_for,
    refuse_random_weights,
    split_for,
)
from bev_ros.extraction_progress import ExtractionProgress, told_time
from bev_ros.option_file import parse_with_file
from bev_ros.samples import SampleSource
from bev_ros.selection import Selection, add_selection_arguments, selection
from bev_ros.sources import open_source
from bev_ros.sources.options import SourceOptions, add_source_arguments, source_options
from bev_ros.stopping import StopOnSignals
from bev_ros.store.disk import DiskFull, told_bytes
from bev_ros.store.formats import DTYPES, FORMATS, LAYOUTS, FileFormat
from bev_ros.store.manifest import SplitInfo, StoreManifest
from bev_ros.store.store import BevStore


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="precompute_bev_features",
        description=(__doc__ or "").split("\n\n")[0],
        epilog=(__doc__ or "").split("\n\n")[1],
    )
    add: Any = parser.add_argument
    add("--cfg", type=Path, metavar="FILE", help="YAML with any of these options; what is said here wins")
    add("--source", type=Path, metavar="PATH", help="folder in nuScenes' format, bag, or folder with samples/*.json")
    add("--output_dir", "--output-dir", type=Path, metavar="DIR", help="folder of the features")
    add("--gpu", default="auto", help="GPU's number, cpu, or auto: the first one, or the local rank's (default)")
    add("--resume", action="store_true", help="go on with what is in --output_dir")
    add("--shard", default="0/1", metavar="I/N", help="do part I of N, from 0; torchrun's ranks share by themselves")
    add("--ray", metavar="ADDRESS", help="share the work on a Ray cluster; 'local' for this machine")
    add("--ray-workers", type=int, help="actors there (default: one a GPU, or one for every two CPUs)")
    add("--allow-failures", action="store_true", help="exit status 0 although samples failed")
    add("--allow-missing-cameras", action="store_true", help="leave out cameras whose image cannot be read")
    add("--allow-random-weights", action="store_true", help="store maps that mean nothing")
    add("--list-tokens", action="store_true", help="print the tokens of the selection, and do nothing else")
    add("--readers", type=int, default=4, help="threads that read images (default 4)")
    add("--ahead", type=int, default=4, help="samples to read ahead (default 4)")
    add("--every", type=int, default=50, help="samples between lines of progress without a terminal (default 50)")
    add("--quiet", action="store_true", help="tell nothing but failures and the result")
    add = parser.add_argument_group("files").add_argument
    add("--format", choices=FORMATS, help="of the files (default safetensors)")
    add("--dtype", choices=DTYPES, help="of the values (default float16); int8 with a scale for each channel")
    add(
        "--layout", choices=LAYOUTS, default="auto",
        help="auto: occupied cells only where they are fewer than half; guide: one .pt tensor [1, C, 1, Y, X] float32",
    )  # fmt: skip
    add_encoder_arguments(parser)
    add_selection_arguments(parser)
    add_source_arguments(parser)
    return parser


def file_format(options: argparse.Namespace) -> FileFormat:
    """How the options want maps to be stored."""
    guide = options.layout == "guide"
    form = options.format or ("pt" if guide else "safetensors")
    return FileFormat(form, options.dtype or ("float32" if guide else "float16"), options.layout)


@dataclass
class Job:
    """One run of the command, checked.

    Attributes:
        source, options_of_source: where samples come from, and how that was said.
        root: of the features.
        splits: name -> tokens, those of this process only.
        infos: name -> what the manifest says of the split.
        spec: of the encoder.
        files: how maps are stored.
        shard: of this process.
        device: of this process; "" with Ray.
        extraction: how.
    """

    source: SampleSource
    options_of_source: SourceOptions
    root: Path
    splits: dict[str, list[str]]
    infos: dict[str, SplitInfo]
    spec: EncoderSpec
    files: FileFormat
    shard: Shard
    device: str
    extraction: ExtractionOptions
    summaries: dict[str, Summary] = field(default_factory=dict)


def _job(told: argparse.Namespace) -> Job | None:
    """None: the tokens were listed, and that is all."""
    if told.source is None:
        raise InputError("expected --source, found none", "give the data set or bag")
    launch = launched()
    shard = Shard.parse(told.shard).split(launch.shard)
    if told.ray is not None and launch.world > 1:
        raise InputError("expected --ray or torchrun, found both", "Ray shares the work out itself")
    wanted = source_options(told)
    source = open_source(told.source, wanted)
    if shard.index == 0:
        for warning in source.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    splits = _tokens(source, told.split, selection(told), shard)
    if told.list_tokens:
        for tokens in splits.values():
            print(*tokens, sep="\n")
        return None
    spec = encoder_spec(told)
    if spec is None:
        raise InputError(
            "expected --encoder or --custom-encoder, found neither", "export an encoder with export_bev first"
        )
    if told.output_dir is None:
        raise InputError("expected --output_dir, found none")
    return Job(
        source=source,
        options_of_source=wanted,
        root=told.output_dir,
        splits=splits,
        infos={split: split_for(source, split, wanted.cameras) for split in splits},
        spec=spec,
        files=file_format(told),
        shard=shard,
        device="" if told.ray is not None else device_for(told.gpu, launch),
        extraction=ExtractionOptions(told.resume, told.ahead, told.readers, told.allow_missing_cameras),
    )


def _tokens(source: SampleSource, splits: Sequence[str], chosen: Selection, shard: Shard) -> dict[str, list[str]]:
    """Tokens of each split that are this process's."""
    return {split: shard.take(chosen.of(source.tokens(split))) for split in dict.fromkeys(splits)}


def _run(argv: Sequence[str] | None) -> int:
    told = parse_with_file(_parser(), argv, "--cfg")
    job = _job(told)
    if job is None:
        return 0
    stop = StopOnSignals()
    try:
        if told.ray is None:
            _run_here(job, told, stop)
        else:
            _run_on_ray(job, told, stop)
    except DiskFull as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if any(summary.complete for summary in job.summaries.values()) else 2
    if number := stop.number:
        print(f"stopped by {stop()}; go on with --resume", file=sys.stderr)
        return 128 + number
    return _status(job, told.allow_failures)


def _run_here(job: Job, told: argparse.Namespace, stop: StopOnSignals) -> None:
    encoder = job.spec.make(job.device)
    refuse_random_weights(encoder, told.allow_random_weights)
    manifest = manifest_for(encoder, job.files)

    def work(split: str, tokens: Sequence[str], store: BevStore, summary: Summary, progress: Progress) -> None:
        extract(
            store, split, tokens, job.source, encoder, writer=job.shard.name, options=job.extraction, stop=stop,
            progress=progress, summary=summary,
        )  # fmt: skip

    _do_splits(job, told, manifest, stop, work)


def _run_on_ray(job: Job, told: argparse.Namespace, stop: StopOnSignals) -> None:
    from bev_ros.ray_run import RayJob, choose_workers, connected, extract_on_ray, on_worker

    spec = job.spec.resolved()
    source = functools.partial(open_source, told.source.resolve(), job.options_of_source.resolved())
    describe = functools.partial(_described, spec, job.files, told.allow_random_weights)
    with connected(told.ray):
        workers = choose_workers(told.gpu, told.ray_workers)
        manifest = on_worker(describe, workers)

        def work(split: str, tokens: Sequence[str], store: BevStore, summary: Summary, progress: Progress) -> None:
            recipe = RayJob(store.root.resolve(), split, source, spec.make, job.extraction)
            extract_on_ray(recipe, tokens, workers, stop=stop, progress=progress, summary=summary)

        _do_splits(job, told, manifest, stop, work)


def _described(spec: EncoderSpec, files: FileFormat, allow_random: bool, device: str) -> StoreManifest:
    """The manifest, by a process that can run the encoder."""
    encoder = spec.make(device)
    refuse_random_weights(encoder, allow_random)
    return manifest_for(encoder, files)


def _do_splits(
    job: Job,
    told: argparse.Namespace,
    manifest: StoreManifest,
    stop: StopOnSignals,
    work: Callable[[str, Sequence[str], BevStore, Summary, Progress], None],
) -> None:
    _check_rig(job, manifest)
    with stop:
        for split, tokens in job.splits.items():
            store = BevStore.begin(job.root, manifest, split, job.infos[split])
            summary = job.summaries[split] = Summary()
            title = split if job.shard.count == 1 else f"{split} {job.shard}"
            try:
                with ExtractionProgress(title, every=told.every, enabled=not told.quiet) as progress:
                    work(split, tokens, store, summary, progress)
            except BaseException:
                # What is stored is merged; on a full disk the next run does that.
                with contextlib.suppress(DiskFull):
                    store.finish(split)
                if summary.stored:
                    _tell(store, split, summary)
                raise
            store.finish(split)
            _tell(store, split, summary)
            if stop():
                return


def _check_rig(job: Job, manifest: StoreManifest) -> None:
    """Refuses, before a folder is begun, a rig that would fail sample by sample; what else is wrong is told later."""
    from bev_ros.pipeline import check_slots

    split, tokens = next(iter(job.splits.items()))
    try:
        rig = job.source.sample(split, tokens[0]).rig
    except (AotError, IndexError):
        return
    check_slots(rig, manifest.encoder.config["cameras"])


def _tell(store: BevStore, split: str, summary: Summary) -> None:
    """One line about a split on stdout."""
    parts = [f"{summary.stored} maps stored"]
    if summary.stored:
        each = told_bytes(summary.size / summary.stored)
        parts[0] += f" ({each} each, {told_time(summary.seconds)}"
        parts[0] += f", {store.manifest.files.dtype} is off by up to {summary.error:.1e} of a map's largest value)"
    if summary.adopted:
        parts.append(f"{summary.adopted} found complete beside the index")
    if summary.skipped:
        parts.append(f"{summary.skipped} there before")
    if summary.failed:
        parts.append(f"{summary.failed} failed, see {store.failures(split).path.name}")
    print(f"{store.folder(split)}: {', '.join(parts)}")


def _status(job: Job, allow_failures: bool) -> int:
    summaries = job.summaries.values()
    failed = sum(summary.failed for summary in summaries)
    complete = sum(summary.complete for summary in summaries)
    if not failed:
        return 0
    if not complete:
        return 2
    return 0 if allow_failures else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Command `precompute_bev_features`; see the module for the exit status."""
    return exit_status(lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
