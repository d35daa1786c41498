# SPDX-License-Identifier: Apache-2.0
"""demo_pair on real pairs whose numbers are known, and on what is no pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.demo_pair import main
from aot_runtime.frames import read_image as read_rgb

CROP = {"height": 120, "width": 160, "top_k": 300, "score_map": True}
KITTI_CAMERA = ("718.856", "718.856", "607.193", "185.216")


@pytest.fixture
def weights(shared: Path) -> list[str]:
    return ["--model", "aliked-n16rot", "--checkpoint", str(shared / "weights" / "aliked" / "aliked-n16rot.pth")]


def test_a_wide_baseline(shared: Path, weights: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Piazza San Marco: the same facade from elsewhere, at another scale, in other light."""
    images = [shared / "data" / "images" / f"piazza_san_marco_{number}.jpg" for number in (1, 4)]
    picture, numbers = tmp_path / "out" / "pair.png", tmp_path / "pair.json"
    assert main([*map(str, images), *weights, "--output", str(picture), "--json", str(numbers)]) == 0
    told = json.loads(numbers.read_text())
    assert told["keypoints"] == [1000, 1000]
    # Measured: 211 and 152. Another order of sums may exchange a keypoint or two.
    assert abs(told["matches"] - 211) <= 4
    assert abs(told["homography_inliers"] - 152) <= 8
    assert "pose_inliers" not in told
    assert told["network"] == "aliked-n16rot fp32, PyTorch"
    # The facade's statue, which both pictures show: found by eye, to a few pixels.
    matrix = np.array(told["homography"])
    statue = matrix @ [575.0, 170, 1]
    np.testing.assert_allclose(statue[:2] / statue[2], [544, 163], atol=12)
    output = capsys.readouterr().out
    assert f"matches: {told['matches']}\n" in output
    assert f"homography: {told['homography_inliers']} of {told['matches']} matches agree" in output
    drawn = cv2.imread(str(picture))
    sizes = [read_rgb(image).shape for image in images]
    assert drawn.shape == (max(size[0] for size in sizes), sum(size[1] for size in sizes), 3)
    green, red = ((drawn == colour).all(axis=2).sum() for colour in ((0, 255, 0), (0, 0, 255)))
    assert green > red > 1000


def test_a_turning_car(shared: Path, weights: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(shared / "data" / "images" / f"kitti_{number}.png") for number in ("000100", "000110")]
    command = [*images, *weights, "--output", str(tmp_path / "pair.jpg"), "--intrinsics", *KITTI_CAMERA, "--json", "-"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    # Measured: 241 and 216.
    assert abs(told["matches"] - 241) <= 4
    assert abs(told["pose_inliers"] - 216) <= 5
    assert told["translation"][2] < -0.95
    # The turn: 34.5 degrees about the vertical axis.
    turn = np.degrees(cv2.Rodrigues(np.array(told["rotation"]))[0].ravel())
    assert abs(turn[1] + 34.5) < 0.5
    assert np.abs(turn[[0, 2]]).max() < 1
    assert cv2.imread(str(tmp_path / "pair.jpg")).shape == (376, 2482, 3)


def test_the_pose_of_a_rendered_room(
    shared: Path, weights: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Redwood's trajectory tells how the camera moved: 3.4 degrees and 10 cm upwards."""
    folder = shared / "data" / "multiview" / "redwood_rgbd"
    rows = [line.split() for line in (folder / "trajectory.log").read_text().splitlines()]
    poses = np.array([[float(word) for word in row] for row in rows if len(row) == 4]).reshape(5, 4, 4)
    images = [str(folder / f"0000{number}.jpg") for number in (0, 4)]
    camera = ("525", "525", "319.5", "239.5")
    assert main([*images, *weights, "--output", str(tmp_path / "a.png"), "--intrinsics", *camera, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    truth = np.linalg.inv(poses[4]) @ poses[0]
    difference = np.array(told["rotation"]) @ truth[:3, :3].T
    turned = np.degrees(np.linalg.norm(cv2.Rodrigues(difference)[0]))
    direction = truth[:3, 3] / np.linalg.norm(truth[:3, 3])
    aside = np.degrees(np.arccos(np.array(told["translation"]) @ direction))
    print("errors in degrees:", turned, aside)
    # Measured: 0.04 and 0.35; OpenCV's plain RANSAC gives 0.66 and 2.5.
    assert turned < 0.15
    assert aside < 1
    assert told["pose_inliers"] >= 530


def test_an_artifact_scales_images_and_maps_back(
    shared: Path, aliked_artifact: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(shared / "data" / "images" / f"tum_{stamp}.png") for stamp in ("1311868169.163498",) * 2]
    artifact = str(aliked_artifact("t16", **CROP))
    command = [*images, "--artifact", artifact, "--output", str(tmp_path / "same.png"), "--json", "-"]
    assert main([*command, "--scores_th", "0.2", "--n_limit", "80"]) == 0
    told = json.loads(capsys.readouterr().out)
    # The image against itself: everything matches, nothing moves.
    assert told["keypoints"] == [80, 80]
    assert told["matches"] == told["homography_inliers"] == 80
    np.testing.assert_allclose(told["homography"], np.eye(3), atol=1e-6)
    assert cv2.imread(str(tmp_path / "same.png")).shape == (480, 1280, 3)


def test_a_blank_image_has_no_matches(
    shared: Path, weights: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((96, 128), 128, np.uint8))
    crop = shared / "golden" / "aliked" / "crop160x120.png"
    command = [str(crop), str(blank), *weights, "--top_k", "200", "--threshold", "0.2"]
    assert main([*command, "--output", str(tmp_path / "a.png"), "--intrinsics", "100", "100", "80", "60"]) == 0
    told = capsys.readouterr()
    assert f"{blank}: no keypoint above 0.2" in told.err
    assert "matches: 0\nhomography: none\npose: none\n" in told.out
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("missing", "expected an image, found [Errno 2] No such file or directory"),
        ("empty", "expected an image"),
        ("text", "expected an image that OpenCV reads, found something else in"),
        ("neither", "expected either --artifact FILE or --checkpoint FILE, found neither"),
        ("both", "expected either --artifact FILE or --checkpoint FILE, found both"),
        ("family", "expected an artifact of the family aliked, found depth"),
        ("no artifact", "REFUSE"),
        ("other network", "expected weights of aliked-n32, found the official ones of aliked-n16rot"),
        ("half a size", "expected --height and --width, found one of them"),
        ("small", "expected an image from 32x32 pixels, found 20x20"),
        ("top_k", "expected --top_k from 1 to"),
        ("ratio", "expected a ratio above 0 and up to 1, found 1.5"),
        ("camera", "expected --intrinsics FX FY CX CY with focal lengths above 0"),
        ("picture", "expected a name of a picture, found"),
        ("device", "expected a device cpu, cuda or cuda:N, found 'tpu'"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_sentence(
    case: str,
    reason: str,
    shared: Path,
    weights: list[str],
    aliked_artifact: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    crop = shared / "golden" / "aliked" / "crop160x120.png"
    first, output, network, wrong = crop, tmp_path / "a.png", [*weights, "--top_k", "100"], []
    if case in ("missing", "empty", "text", "small"):
        first = tmp_path / "first.png"
    if case == "empty":
        first.write_bytes(b"")
    elif case == "text":
        first.write_text("no picture")
    elif case == "small":
        cv2.imwrite(str(first), np.zeros((20, 20), np.uint8))
    elif case == "neither":
        network = []
    elif case == "both":
        wrong = ["--artifact", "a.pt2"]
    elif case == "family":
        network = ["--artifact", str(of_another_family(aliked_artifact("t16", **CROP), tmp_path))]
    elif case == "no artifact":
        (tmp_path / "text.pt2").write_text("no artifact")
        network = ["--artifact", str(tmp_path / "text.pt2")]
    elif case == "picture":
        output = tmp_path / "a.xyz"
    options = {
        "other network": ["--model", "n32"],
        "half a size": ["--height", "96"],
        "top_k": ["--top_k", "100000"],
        "ratio": ["--ratio", "1.5"],
        "camera": ["--intrinsics", "0", "100", "80", "60"],
        "device": ["--device", "tpu"],
    }
    command = [str(first), str(crop), *network, *wrong, *options.get(case, []), "--output", str(output)]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert reason in told
    assert case == "empty" or told.count("\n") == 1, "OpenCV's own words on an empty file have two lines"
    assert not output.exists()


def of_another_family(artifact: Path, folder: Path) -> Path:
    from aot_runtime.backends.package import read_manifest_json, write_with_manifest
    from aot_runtime.manifest import Manifest

    manifest = Manifest.from_json(read_manifest_json(artifact))
    write_with_manifest(artifact, folder / "other.pt2", replace(manifest, family="depth").to_json())
    return folder / "other.pt2"
