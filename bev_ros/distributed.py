# SPDX-License-Identifier: Apache-2.0
"""Sharing samples among processes that know nothing of each other: shards by number, and what torchrun tells each.

Process i of n takes every n-th sample of the sorted list, from the i-th on. No messages, no NCCL: a run may be
continued with any other number of processes, since what is done is known sample by sample.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aot_runtime.errors import InputError

_LAUNCH = "start the command with torchrun, or unset these variables"
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`; the first one is 0.

    Raises:
        InputError: there is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"expected a shard i/n with i from 0 to n - 1, found {self.index}/{self.count}",
                "the first of n shards is 0/n",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "i/n", as --shard has it: 0/4, 1/4, 2/4, 3/4.

        Raises:
            InputError: it is no such thing.
        """
        match = _SHARD.fullmatch(text.strip())
        if match is None:
            raise InputError(f"expected --shard i/n such as 0/4, found {text!r}", "the first of n shards is 0/n")
        return cls(int(match[1]), int(match[2]))

    def split(self, inner: Shard) -> Shard:
        """Part `inner` of this part: with torchrun in every task of an array of jobs."""
        return Shard(self.index + self.count * inner.index, self.count * inner.count)

    def take(self, tokens: Sequence[str]) -> list[str]:
        """This part of a list."""
        return list(tokens[self.index :: self.count])

    @property
    def name(self) -> str:
        """For files of its own: "main" for the whole."""
        return "main" if self.count == 1 else f"shard-{self.index}-of-{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Launch:
    """What torchrun says to a process.

    Attributes:
        rank, world: number of this process, and how many there are on all machines.
        local_rank, local_world: the same on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def shard(self) -> Shard:
        """This process' part."""
        return Shard(self.rank, self.world)


def launched(environment: Mapping[str, str] | None = None) -> Launch:
    """What torchrun says (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); one process if it says nothing.

    Raises:
        InputError: RANK without WORLD_SIZE or the reverse, or numbers that contradict each other.
    """
    told = os.environ if environment is None else environment
    if "RANK" not in told and "WORLD_SIZE" not in told:
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    found = ", ".join(f"{name}={told[name]}" for name in names if name in told)
    try:
        rank, world = int(told["RANK"]), int(told["WORLD_SIZE"])
        local_rank = int(told.get("LOCAL_RANK", 0))
        local_world = int(told.get("LOCAL_WORLD_SIZE", local_rank + 1))
    except (KeyError, ValueError):
        raise InputError(f"expected {', '.join(names)} as torchrun sets them, found {found}", _LAUNCH) from None
    if not (0 <= rank < world and 0 <= local_rank < local_world <= world):
        raise InputError(f"expected ranks below their numbers of processes, found {found}", _LAUNCH)
    return Launch(rank, world, local_rank, local_world)


def device_for(gpu: str, launch: Launch | None = None) -> str:
    """The device of a process: "cpu" or "cuda:N".

    Args:
        gpu: "auto" takes the GPU with the local rank's number, round and round if there are fewer, and the CPU if there
            is none; "cpu"; or a GPU's number, or several separated by commas, which local ranks take in turn.

    Raises:
        InputError: it is none of them, or there is no such GPU.
    """
    launch = launch or Launch()
    if gpu == "cpu":
        return "cpu"
    numbers = gpu.split(",")
    if gpu != "auto" and not all(number.isdecimal() for number in numbers):
        raise InputError(f"expected --gpu auto, cpu, or numbers such as 0 or 0,1, found {gpu!r}")
    import torch

    there = torch.cuda.device_count()
    if gpu == "auto":
        return f"cuda:{launch.local_rank % there}" if there else "cpu"
    absent = [number for number in numbers if int(number) >= there]
    if absent:
        raise InputError(
            f"expected a GPU out of {', '.join(str(n) for n in range(there)) or 'none'}, found --gpu {gpu}",
            "choose one that nvidia-smi lists, or --gpu cpu",
        )
    return f"cuda:{int(numbers[launch.local_rank % len(numbers)])}"
