#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make the CMake packages inside the ROS wheels of this virtual environment usable.

The wheels were built in a container, and the CMake files that they export name that container's Python headers,
NumPy headers and a system tinyxml2, and ask for lttng-ust. This rewrites those to what is here. Running it twice
changes nothing.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

PYTHON_INCLUDE = re.compile(r"/opt/python/cp3\d+-cp3\d+/include/python3\.\d+")
NUMPY_INCLUDE = re.compile(r"/opt/python/cp3\d+-cp3\d+/lib/python3\.\d+/site-packages/numpy/_core/include")
LTTNG = ("\\$<LINK_ONLY:lttng-ust>", ";lttng-ust", "lttng-ust;")


def main() -> int:
    prefix = Path(sys.prefix)
    site = Path(sysconfig.get_path("platlib"))
    tinyxml2 = next(iter(sorted(site.glob("ros_fastrtps.libs/libtinyxml2*.so*"))), None)
    changed = 0
    for file in [*prefix.glob("share/*/cmake/*.cmake"), *prefix.glob("lib/cmake/*/*.cmake")]:
        before = file.read_text()
        after = NUMPY_INCLUDE.sub(numpy.get_include(), before)
        after = PYTHON_INCLUDE.sub(sysconfig.get_path("include"), after)
        if tinyxml2 is not None:
            after = after.replace("/usr/lib64/libtinyxml2.so", str(tinyxml2))
        if "tracetools" in file.parts[-3]:
            for item in LTTNG:
                after = after.replace(item, "")
            after = after.replace('"lttng-ust"', '""')
        if after != before:
            file.write_text(after)
            changed += 1
    print(f"mended {changed} CMake files of the ROS wheels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
