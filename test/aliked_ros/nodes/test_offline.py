# SPDX-License-Identifier: Apache-2.0
"""aliked_offline: the live node's clouds byte by byte, from files and bags, without ROS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from camera_bags import write_cameras
from ros_processes import run_without_ros

from aliked_ros.offline import main
from aliked_ros.pipeline import AlikedPipeline
from aot_runtime.frames import read_image


def table(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "frames.json").read_text())


@pytest.mark.parametrize("options", [{}, {"compressed": True, "storage": "sqlite3"}])
def test_bag_through_the_live_node_equals_offline_byte_by_byte(
    options: dict[str, Any],
    ros: Any,
    aliked: Callable[..., Any],
    network: Callable[..., Path],
    image_bag: Callable[..., Path],
    crops: list[np.ndarray],
    tmp_path: Path,
) -> None:
    from sensor_msgs.msg import PointCloud2

    from aot_runtime.ros.bag_player import BagPlayer, PlayOptions
    from aot_runtime.ros.messages import stamp_to_ns

    topic = "/camera/image_raw/compressed" if "compressed" in options else "/camera/image_raw"
    bag = image_bag(crops, topic=topic, **options)
    command = [str(bag), "--artifact", str(network()), "--output", str(tmp_path / "out"), "--threshold", "0.05"]
    command += ["--max-keypoints", "90", "--track", "--ratio", "0.9", "--max-step", "20", "--formats", "npy"]
    assert main(command) == 0

    settings = {"threshold": 0.05, "max_keypoints": 90, "track": True, "ratio": 0.9, "max_step": 20.0}
    node = aliked(image_transport="compressed" if "compressed" in options else "raw", **settings)
    clouds, tracks = ros.listen(PointCloud2, "/aliked/keypoints"), ros.listen(PointCloud2, "/aliked/tracks")
    assert ros.until(lambda: node.wanted("tracks"))
    # Slow enough for each image to be done before the next one comes.
    remap = ["--ros-args", "-r", f"{topic}:=/aliked/image"]
    player = ros.add(BagPlayer(bag, PlayOptions(rate=0.1), cli_args=remap))
    assert ros.until(lambda: player.exit_code is not None)
    assert ros.until(lambda: len(tracks) == len(crops))
    assert player.exit_code == 0
    assert node.health.drops() == {}
    rows = table(tmp_path / "out")
    assert [row["name"] for row in rows] == [f"{n:06d}" for n in range(4)]
    assert len(clouds) == len(rows)
    for cloud, track, row in zip(clouds, tracks, rows):
        keypoints = np.load(tmp_path / "out" / f"{row['name']}_keypoints.npy")
        assert cloud.data.tobytes() == keypoints.tobytes()
        assert track.data.tobytes() == np.load(tmp_path / "out" / f"{row['name']}_tracks.npy").tobytes()
        assert [field.name for field in cloud.fields] == list(keypoints.dtype.names)
        assert (row["stamp_ns"], row["frame_id"]) == (stamp_to_ns(cloud.header.stamp), "camera_optical")
        assert (row["keypoints"], row["tracks"]) == (cloud.width, track.width)
    assert rows[-1]["tracks"] > 20


def test_folder_of_real_images_with_pictures(
    shared: Path, network: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    from aliked_ros.pictures import keypoints_picture

    folder, out = shared / "data" / "images", tmp_path / "out"
    assert main([str(folder), "--artifact", str(network()), "--output", str(out)]) == 0
    assert f"{out}: 6 images" in capsys.readouterr().out
    pipeline = AlikedPipeline(network())
    rows = table(out)
    files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg"))
    assert [row["name"] for row in rows] == [file.stem for file in files]
    for file, row in zip(files, rows):
        image = read_image(file)
        result = pipeline.process(image)
        keypoints = np.load(out / f"{file.stem}_keypoints.npy")
        np.testing.assert_array_equal(keypoints["descriptor"], result.descriptors)
        np.testing.assert_array_equal(np.stack([keypoints["x"], keypoints["y"]], axis=1), result.keypoints)
        picture = cv2.imread(str(out / f"{file.stem}_keypoints.png"))
        np.testing.assert_array_equal(picture, keypoints_picture(image[:, :, ::-1], result.keypoints, result.scores))
        assert (row["keypoints"], row["tracks"], row["stamp_ns"]) == (len(result), None, None)
        assert not (out / f"{file.stem}_tracks.npy").exists()


def test_unreadable_images_are_named_and_the_rest_is_done(
    shared: Path, network: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    files = [tmp_path / "bad.png", tmp_path / "empty.jpg", shared / "golden" / "aliked" / "crop160x120.png"]
    files.append(shared / "data" / "images" / "kitti_000100.png")
    command = [*map(str, files), "--artifact", str(network()), "--output", str(tmp_path / "out"), "--no-resize"]
    assert main([*command, "--track"]) == 1
    told = capsys.readouterr()
    assert "bad: expected an image that OpenCV reads" in told.err
    assert "empty: expected an image" in told.err
    assert "kitti_000100: expected images of 160x120 as the artifact takes, found 1241x376" in told.err
    assert "1 images, 3 failed" in told.out
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    stem = "crop160x120"
    assert names == [f"{stem}_{kind}" for kind in ("keypoints.npy", "keypoints.png", "tracks.npy", "tracks.png")] + [
        "frames.json"
    ]


def test_camera_info_of_a_bag_is_not_read(
    network: Callable[..., Path], crops: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keypoints need none, so one that is malformed does not matter."""
    bag = write_cameras(tmp_path, {"eye": 100.0}, crops[0], info_nanosec=2 * 10**9)
    assert main([str(bag), "--artifact", str(network()), "--output", str(tmp_path / "out"), "--formats", "npy"]) == 0
    assert f"{tmp_path / 'out'}: 1 images\n" == capsys.readouterr().out
    keypoints = np.load(tmp_path / "out" / "000000_keypoints.npy")
    np.testing.assert_array_equal(keypoints["descriptor"], AlikedPipeline(network()).process(crops[0]).descriptors)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("nothing", "expected images or a bag, found nothing at"),
        ("family", "expected an artifact of the family aliked, found depth"),
        ("threshold", "expected a threshold below 1, found 2.0"),
        ("count", "expected max_keypoints from 0 to 300"),
        ("ratio", "expected a ratio above 0 and up to 1, found 2.0"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_sentence(
    case: str,
    reason: str,
    shared: Path,
    network: Callable[..., Path],
    altered: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "none" if case == "nothing" else shared / "data" / "images"
    artifact = altered(family="depth") if case == "family" else network()
    wrong = {
        "threshold": ["--threshold", "2"],
        "count": ["--max-keypoints", "301"],
        "ratio": ["--track", "--ratio", "2"],
    }
    command = [str(source), "--artifact", str(artifact), "--output", str(tmp_path / "out"), *wrong.get(case, [])]
    assert main(command) == 2
    assert f"error: {reason}" in capsys.readouterr().err


def test_runs_without_ros(
    network: Callable[..., Path], image_bag: Callable[..., Path], crops: list[np.ndarray], tmp_path: Path
) -> None:
    bag = image_bag(crops[:2])
    arguments = [str(bag), "--artifact", str(network()), "--output", str(tmp_path / "out"), "--track"]
    done = run_without_ros("aliked_ros.offline", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert (tmp_path / "out" / "000001_tracks.png").is_file()


def test_time_that_jumps_back_in_a_bag_breaks_tracks(
    network: Callable[..., Path], image_bag: Callable[..., Path], crops: list[np.ndarray], tmp_path: Path
) -> None:
    late, early = 1_700_000_100_000_000_000, 1_700_000_000_000_000_000
    bags = [image_bag(crops[:2], name=f"bag{n}", start_ns=start) for n, start in enumerate((late, early))]
    command = [*map(str, bags), "--artifact", str(network()), "--output", str(tmp_path / "out"), "--formats", "npy"]
    assert main([*command, "--track"]) == 0
    assert [row["tracks"] > 50 for row in table(tmp_path / "out")] == [False, True, False, True]
