# SPDX-License-Identifier: Apache-2.0
"""What tests compile once: keys that follow the sources, and processes that want the same artifact at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from kept_artifacts import cached, kept, key_of, locked

PROCESSES = multiprocessing.get_context("fork")


def _make_slowly(path: Path, log: Path) -> None:
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.3)
    path.write_text("made")


def test_processes_that_want_it_at_once_make_it_once(tmp_path: Path) -> None:
    path, log = tmp_path / "a.bin", tmp_path / "log"
    wanting = [
        PROCESSES.Process(target=kept, args=(path, lambda path: _make_slowly(path, log), Path.is_file))
        for _ in range(4)
    ]
    for process in wanting:
        process.start()
    for process in wanting:
        process.join(30)
    assert [process.exitcode for process in wanting] == [0] * 4
    assert len(log.read_text().split()) == 1
    assert path.read_text() == "made"


def _hold(path: Path, held: Event) -> None:
    with locked(path):
        held.set()
        time.sleep(60)


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    path, held = tmp_path / "a.bin", PROCESSES.Event()
    process = PROCESSES.Process(target=_hold, args=(path, held))
    process.start()
    assert held.wait(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert kept(path, lambda path: path.write_text("made"), Path.is_file).read_text() == "made"


def test_an_exception_leaves_no_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        kept(tmp_path / "a.bin", lambda _: 1 / 0, Path.is_file)
    process = PROCESSES.Process(target=kept, args=(tmp_path / "a.bin", lambda path: path.touch(), Path.is_file))
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_what_is_there_and_good_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.touch()
    assert kept(path, lambda _: pytest.fail("made again"), Path.is_file) == path
    made: list[Path] = []
    kept(path, made.append)  # an empty file is no artifact that this machine may run
    assert made == [path]


def test_the_key_follows_everything(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    keys = [key_of((str(tmp_path),)), key_of((str(tmp_path),), {"height": 2})]
    keys += [key_of((str(tmp_path),), state={"w": torch.full((2,), value)}) for value in (0.0, 1.0)]
    (tmp_path / "a.py").write_text("2")
    keys.append(key_of((str(tmp_path / "a.py"),)))
    assert len(set(keys)) == len(keys)
    assert keys[-1] == key_of((str(tmp_path),))
    first = cached(tmp_path, "x", ".onnx", ("setup.py",), Path.touch, asked=1, good=Path.is_file)
    assert first.name == f"x_{key_of(('setup.py',), 1)}.onnx"


def test_a_source_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such_file\.py"):
        key_of(("no_such_file.py",))
