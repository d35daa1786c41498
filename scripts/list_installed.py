#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints NAME==VERSION of every distribution that pip installed here, one a line.

`pip freeze` will not do: the ROS wheels bring metadata of the packages inside them (rclpy beside ros-rclpy), under
names that no index has.
"""

from __future__ import annotations

from importlib import metadata

SKIPPED = {"pip", "wheel", "aot-perception", "aot_perception"}


def main() -> None:
    lines = set()
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if (distribution.read_text("INSTALLER") or "").strip() == "pip" and name not in SKIPPED:
            # A local version label (+cpu) names one index's build; the lock must fit every build of that version.
            lines.add(f"{name}=={distribution.version.split('+')[0]}")
    print("\n".join(sorted(lines, key=str.lower)))


if __name__ == "__main__":
    main()
