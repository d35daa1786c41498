# SPDX-License-Identifier: Apache-2.0
"""The extractor on a local Ray of two workers makes what one process makes, resumes, and says what fails."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bev_fakes import FakeSource, make_store, visible_files
from bev_recipes import fails, fake_encoder, no_encoder, runs_elsewhere

from aot_runtime.errors import AotError, InputError
from bev_ros.extraction import ExtractionOptions, Silence, Summary, manifest_for, split_for
from bev_ros.ray_run import RayJob, RayWorkers, choose_workers, connected, extract_on_ray, on_worker
from bev_ros.store.formats import FileFormat
from bev_ros.store.index import MapRecord
from bev_ros.store.store import BevStore

ROOT = Path(__file__).resolve().parents[2]
_WORKERS = RayWorkers(count=2, gpus=0, cpus=1, batch=2)
# Before Ray is there. In the background a shell has SIGINT ignored.
_HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine whose processes find this package and the fakes."""
    pytest.importorskip("ray.data", reason="ray[data] is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "test" / "support")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        with connected("local"):
            yield


class _Told(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.total = 0
        self.tokens: list[str] = []
        self.failures: dict[str, str] = {}

    def begin(self, total: int) -> None:
        self.total = total

    def done(self, token: str, record: MapRecord) -> None:
        assert record.token == token
        self.tokens.append(token)

    def failed(self, token: str, reason: str) -> None:
        self.failures[token] = reason


def _begin(root: Path, source: FakeSource) -> BevStore:
    return BevStore.begin(root, manifest_for(fake_encoder("cpu"), FileFormat()), "train", split_for(source, "train"))


def _job(root: Path, source: FakeSource, *, resume: bool = False, **encoder: object) -> RayJob:
    options = ExtractionOptions(resume=resume)
    return RayJob(
        root,
        "train",
        functools.partial(FakeSource, **vars(source)),
        functools.partial(fake_encoder, **encoder),
        options,
    )


@pytest.mark.usefixtures("cluster")
def test_two_workers_make_what_one_process_makes(tmp_path: Path) -> None:
    source, progress = FakeSource(13), _Told()
    store = _begin(tmp_path / "ray", source)
    workers = RayWorkers(2, 0, 1, 2)
    job = _job(tmp_path / "ray", source, delay=0.2)  # so that one actor cannot do it all before the other is there
    summary = extract_on_ray(job, source.tokens("train"), workers, progress=progress)
    names = {part.name for part in store.index("train").parts()}
    store.finish("train")
    assert (summary.stored, summary.failed, summary.skipped, summary.stopped) == (13, 0, 0, "")
    assert summary.size == sum(record.size for record in store.records("train")[0].values())
    assert summary.seconds > 13 * 0.2 / 2
    assert progress.total == 13
    assert sorted(progress.tokens) == source.tokens("train")
    assert len(names) == 2
    make_store(tmp_path / "one", source=FakeSource(13))
    assert visible_files(tmp_path / "ray") == visible_files(tmp_path / "one")


@pytest.mark.usefixtures("cluster")
def test_it_goes_on_where_another_run_ended(tmp_path: Path) -> None:
    """One that ran without Ray, was killed between a file and its row, and lost a file."""
    source = FakeSource(9)
    store = make_store(tmp_path / "out", source=source, tokens=lambda tokens: tokens[:5])
    tokens = source.tokens("train")
    store.path("train", tokens[1]).unlink()
    lines = store.index("train").path.read_bytes().splitlines(keepends=True)
    store.index("train").path.write_bytes(b"".join(line for line in lines if tokens[3].encode() not in line))
    job = _job(tmp_path / "out", source)
    with pytest.raises(InputError, match="--resume"):
        extract_on_ray(job, tokens, _WORKERS)
    progress = _Told()
    summary = extract_on_ray(_job(tmp_path / "out", source, resume=True), tokens, _WORKERS, progress=progress)
    store.finish("train")
    assert (summary.skipped, summary.adopted, summary.stored) == (3, 1, 5)
    assert sorted(progress.tokens) == [tokens[1], *tokens[5:]]
    make_store(tmp_path / "one", source=FakeSource(9))
    assert visible_files(tmp_path / "out") == visible_files(tmp_path / "one")
    again = extract_on_ray(_job(tmp_path / "out", source, resume=True), tokens, _WORKERS)
    assert (again.skipped, again.stored) == (9, 0)


@pytest.mark.usefixtures("cluster")
def test_samples_that_fail_are_told_and_the_others_done(tmp_path: Path) -> None:
    source = FakeSource(6, broken={"sample00002": "expected a sample, found dust"}, dark=("sample00004",))
    store, progress = _begin(tmp_path, source), _Told()
    summary = extract_on_ray(_job(tmp_path, source), source.tokens("train"), _WORKERS, progress=progress)
    info = store.finish("train")
    assert (summary.stored, summary.failed, info.stored, info.failed) == (4, 2, 4, 2)
    assert progress.failures["sample00002"] == "expected a sample, found dust"
    assert "sample00004" in progress.failures
    assert set(store.failures("train").read()[0]) == {"sample00002", "sample00004"}


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_cannot_begin_says_why(tmp_path: Path) -> None:
    source = FakeSource(4)
    _begin(tmp_path, source)
    job = RayJob(tmp_path, "train", functools.partial(FakeSource, 4), no_encoder, ExtractionOptions())
    with pytest.raises(InputError, match="expected weights, found none for cpu; find some"):
        extract_on_ray(job, source.tokens("train"), _WORKERS)
    with pytest.raises(InputError, match="the same files at the same paths"):
        extract_on_ray(_job(tmp_path, source, seed=1), source.tokens("train"), _WORKERS)


@pytest.mark.usefixtures("cluster")
def test_it_stops_when_asked_and_loses_nothing(tmp_path: Path) -> None:
    source = FakeSource(30)
    store, progress, summary = _begin(tmp_path, source), _Told(), Summary()
    job = _job(tmp_path, source, delay=0.05)
    stop = lambda: "SIGINT" if len(progress.tokens) >= 4 else ""  # noqa: E731
    extract_on_ray(job, source.tokens("train"), _WORKERS, stop=stop, progress=progress, summary=summary)
    assert summary.stopped == "SIGINT"
    stored = set(store.records("train")[0])
    assert set(progress.tokens) <= stored
    assert len(stored) < 30
    assert len(progress.tokens) <= summary.stored <= len(stored)
    extract_on_ray(_job(tmp_path, source, resume=True), source.tokens("train"), _WORKERS)
    store.finish("train")
    assert sorted(store.records("train")[0]) == source.tokens("train")
    for token in source.tokens("train"):
        store.read("train", token)


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_is_killed_is_replaced(tmp_path: Path) -> None:
    source = FakeSource(20)
    store, progress = _begin(tmp_path / "ray", source), _Told()
    killed: list[int] = []

    def kill_one() -> str:
        if not killed:
            part = store.index("train").parts()[0]  # index.ray-HOST-PID.jsonl
            killed.append(int(part.name.split(".")[1].rpartition("-")[2]))
            os.kill(killed[0], signal.SIGKILL)
        return ""

    job = _job(tmp_path / "ray", source, delay=0.1)
    extract_on_ray(job, source.tokens("train"), _WORKERS, stop=kill_one, progress=progress)
    store.finish("train")
    assert killed
    make_store(tmp_path / "one", source=FakeSource(20))
    assert visible_files(tmp_path / "ray") == visible_files(tmp_path / "one")


@pytest.mark.usefixtures("cluster")
def test_a_function_on_a_worker() -> None:
    assert on_worker(functools.partial(runs_elsewhere, os.getpid()), _WORKERS) == ("cpu", True)
    with pytest.raises(InputError, match="expected weights"):
        on_worker(no_encoder, _WORKERS)
    with pytest.raises(AotError, match=r"expected Ray to run .*ZeroDivisionError"):
        on_worker(fails, _WORKERS)


@pytest.mark.usefixtures("cluster")
def test_handlers_of_signals_are_the_callers() -> None:
    """Ray puts its own for SIGTERM in their place."""
    assert {number: signal.getsignal(number) for number in _HANDLERS} == _HANDLERS


@pytest.mark.usefixtures("cluster")
def test_how_many_workers() -> None:
    import ray

    cpus = int(ray.cluster_resources()["CPU"])
    assert choose_workers("cpu") == RayWorkers(max(1, cpus // 2), 0, 2 if cpus > 1 else 1)
    assert choose_workers("cpu", 1).count == 1
    assert choose_workers("cpu", 10 * cpus) == RayWorkers(10 * cpus, 0, 1)
    for gpu, count in (("0", None), ("auto", 0)):
        with pytest.raises(InputError, match="expected"):
            choose_workers(gpu, count)


def test_no_cluster_and_no_ray_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"expected the library ray.*pip install 'ray\[data\]'"), connected("local"):
        pass


def test_an_address_where_nobody_answers_is_said_at_once() -> None:
    pytest.importorskip("ray", reason="ray[data] is not installed")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999999"):
            with pytest.raises(InputError, match=r"expected a Ray cluster at .*ray start --head"), connected(address):
                pass


def test_a_cluster_that_is_gone_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that Ray keeps of the last cluster stays when the cluster is killed."""
    pytest.importorskip("ray", reason="ray[data] is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InputError, match=r"expected a Ray cluster at auto, .*ray start --head"), connected("auto"):
            pass


def test_ray_is_imported_only_when_used() -> None:
    code = "import sys, bev_ros.ray_run; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
