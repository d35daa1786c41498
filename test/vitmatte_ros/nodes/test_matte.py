# SPDX-License-Identifier: Apache-2.0
"""The command `matte`: images, folders, videos and bags in; pictures, arrays and videos out; and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from aot_runtime.errors import InputError
from vitmatte_ros.foreground import alpha_to_bytes, composite, cut_out, estimate_foreground
from vitmatte_ros.guidance import GuidanceOptions, Guide
from vitmatte_ros.matte import FORMATS, GuidanceFiles, main
from vitmatte_ros.pipeline import MattePipeline


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return np.asarray(picture)


def write_rgb(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[:, :, ::-1]))
    return path


@pytest.fixture
def folders(tmp_path: Path, scenes: list[Any]) -> tuple[Path, Path]:
    """Folders with images 0.png ..., and masks 0_mask.png ..."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for n, scene in enumerate(scenes):
        write_rgb(images / f"{n}.png", scene.image)
        assert cv2.imwrite(str(masks / f"{n}_mask.png"), scene.mask)
    return images, masks


def test_a_photograph_and_its_trimap(
    shared: Path, matte_artifact: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "data" / "matting"
    artifact = matte_artifact(height=322, width=480)
    status = main([
        str(folder / "retriever_rgb.jpg"), "--trimap", str(folder / "retriever_trimap.png"),
        "--artifact", str(artifact), "--output", str(tmp_path), "--formats", *FORMATS,
    ])  # fmt: skip
    assert status == 0
    assert f"{tmp_path}: 1 images" in capsys.readouterr().out
    image = read(folder / "retriever_rgb.jpg")
    trimap = read(folder / "retriever_trimap.png")
    pipeline = MattePipeline(artifact)
    alpha = pipeline.process(np.ascontiguousarray(image[:, :, ::-1]), trimap).alpha
    path = tmp_path / "retriever_rgb"
    np.testing.assert_array_equal(np.load(f"{path}_alpha.npy"), alpha)
    np.testing.assert_array_equal(read(Path(f"{path}_alpha.png")), alpha_to_bytes(alpha))
    assert np.abs(read(Path(f"{path}_alpha16.png")) / 65535 - alpha).max() < 1e-5
    np.testing.assert_array_equal(read(Path(f"{path}_trimap.png")), trimap)
    colours = estimate_foreground(image, alpha)
    np.testing.assert_array_equal(read(Path(f"{path}_cutout.png")), cut_out(colours, alpha))
    green = np.array([64, 177, 0], np.uint8)
    np.testing.assert_array_equal(read(Path(f"{path}_composite.png")), composite(colours, alpha, green))
    (row,) = json.loads((tmp_path / "frames.json").read_text())
    assert (row["name"], row["image_size"], row["windows"]) == ("retriever_rgb", [480, 322], 1)
    assert row["unknown"] == pytest.approx(0.147, abs=1e-3)


@pytest.mark.parametrize(("name", "height"), [("bulb", 320), ("retriever", 322)])
def test_the_demo_images_against_eager(
    shared: Path, matte_artifact: Callable[..., Path], matte_golden: Any, tmp_path: Path, name: str, height: int
) -> None:
    """SAD (sum of differences / 1000) and MSE (mean square * 1000) of compiled - eager, as matting papers have them."""
    import torch

    folder = shared / "data" / "matting"
    artifact = matte_artifact(height=height, width=480)
    arguments = [str(folder / f"{name}_rgb.jpg"), "--trimap", str(folder / f"{name}_trimap.png")]
    arguments += ["--artifact", str(artifact), "--output", str(tmp_path), "--formats", "npy"]
    assert main(arguments) == 0
    alpha = np.load(tmp_path / f"{name}_rgb_alpha.npy").astype(np.float64)
    image, trimap = read(folder / f"{name}_rgb.jpg")[:, :, ::-1], read(folder / f"{name}_trimap.png")
    rows = (height + 31) // 32 * 32
    pixel_values = torch.zeros(1, 4, rows, 480)
    colours = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    pixel_values[0, :3, :height] = torch.from_numpy(colours.transpose(2, 0, 1))
    pixel_values[0, 3, :height] = torch.from_numpy(trimap / 255)
    with torch.no_grad():
        eager = matte_golden.model().eval()(pixel_values)[0, 0, :height].double().numpy()
    eager = np.where(trimap == 128, eager, trimap / 255)
    difference = alpha - eager
    sad, mse = np.abs(difference).sum() / 1e3, 1e3 * np.mean(difference**2)
    assert (trimap == 128).sum() > 10_000
    # One grey level in one pixel is a SAD of 4e-6 and an MSE of 1e-7.
    print(f"{name}: SAD {sad:.2g}, MSE {mse:.2g}")
    assert sad < 1e-4
    assert mse < 1e-9
    assert np.abs(difference).max() < 2e-5


def test_folders_with_names_in_common(
    folders: tuple[Path, Path], network: Path, scenes: list[Any], tmp_path: Path
) -> None:
    images, masks = folders
    out = tmp_path / "out"
    arguments = [str(images), "--mask", str(masks), "--artifact", str(network), "--output", str(out)]
    assert main([*arguments, "--formats", "npy", "--inner-radius", "5"]) == 0
    guide = Guide(GuidanceOptions("mask", inner=5))
    pipeline = MattePipeline(network)
    for n, scene in enumerate(scenes):
        trimap = guide.trimap(scene.mask, scene.mask.shape)
        np.testing.assert_array_equal(np.load(out / f"{n}_alpha.npy"), pipeline.process(scene.image, trimap).alpha)


def test_a_video_with_its_masks_gives_a_video(network: Path, scenes: list[Any], tmp_path: Path) -> None:
    for name, pictures in (("video", [s.image for s in scenes]), ("masks", [s.mask for s in scenes])):
        writer = cv2.VideoWriter(str(tmp_path / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (160, 120))
        for picture in pictures:
            bgr = picture[:, :, ::-1] if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
            writer.write(np.ascontiguousarray(bgr))
        writer.release()
    out = tmp_path / "out"
    status = main([
        str(tmp_path / "video.avi"), "--probability", str(tmp_path / "masks.avi"), "--artifact", str(network),
        "--output", str(out), "--formats", "composite", "alpha", "--smoothing", "0.5",
    ])  # fmt: skip
    assert status == 0
    for name in ("alpha.mp4", "composite.mp4"):
        video = cv2.VideoCapture(str(out / name))
        assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
        frames = 0
        while video.read()[0]:
            frames += 1
        assert frames == len(scenes)
    assert len(list(out.glob("*_composite.png"))) == len(scenes)


def test_a_bag_and_one_trimap_for_all(
    image_bag: Callable[..., Path], network: Path, scenes: list[Any], tmp_path: Path
) -> None:
    bag = image_bag([scene.image for scene in scenes])
    assert cv2.imwrite(str(tmp_path / "trimap.png"), scenes[0].trimap)
    out = tmp_path / "out"
    arguments = [str(bag), "--trimap", str(tmp_path / "trimap.png"), "--artifact", str(network), "--output", str(out)]
    assert main([*arguments, "--formats", "npy"]) == 0
    pipeline = MattePipeline(network)
    rows = json.loads((out / "frames.json").read_text())
    assert [row["stamp_ns"] is not None for row in rows] == [True] * len(scenes)
    for row, scene in zip(rows, scenes):
        expected = pipeline.process(scene.image, scenes[0].trimap).alpha
        np.testing.assert_array_equal(np.load(out / f"{row['name']}_alpha.npy"), expected)


def test_images_that_fail_do_not_stop_the_others(
    folders: tuple[Path, Path], network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, masks = folders
    (images / "1.png").write_bytes(b"no picture")
    (masks / "2_mask.png").unlink()
    assert cv2.imwrite(str(masks / "3_mask.png"), np.zeros((60, 80), np.uint8))
    out = tmp_path / "out"
    arguments = [str(images), "--mask", str(masks), "--artifact", str(network), "--output", str(out)]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "1 images, 3 failed" in said.out
    assert "1: expected an image that OpenCV reads" in said.err
    assert f"2: expected one file for 2 in {masks}, found none; name it 2.png, or 2_mask.png" in said.err
    assert "3: expected a mask of the image's 160x120 pixels, found 80x60" in said.err
    assert [row["name"] for row in json.loads((out / "frames.json").read_text())] == ["0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--trimap": "nowhere.png"}, "error: expected guidance for the images, found nothing at nowhere.png"),
        ({"--trimap-coding": "0,1"}, "error: expected a trimap coding background,unknown,foreground, found '0,1'"),
        ({"--artifact": "no.pt2"}, "no.pt2"),
        ({"--max-pixels": "0"}, "error: expected max_pixels of at least 1"),
        ({"image": "nothing.png"}, "error: expected images or a bag, found nothing at nothing.png"),
    ],
)
def test_what_cannot_be_done(
    shared: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], said: str
) -> None:
    folder = shared / "data" / "matting"
    told = {
        "image": str(folder / "bulb_rgb.jpg"), "--trimap": str(folder / "bulb_trimap.png"),
        "--artifact": str(network), "--output": str(tmp_path / "out"),
    } | change  # fmt: skip
    image = told.pop("image")
    assert main([image, *(word for pair in told.items() for word in pair)]) == 2
    assert said in capsys.readouterr().err


def test_a_colour_image_is_no_guidance(
    shared: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(shared / "data" / "matting" / "bulb_rgb.jpg")
    assert main([image, "--trimap", image, "--artifact", str(network), "--output", str(tmp_path)]) == 1
    assert "bulb_rgb: expected guidance of one channel, found 3 that differ in" in capsys.readouterr().err


def test_guidance_files_are_found_by_name(tmp_path: Path) -> None:
    for name in ("bulb_trimap.png", "cat.png", "cat_mask.png", "dog_a.png", "dog_b.png"):
        assert cv2.imwrite(str(tmp_path / name), np.full((2, 2), len(name), np.uint8))
    np.save(tmp_path / "room.npy", np.ones((2, 2), np.float32))
    files = GuidanceFiles(tmp_path)
    assert files.read("bulb_rgb")[0, 0] == len("bulb_trimap.png")
    assert files.read("cat")[0, 0] == len("cat.png")
    assert files.read("room").dtype == np.float32
    for name, found in (("dog", "dog_a.png, dog_b.png"), ("bird", "none")):
        with pytest.raises(InputError) as caught:
            files.read(name)
        assert f"expected one file for {name} in {tmp_path}, found {found}" in str(caught.value)
