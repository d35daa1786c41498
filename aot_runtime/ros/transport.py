# SPDX-License-Identifier: Apache-2.0
"""Chooses the Fast DDS profile with a large shared-memory segment.

Fast DDS' default segment of 512 kB loses most best-effort messages of 1 MB and more between processes. The shipped
profile (config/fastdds_shm64.xml) gives 64 MB. Humble and Jazzy read one variable, Kilted and later the other, and
each ignores the wrong name silently, so both are set.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from aot_runtime.errors import InputError
from aot_runtime.ros.resources import share_path

PROFILE = "config/fastdds_shm64.xml"
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def use_shipped_profile(environ: MutableMapping[str, str] | None = None) -> Path | None:
    """Points Fast DDS to the shipped profile unless the user chose one; call it before `rclpy.init`.

    Args:
        environ: the environment to change; the process's own by default.

    Returns:
        The profile that will be used by our doing, or None if the user's choice was left alone, if another RMW than
        Fast DDS is selected, or if the package's files cannot be found (then Fast DDS keeps its defaults).
    """
    env = os.environ if environ is None else environ
    if any(env.get(name) for name in VARIABLES):
        return None
    rmw = env.get("RMW_IMPLEMENTATION", "")
    if rmw and "fastrtps" not in rmw:
        return None
    try:
        profile = share_path(PROFILE)
    except InputError:
        return None
    for name in VARIABLES:
        env[name] = str(profile)
    return profile
