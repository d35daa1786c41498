# SPDX-License-Identifier: Apache-2.0
"""demo_seq on views that move by a known way: as a folder, a video and a bag; and on what is no sequence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.demo_seq import main
from aliked_ros.tracking import Tracks
from aliked_ros.trails import TrackCounter, Trails
from aot_runtime.errors import InputError

STEP = (8, 5)
HEIGHT, WIDTH = 160, 240


@pytest.fixture(scope="module")
def views(read_image: Callable[[str], np.ndarray]) -> list[np.ndarray]:
    """Five views of a real image, each further right and down by STEP: points move left and up."""
    image = read_image("tum_1311868169.163498.png")
    corners = [(200 + STEP[0] * n, 160 + STEP[1] * n) for n in range(5)]
    return [np.ascontiguousarray(image[y : y + HEIGHT, x : x + WIDTH]) for x, y in corners]


@pytest.fixture
def network(shared: Path) -> list[str]:
    checkpoint = str(shared / "weights" / "aliked" / "aliked-t16.pth")
    return ["--model", "t16", "--checkpoint", checkpoint, "--top_k", "200"]


@pytest.fixture
def folder(views: list[np.ndarray], tmp_path: Path) -> Path:
    (tmp_path / "views").mkdir()
    for n, view in enumerate(views):
        cv2.imwrite(str(tmp_path / "views" / f"view{n}.png"), view[:, :, ::-1])
    return tmp_path / "views"


def check(told: dict[str, float], frames: int = 5) -> None:
    assert (told["frames"], told["failed"]) == (frames, 0)
    assert told["keypoints"] == 200
    # The first frame has no tracks; each later one has most of its keypoints from the frame before.
    assert told["tracked"] > 0.5 * 200 * (frames - 1) / frames
    assert told["longest"] == frames
    assert abs(told["mean_step"] - np.hypot(*STEP)) < 0.15
    assert told["track_ms_p99"] >= told["track_ms_p50"] > 0
    assert 0 < told["fps_of_all"] < told["fps_of_tracking"]


def read_video(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        good, frame = capture.read()
        if not good:
            return frames
        frames.append(frame)


def test_a_folder_becomes_a_video(
    folder: Path, network: list[str], views: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, numbers = tmp_path / "out" / "tracks.mp4", tmp_path / "tracks.json"
    assert main([str(folder), *network, "--output", str(video), "--json", str(numbers)]) == 0
    told = json.loads(numbers.read_text())
    check(told)
    output = capsys.readouterr().out
    assert f"{video}: 5 frames\n" in output
    assert f"tracks: {told['tracks']}, mean " in output
    frames = read_video(video)
    assert len(frames) == 5
    assert [file.name for file in video.parent.iterdir()] == ["tracks.mp4"]
    # Nothing is drawn on the first frame, trails on the others.
    changed = [np.abs(f.astype(int) - v[:, :, ::-1]).max(axis=2) > 100 for f, v in zip(frames, views)]
    assert changed[0].mean() < 0.002
    assert changed[4].mean() > 0.02
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FPS) == 10


def test_a_video_becomes_a_folder(
    views: list[np.ndarray], network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for view in views:
        writer.write(np.ascontiguousarray(view[:, :, ::-1]))
    writer.release()
    assert main([str(video), *network, "--output", str(tmp_path / "out"), "--json", "-"]) == 0
    check(json.loads(capsys.readouterr().out))
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == [f"{n:06d}.png" for n in range(5)]
    assert cv2.imread(str(tmp_path / "out" / names[0])).shape == (HEIGHT, WIDTH, 3)
    # A video keeps its rate.
    assert main([str(video), *network, "--output", str(tmp_path / "again.mp4")]) == 0
    assert cv2.VideoCapture(str(tmp_path / "again.mp4")).get(cv2.CAP_PROP_FPS) == 25


def test_a_bag_by_topic(
    views: list[np.ndarray],
    image_bag: Callable[..., Path],
    aliked_artifact: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bag = image_bag(views, topic="/left/image", other_topics=True)
    artifact = aliked_artifact("t16", height=120, width=160, top_k=300, score_map=True)
    command = [str(bag), "--artifact", str(artifact), "--max-keypoints", "200", "--output", str(tmp_path / "out.mkv")]
    assert main([*command, "--topic", "/left/image", "--json", "-"]) == 0
    check(json.loads(capsys.readouterr().out))
    assert len(read_video(tmp_path / "out.mkv")) == 5
    assert main([*command, "--topic", "/right/image"]) == 2
    assert "expected an image topic /right/image, found /left/image" in capsys.readouterr().err


def test_time_that_jumps_back_starts_anew(
    views: list[np.ndarray],
    image_bag: Callable[..., Path],
    network: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    late, early = 1_700_000_100_000_000_000, 1_700_000_000_000_000_000
    bags = [str(image_bag(views[:2], name=f"bag{n}", start_ns=start)) for n, start in enumerate((late, early))]
    assert main([*bags, *network, "--output", str(tmp_path / "out"), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["longest"]) == (4, 2)
    # Both bags show the same: as many tracks in each, though their numbers begin with 0 again.
    assert told["tracks"] == 4 * told["tracked"] > 200
    assert told["tracks"] % 2 == 0


def test_unreadable_frames_are_named_and_the_rest_is_done(
    folder: Path, network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "view1a.png").write_text("no picture")
    assert main([str(folder), *network, "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "view1a: expected an image that OpenCV reads" in told.err
    assert "5 frames, 1 failed" in told.out
    assert len(list((tmp_path / "out").iterdir())) == 5


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("nothing", "expected images or a bag, found nothing at"),
        ("no images", "expected images"),
        ("no video", "expected a video that OpenCV reads, found something else in"),
        ("two inputs", "expected one video and nothing else, found 2 inputs"),
        ("all bad", "expected frames to follow, found none of 1 readable"),
        ("output", "expected a video .mp4"),
        ("output is a file", "expected a folder or a name that ends in .mp4"),
        ("fps", "expected frames per second above 0, found 0.0"),
        ("trail", "expected trails of one or more frames, found 0"),
        ("ratio", "expected a ratio above 0 and up to 1, found 0.0"),
        ("network", "expected either --artifact FILE or --checkpoint FILE, found neither"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_sentence(
    case: str, reason: str, folder: Path, network: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, output = [folder], tmp_path / "out.mp4"
    video = tmp_path / "video.mp4"
    video.write_bytes(b"no video")
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    (tmp_path / "none").mkdir()
    inputs = {
        "nothing": [tmp_path / "absent"],
        "no images": [tmp_path / "none"],
        "no video": [video],
        "two inputs": [video, bad],
        "all bad": [bad],
    }.get(case, inputs)
    output = {"output": tmp_path / "out.webm", "output is a file": bad}.get(case, output)
    options = {"fps": ["--fps", "0"], "trail": ["--trail", "0"], "ratio": ["--ratio", "0"]}.get(case, [])
    chosen = [] if case == "network" else network
    assert main([*map(str, inputs), *chosen, *options, "--output", str(output)]) == 2
    assert f"error: {reason}" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def tracks(ids: list[int], keypoints: list[list[float]], previous: list[list[float]], lengths: list[int]) -> Tracks:
    count = len(ids)
    return Tracks(
        np.arange(count),
        np.array(keypoints, np.float32).reshape(count, 2),
        np.array(previous, np.float32).reshape(count, 2),
        np.ones(count, np.float32),
        np.array(ids, np.int64),
        np.array(lengths, np.int64),
    )


def test_trails_go_back_and_die() -> None:
    trails = Trails(2)
    blank = np.zeros((20, 60, 3), np.uint8)
    for n in range(4):
        trails.update(tracks([7], [[10 * n + 20, 10]], [[10 * n + 10, 10]], [n + 2]))
    picture = trails.draw(blank)
    assert picture[10, 50].tolist() == [0, 0, 255]
    drawn = np.flatnonzero(picture[10].any(axis=1))
    assert (drawn.min(), drawn.max()) == (30, 51), "two steps of ten pixels and the dot"
    assert not blank.any()
    trails.update(tracks([], [], [], []))
    assert len(trails) == 0
    assert not trails.draw(blank).any()
    with pytest.raises(InputError, match="expected trails of one or more frames, found 0"):
        Trails(0)


def test_counting() -> None:
    counter = TrackCounter()
    assert counter.result().tracks == counter.result().frames == 0
    counter.add(4, tracks([], [], [], []))
    counter.add(4, tracks([0, 1], [[3, 4], [6, 8]], [[0, 0], [0, 0]], [2, 2]))
    counter.add(2, tracks([1], [[6, 9]], [[6, 8]], [3]))
    counter.reset()
    counter.add(2, tracks([1], [[0, 0]], [[0, 1]], [2]))
    found = counter.result()
    assert (found.frames, found.keypoints, found.tracked, found.tracks) == (4, 3.0, 1.0, 3)
    assert (found.mean_length, found.median_length, found.longest) == (pytest.approx(7 / 3), 2.0, 3)
    assert found.mean_step == pytest.approx((7.5 + 1 + 1) / 3)
