# SPDX-License-Identifier: Apache-2.0
"""Files of JSON lines: writers that are killed, several at a time, and lines that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from bev_ros.store.lines import LineSet, read_rows, to_line


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    return [{"token": f"t{index}", "n": index} for index in range(start, start + count)]


def write(lines: LineSet, writer: str, some: list[dict[str, object]]) -> None:
    out = lines.writer(writer)
    for row in some:
        out.add(row)
    out.close()


def test_parts_are_merged_sorted_whatever_the_order_they_were_written_in(tmp_path: Path) -> None:
    lines = LineSet(tmp_path, "index")
    write(lines, "b", rows(3, 3)[::-1])
    write(lines, "a", rows(3))
    assert sorted(lines.read()[0]) == [f"t{index}" for index in range(6)]
    assert len(lines.merge()) == 6
    assert lines.parts() == []
    assert lines.path.read_bytes() == b"".join(to_line(row) for row in rows(6))
    before = lines.path.stat()
    lines.merge()
    assert lines.path.stat().st_ino == before.st_ino, "nothing new, nothing written"


def test_a_part_replaces_what_is_merged(tmp_path: Path) -> None:
    lines = LineSet(tmp_path, "index")
    write(lines, "a", rows(2))
    lines.merge()
    write(lines, "a", [{"token": "t1", "n": 100}])
    assert lines.read()[0]["t1"]["n"] == 100
    assert lines.merge()["t1"]["n"] == 100


def test_dropped_rows_are_gone_and_no_rows_are_no_file(tmp_path: Path) -> None:
    lines = LineSet(tmp_path, "failed")
    write(lines, "a", rows(2))
    assert list(lines.merge(drop=["t0"])) == ["t1"]
    assert lines.merge(drop=["t1", "t7"]) == {}
    assert not lines.path.exists()


@pytest.mark.parametrize("kept", [0, 1, 10, 19, 20, 21])
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path: Path, kept: int) -> None:
    lines = LineSet(tmp_path, "index")
    line = to_line(rows(1)[0])
    lines.part("a").write_bytes(line + to_line(rows(2)[1])[:kept])
    found, problems = lines.read()
    whole = kept == len(line)
    assert set(found) == ({"t0", "t1"} if whole else {"t0"})
    assert [problem.torn for problem in problems] == ([] if whole or not kept else [True])
    write(lines, "a", rows(1, 5))
    found, problems = lines.read()
    assert set(found) == ({"t0", "t1", "t5"} if whole else {"t0", "t5"})
    assert problems == []


def test_a_long_torn_line_is_cut_off_as_well(tmp_path: Path) -> None:
    lines = LineSet(tmp_path, "index")
    lines.part("a").write_bytes(to_line(rows(1)[0]) + b"x" * 200_000)
    write(lines, "a", rows(1, 5))
    assert set(lines.read()[0]) == {"t0", "t5"}
    lines.part("b").write_bytes(b"x" * 200_000)
    write(lines, "b", rows(1, 6))
    assert set(lines.read()[0]) == {"t0", "t5", "t6"}


def test_lines_that_are_no_rows_are_told_and_merged_away(tmp_path: Path) -> None:
    lines = LineSet(tmp_path, "index")
    lines.path.write_bytes(to_line(rows(1)[0]) + b"{\n[1]\n{}\n\xff\n" + b'{"token":NaN}\n' + to_line(rows(2)[1]))
    found, problems = lines.read()
    assert set(found) == {"t0", "t1"}
    assert [problem.number for problem in problems] == [2, 3, 5, 6, 4]
    assert "found list in" in str(problems[1])
    lines.merge()
    assert lines.read()[1] == []


def test_two_writers_of_one_name_are_refused(tmp_path: Path) -> None:
    lines = LineSet(tmp_path, "index")
    first = lines.writer("a")
    with pytest.raises(InputError, match="found another one writing it; wait for it, or give each process its own"):
        lines.writer("a")
    first.close()
    lines.writer("a").close()


def test_merging_leaves_alone_what_somebody_writes(tmp_path: Path) -> None:
    lines = LineSet(tmp_path, "index")
    busy = lines.writer("a")
    busy.add(rows(1)[0])
    write(lines, "b", rows(1, 1))
    assert set(lines.merge()) == {"t1"}
    busy.add(rows(1, 2)[0])
    busy.close()
    assert set(lines.merge()) == {"t0", "t1", "t2"}


def test_many_processes_that_write_and_merge_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bev_ros.store.lines import LineSet\n"
        "me, lines = sys.argv[1], LineSet(Path(sys.argv[2]), 'index')\n"
        "for turn in range(20):\n"
        "    out = lines.writer(me)\n"
        "    for n in range(5): out.add({'token': f'{me}-{turn}-{n}'})\n"
        "    out.close(); lines.merge()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(index), str(tmp_path)]) for index in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    found, problems = LineSet(tmp_path, "index").read()
    assert len(found) == 300
    assert problems == []


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_rows_or_problems(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(data)
    found, problems = read_rows(path)
    assert len(found) + len(problems) == data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
