# SPDX-License-Identifier: Apache-2.0
"""Recipes of fakes that other processes can be given: they import this file by its name."""

from __future__ import annotations

import os

from bev_fakes import FakeEncoder, fake_config

from aot_runtime.errors import InputError


def fake_encoder(device: str, seed: int = 0, delay: float = 0.0) -> FakeEncoder:
    """An encoder for the CPU."""
    assert device == "cpu"
    return FakeEncoder(fake_config(), seed=seed, delay=delay)


def no_encoder(device: str) -> FakeEncoder:
    """One whose weights are missing."""
    raise InputError(f"expected weights, found none for {device}", "find some")


def fails(device: str) -> None:
    """What is no error of ours."""
    raise ZeroDivisionError(device)


def runs_elsewhere(caller: int, device: str) -> tuple[str, bool]:
    """The device, and whether this is another process than `caller`."""
    return device, os.getpid() != caller
