# SPDX-License-Identifier: Apache-2.0
"""depth_offline: the live node's numbers byte by byte, from files and bags, without ROS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_bags import write_cameras
from ros_processes import run_without_ros

from depth_ros.offline import main
from depth_ros.pipeline import ImageDepthPipeline

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 50_000_000
CAMERA = (525.0, 525.0, 319.5, 239.5)


def table(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "frames.json").read_text())


@pytest.fixture(scope="session")
def redwood(shared: Path) -> list[np.ndarray]:
    from aot_runtime.frames import read_image

    return [read_image(shared / "data" / "multiview" / "redwood_rgbd" / f"{n:05d}.jpg") for n in range(3)]


@pytest.mark.parametrize("options", [{}, {"latched_info": True, "storage": "sqlite3"}, {"compressed": True}])
def test_bag_through_the_live_node_equals_offline_byte_by_byte(
    options: dict[str, Any],
    ros: Any,
    depth: Callable[..., Any],
    stand_in: Callable[..., Path],
    image_bag: Callable[..., Path],
    redwood: list[np.ndarray],
    tmp_path: Path,
) -> None:
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2

    from aot_runtime.ros.bag_player import BagPlayer, PlayOptions
    from aot_runtime.ros.messages import stamp_to_ns

    artifact = stand_in(kind="metric", max_depth=10.0, resize="keep_aspect")
    topic = "/camera/image_rect/compressed" if options.get("compressed") else "/camera/image_rect"
    bag = image_bag(redwood, camera=CAMERA, period_ns=PERIOD_NS, topic=topic, **options)
    command = [str(bag), "--artifact", str(artifact), "--output", str(tmp_path / "out"), "--max-range", "7"]
    assert main([*command, "--formats", "npy", "ply"]) == 0

    node = depth(artifact=artifact, max_range=7.0, image_transport="compressed" if "compressed" in options else "raw")
    depths, infos = ros.listen(Image, "/depth/depth"), ros.listen(CameraInfo, "/depth/depth/camera_info")
    clouds = ros.listen(PointCloud2, "/depth/points")
    remap = ["--ros-args", "-r", f"{topic}:=/depth/image", "-r", "/camera/camera_info:=/depth/camera_info"]
    # Slow enough for each image to be done before the next one comes.
    player = ros.add(BagPlayer(bag, PlayOptions(rate=0.2), cli_args=remap))
    assert ros.until(lambda: player.exit_code is not None)
    assert ros.until(lambda: len(clouds) == len(redwood))
    assert player.exit_code == 0
    assert node.health.drops() == {}
    rows = table(tmp_path / "out")
    assert [row["name"] for row in rows] == ["000000", "000001", "000002"]
    assert len(depths) == len(infos) == len(rows)
    for msg, info, cloud, row in zip(depths, infos, clouds, rows):
        offline = np.load(tmp_path / "out" / f"{row['name']}_depth.npy")
        assert msg.data.tobytes() == offline.tobytes()
        assert (row["stamp_ns"], row["frame_id"]) == (stamp_to_ns(msg.header.stamp), "camera_optical")
        assert [row["depth_size"], row["kind"]] == [[msg.width, msg.height], "metric"]
        np.testing.assert_array_equal(np.ravel(row["camera_matrix"]), info.k)
        points = np.frombuffer(cloud.data, np.float32).reshape(-1, 4)
        known = np.isfinite(points[:, :3]).all(axis=1)
        body = (tmp_path / "out" / f"{row['name']}_points.ply").read_bytes().partition(b"end_header\n")[2]
        ply = np.frombuffer(body, np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)]))
        np.testing.assert_array_equal(ply["xyz"], points[known, :3])


def test_folder_of_real_pictures_in_every_format(
    shared: Path, stand_in: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    from aot_runtime.frames import read_image
    from depth_ros.files import depth_to_png16
    from depth_ros.pictures import colour_depth

    folder, out = shared / "data" / "images", tmp_path / "out"
    command = [str(folder), "--artifact", str(stand_in()), "--output", str(out)]
    assert main([*command, "--formats", "npy", "png16", "colour", "--output-resolution", "grid"]) == 0
    assert f"{out}: 6 images, relative depth" in capsys.readouterr().out
    pipeline = ImageDepthPipeline(stand_in(), output_resolution="grid")
    rows = table(out)
    files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg"))
    assert [row["name"] for row in rows] == [file.stem for file in files]
    for file, row in zip(files, rows):
        result = pipeline.process(read_image(file))
        np.testing.assert_array_equal(np.load(out / f"{file.stem}_depth.npy"), result.depth)
        png16 = cv2.imread(str(out / f"{file.stem}_depth16.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(png16, depth_to_png16(result.depth, "relative"))
        colour = cv2.imread(str(out / f"{file.stem}_depth.png"))
        np.testing.assert_array_equal(colour, colour_depth(result.depth, result.valid, "relative"))
        assert (row["valid"], row["stamp_ns"], row["camera_matrix"]) == (1.0, None, None)


def test_intrinsics_give_points(shared: Path, stand_in: Callable[..., Path], tmp_path: Path) -> None:
    picture = shared / "data" / "multiview" / "redwood_rgbd" / "00000.jpg"
    artifact = stand_in(kind="disparity", focal_baseline=20.0)
    command = [str(picture), "--artifact", str(artifact), "--output", str(tmp_path), "--formats", "ply"]
    assert main([*command, "--intrinsics", *map(str, CAMERA), "--max-range", "50"]) == 0
    (row,) = table(tmp_path)
    expected = (
        ImageDepthPipeline(artifact).process(np.zeros((480, 640, 3), np.uint8), np.array(_matrix())).camera_matrix
    )
    np.testing.assert_allclose(row["camera_matrix"], expected)
    assert (
        f"element vertex {round(row['valid'] * 640 * 480)}\n".encode() in (tmp_path / "00000_points.ply").read_bytes()
    )


def _matrix() -> list[list[float]]:
    fx, fy, cx, cy = CAMERA
    return [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


def test_unreadable_images_are_named_and_the_rest_is_done(
    shared: Path, stand_in: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    good = shared / "data" / "synthetic_room" / "left_00.png"
    files = [str(tmp_path / "bad.png"), str(tmp_path / "empty.jpg"), str(good)]
    assert main([*files, "--artifact", str(stand_in()), "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "bad: expected an image that OpenCV reads" in told.err
    assert "empty: expected an image" in told.err
    assert "1 images, relative depth, 2 failed" in told.out
    assert [row["name"] for row in table(tmp_path / "out")] == ["left_00"]


def test_malformed_messages_of_a_bag_are_named_and_the_rest_is_done(
    stand_in: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types

    def image(encoding: str, n: int, nanosec: int = 0) -> bytes:
        header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, nanosec), "eye")
        msg = types["sensor_msgs/msg/Image"](header, 4, 5, encoding, 0, 15, np.zeros(n, np.uint8))
        return bytes(store.serialize_cdr(msg, "sensor_msgs/msg/Image"))

    with Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        messages = [
            image("rgb8", 60),
            image("rgb9", 60),
            image("rgb8", 59),
            image("rgb8", 60, 2 * 10**9),
            b"\0\1\0\0xx",
        ]
        for index, raw in enumerate([*messages, image("bgr8", 60)]):
            writer.write(connection, START_NS + index, raw)
    command = [str(tmp_path / "bag"), "--artifact", str(stand_in()), "--output", str(tmp_path / "out")]
    assert main([*command, "--formats", "npy"]) == 1
    told = capsys.readouterr()
    for name, reason in (
        ("000001", "found 'rgb9'"),
        ("000002", "expected 60 bytes"),
        ("000003", "nanosec below 1e9"),
        ("000004", "expected a readable rosbag2"),
    ):
        assert any(line.startswith(name) and reason in line for line in told.err.splitlines()), told.err
    assert [row["name"] for row in table(tmp_path / "out")] == ["000000", "000005"]


def test_malformed_camera_info_does_not_matter_where_intrinsics_are_given(
    stand_in: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, artifact = np.full((8, 10, 3), 99, np.uint8), stand_in(kind="metric")
    bag = write_cameras(tmp_path, {"a": 100.0}, image, info_nanosec=2 * 10**9)
    command = [str(bag), "--artifact", str(artifact), "--output", str(tmp_path / "out")]
    assert main([*command, "--formats", "ply"]) == 2
    assert "error: expected a stamp" in capsys.readouterr().err
    assert main([*command, "--formats", "ply", "--intrinsics", "9", "9", "4.5", "3.5"]) == 0
    (row,) = table(tmp_path / "out")
    matrix = np.array([[9.0, 0.0, 4.5], [0.0, 9.0, 3.5], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(row["camera_matrix"], ImageDepthPipeline(artifact).process(image, matrix).camera_matrix)
    assert (tmp_path / "out" / "000000_points.ply").is_file()


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("nothing", "expected images or a bag, found nothing at"),
        ("empty", "expected images"),
        ("family", "expected an artifact of the family depth, found f3"),
        ("ply", "expected metric depth for points, found relative depth"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_sentence(
    case: str,
    reason: str,
    shared: Path,
    stand_in: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    source = {"nothing": tmp_path / "none", "empty": tmp_path / "empty"}.get(case, shared / "data" / "images")
    artifact = stand_in(family="f3") if case == "family" else stand_in()
    command = [str(source), "--artifact", str(artifact), "--output", str(tmp_path / "out")]
    assert main([*command, *(["--formats", "ply"] if case == "ply" else [])]) == 2
    told = capsys.readouterr().err
    assert f"error: {reason}" in told


def test_runs_without_ros(
    tiny_dav2: Path, image_bag: Callable[..., Path], redwood: list[np.ndarray], tmp_path: Path
) -> None:
    bag = image_bag(redwood[:1], camera=CAMERA)
    arguments = [str(bag), "--artifact", str(tiny_dav2), "--output", str(tmp_path / "out")]
    done = run_without_ros("depth_ros.offline", *arguments, "--formats", "npy", "png16", "colour", "ply")
    assert done.returncode == 0, done.stderr
    assert "random weights" in done.stderr
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == [
        "000000_depth.npy",
        "000000_depth.png",
        "000000_depth16.png",
        "000000_points.ply",
        "frames.json",
    ]
