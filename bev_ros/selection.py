# SPDX-License-Identifier: Apache-2.0
"""Which samples of a split: by number, by list, or a share of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aot_runtime.errors import InputError
from bev_ros.samples import ALL, read_token_list

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True)
class Selection:
    """Some of the sorted tokens of a split, before they are shared out.

    Attributes:
        start, end: numbers among the tokens, `end` excluded, None: to the end.
        limit: at most so many; None: all.
        only: these tokens, which must be there; None: all.
    """

    start: int = 0
    end: int | None = None
    limit: int | None = None
    only: tuple[str, ...] | None = None

    def of(self, tokens: Sequence[str]) -> list[str]:
        """The tokens selected, in their order.

        Raises:
            InputError: the split or the range is empty, a number is negative, or a token of `only` is not there.
        """
        for name, value in (("start_idx", self.start), ("end_idx", self.end), ("limit", self.limit)):
            if value is not None and value < (1 if name == "limit" else 0):
                raise InputError(f"expected --{name} from {1 if name == 'limit' else 0}, found {value}")
        if not tokens:
            raise InputError(
                "expected samples in the split, found none",
                "choose another --split; how the images of a bag are matched say --slop, --required and --cameras",
            )
        chosen = list(tokens)
        if self.only is not None:
            strange = sorted(set(self.only) - set(tokens))
            if strange:
                others = f" and {len(strange) - 1} others" if len(strange) > 1 else ""
                raise InputError(
                    f"expected tokens of the split in --only, found {strange[0]}{others} that are not",
                    "list the tokens with precompute_bev_features --list-tokens",
                )
            wanted = set(self.only)
            chosen = [token for token in tokens if token in wanted]
        chosen = chosen[self.start : self.end][: self.limit]
        if not chosen:
            raise InputError(
                f"expected samples from {self.start} up to {'the end' if self.end is None else self.end}, found none "
                f"among {len(tokens)}",
                "check --start_idx, --end_idx and --only",
            )
        return chosen


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line's arguments for `selection`."""
    add: Any = parser.add_argument_group("which samples").add_argument
    add("--split", nargs="+", default=[ALL], metavar="SPLIT", help=f"splits of the samples (default {ALL})")
    add("--only", type=Path, metavar="FILE", help="tokens to do, one a line")
    add("--start_idx", "--start-idx", type=int, default=0, help="number of the first sample of the sorted list")
    add("--end_idx", "--end-idx", type=int, help="number after the last one")
    add("--limit", type=int, help="at most so many samples")


def selection(options: argparse.Namespace) -> Selection:
    """What the arguments say; raises InputError as `read_token_list` does."""
    only = None if options.only is None else tuple(read_token_list(options.only))
    return Selection(options.start_idx, options.end_idx, options.limit, only)
