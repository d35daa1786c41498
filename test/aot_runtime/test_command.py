# SPDX-License-Identifier: Apache-2.0
"""How commands end."""

from __future__ import annotations

from pathlib import Path

import pytest

from aot_runtime.command import exit_status
from aot_runtime.errors import InputError


def test_a_place_that_cannot_be_used_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")

    def run() -> int:
        (tmp_path / "file" / "folder").mkdir()
        return 0

    assert exit_status(run) == 2
    assert capsys.readouterr().err == (
        f"error: expected a file or folder that can be used, found Not a directory for {tmp_path}/file/folder; "
        "check the path, its permissions and the space there\n"
    )


@pytest.mark.parametrize(("error", "status"), [(InputError("expected a, found b"), 2), (KeyboardInterrupt(), 130)])
def test_other_ends(error: BaseException, status: int) -> None:
    def run() -> int:
        raise error

    assert exit_status(run) == status
    assert exit_status(lambda: 1) == 1


def test_what_is_no_file_is_not_hidden() -> None:
    def run() -> int:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        exit_status(run)
