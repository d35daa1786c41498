# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from aot_runtime.errors import ArtifactError
from aot_runtime.files import AllowList, atomic_write, permission_problem, sha256_file


def test_atomic_write_replaces_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    for content in (b"first", b"second"):
        with atomic_write(target) as temporary:
            assert temporary.parent == target.parent
            temporary.write_bytes(content)
        assert target.read_bytes() == content
    assert [entry.name for entry in target.parent.iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail_half_way() -> None:
        with atomic_write(target) as temporary:
            temporary.write_bytes(b"half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail_half_way()
    assert target.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_written_file_is_never_writable_for_everybody(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        with atomic_write(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"x")
    finally:
        os.umask(previous)
    assert not (tmp_path / "a.bin").stat().st_mode & stat.S_IWOTH


def test_a_killed_write_leaves_no_target_and_the_next_one_clears_its_leftover(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from aot_runtime.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half'); print('writing', flush=True); time.sleep(60)\n"
    )
    target = tmp_path / "a.bin"
    with subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_a_write_leaves_the_temporary_files_of_living_processes(tmp_path: Path) -> None:
    other = tmp_path / f".a.bin.{os.getppid()}.0123abcd.tmp"
    other.write_bytes(b"someone else's")
    with atomic_write(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"x")
    assert other.exists()


def test_sha256_of_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40_000
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_permissions(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    file = folder / "a.pt2"
    file.write_bytes(b"")
    file.chmod(0o644)
    assert permission_problem(file) is None
    file.chmod(0o646)
    assert permission_problem(file) == (
        f"expected a file that only its owner can change, found {file} writable for everybody",
        f"run chmod o-w {file}",
    )
    file.chmod(0o644)
    folder.chmod(0o777)
    problem = permission_problem(file)
    assert problem is not None
    assert problem[1] == f"run chmod o-w {folder}"
    folder.chmod(0o1777)
    assert permission_problem(file) is None


def test_permissions_of_what_a_link_points_to(tmp_path: Path) -> None:
    file = tmp_path / "a.pt2"
    file.write_bytes(b"")
    file.chmod(0o666)
    link = tmp_path / "link.pt2"
    link.symlink_to(file)
    assert permission_problem(link) is not None


def test_allow_list(tmp_path: Path) -> None:
    file = tmp_path / "allow.txt"
    file.write_text(f"# accepted\n\n{'ab' * 32}  tiny.pt2\n{'CD' * 32} *other name.pt2\n{'ef' * 32}\n")
    allowed = AllowList.read(file)
    assert "ab" * 32 in allowed
    assert "cd" * 32 in allowed
    assert "EF" * 32 in allowed
    assert "00" * 32 not in allowed


def test_an_allow_list_reads_what_sha256sum_prints(tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"artifact")
    printed = subprocess.run(["sha256sum", "a.pt2"], cwd=tmp_path, capture_output=True, check=True).stdout
    (tmp_path / "allow.txt").write_bytes(printed)
    assert sha256_file(tmp_path / "a.pt2") in AllowList.read(tmp_path / "allow.txt")


@pytest.mark.parametrize("text", ["hello", "ab12  short.pt2", "ab" * 31 + "zz  a.pt2"])
def test_a_malformed_allow_list_names_the_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "allow.txt"
    file.write_text(f"{'ab' * 32}  a.pt2\n{text}\n")
    with pytest.raises(ArtifactError, match=r"found .* line 2; write the list with: sha256sum"):
        AllowList.read(file)


def test_a_missing_allow_list(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"allow-list .* unreadable .*sha256sum"):
        AllowList.read(tmp_path / "none.txt")
