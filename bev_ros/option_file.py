# SPDX-License-Identifier: Apache-2.0
"""Options of a command in a YAML file; what is on the command line wins."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aot_runtime.errors import InputError


def parse_with_file(parser: argparse.ArgumentParser, argv: Sequence[str] | None, option: str) -> argparse.Namespace:
    """The options of a command line on top of those in the file that its `option` names.

    The file is a mapping from names of options, with - or _, to values; true sets a flag, false leaves it, a list gives
    several values. If it has a section with the command's name, that is the mapping: so the file may be that of a
    training.

    Raises:
        InputError: the file cannot be read, or holds an option that the command does not have.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument(option, dest="file", type=Path)
    file = finder.parse_known_args(given)[0].file
    return parser.parse_args([*(_arguments(parser, file) if file is not None else ()), *given])


def _arguments(parser: argparse.ArgumentParser, file: Path) -> list[str]:
    import yaml

    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"expected a YAML file of options, found {error} for {file}") from error
    if isinstance(told, dict) and parser.prog in told:
        told = told[parser.prog]
    if not isinstance(told, dict):
        raise InputError(f"expected options by name, found {type(told).__name__} in {file}")
    actions = {
        text.lstrip("-").replace("-", "_"): action for action in parser._actions for text in action.option_strings
    }
    found: list[str] = []
    for name, value in told.items():
        action = actions.get(_key(str(name)))
        if action is None or isinstance(action, argparse._HelpAction):
            raise InputError(
                f"expected options of {parser.prog}, found {name!r} in {file}",
                f"see {parser.prog} --help, or put them into a section '{parser.prog}:'",
            )
        found += _argument(action, name, value, file)
    return found


def _key(name: str) -> str:
    return name.replace("-", "_")


def _argument(action: argparse.Action, name: Any, value: Any, file: Path) -> list[str]:
    text = action.option_strings[0]
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"expected {name}: true or false, found {value!r} in {file}")
        return [text] if value else []
    if isinstance(value, dict | bool):
        raise InputError(f"expected a value of {name}, found {value!r:.60} in {file}")
    values = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if action.nargs is None:
        # "=" keeps a value that begins with "-" from being an option.
        return [f"{text}={','.join(values)}"]
    return [text, *values]
