# SPDX-License-Identifier: Apache-2.0
"""Frames of files and bags: names, topics, and the CameraInfo beside an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from camera_bags import write_cameras

from aot_runtime.errors import InputError
from aot_runtime.frames import open_frames

CAMERAS = {"a": 100.0, "b": 200.0}


def test_names_stay_unique(tmp_path: Path) -> None:
    import cv2

    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "0.png"), np.zeros((4, 4, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "a" / "0.bmp"), np.zeros((4, 4, 3), np.uint8))
    names = [frame.name for frame in open_frames([tmp_path / folder for folder in ("a", "b", "c")])]
    assert names == ["0", "0.png", "0.png_2", "0.png_3"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "expected one image topic, found several among /a/image"),
        ({"topic": "/c/image"}, "expected an image topic /c/image, found /a/image"),
        ({"topic": "/a/image", "info_topic": "/a/image"}, "expected a CameraInfo topic /a/image, found /a/camera_info"),
    ],
)
def test_ambiguous_topics_are_listed(changes: dict[str, str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        next(open_frames([write_cameras(tmp_path, CAMERAS)], **changes))


def test_each_camera_has_the_info_beside_it(tmp_path: Path) -> None:
    bag = write_cameras(tmp_path, CAMERAS)
    assert next(open_frames([bag], "/a/image")).info.k[0] == 100.0
    assert next(open_frames([bag], "/b/image")).info.k[0] == 200.0
    assert next(open_frames([bag], "/b/image", "/a/camera_info")).info.k[0] == 100.0


def test_camera_info_is_read_only_where_it_is_wanted(tmp_path: Path) -> None:
    bag = write_cameras(tmp_path, {"a": 100.0}, info_nanosec=2 * 10**9)
    with pytest.raises(InputError, match="nanosec below 1e9"):
        next(open_frames([bag]))
    (frame,) = open_frames([bag], with_info=False)
    assert frame.info is None
    assert (frame.stamp_ns, frame.frame_id, frame.load().shape) == (10**9, "eye", (1, 1, 3))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images_say_so_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    (frame,) = open_frames([path])
    with pytest.raises(InputError) as caught:
        frame.load()
    assert str(caught.value) == f"expected an image that OpenCV reads, found something else in {path}"
