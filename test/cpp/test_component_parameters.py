# SPDX-License-Identifier: Apache-2.0
"""The parameter tables of the C++ components say what those of the Python nodes say; needs neither a build nor ROS."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "cpp_nodes" / "src" / "components"


def cpp_value(value: Any) -> str:
    """A default as the C++ table writes it."""
    if isinstance(value, bool):
        return f"ParameterValue({str(value).lower()})"
    if isinstance(value, int):
        return f"ParameterValue(std::int64_t{{{value}}})"
    return f"ParameterValue({json.dumps(value) if isinstance(value, str) else repr(value)})"


def cpp_entry(param: Any) -> str:
    """A parameter as the C++ table writes it."""
    parts = [json.dumps(param.name), cpp_value(param.default), json.dumps(param.text)]
    if param.limits or param.choices:
        parts.append(f"std::pair({float(param.limits[0])!r}, {float(param.limits[1])!r})" if param.limits else "{}")
    if param.choices:
        parts.append("{" + ", ".join(json.dumps(word) for word in param.choices) + "}")
    return "{" + ", ".join(parts) + "}"


def compact(text: str) -> str:
    """Without whitespace, and without the seams of strings that clang-format breaks over lines."""
    return re.sub(r'(?<=[^(,{])""(?=[^),}])', "", re.sub(r"\s+", "", text))


@pytest.mark.parametrize("family", ["f3", "depth", "aliked"])
def test_tables_agree(family: str) -> None:
    table = importlib.import_module(f"{family}_ros.parameters").TABLE
    text = compact((SOURCES / f"{family}_parameters.cpp").read_text())
    begin = text.index("kTable={") + len("kTable={")
    found = text[begin : text.index("};returnkTable;")]
    assert found.rstrip(",") == ",".join(compact(cpp_entry(param)) for param in table)
