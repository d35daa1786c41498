# SPDX-License-Identifier: Apache-2.0
"""Command `reconstruct` on the room, from its files to the map on disk, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from synthetic_room import CAMERAS, Room

from aot_runtime.errors import InputError
from vggt_ros.feeds import Batch, chosen, image_batches, image_folders, video_batches, video_files, webcam_batches
from vggt_ros.fusion.maps import load_map
from vggt_ros.reconstruct import main
from vggt_ros.rig import read_intrinsics, read_poses


@pytest.fixture(scope="module")
def rig_files(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/CAMERA/NAME.png, depth/CAMERA/NAME.npy, poses.json by camera and frame, intrinsics.json."""
    root = tmp_path_factory.mktemp("rig")
    poses = []
    for frame, name in enumerate(room.frames["names"]):
        camera, step = str(name).split("_")
        for kind in ("images", "depth"):
            (root / kind / camera).mkdir(parents=True, exist_ok=True)
        (root / "images" / camera / f"{step}.png").symlink_to((room.folder / f"{name}.png").resolve())
        np.save(root / "depth" / camera / f"{step}.npy", room.relative["rel_disparity"][frame].astype(np.float32))
        poses.append({"camera": camera, "frame": int(step), "matrix": room.frames["T_wc"][frame].tolist()})
    (root / "poses.json").write_text(json.dumps({"poses": poses}))
    matrices = [{"id": name, "matrix": room.frames["K"][room.index(name, 0)].tolist()} for name in CAMERAS]
    (root / "intrinsics.json").write_text(json.dumps({"intrinsics": matrices}))
    return root


@pytest.fixture
def reconstruct(room: Room, rig_files: Path, tmp_path: Path) -> Callable[..., int]:
    """reconstruct(*arguments) -> exit status; `--out_dir` is tmp_path / "out"."""

    def run(*more: str, poses: bool = True, depth: bool = True, bootstrap: bool = True, out: str = "out") -> int:
        told = ["--images", str(rig_files / "images")]
        told += ["--bootstrap", str(room.folder / "vggt_like.npz")] if bootstrap else []
        told += ["--views", "left,front,right", "--out_dir", str(tmp_path / out), "--quiet"]
        told += ["--poses", str(rig_files / "poses.json")] if poses else []
        told += ["--depth_folder", str(rig_files / "depth")] if depth else []
        return main([*told, *more])

    return run


def _metrics(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "metrics.json").read_text()))


@pytest.mark.parametrize("fusion", ["surfel", "tsdf"])
def test_the_room_from_files_to_a_map_on_disk(
    room: Room, reconstruct: Callable[..., int], rig_files: Path, tmp_path: Path, fusion: str
) -> None:
    calibration = tmp_path / "calibration.json"
    more = ["--fusion", fusion, "--save_per_frame_depth", "1", "--per_camera_calib", str(calibration), "--gaussians"]
    assert reconstruct(*more, "--intrinsics", str(rig_files / "intrinsics.json")) == 0
    out = tmp_path / "out"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["unit"] == "m"
    assert metrics["scale"]["source"] == "baselines"
    assert metrics["scale"]["factor"] == pytest.approx(1 / 0.37, rel=1e-6)
    assert metrics["events"] == []
    records = metrics["records"]
    assert [(row["batch"], row["camera"]) for row in records] == [
        (step, name) for step in (1, 2, 3) for name in CAMERAS
    ]
    for row in records:
        assert row["fused"]
        with np.load(out / "depth_metric" / f"camera_{row['camera']}_batch_{row['batch']:05d}.npz") as file:
            depth = file["depth"]
        frame = room.index(row["camera"], row["batch"])
        assert np.nanmedian(np.abs(depth - room.frames["depth"][frame])[room.still(frame)]) <= 0.03
        assert row["scale"] == pytest.approx(room.relative["inv_depth_scale"][frame], abs=0.01)
    assert json.loads(calibration.read_text())["cameras"].keys() == set(CAMERAS)
    again, scale = load_map(out / ("tsdf_volume.npz" if fusion == "tsdf" else "surfel_map.npz"))
    assert scale.source == "baselines"
    points = again.surface().positions.numpy()
    assert len(points) == metrics["points"]
    assert np.median(np.abs(room.distance(points))) < 0.01
    counts = {}
    for name in ("bootstrap_map", "map_updated", "gaussians"):
        head = (out / f"{name}.ply").read_bytes().split(b"end_header")[0].decode()
        counts[name] = int(head.split("element vertex ")[1].split()[0])
    assert counts["map_updated"] == counts["gaussians"] == len(points)
    assert counts["bootstrap_map"] > 20_000
    assert (out / "mesh.ply").exists() == (fusion == "tsdf")
    assert "scale baselines" in (out / "logs" / "reconstruct.log").read_text()


@pytest.mark.skipif(importlib.util.find_spec("open3d") is None, reason="open3d is not installed")
def test_open3ds_field_by_command(room: Room, reconstruct: Callable[..., int], tmp_path: Path) -> None:
    told = ["--fusion", "tsdf", "--tsdf_backend", "open3d", "--gaussians", "--max_batches", "2"]
    assert reconstruct(*told, "--save_per_frame_depth", "1") == 0
    out = tmp_path / "out"
    for row in json.loads((out / "metrics.json").read_text())["records"]:
        assert row["fused"]
        with np.load(out / "depth_metric" / f"camera_{row['camera']}_batch_00001.npz") as file:
            frame = room.index(row["camera"], 1)
            assert np.nanmedian(np.abs(file["depth"] - room.frames["depth"][frame])[room.still(frame)]) <= 0.03
    assert (out / "open3d_points.npz").exists()
    assert (out / "gaussians.ply").exists()


def test_two_runs_write_the_same_bytes(reconstruct: Callable[..., int], tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert reconstruct("--max_batches", "2", "--save_per_frame_depth", "1", out=out) == 0
    names = ["map_updated.ply", "bootstrap_map.ply", "surfel_map.npz", "depth_metric/camera_left_batch_00001.npz"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_saved_map_is_gone_on_with(reconstruct: Callable[..., int], rig_files: Path, tmp_path: Path) -> None:
    intrinsics = ("--intrinsics", str(rig_files / "intrinsics.json"))
    assert reconstruct("--max_batches", "2", out="first") == 0
    before = json.loads((tmp_path / "first" / "metrics.json").read_text())
    saved = ("--initial_map", str(tmp_path / "first" / "surfel_map.npz"))
    assert reconstruct(*saved, *intrinsics, bootstrap=False) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["scale"] == before["scale"]
    assert len(metrics["records"]) == 12  # no instant is spent on a bootstrap
    assert all(row["fused"] for row in metrics["records"])
    assert metrics["points"] > before["points"]
    assert not (tmp_path / "out" / "bootstrap_map.ply").exists()
    assert reconstruct(*saved, bootstrap=False, depth=False) == 2
    # Without intrinsics there is no camera, so nothing can be fused.
    assert reconstruct(*saved, bootstrap=False, out="blind") == 1
    assert "expected intrinsics and a pose" in (tmp_path / "blind" / "metrics.json").read_text()


def test_without_anything_metric_the_scale_must_be_declared_arbitrary(
    room: Room, reconstruct: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reconstruct(poses=False) == 2
    assert "expected something metric" in capsys.readouterr().err
    assert reconstruct("--arbitrary_scale", "--save_per_frame_depth", "1", "--max_batches", "2", poses=False) == 0
    assert _metrics(tmp_path / "out")["unit"] == "arbitrary units"
    assert (tmp_path / "out" / "depth_unscaled").is_dir()
    assert not (tmp_path / "out" / "depth_metric").exists()
    assert "in arbitrary units" in capsys.readouterr().out
    np.savez(tmp_path / "depth.npz", left=room.frames["depth"][0])
    metric = ("--metric_depth", str(tmp_path / "depth.npz"), "--max_batches", "1")
    assert reconstruct(*metric, poses=False, out="metric") == 0
    scale = _metrics(tmp_path / "metric")["scale"]
    assert isinstance(scale, dict)
    assert scale["source"] == "metric depth"
    assert scale["factor"] == pytest.approx(1 / 0.37, rel=1e-4)


def test_a_metric_depth_network_gives_metres(
    room: Room,
    reconstruct: Callable[..., int],
    metric_brightness: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Images as bright as their depth; nothing but the network knows metres."""
    import cv2

    for frame, name in enumerate(room.frames["names"]):
        camera, step = str(name).split("_")
        (tmp_path / "images" / camera).mkdir(parents=True, exist_ok=True)
        grey = np.clip(room.frames["depth"][frame] * 25.5, 1, 255).round().astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / camera / f"{step}.png"), grey)
    told = ("--images", str(tmp_path / "images"), "--max_batches", "1")
    assert reconstruct(*told, "--depth_engine", str(metric_brightness()), poses=False, depth=False) == 0
    scale = _metrics(tmp_path / "out")["scale"]
    assert isinstance(scale, dict)
    assert (scale["source"], scale["file"]) == ("metric depth network", metric_brightness().name)
    assert scale["factor"] == pytest.approx(1 / 0.37, rel=0.01)
    assert "scale metric depth network" in (tmp_path / "out" / "logs" / "reconstruct.log").read_text()
    capsys.readouterr()
    random = ("--depth_engine", str(metric_brightness(random=True)))
    assert reconstruct(*told, *random, poses=False, depth=False) == 2
    assert "is metric, but its weights are random" in capsys.readouterr().err
    assert reconstruct(*told, *random, "--arbitrary_scale", poses=False, depth=False) == 0
    assert _metrics(tmp_path / "out")["unit"] == "arbitrary units"
    assert "not used for the scale" in str(_metrics(tmp_path / "out")["events"])


def test_a_camera_that_drops_out_and_a_broken_image_cost_only_themselves(
    room: Room, reconstruct: Callable[..., int], rig_files: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    for name in CAMERAS:
        (images / name).mkdir(parents=True)
        for path in sorted((rig_files / "images" / name).iterdir()):
            (images / name / path.name).write_bytes(path.read_bytes())
    (images / "left" / "03.png").unlink()
    (images / "front" / "02.png").write_bytes(b"no picture")
    assert reconstruct("--images", str(images)) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    seen = [(row["batch"], row["camera"]) for row in metrics["records"] if row["fused"]]
    assert len(seen) == 7
    assert [(event["batch"], event["camera"]) for event in metrics["events"]] == [(2, "front"), (3, "left")]
    assert "02.png" in metrics["events"][0]["problem"]


def test_images_that_change_their_size_are_taken_for_resized_and_this_is_said(
    room: Room, reconstruct: Callable[..., int], rig_files: Path, tmp_path: Path
) -> None:
    import cv2

    images, depth = tmp_path / "images", tmp_path / "depth"
    for name in CAMERAS:
        (images / name).mkdir(parents=True)
        (depth / name).mkdir(parents=True)
        for path in sorted((rig_files / "images" / name).iterdir()):
            (images / name / path.name).write_bytes(path.read_bytes())
            disparity = np.load(rig_files / "depth" / name / f"{path.stem}.npy")
            if (name, path.stem) == ("front", "02"):
                small = cv2.resize(cv2.imread(str(path)), (80, 60), interpolation=cv2.INTER_AREA)
                cv2.imwrite(str(images / name / path.name), small)
                disparity = disparity.reshape(60, 2, 80, 2).mean((1, 3))
            np.save(depth / name / f"{path.stem}.npy", disparity)
    more = ("--images", str(images), "--intrinsics", str(rig_files / "intrinsics.json"))
    assert reconstruct(*more, "--depth_folder", str(depth), "--save_per_frame_depth", "1") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert all(row["fused"] for row in metrics["records"])
    (event,) = metrics["events"]
    assert event["problem"] == "its images were 160x120 and are 80x60; taken for resized"
    with np.load(tmp_path / "out" / "depth_metric" / "camera_front_batch_00002.npz") as file:
        true = room.frames["depth"][room.index("front", 2)].reshape(60, 2, 80, 2).mean((1, 3))
        assert np.nanmedian(np.abs(file["depth"] - true)) <= 0.03


def test_depth_that_has_nothing_to_do_with_the_images_never_reaches_the_map(
    reconstruct: Callable[..., int], tmp_path: Path
) -> None:
    """As of a network with random weights: smooth, and wrong."""
    import cv2

    random = np.random.default_rng(6)
    for name in CAMERAS:
        (tmp_path / "depth" / name).mkdir(parents=True)
        for step in range(4):
            coarse = random.uniform(0, 2, (6, 8)).astype(np.float32)
            smooth = cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)
            np.save(tmp_path / "depth" / name / f"{step:02d}.npy", smooth)
    assert reconstruct("--depth_folder", str(tmp_path / "depth")) == 1
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["records"]) == 9
    assert all(row["problem"] and not row["fused"] for row in metrics["records"])
    assert "3 of 3 cameras do not agree with the map" in metrics["events"][-1]["problem"]
    out = tmp_path / "out"
    assert (out / "map_updated.ply").read_bytes() == (out / "bootstrap_map.ply").read_bytes()


def test_only_the_bootstrap_without_a_source_of_depth(reconstruct: Callable[..., int], tmp_path: Path) -> None:
    assert reconstruct(depth=False) == 0
    out = tmp_path / "out"
    assert _metrics(out)["records"] == []
    assert (out / "map_updated.ply").read_bytes() == (out / "bootstrap_map.ply").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--views", "left,rear"], "found 'rear'"),
        (["--source", "videos"], "expected --videos for --source videos"),
        (["--frame_step", "0"], "--frame_step of at least 1"),
        (["--smooth_scale", "2"], "--smooth_scale from 0 to 1"),
        (["--fusion", "tsdf", "--voxel_size", "0"], "voxel above 0"),
        (["--depth_folder", "nowhere"], "found nothing at nowhere"),
        (["--depth_engine", "x.pt2"], "found both"),
        (["--poses", "nowhere.json"], "expected poses as JSON, YAML or NPZ"),
        (["--initial_map", "map.npz"], "found --bootstrap and --initial_map"),
        (["--bootstrap", "nowhere.npz"], "expected a bootstrap"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(
    reconstruct: Callable[..., int], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert reconstruct(*more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


# -- its inputs --------------------------------------------------------------------------------------------------------


def test_calibrations_are_read_in_all_their_forms(tmp_path: Path) -> None:
    matrix, pose = np.diag([100.0, 101, 1]), np.eye(4)
    pose[0, 3] = 2
    np.savez(tmp_path / "k.npz", left=matrix)
    np.savez(tmp_path / "p.npz", **{"left/3": pose, "right": np.eye(4)})
    (tmp_path / "k.json").write_text(json.dumps({"left": matrix.tolist()}))
    (tmp_path / "p.json").write_text(
        json.dumps(
            [{"cam": "left", "t": 3, "matrix": pose.tolist()}, {"camera": "right", "matrix": np.eye(4).tolist()}]
        )
    )
    for suffix in ("npz", "json"):
        np.testing.assert_array_equal(read_intrinsics(tmp_path / f"k.{suffix}")["left"], matrix)
        poses = read_poses(tmp_path / f"p.{suffix}")
        assert poses["left"].keys() == {3}
        assert poses["right"].keys() == {None}
        np.testing.assert_array_equal(poses["left"][3], pose)


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", "[]", '{"a": [[1, 2], [3]]}', '{"a": 5}', '[{"matrix": [[1]]}]', "3"]
)
def test_files_that_are_no_calibration_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    for read in (read_intrinsics, read_poses):
        with pytest.raises(InputError):
            read(path)


def test_cameras_are_chosen_by_name_number_and_chance() -> None:
    cameras = ["a", "b", "c", "d", "e"]
    assert chosen(cameras, [], 0, 0, 1) == cameras
    assert chosen(cameras, ["d", "a"], 0, 0, 1) == ["d", "a"]
    assert chosen(cameras, [], 2, 0, 1) == ["a", "b"]
    picked = chosen(cameras, [], 0, 3, 1)
    assert picked == chosen(cameras, [], 0, 3, 1)
    assert len(picked) == 3
    assert picked == sorted(picked)
    assert any(chosen(cameras, [], 0, 3, seed) != picked for seed in range(2, 9))


def _numbers(batches: Iterator[Batch]) -> list[tuple[int, list[str]]]:
    return [(batch.frame, sorted(batch.images)) for batch in batches]


def test_folders_are_read_by_step_and_one_that_ends_is_missing(tmp_path: Path, room: Room) -> None:
    picture = (room.folder / "left_00.png").read_bytes()
    for camera, count in (("a", 5), ("b", 3)):
        (tmp_path / camera).mkdir()
        for index in range(count):
            (tmp_path / camera / f"{index}.png").write_bytes(picture)
    folders = image_folders(tmp_path)
    assert _numbers(image_batches(folders, 2)) == [(0, ["a", "b"]), (2, ["a", "b"]), (4, ["a"])]
    assert image_folders(tmp_path / "a") == {"cam0": tmp_path / "a"}
    with pytest.raises(InputError, match="found nothing"):
        image_folders(tmp_path / "c")


def test_videos_and_webcams_give_their_frames(tmp_path: Path) -> None:
    import cv2

    for camera, count in (("a", 4), ("b", 2)):
        path = tmp_path / f"{camera}.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
        for index in range(count):
            writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
        writer.release()
    files = video_files(tmp_path)
    assert list(files) == ["a", "b"]
    assert _numbers(video_batches(files)) == [(0, ["a", "b"]), (1, ["a", "b"]), (2, ["a"]), (3, ["a"])]
    # OpenCV opens a file where it expects a device, so the same frames stand in for two cameras.
    batches = list(webcam_batches({name: str(path) for name, path in files.items()}))
    assert _numbers(iter(batches)) == [(0, ["a", "b"]), (1, ["a", "b"]), (2, ["a"]), (3, ["a"])]
    assert batches[2].problems == {"b": "the camera gave no image"}
    assert batches[3].images["a"].shape == (48, 64, 3)
    assert abs(int(batches[3].images["a"].mean()) - 120) < 4
    with pytest.raises(InputError, match="expected a camera at"):
        next(webcam_batches({"a": str(tmp_path / "none.avi")}))
    with pytest.raises(InputError, match="expected videos"):
        video_files(_empty(tmp_path))


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"
