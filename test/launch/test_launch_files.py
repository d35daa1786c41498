# SPDX-License-Identifier: Apache-2.0
"""Launch files agree with the nodes they start; with ROS sourced they also yield a description."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
NODES = {
    "f3.launch.py": "f3_node",
    "replay.launch.py": "replay_node",
    "depth.launch.py": "depth_node",
    "aliked.launch.py": "aliked_node",
    "vitmatte.launch.py": "vitmatte_node",
    "vggt.launch.py": "vggt_node",
    "bev.launch.py": "bev_node",
}
FILES = tuple(NODES)


def parameter_names(text: str) -> set[str]:
    """Keys of the parameter dictionary literal in a launch file."""
    tree = ast.parse(text)
    calls = [
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") in ("Node", "LifecycleNode")
    ]
    (call,) = calls
    (parameters,) = [k.value for k in call.keywords if k.arg == "parameters"]
    return {key.value for d in ast.walk(parameters) if isinstance(d, ast.Dict) for key in d.keys}


@pytest.mark.parametrize("name", FILES)
def test_parameters_exist_in_the_yaml(name: str) -> None:
    text = (ROOT / "launch" / name).read_text()
    document = yaml.safe_load((ROOT / "config" / name.replace(".launch.py", ".yaml")).read_text())
    known = set(document["/**"]["ros__parameters"])
    assert parameter_names(text) - {"use_sim_time"} <= known


def description_of(name: str) -> Any:
    """What launch makes of a file; skips the test without ROS 2."""
    pytest.importorskip("launch_ros", reason="launch_ros is not on PyPI: this needs a sourced ROS 2")
    spec = importlib.util.spec_from_file_location("description", ROOT / "launch" / name)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


@pytest.mark.parametrize("name", FILES)
def test_every_argument_is_declared_and_used(name: str) -> None:
    description = description_of(name)
    assert description.entities
    declared = {argument.name for argument in description.get_launch_arguments()}
    text = (ROOT / "launch" / name).read_text()
    used = set(re.findall(r'(?:typed|LaunchConfiguration)\("(\w+)"', text))
    if "camera_names(" in text:
        used |= {"cameras", "image", "camera_info"}  # as the helpers of launching.py use them
    assert used <= declared
    by_all = {"name", "namespace", "log_level"}  # in aot_runtime/ros/launching.py
    assert declared - used <= by_all | {"implementation", "use_composition", "container_name"}
    assert by_all - {"name"} <= declared


@pytest.mark.parametrize("given", [False, True])
def test_large_images_get_the_shared_memory_profile_unless_the_user_has_one(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    for variable in names:
        monkeypatch.delenv(variable, raising=False)
    if given:
        monkeypatch.setenv(names[1], "/etc/own.xml")
    description = description_of("depth.launch.py")
    from launch.actions import SetEnvironmentVariable
    from launch.utilities import perform_substitutions

    from launch import LaunchContext

    context = LaunchContext()
    found = {
        perform_substitutions(context, action.name): perform_substitutions(context, action.value)
        for action in description.entities
        if isinstance(action, SetEnvironmentVariable)
    }
    profile = str(ROOT / "config" / "fastdds_shm64.xml")
    assert found == ({} if given else dict.fromkeys(names, profile))


@pytest.mark.parametrize(("name", "executable"), NODES.items())
def test_executable_is_an_entry_point(name: str, executable: str) -> None:
    assert f'executable="{executable}"' in (ROOT / "launch" / name).read_text()
    assert f'"{executable} = ' in (ROOT / "setup.py").read_text()


def test_f3_launches_heads_and_calibration() -> None:
    text = (ROOT / "launch" / "f3.launch.py").read_text()
    assert {"artifact", "depth_artifact", "flow_artifact"} <= parameter_names(text)
    node = (ROOT / "f3_ros" / "node.py").read_text() + (ROOT / "f3_ros" / "node_camera.py").read_text()
    for topic in ("~/events", "~/event_camera_info"):
        assert f'("{topic}", LaunchConfiguration("{topic[2:]}"))' in text
        assert f'"{topic}"' in node


COMPONENTS = {
    "f3.launch.py": "aot_perception::F3Component",
    "depth.launch.py": "aot_perception::DepthComponent",
    "aliked.launch.py": "aot_perception::AlikedComponent",
}


def started(name: str, **chosen: str) -> Any:
    """The one action that starts the node for these launch arguments, and the context they were evaluated in."""
    description = description_of(name)
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update({"artifact": "MODEL.pt2", **chosen})
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
    (choice,) = (entity for entity in description.entities if isinstance(entity, OpaqueFunction))
    (action,) = choice.execute(context)
    return action, context


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_component_is_registered_and_built_as_the_same_executable(name: str) -> None:
    text = (ROOT / "launch" / name).read_text()
    assert f'plugin="{COMPONENTS[name]}"' in text
    build = (ROOT / "cpp_nodes" / "src" / "components" / "CMakeLists.txt").read_text()
    assert COMPONENTS[name] in build
    (executable,) = re.findall(r'executable="(\w+)"', text)
    assert re.search(rf"\b{executable}\b", build)


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize(("implementation", "package"), [("python", "aot_perception"), ("cpp", "aot_perception_cpp")])
def test_the_implementation_changes_only_the_package(name: str, implementation: str, package: str) -> None:
    action, context = started(name, implementation=implementation)
    from launch.utilities import perform_substitutions

    def text(what: Any) -> str:
        return what if isinstance(what, str) else str(perform_substitutions(context, what))

    assert text(action.node_package) == package
    assert text(action.node_executable) == name.replace(".launch.py", "_node")
    assert action.remappings
    assert action.parameters


@pytest.mark.parametrize("name", COMPONENTS)
def test_composition_makes_a_container_or_uses_the_one_that_is_there(name: str) -> None:
    own, _ = started(name, implementation="cpp", use_composition="true")
    from launch_ros.actions import ComposableNodeContainer, LoadComposableNodes

    assert isinstance(own, ComposableNodeContainer)
    assert own.node_executable == "component_container_isolated"
    given, _ = started(name, implementation="cpp", use_composition="true", container_name="/perception")
    assert isinstance(given, LoadComposableNodes)


def test_a_python_node_cannot_be_composed() -> None:
    with pytest.raises(Exception, match="expected implementation:=cpp with use_composition:=true"):
        started("f3.launch.py", use_composition="true")


def test_vggt_launches_a_node_with_the_topics_of_each_camera() -> None:
    description = description_of("vggt.launch.py")
    from launch.actions import DeclareLaunchArgument, OpaqueFunction
    from launch.utilities import perform_substitutions

    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update({"cameras": "left, right", "image": "/rig/{camera}/image_raw"})
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
    (choice,) = (entity for entity in description.entities if isinstance(entity, OpaqueFunction))
    (node,) = choice.execute(context)
    told = {
        perform_substitutions(context, here): perform_substitutions(context, there)
        for here, there in node._Node__remappings  # those that launch_ros will use
    }
    assert told == {
        "~/left/image": "/rig/left/image_raw",
        "~/left/camera_info": "/left/camera_info",
        "~/right/image": "/rig/right/image_raw",
        "~/right/camera_info": "/right/camera_info",
    }
