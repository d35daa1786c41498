# SPDX-License-Identifier: Apache-2.0
"""Folders and a bag -> vggt_node -> record_topics, as separate processes over real DDS: the same depth in both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ros_processes import Process, bag_topic
from synthetic_room import CAMERAS, Room

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("tf2_msgs", reason="tf2_msgs is not built; run: make setup")

Start = Callable[..., Process]
START_S, RATE = 1_700_000_000, 0.5


@pytest.fixture
def folders(room: Room, tmp_path: Path) -> Path:
    """images/CAMERA/*.png, disparities/CAMERA/STAMP.npy, intrinsics.npz and poses.npz of the room."""
    import shutil

    for name in CAMERAS:
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "disparities" / name).mkdir(parents=True)
        for step in range(4):
            shutil.copy(room.folder / f"{name}_{step:02d}.png", tmp_path / "images" / name)
            stamp_ns = START_S * 10**9 + round(step / RATE * 1e9)
            relative = room.relative["rel_disparity"][room.index(name, step)].astype(np.float32)
            np.save(tmp_path / "disparities" / name / f"{stamp_ns}.npy", relative)
    np.savez(tmp_path / "intrinsics.npz", **{name: room.frames["K"][room.index(name, 0)] for name in CAMERAS})
    poses = {f"{name}/{step}": room.frames["T_wc"][room.index(name, step)] for name in CAMERAS for step in range(4)}
    np.savez(tmp_path / "poses.npz", **poses)
    return tmp_path


def test_folders_and_a_bag_of_them_give_the_same_depth(start: Start, folders: Path, room: Room) -> None:
    inputs = [topic for name in CAMERAS for topic in (f"/{name}/image_rect", f"/{name}/camera_info")] + ["/tf"]
    outputs = [f"/vggt/depth/{name}" for name in CAMERAS]

    def node() -> Process:
        remap = [
            text
            for name in CAMERAS
            for here, there in (("image", "image_rect"), ("camera_info", "camera_info"))
            for text in ("-r", f"~/{name}/{here}:=/{name}/{there}")
        ]
        told = {
            "cameras": f"[{','.join(CAMERAS)}]",
            "bootstrap_file": room.folder / "vggt_like.npz",
            "depth_folder": folders / "disparities",
            "pose_source": "tf",
            "sync_patience": 2.0,
            "tf_timeout": 1.0,
            "num_threads": 1,
        }
        parameters = [text for name, value in told.items() for text in ("-p", f"{name}:={value}")]
        return start("vggt_ros.node", "--ros-args", *remap, *parameters)

    def record(bag: str, topics: list[str]) -> Process:
        return start("f3_ros.recorder", *topics, "-o", str(folders / bag))

    def depths(bag: str) -> dict[str, list[np.ndarray]]:
        return {
            name: [
                np.frombuffer(bytes(msg.data), np.float32).reshape(120, 160)
                for msg in bag_topic(folders / bag, f"/vggt/depth/{name}")
            ]
            for name in CAMERAS
        }

    vggt, live, taken = node(), record("live", outputs), record("inputs", inputs)
    for topic in outputs:
        live.wait_for(f"recording {topic}")
    player = start(
        *("vggt_ros.play_rig", "--images", str(folders / "images"), "--poses", str(folders / "poses.npz")),
        *("--intrinsics", str(folders / "intrinsics.npz"), "--rate", str(RATE), "--start_stamp", str(START_S)),
        *("--subscribers", "2"),
    )
    assert "done: 4 instants of front, left, right" in player.done(), vggt.log.read_text()
    time.sleep(2.0)
    vggt.end()
    live.end()
    taken.end()
    found = depths("live")
    assert {name: len(images) for name, images in found.items()} == dict.fromkeys(CAMERAS, 4), vggt.log.read_text()
    errors = [
        np.nanmedian(np.abs(found[name][step] - room.static_depth[frame])[room.still(frame)])
        for name in CAMERAS
        for step in (1, 2, 3)
        for frame in (room.index(name, step),)
    ]
    assert np.mean(errors) <= 0.03

    vggt, again = node(), record("again", outputs)
    for topic in outputs:
        again.wait_for(f"recording {topic}")
    played = start("aot_runtime.ros.bag_player", str(folders / "inputs"))
    assert "done: " in played.done()
    time.sleep(2.0)
    vggt.end()
    again.end()
    replayed = depths("again")
    assert {name: len(images) for name, images in replayed.items()} == dict.fromkeys(CAMERAS, 4), vggt.log.read_text()
    for name, images in replayed.items():
        for ours, theirs in zip(images, found[name], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_play_rig_says_what_is_wrong(start: Start, tmp_path: Path) -> None:
    from aot_runtime.errors import InputError
    from vggt_ros.play_rig import PlayOptions

    assert "usage: " in start("vggt_ros.play_rig", "--help").done()
    for wrong in ({}, {"images": tmp_path, "videos": tmp_path}, {"images": tmp_path, "rate": 0.0}):
        with pytest.raises(InputError):
            PlayOptions(**wrong)
    process = start("vggt_ros.play_rig", "--images", str(tmp_path / "none"))
    process.wait_for("expected a folder of images, found nothing at")


def test_help_of_the_node(start: Start) -> None:
    assert "usage: vggt_node" in start("vggt_ros.node", "--help").done()
