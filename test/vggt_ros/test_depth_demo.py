# SPDX-License-Identifier: Apache-2.0
"""Command `depth_demo`: two cameras to pictures and to a video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from small_artifacts import small_depth

from aot_runtime.frames import read_image
from aot_runtime.video import Video
from depth_ros.pictures import colour_depth
from depth_ros.pipeline import ImageDepthPipeline
from vggt_ros.depth_demo import main


@pytest.fixture
def folders(shared: Path, tmp_path: Path) -> list[str]:
    """Images of two cameras; the second has one less."""
    for camera, steps in (("left", 3), ("right", 2)):
        (tmp_path / camera).mkdir()
        for step in range(steps):
            source = shared / "data" / "synthetic_room" / f"{camera}_{step:02d}.png"
            (tmp_path / camera / f"{step}.png").write_bytes(source.read_bytes())
    return [str(tmp_path / "left"), str(tmp_path / "right")]


def test_two_folders_become_pictures_side_by_side(
    folders: list[str], artifact_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, out = small_depth(artifact_cache), tmp_path / "out"
    assert main([*folders, "--artifact", str(artifact), "--output", str(out), "--height", "120"]) == 0
    told = capsys.readouterr()
    assert "3 instants of 2 cameras" in told.out
    assert "fps" in told.out
    assert "the pictures mean nothing" in told.err
    pictures = [cv2.imread(str(out / f"{index:06d}.png")) for index in range(3)]
    assert [picture.shape for picture in pictures] == [(240, 320, 3)] * 3
    image = read_image(Path(folders[1]) / "1.png")
    pipeline = ImageDepthPipeline(artifact)
    result = pipeline.process(image)
    pipeline.close()
    np.testing.assert_array_equal(pictures[1][:120, 160:], image[:, :, ::-1])
    np.testing.assert_array_equal(pictures[1][120:, 160:], colour_depth(result.depth, result.valid, result.kind))
    assert not pictures[2][:, 160:].any()  # it has ended
    assert pictures[2][:, :160].any()


def test_two_videos_become_a_video_and_webcams_are_read_like_them(
    artifact_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for camera, count in (("a", 4), ("b", 3)):
        path = tmp_path / f"{camera}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
        for index in range(count):
            writer.write(np.full((48, 64, 3), 40 * index + 20, np.uint8))
        writer.release()
        paths.append(str(path))
    common = ["--artifact", str(small_depth(artifact_cache)), "--height", "48"]
    assert main([*paths, *common, "--output", str(tmp_path / "out.avi"), "--max_frames", "3"]) == 0
    video = Video(tmp_path / "out.avi")
    assert video.fps == 5
    shapes = [frame.load().shape for frame in video.frames()]
    assert shapes == [(96, 128, 3)] * 3
    # OpenCV opens a file where it expects a device; without a video's suffix it is taken for one.
    devices = []
    for path in paths:
        device = Path(path).with_suffix(".device")
        device.write_bytes(Path(path).read_bytes())
        devices.append(str(device))
    assert main([*devices, *common, "--output", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4
    assert "the camera gave no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["left", "nowhere.mp4"], "expected folders of images and videos only, found nowhere.mp4"),
        (["nowhere"], "expected a camera at nowhere"),
    ],
)
def test_sources_that_cannot_be_read_are_refused(
    folders: list[str], artifact_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    sources: list[str], message: str,
) -> None:  # fmt: skip
    given = [folders[0] if source == "left" else source for source in sources]
    told = ["--artifact", str(small_depth(artifact_cache)), "--output", str(tmp_path / "out")]
    assert main([*given, *told]) == 2
    assert message in capsys.readouterr().err
