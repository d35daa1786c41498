# SPDX-License-Identifier: Apache-2.0
"""The package as a robot gets it: built by colcon, found through the ament index, its console scripts start."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COLCON = Path(sys.executable).with_name("colcon")


def declared_commands() -> dict[str, str]:
    """Command -> module, as setup.py declares them."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "COMMANDS":
            pairs = [line.split("=") for line in ast.literal_eval(node.value)]
            return {name.strip(): target.strip().split(":")[0] for name, target in pairs}
    raise AssertionError("setup.py has no COMMANDS")


@pytest.fixture(scope="session")
def install_space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not COLCON.exists():
        pytest.skip("colcon is not installed beside this Python; run: make setup")
    work = tmp_path_factory.mktemp("colcon")
    prefix = sys.prefix
    # The virtual environment plays the underlay that /opt/ros/<distro>/setup.bash makes on a robot.
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": prefix,
        "CMAKE_PREFIX_PATH": prefix,
        "LD_LIBRARY_PATH": f"{prefix}/lib",
        "ROS_VERSION": "2",
        "ROS_DISTRO": "jazzy",
        "PATH": f"{prefix}/bin:{os.environ['PATH']}",
        "COLCON_LOG_PATH": str(work / "log"),
    }
    # The C++ package takes minutes; `make cpp` builds and tests it.
    command = [str(COLCON), "build", "--base-paths", ".", "cpp_nodes", "--packages-select", "aot_perception"]
    command += ["--build-base", str(work / "build"), "--install-base", str(work / "install")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return work / "install"


def run_in(install_space: Path, script: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    line = f"source {install_space}/setup.bash >/dev/null 2>&1; {script}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=install_space,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_declared_command_is_installed_where_ros2_run_looks(install_space: Path) -> None:
    folder = install_space / "aot_perception" / "lib" / "aot_perception"
    assert sorted(p.name for p in folder.iterdir()) == sorted(declared_commands())


@pytest.mark.parametrize("command", sorted(declared_commands()))
def test_installed_command_starts(install_space: Path, command: str) -> None:
    done = run_in(install_space, f"{install_space}/aot_perception/lib/aot_perception/{command} --help")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"usage: ", done.stdout), done.stdout + done.stderr


def test_launch_files_and_parameters_are_installed(install_space: Path) -> None:
    share = install_space / "aot_perception" / "share" / "aot_perception"
    for folder, pattern in (("launch", "*.launch.py"), ("config", "*")):
        source = sorted(p.name for p in (ROOT / folder).glob(pattern) if p.is_file())
        assert source, f"{folder}/ has no files"
        assert sorted(p.name for p in (share / folder).iterdir() if p.is_file()) == source


def test_package_is_found_through_the_ament_index(install_space: Path) -> None:
    code = "import ament_index_python as a; print(a.get_package_share_directory('aot_perception'))"
    done = run_in(install_space, f'{sys.executable} -c "{code}"')
    assert done.stdout.strip() == str(install_space / "aot_perception" / "share" / "aot_perception"), done.stderr


def test_interface_package_is_hidden_from_colcon() -> None:
    """A robot takes event_camera_msgs from apt; ours must not shadow it."""
    done = subprocess.run(
        [str(COLCON), "list", "--names-only", "--base-paths", ".", "cpp_nodes", "interfaces"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "COLCON_LOG_PATH": os.devnull},
    )  # fmt: skip
    assert sorted(done.stdout.split()) == ["aot_perception", "aot_perception_cpp"]
