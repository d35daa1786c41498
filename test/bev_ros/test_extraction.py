# SPDX-License-Identifier: Apache-2.0
"""Extraction: resuming, shards, failures, being killed at any moment, and disks that fill up."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bev_fakes
import numpy as np
import pytest
from bev_fakes import FakeEncoder, FakeSource, fake_config, make_store, visible_files

from aot_runtime.errors import InputError
from aot_runtime.files import sha256_file
from bev_ros.extraction import ExtractionOptions, extract, manifest_for, refuse_random_weights, split_for
from bev_ros.prefetch import load_samples
from bev_ros.stopping import StopOnSignals
from bev_ros.store import disk
from bev_ros.store.disk import DiskFull
from bev_ros.store.formats import FileFormat
from bev_ros.store.lines import LineSet
from bev_ros.store.store import BevStore

RESUME = ExtractionOptions(resume=True)


def run_fake(root: Path, count: int, *options: str, **more: Any) -> subprocess.Popen[str]:
    """The extraction as a process; its first line says that it has begun."""
    paths = [str(Path(bev_fakes.__file__).parent), str(Path(__file__).resolve().parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, bev_fakes.__file__, str(root), str(count), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def check_nothing_is_half(store: BevStore) -> set[str]:
    """Every visible file is whole, every row of the index is true; the tokens in the index."""
    records, problems = store.records("train")
    for record in records.values():
        path = store.path("train", record.token)
        assert (path.stat().st_size, sha256_file(path)) == (record.size, record.sha256)
    for name in store.sizes("train"):
        if name.endswith(".safetensors"):
            store.read("train", name.removesuffix(".safetensors"))
    assert all("without its end" in problem for problem in problems)
    return set(records)


def test_maps_are_what_the_encoder_gave(tmp_path: Path) -> None:
    encoder, source = FakeEncoder(), FakeSource(3)
    store = make_store(tmp_path / "out", encoder, source, files=FileFormat(dtype="float32"))
    records, problems = store.records("train")
    assert problems == []
    for token in source.tokens("train"):
        sample = source.sample("train", token)
        wanted = encoder.process({name: read() for name, read in sample.images.items()}, sample.rig).features
        np.testing.assert_array_equal(store.read("train", token).dense().numpy(), wanted)
        record = records[token]
        assert (record.stamp_ns, record.scene, record.cameras) == (sample.stamp_ns, "scene-1", ("front", "right"))
        assert record.calibration == sample.rig.hash
        np.testing.assert_array_equal(record.pose, sample.ego_pose)
    info = BevStore.open(tmp_path / "out").manifest.splits["train"]
    assert (info.samples, info.stored, info.failed, info.calibration) == (3, 3, 0, "made up")


def test_a_folder_with_maps_needs_resume(tmp_path: Path) -> None:
    make_store(tmp_path / "out")
    with pytest.raises(InputError, match=r"expected none of these 6 samples in .*, found 6; say --resume"):
        make_store(tmp_path / "out")
    encoder = FakeEncoder()
    make_store(tmp_path / "out", encoder, options=RESUME)
    assert encoder.calls == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match=r"expected an empty folder or one of BEV features, found thesis\.txt"):
        make_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["thesis.txt"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"expected a place to write .*, found Not a directory; check the path"):
        make_store(tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoder": FakeEncoder(seed=1)}, "encoder.identity is"),
        ({"encoder": FakeEncoder(fake_config(rule="trunc"))}, "grid.rule is 'floor' there and 'trunc' here"),
        ({"encoder": FakeEncoder(fake_config(size=40))}, r"grid.x is \[-10.0, 10.0, 1.0\] there and \[-20.0"),
        ({"files": FileFormat(dtype="int8")}, "files.dtype is 'float16' there and 'int8' here"),
        ({"files": FileFormat("pt")}, "files.format is 'safetensors' there and 'pt' here"),
        ({"source": FakeSource(6, salt=1)}, 'splits.train.source is "fake-6-0" there and "fake-6-1" here'),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_maps_of_two_kinds_are_never_mixed(tmp_path: Path, change: dict[str, Any], told: str, resume: bool) -> None:
    make_store(tmp_path / "out")
    before = visible_files(tmp_path)
    with pytest.raises(InputError, match=told):
        make_store(tmp_path / "out", options=ExtractionOptions(resume=resume), **change)
    assert visible_files(tmp_path) == before


def test_another_split_may_join(tmp_path: Path) -> None:
    make_store(tmp_path / "out")
    store = make_store(tmp_path / "out", source=FakeSource(2, salt=1), split="val")
    assert {name: info.stored for name, info in store.manifest.splits.items()} == {"train": 6, "val": 2}


def test_failures_are_noted_and_the_others_are_done(tmp_path: Path) -> None:
    source = FakeSource(6, broken={"sample00001": "expected a stamp, found none"}, dark=["sample00004"])
    store = make_store(tmp_path / "out", source=source)
    rows = [json.loads(line) for line in store.failures("train").path.read_text().splitlines()]
    assert rows == [
        {"reason": "expected a stamp, found none", "token": "sample00001"},
        {"reason": "camera right: expected an image, found nothing for sample00004 right", "token": "sample00004"},
    ]
    assert store.manifest.splits["train"].stored == 4
    # The data are repaired: failures are tried again, and forgotten.
    store = make_store(tmp_path / "out", options=RESUME)
    assert not store.failures("train").path.exists()
    assert visible_files(tmp_path / "out") == visible_files(make_store(tmp_path / "other").root)


def test_a_dark_camera_may_be_left_out(tmp_path: Path) -> None:
    source = FakeSource(2, dark=["sample00001"])
    store = make_store(tmp_path, source=source, options=ExtractionOptions(allow_missing_cameras=True))
    records, _ = store.records("train")
    assert [(record.cameras, record.missing) for record in records.values()] == [
        (("front", "right"), ()),
        (("front",), ("right",)),
    ]


class Faulty(FakeEncoder):
    """Fails in one of several ways for each map."""

    def process(self, images: Any, rig: Any) -> Any:
        result = super().process(images, rig)
        kind = (self.calls - 1) % 5
        if kind == 1:
            raise RuntimeError("out of memory\nand more")
        features = result.features
        if kind == 2:
            features[0, 0, 0] = np.inf
        if kind == 3:
            features[:] = 0
        return replace(result, features=features[:-1] if kind == 4 else features)


def test_an_encoder_that_fails_makes_failures_with_reasons(tmp_path: Path) -> None:
    store = make_store(tmp_path, Faulty(), FakeSource(6))
    rows, _ = store.failures("train").read()
    assert {token: row["reason"].partition(";")[0] for token, row in rows.items()} == {
        "sample00001": "RuntimeError: out of memory and more",
        "sample00002": "expected finite features, found 1 of 1600 that are not",
        "sample00003": "expected features, found a map of zeros only",
        "sample00004": "expected a map [8, 10, 20], found [7, 10, 20]",
    }
    assert set(store.records("train")[0]) == {"sample00000", "sample00005"}


class Worried(FakeEncoder):
    """Has the same to say of every map."""

    def process(self, images: Any, rig: Any) -> Any:
        result = super().process(images, rig)
        return SimpleNamespace(**vars(result), warnings=("tables were damaged",))


def test_an_encoders_warnings_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_store(tmp_path, Worried())
    assert [record.message for record in caplog.records] == ["sample00000: tables were damaged"]


def test_tokens_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    for token in ("../a", "/etc/passwd", "a/b", ".hidden", "", "a\0b", "x" * 300, ".."):
        with pytest.raises(InputError, match="expected a token of at most 200"):
            store.path("train", token)
        with pytest.raises(InputError, match="expected a token"):
            extract(store, "train", [token], FakeSource(6), FakeEncoder())
    with pytest.raises(InputError, match="expected a split of at most"):
        BevStore.begin(tmp_path, store.manifest, "../train", store.manifest.splits["train"])


def test_encoders_of_several_instants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an encoder of one sweep, found tiny of 2; export it without"):
        make_store(tmp_path, FakeEncoder(replace(fake_config(), sweeps=2)))


def test_random_weights_need_permission() -> None:
    encoder = FakeEncoder(random_weights=True)
    with pytest.raises(InputError, match=r"found random ones: its maps mean nothing; .* say --allow-random-weights"):
        refuse_random_weights(encoder, False)
    refuse_random_weights(encoder, True)
    assert manifest_for(encoder, FileFormat()).encoder.random_weights


@pytest.mark.parametrize("count", [2, 3])
def test_shards_together_are_one_run_byte_by_byte(tmp_path: Path, count: int) -> None:
    assert finish(run_fake(tmp_path / "one", 11))[0] == 0
    shards = [run_fake(tmp_path / "many", 11, "--shard", f"{index}/{count}") for index in range(count)]
    assert [finish(process) for process in shards] == [(0, "")] * count
    one = visible_files(tmp_path / "one")
    assert len(one) == 13
    assert visible_files(tmp_path / "many") == one


def test_the_manifest_counts_what_all_have_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run ends between this one's merging and its counting."""
    source = FakeSource(6)
    store = make_store(tmp_path, source=source, tokens=lambda tokens: tokens[:2])
    other = threading.Thread(target=lambda: BevStore.open(tmp_path).finish("train"))
    merge = LineSet.merge

    def then_another(lines: LineSet, drop: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
        rows = merge(lines, drop)
        if lines.path.name == "index.jsonl" and other.ident is None:
            extract(store, "train", source.tokens("train")[2:], source, FakeEncoder(), writer="other", options=RESUME)
            other.start()
            other.join(0.5)
        return rows

    monkeypatch.setattr(LineSet, "merge", then_another)
    store.finish("train")
    other.join()
    assert BevStore.open(tmp_path).manifest.splits["train"].stored == 6


def test_two_runs_of_one_shard_are_refused(tmp_path: Path) -> None:
    first = run_fake(tmp_path, 50, "--delay", "0.02")
    assert first.stdout is not None
    first.stdout.readline()
    time.sleep(0.2)
    status, errors = finish(run_fake(tmp_path, 50, "--resume"))
    assert status == 2
    assert "found another one writing it" in errors
    assert finish(first) == (0, "")


def test_killed_at_any_moment_nothing_is_lost(tmp_path: Path) -> None:
    count, moments = 60, random.Random(8)
    assert finish(run_fake(tmp_path / "calm", count))[0] == 0
    root, had, kills = tmp_path / "killed", set[str](), 0
    for attempt in range(40):
        process = run_fake(root, count, "--delay", "0.002", "--resume")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.06))
        process.send_signal(signal.SIGKILL)
        kills += finish(process)[0] == -signal.SIGKILL
        has = check_nothing_is_half(BevStore.open(root))
        assert had <= has, "what was stored stays"
        had = has
        if len(had) == count and attempt > 15:
            break
    assert kills > 10
    assert finish(run_fake(root, count, "--resume")) == (0, "")
    assert visible_files(root) == visible_files(tmp_path / "calm")
    assert list(root.rglob("*.tmp")) == [], "leftovers are swept"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_present_sample(tmp_path: Path, number: signal.Signals) -> None:
    process = run_fake(tmp_path / "out", 200, "--delay", "0.02")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(number)
    assert finish(process) == (128 + number, "")
    store = BevStore.open(tmp_path / "out")
    stored = check_nothing_is_half(store)
    assert 0 < len(stored) < 200
    assert store.index("train").parts() == []
    assert {path.stem for path in store.folder("train").glob("*.safetensors")} == stored


def test_a_second_signal_does_not_wait(request: pytest.FixtureRequest) -> None:
    # A shell that runs the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with StopOnSignals() as stop:
        assert stop() == ""
        signal.raise_signal(signal.SIGINT)
        assert stop() == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_file_that_is_whole_but_not_in_the_index_is_adopted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    before = visible_files(tmp_path)
    index = store.index("train").path
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[:4]) + lines[4][:30])
    # One of the two is broken: it is made again.
    (tmp_path / "out/train/sample00005.safetensors").write_bytes(b"\0" * 100)
    encoder = FakeEncoder()
    make_store(tmp_path / "out", encoder, options=RESUME)
    assert encoder.calls == 1
    assert visible_files(tmp_path) == before


def test_a_file_of_another_folder_is_not_adopted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out", tokens=lambda tokens: tokens[:3])
    other = make_store(tmp_path / "other", FakeEncoder(seed=1))
    store.path("train", "sample00004").write_bytes(other.path("train", "sample00004").read_bytes())
    store.path("train", "sample00005").write_bytes(store.path("train", "sample00001").read_bytes())
    encoder = FakeEncoder()
    make_store(tmp_path / "out", encoder, options=RESUME)
    assert encoder.calls == 3
    assert visible_files(tmp_path / "out") == visible_files(make_store(tmp_path / "calm").root)


def test_files_that_vanished_or_shrank_are_made_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "out")
    before = visible_files(tmp_path)
    store.path("train", "sample00001").unlink()
    with store.path("train", "sample00002").open("r+b") as file:
        file.truncate(100)
    encoder = FakeEncoder()
    make_store(tmp_path / "out", encoder, options=RESUME)
    assert encoder.calls == 2
    assert visible_files(tmp_path) == before


def test_images_are_read_while_the_encoder_works_and_never_too_many() -> None:
    busy = threading.Lock()
    now, most = 0, 0

    class Counting(FakeSource):
        def sample(self, split: str, token: str) -> Any:
            nonlocal now, most
            with busy:
                now += 1
                most = max(most, now)
            return super().sample(split, token)

    source = Counting(30)
    tokens = []
    for loaded in load_samples(source, "train", source.tokens("train"), ahead=3, readers=2):
        with busy:
            now -= 1
        tokens.append(loaded.token)
        time.sleep(0.002)
    assert tokens == source.tokens("train")
    assert 2 <= most <= 4
    stopped = load_samples(source, "train", source.tokens("train"), ahead=3)
    next(stopped)
    stopped.close()
    assert now <= 5


# Disks that fill up.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """small_disk("2m") -> a file system of that size, gone after the test."""
    mounted = []

    def mount(size: str) -> Path:
        place = tmp_path / "disk"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        try:
            made = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no mount: {error}")
        if made.returncode:
            pytest.skip(f"mounting a tmpfs is not permitted: {made.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_too_small_a_disk_is_told_before_anything_is_computed(small_disk: Callable[[str], Path]) -> None:
    encoder = FakeEncoder(fake_config(size=200))
    with pytest.raises(DiskFull, match=r"expected .* MiB free for 40 samples of .* KiB, found .* at .*disk"):
        make_store(small_disk("2m") / "out", encoder, FakeSource(40), files=FileFormat(layout="dense"))
    assert encoder.calls == 0


def test_too_small_a_disk_is_told_after_the_first_map_if_sizes_differ(small_disk: Callable[[str], Path]) -> None:
    encoder = FakeEncoder(fake_config(channels=64, size=40))
    place = small_disk("2m")
    with pytest.raises(DiskFull, match=r"free for 3[89]"):
        make_store(place / "out", encoder, FakeSource(40))
    assert encoder.calls <= 3


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_a_disk_that_fills_up_meanwhile_stops_the_run(small_disk: Callable[[str], Path], form: str) -> None:
    place = small_disk("2m")
    process = run_fake(place / "out", 20, "--format", form, "--layout", "dense", "--delay", "0.05", "--size", "60")
    assert process.stdout is not None
    process.stdout.readline()
    # Somebody else takes the space, down to less than another map (8 * 30 * 60 * 2 = 28,800 bytes) needs.
    time.sleep(0.15)
    taken = disk.free_bytes(place) - 90_000
    (place / "somebody").write_bytes(b"x" * taken)
    status, errors = finish(process)
    assert status == 2
    # Told before a write fails.
    assert re.search(r"error: expected .* free for 2 samples of .*, found .*--resume", errors)
    store = BevStore.open(place / "out")
    if form == "safetensors":
        check_nothing_is_half(store)
    assert list((place / "out").rglob("*.tmp")) == []
    (place / "somebody").unlink()
    command = ("--format", form, "--layout", "dense", "--size", "60", "--resume")
    assert finish(run_fake(place / "out", 20, *command)) == (0, "")
    assert len(store.records("train")[0]) == 20


def test_a_write_that_finds_the_disk_full_leaves_nothing(
    small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the look at the free space before: the system's own ENOSPC."""
    place = small_disk("256k")
    monkeypatch.setattr("bev_ros.extraction.free_bytes", lambda path: 1 << 60)
    monkeypatch.setattr("bev_ros.store.disk.free_bytes", lambda path: 1 << 60)
    encoder, source = FakeEncoder(fake_config(size=60)), FakeSource(20)
    with pytest.raises(DiskFull, match=r"expected room for .*, found none left \(No space left on device\)"):
        make_store(place / "out", encoder, source, files=FileFormat(layout="dense"))
    store = BevStore.open(place / "out")
    stored = check_nothing_is_half(store)
    assert 2 <= len(stored) <= 9
    assert {path.stem for path in store.folder("train").glob("*.safetensors")} == stored
    assert list(place.rglob("*.tmp")) == []


def test_a_limit_on_files_sizes_is_told(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3500, 3500))

    status, errors = finish(run_fake(tmp_path, 5, preexec_fn=limit))
    assert status == 2
    assert "found none left (File too large)" in errors
    assert list(tmp_path.rglob("*.safetensors")) == []
    assert list(tmp_path.rglob("*.tmp")) == []


def test_an_index_without_room_for_a_row_keeps_the_map_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.write, 0

    def full(handle: int, data: bytes) -> int:
        nonlocal calls
        if b'"sha256"' in data:
            calls += 1
            if calls == 3:
                return real(handle, data[:40])
            if calls == 4:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    # The rest of a row that was written in part holds the digest as well.
    monkeypatch.setattr("bev_ros.store.lines.os.write", full)
    with pytest.raises(DiskFull, match=r"index\.main\.jsonl, found none left"):
        make_store(tmp_path / "out")
    monkeypatch.undo()
    store = BevStore.open(tmp_path / "out")
    assert check_nothing_is_half(store) >= {"sample00000", "sample00001"}
    encoder = FakeEncoder()
    make_store(tmp_path / "out", encoder, options=RESUME)
    assert encoder.calls < 4
    assert visible_files(tmp_path / "out") == visible_files(make_store(tmp_path / "calm").root)


@pytest.mark.parametrize("layout", ["auto", "dense"])
def test_the_index_and_manifest_say_what_resuming_needs(tmp_path: Path, layout: str) -> None:
    """Half a run and its rest, with another number of shards, are one run."""
    source, encoder, files = FakeSource(9), FakeEncoder(coverage=0.3), FileFormat(layout=layout)
    calm = make_store(tmp_path / "calm", encoder, source, files=files)
    for index in range(2):
        make_store(
            tmp_path / "out", encoder, source, files=files, writer=f"a{index}",
            tokens=lambda tokens, index=index: tokens[index:5:2],
        )  # fmt: skip
    for index in range(3):
        make_store(
            tmp_path / "out", encoder, source, files=files, writer=f"b{index}", options=RESUME,
            tokens=lambda tokens, index=index: tokens[index::3],
        )  # fmt: skip
    assert encoder.calls == 18
    assert visible_files(tmp_path / "out") == visible_files(calm.root)
    assert (split_for(source, "train").samples, calm.manifest.splits["train"].stored) == (9, 9)
