# SPDX-License-Identifier: Apache-2.0
"""Bit operations that numba does not offer by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _count_trailing_zeros(typingctx: Any, value: Any) -> Any:
    if not isinstance(value, types.Integer):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], cgutils.true_bit)

    return value(value), codegen


count_trailing_zeros: Callable[[Any], Any] = _count_trailing_zeros  # type: ignore[assignment]
"""Index of the lowest set bit of a non-zero integer (one machine instruction); for use in compiled functions only."""
