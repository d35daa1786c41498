# SPDX-License-Identifier: Apache-2.0
"""Errors that tell a user what was expected, what was found, and what to do about it."""

from __future__ import annotations


class AotError(RuntimeError):
    """Base of every error this project raises on purpose.

    Args:
        reason: one clause of the form "expected A, found B in FILE".
        remedy: what the user can do, as an imperative clause; may be empty.
    """

    def __init__(self, reason: str, remedy: str = "") -> None:
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{reason}; {remedy}" if remedy else reason)


class ArtifactError(AotError):
    """An artifact cannot be read, or may not run here."""


class CheckpointError(AotError):
    """A checkpoint is unreadable or does not fit the network."""


class ExportError(AotError):
    """An export was refused or failed; nothing was written."""


class InputError(AotError):
    """Data given by the caller (a tensor, a message, a file) is malformed."""
