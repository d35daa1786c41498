# SPDX-License-Identifier: Apache-2.0
"""What every export command asks about weights and measuring, and how it ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from aot_runtime.command import exit_status
from aot_runtime.errors import InputError


def add_weight_arguments(parser: argparse.ArgumentParser, runs: int = 200) -> None:
    """--random-weights, --seed, --warmup-runs and --runs, for a command that has --checkpoint.

    Args:
        runs: default of --runs.
    """
    add = parser.add_argument
    add("--random-weights", action="store_true", help="export without a checkpoint, for trials")
    add("--seed", type=int, help="seed of --random-weights (default 0)")
    add("--warmup-runs", type=int, default=20, help="runs before the clock starts (default 20)")
    add("--runs", type=int, default=runs, help=f"runs to measure after the export, 0 for none (default {runs})")


def check_weights(options: argparse.Namespace) -> None:
    """Refuses contradictions between --checkpoint and what `add_weight_arguments` added.

    Raises:
        InputError: no weights or two kinds, a seed without need, or a negative number of runs.
    """
    if options.random_weights == (options.checkpoint is not None):
        found = "both" if options.random_weights else "neither"
        raise InputError(
            f"expected either --checkpoint FILE or --random-weights, found {found}",
            "give the official checkpoint; random weights are only good for trials",
        )
    if options.seed is not None and not options.random_weights:
        raise InputError("expected --seed only with --random-weights, found it with --checkpoint", "leave it out")
    if options.runs < 0 or options.warmup_runs < 0:
        raise InputError("expected counts of runs from 0, found a negative one")


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    run: Callable[[argparse.Namespace, list[str]], int],
) -> int:
    """`run(options, command)` as a command ends: see `exit_status`. `command` is what the manifest tells to repeat."""
    options = parser.parse_args(argv)
    return exit_status(lambda: run(options, [parser.prog, *(sys.argv[1:] if argv is None else argv)]))
