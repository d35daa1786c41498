# SPDX-License-Identifier: Apache-2.0
"""What all export commands share: weights or none, a seed, runs, and how they end."""

from __future__ import annotations

import argparse

import pytest

from aot_runtime.errors import ExportError, InputError
from aot_runtime.export_command import add_weight_arguments, check_weights, run_command


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="export_x")
    made.add_argument("--checkpoint")
    add_weight_arguments(made, runs=7)
    return made


def test_defaults() -> None:
    options = parser().parse_args(["--random-weights"])
    assert (options.seed, options.warmup_runs, options.runs) == (None, 20, 7)
    check_weights(options)
    check_weights(parser().parse_args(["--checkpoint", "a.pth", "--runs", "0"]))
    check_weights(parser().parse_args(["--random-weights", "--seed", "3"]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected either --checkpoint FILE or --random-weights, found neither"),
        (["--checkpoint", "a.pth", "--random-weights"], "found both"),
        (["--checkpoint", "a.pth", "--seed", "1"], "expected --seed only with --random-weights"),
        (["--random-weights", "--runs", "-1"], "expected counts of runs from 0"),
        (["--random-weights", "--warmup-runs", "-1"], "expected counts of runs from 0"),
    ],
)
def test_contradictions(words: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_weights(parser().parse_args(words))
    assert said in str(caught.value)


def test_how_a_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    def run(options: argparse.Namespace, command: list[str]) -> int:
        assert command == ["export_x", "--random-weights"]
        return 0

    def fail(options: argparse.Namespace, command: list[str]) -> int:
        raise ExportError("expected A, found B", "do C")

    def stop(options: argparse.Namespace, command: list[str]) -> int:
        raise KeyboardInterrupt

    assert run_command(parser(), ["--random-weights"], run) == 0
    assert run_command(parser(), [], fail) == 2
    assert capsys.readouterr().err == "error: expected A, found B; do C\n"
    assert run_command(parser(), [], stop) == 130
