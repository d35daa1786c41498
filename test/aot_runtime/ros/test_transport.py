# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from aot_runtime.errors import InputError
from aot_runtime.ros.resources import share_path
from aot_runtime.ros.transport import VARIABLES, use_shipped_profile


def test_profile_is_set_under_both_names() -> None:
    env: dict[str, str] = {}
    profile = use_shipped_profile(env)
    assert profile is not None
    assert env == {name: str(profile) for name in VARIABLES}
    text = profile.read_text()
    assert "67108864" in text
    ElementTree.fromstring(text.encode())


@pytest.mark.parametrize("name", VARIABLES)
def test_the_users_own_profile_is_left_alone(name: str) -> None:
    env = {name: "/etc/mine.xml"}
    assert use_shipped_profile(env) is None
    assert env == {name: "/etc/mine.xml"}


def test_other_middleware_is_left_alone() -> None:
    env = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    assert use_shipped_profile(env) is None
    assert len(env) == 1


def test_missing_resource_names_the_file() -> None:
    with pytest.raises(InputError, match=r"config/none\.yaml"):
        share_path("config/none.yaml")
