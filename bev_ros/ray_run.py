# SPDX-License-Identifier: Apache-2.0
"""The extractor's work on a Ray cluster that is there already: Ray Data gives batches of tokens to one actor a GPU.

Every actor runs `bev_ros.extraction.extract` on its batches and writes into the same folder, under a writer's name of
its own. So all machines need the data, the encoder's files and the output folder at the same paths, and this package
installed. What is stored is known sample by sample: a run that broke off is continued with --resume, with Ray or
without.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import AotError, InputError
from bev_ros.extraction import ExtractionOptions, Progress, Silence, Summary, extract, plan_extraction
from bev_ros.prefetch import told
from bev_ros.store.disk import DiskFull
from bev_ros.store.index import MapRecord
from bev_ros.store.store import BevStore, Plan, SampleWriter

if TYPE_CHECKING:
    from bev_ros.extraction import Encoder
    from bev_ros.samples import SampleSource

AUTO, LOCAL = "auto", "local"
_CPUS = 2
_ANSWER_S = 10.0
_STORED, _FAILED, _BROKEN = "stored", "failed", "broken"


@dataclass(frozen=True)
class RayJob:
    """What an actor needs; it is sent to other machines, so it holds recipes, no things.

    Attributes:
        root: folder of the features, begun already.
        split: of all samples.
        source: opens the samples.
        encoder: makes the encoder on "cpu" or "cuda:0".
        options: how samples are worked through.
    """

    root: Path
    split: str
    source: Callable[[], SampleSource]
    encoder: Callable[[str], Encoder]
    options: ExtractionOptions


@dataclass(frozen=True)
class RayWorkers:
    """The actors.

    Attributes:
        count: how many.
        gpus, cpus: that each one has.
        batch: samples that one gets at a time.
    """

    count: int
    gpus: int
    cpus: int
    batch: int = 16

    @property
    def device(self) -> str:
        """Of an actor: it sees no other GPU than its own."""
        return "cuda:0" if self.gpus else "cpu"


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to a cluster, and with the address "local" a cluster on this machine.

    Args:
        address: "auto", "HOST:PORT" or "ray://HOST:PORT", as `ray.init` takes them.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    ray = _ray()
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address == LOCAL:
        quiet["include_dashboard"] = False
    else:
        _check_address(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, **quiet)
    except Exception as error:  # of many types, and only some of them Ray's
        raise InputError(
            f"expected a Ray cluster, found {told(error)} for --ray {address}",
            "start one with: ray start --head; or use --ray local",
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray puts its own in place
                signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Asks for an answer at HOST:PORT: Ray itself would try for minutes, also when the cluster of "auto" is gone."""
    host, colon, port = _found(address).removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"expected a Ray cluster at {address}, found {error}",
            "start one with: ray start --head; or use --ray local",
        ) from error


def _found(address: str) -> str:
    """What "auto" stands for on this machine; "auto" if nothing is known, which Ray says in words of its own."""
    if address != AUTO:
        return address
    try:
        # No public function of Ray's tells it.
        from ray._private.services import canonicalize_bootstrap_address

        return str(canonicalize_bootstrap_address(AUTO) or AUTO)
    except Exception:
        return AUTO


def choose_workers(gpu: str, count: int | None = None) -> RayWorkers:
    """One actor for each GPU of the cluster; without GPUs one for every two of its CPUs.

    Args:
        gpu: "auto", or "cpu" to leave GPUs alone.
        count: of actors, if it is told.

    Raises:
        InputError: another `gpu`, since Ray shares them out, or less than one actor.
    """
    if gpu not in ("auto", "cpu"):
        raise InputError(f"expected --gpu auto or cpu with --ray, which shares out the GPUs itself, found {gpu}")
    if count is not None and count < 1:
        raise InputError(f"expected at least one worker, found --ray-workers {count}")
    there = _ray().cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
    if gpus and gpu == "auto":
        return RayWorkers(count or gpus, 1, 1)
    found = count or max(1, cpus // _CPUS)
    return RayWorkers(found, 0, _CPUS if found * _CPUS <= cpus else 1)


def on_worker(function: Callable[[str], Any], workers: RayWorkers) -> Any:
    """What a function of the device gives, called once on a machine of the cluster: it may have a GPU that this lacks.

    Raises:
        AotError: as the function, or Ray failed.
    """
    ray = _ray()

    def call() -> Any:
        try:
            return function(workers.device)
        except AotError as error:
            return error

    try:
        result = ray.get(ray.remote(num_gpus=workers.gpus, num_cpus=workers.cpus)(call).remote())
    except Exception as error:
        raise _ray_failed(error) from error
    if isinstance(result, AotError):
        raise result
    return result


def extract_on_ray(
    job: RayJob,
    tokens: Sequence[str],
    workers: RayWorkers,
    *,
    stop: Callable[[], str] = lambda: "",
    progress: Progress | None = None,
    summary: Summary | None = None,
) -> Summary:
    """As `extract`, by actors; within `connected`.

    Args:
        job: what to do.
        tokens: which samples of the split.
        workers: the actors.
        stop: asked after each batch; a text that is not empty ends the run.
        progress: who is told, when a batch is done.
        summary: to fill in.

    Raises:
        InputError: there are maps already and `job.options.resume` is not set, or an actor cannot begin.
        DiskFull: no space for the maps; what was stored before stays.
        AotError: Ray itself failed.
    """
    progress, summary = progress or Silence(), summary or Summary()
    store = BevStore.open(job.root)
    plan = plan_extraction(store, job.split, tokens, job.options)
    summary.skipped = len(plan.stored)
    todo = _adopted(store, job.split, plan, summary)
    progress.begin(len(todo))
    if not todo:
        return summary
    begun = time.monotonic()
    try:
        with contextlib.closing(_rows(job, todo, workers)) as rows:
            for row in rows:
                _count(row, progress, summary)
                summary.stopped = stop()
                if summary.stopped:
                    break
    finally:
        summary.seconds = time.monotonic() - begun
    if summary.stopped:
        _recount(store, job.split, todo, summary)
    return summary


def _recount(store: BevStore, split: str, todo: Sequence[str], summary: Summary) -> None:
    """Actors had done more than they had told."""
    known, _ = store.records(split)
    found = [known[token] for token in todo if token in known]
    summary.stored = len(found)
    summary.size = sum(record.size for record in found)
    summary.error = max((record.error for record in found), default=0.0)


def _adopted(store: BevStore, split: str, plan: Plan, summary: Summary) -> list[str]:
    """The tokens that are left when complete files beside the index have been taken into it."""
    if not plan.unindexed:
        return list(plan.todo)
    writer = SampleWriter(store, split, "ray-driver")
    try:
        left = [token for token in plan.unindexed if writer.adopt(token) is None]
    finally:
        writer.close()
    summary.adopted += len(plan.unindexed) - len(left)
    return sorted([*plan.todo, *left])


def _count(row: dict[str, Any], progress: Progress, summary: Summary) -> None:
    token, state, text = str(row["token"]), str(row["state"]), str(row["told"])
    if state == _BROKEN:
        kind, reason, remedy = json.loads(text)
        raise (DiskFull if kind == DiskFull.__name__ else InputError)(reason, remedy)
    if state == _FAILED:
        summary.failed += 1
        progress.failed(token, text)
        return
    record = MapRecord.from_row(json.loads(text), "an actor's answer")
    summary.stored += 1
    summary.size += record.size
    summary.error = max(summary.error, record.error)
    progress.done(token, record)


def _rows(job: RayJob, tokens: Sequence[str], workers: RayWorkers) -> Generator[dict[str, Any], None, None]:
    """A row for each sample, batch by batch as they are done.

    Raises:
        AotError: Ray failed.
    """
    data = _ray_data()
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A batch that is large against the whole leaves some actors without work.
    batch = max(1, min(workers.batch, len(tokens) // (2 * workers.count)))
    blocks = -(-len(tokens) // batch)
    try:
        source = data.from_items([{"token": token} for token in tokens], override_num_blocks=blocks)
        done = source.map_batches(
            _Actor,
            fn_constructor_args=(replace(job, options=replace(job.options, resume=True)), workers.device),
            batch_size=batch,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=workers.count),
            num_cpus=workers.cpus,
            num_gpus=workers.gpus or None,
        )
        yield from done.iter_rows()
    except AotError:
        raise
    except Exception as error:  # of many types, and only some of them Ray's
        raise _ray_failed(error) from error


def _ray_failed(error: Exception) -> AotError:
    return AotError(
        f"expected Ray to run the work, found {told(error)}",
        "see Ray's logs (/tmp/ray/session_latest/logs on its machines); go on with --resume",
    )


class _Actor:
    """Does batches. What goes wrong is in the rows, so that Ray does not try the same again and again."""

    def __init__(self, job: RayJob, device: str) -> None:
        self._job = job
        self._device = device
        self._name = f"ray-{socket.gethostname().replace('.', '-')[:60]}-{os.getpid()}"

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        tokens = [str(token) for token in batch["token"]]
        rows = _Rows()
        job = self._job
        try:
            store, source, encoder = self._opened
            extract(
                store,
                job.split,
                tokens,
                source,
                encoder,
                writer=self._name,
                options=job.options,
                progress=rows,
                plan=Plan((), (), tuple(tokens)),
            )
        except Exception as error:
            parts = (error.reason, error.remedy) if isinstance(error, AotError) else (told(error), "")
            rows.add(tokens[0], _BROKEN, json.dumps([type(error).__name__, *parts]))
        return rows.columns

    @functools.cached_property
    def _opened(self) -> tuple[BevStore, SampleSource, Encoder]:
        job = self._job
        store, encoder = BevStore.open(job.root), job.encoder(self._device)
        if encoder.identity != store.manifest.encoder.identity:
            raise InputError(
                f"expected the encoder that {job.root} was begun with, found another on {socket.gethostname()}",
                "give all machines the same files at the same paths",
            )
        return store, job.source(), encoder


class _Rows:
    """Collects what `extract` tells of a batch."""

    def __init__(self) -> None:
        self.columns: dict[str, list[str]] = {"token": [], "state": [], "told": []}

    def add(self, token: str, state: str, text: str) -> None:
        for name, value in zip(self.columns, (token, state, text), strict=True):
            self.columns[name].append(value)

    def begin(self, total: int) -> None:
        pass

    def done(self, token: str, record: MapRecord) -> None:
        self.add(token, _STORED, json.dumps(record.to_row()))

    def failed(self, token: str, reason: str) -> None:
        self.add(token, _FAILED, reason)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "expected the library ray for --ray, found none",
            "install it with: python -m pip install 'ray[data]'; or share the work with torchrun or --shard",
        ) from error
    return ray


def _ray_data() -> Any:
    _ray()
    try:
        import ray.data
    except ImportError as error:
        raise InputError(
            f"expected Ray Data, found {error}", "install it with: python -m pip install 'ray[data]'"
        ) from error
    return ray.data
