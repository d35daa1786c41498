# SPDX-License-Identifier: Apache-2.0
"""The "% key value" text header of Prophesee RAW and DAT files.

Header lines begin with "%", RAW's always with "% ". The header ends at "% end" or at the first line of another form. A
data byte may be 0x25 ("%") too, so a line only counts as header if it is short printable text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_MAX_LINE = 4096
_MAX_HEADER = 1 << 20
_GEOMETRY = re.compile(r"^\s*(\d+)\s*x\s*(\d+)\s*$", re.IGNORECASE)
# plugin_name and similar values name the sensor; the size follows from the sensor's generation
_SENSOR_SIZES = (
    ("genx320", (320, 320)),
    ("imx636", (1280, 720)),
    ("gen41", (1280, 720)),
    ("gen4", (1280, 720)),
    ("gen31", (640, 480)),
    ("gen3", (640, 480)),
)
MAX_SIDE = 1 << 15


@dataclass
class PropheseeHeader:
    """Parsed header.

    Attributes:
        fields: lower-case key -> value of every "% key value" line (the last one of a key wins).
        lines: the raw lines without "%".
        size: bytes of the header, i.e. where the data begins.
    """

    fields: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    size: int = 0

    @property
    def format_name(self) -> str:
        """First part of the `format` line, e.g. "EVT3"; empty if there is none."""
        return self.fields.get("format", "").split(";")[0].strip().upper()

    @property
    def format_options(self) -> dict[str, str]:
        """The "name=value" parts of the `format` line, lower case."""
        parts = [part.split("=", 1) for part in self.fields.get("format", "").split(";")[1:] if "=" in part]
        return {name.strip().lower(): value.strip().lower() for name, value in parts}

    def geometry(self) -> tuple[int, int] | None:
        """(width, height) from `format`, `geometry` or `Width`/`Height` lines; None if absent or absurd."""
        options = self.format_options
        candidates = [
            (options.get("width", ""), options.get("height", "")),
            (self.fields.get("width", ""), self.fields.get("height", "")),
        ]
        match = _GEOMETRY.match(self.fields.get("geometry", ""))
        if match:
            candidates.insert(1, (match.group(1), match.group(2)))
        for width, height in candidates:
            if _is_side(width) and _is_side(height):
                return int(width), int(height)
        return None

    def sensor_guess(self) -> tuple[str, tuple[int, int]] | None:
        """(sensor name as found, size) from the value of plugin_name, sensor_name or sensor_generation."""
        for key in ("plugin_name", "sensor_name", "sensor_generation", "camera_integrator_name"):
            value = self.fields.get(key, "").lower()
            for name, size in _SENSOR_SIZES:
                if name in value:
                    return value, size
        return None


def _is_side(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= MAX_SIDE


def read_header(path: Path, *, blank_required: bool) -> PropheseeHeader:
    """Read the header at the start of a file.

    Args:
        path: the file.
        blank_required: RAW files put a blank after "%"; DAT files do not always.

    Returns:
        The header; `size` is 0 if the file has none.
    """
    with path.open("rb") as file:
        return parse_header(file.read(_MAX_HEADER), blank_required=blank_required)


def parse_header(data: bytes, *, blank_required: bool) -> PropheseeHeader:
    """Like `read_header`, from bytes. Never raises."""
    header = PropheseeHeader()
    mark = b"% " if blank_required else b"%"
    pos = 0
    while data.startswith(mark, pos):
        stop = data.find(b"\n", pos, pos + _MAX_LINE)
        if stop < 0:
            break
        text = _printable(data[pos + 1 : stop])
        if text is None:
            break
        pos = stop + 1
        header.lines.append(text)
        key, _, value = text.partition(" ")
        if not value and ":" in key:
            key, _, value = key.partition(":")
        if key.lower() == "end" and not value.strip():
            break
        header.fields[key.rstrip(":").lower()] = value.strip()
    header.size = pos
    return header


def _printable(line: bytes) -> str | None:
    """The line as text without surrounding white space, or None if it is not text."""
    try:
        text = line.decode("utf-8").replace("\t", " ").strip()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None
