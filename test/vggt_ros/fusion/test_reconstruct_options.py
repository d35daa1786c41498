# SPDX-License-Identifier: Apache-2.0
"""Options of `reconstruct`: folders that grow, engines by precision, models of alignment, bootstraps again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_artifacts import small_depth, with_manifest
from synthetic_room import CAMERAS, Room

from aot_runtime.errors import InputError
from vggt_ros.depth_engines import choose_depth_engine
from vggt_ros.fusion.bootstrap import NpzFolderSource
from vggt_ros.live_folder import live_batches
from vggt_ros.reconstruct import main
from vggt_ros.reconstruct_options import check_options, make_parser, open_batches, open_disparities
from vggt_ros.rig import read_intrinsics, read_poses

_BASE = ["--bootstrap", "b.npz", "--out_dir", "out"]


def _save(folder: Path, room: Room, step: int) -> None:
    """A bootstrap of a step as VGGT would express it, in a unit and a world of its own."""
    views = room.seen((step,) * 3, 0.37 * 1.7**step, 0.4 * (step + 1))
    folder.mkdir(exist_ok=True)
    np.savez(
        folder / f"{step:05d}.npz",
        names=list(CAMERAS),
        poses=views.poses,
        intrinsics=views.intrinsics,
        depth=views.depth,
    )


def _rig(room: Room, root: Path) -> list[str]:
    poses = {}
    for frame, name in enumerate(room.frames["names"]):
        camera, step = str(name).split("_")
        for kind in ("images", "depth"):
            (root / kind / camera).mkdir(parents=True, exist_ok=True)
        (root / "images" / camera / f"{step}.png").symlink_to((room.folder / f"{name}.png").resolve())
        np.save(root / "depth" / camera / f"{step}.npy", room.relative["rel_disparity"][frame].astype(np.float32))
        poses[f"{camera}/{int(step)}"] = room.frames["T_wc"][frame].tolist()
    (root / "poses.yaml").write_text(yaml.safe_dump({"poses": poses}))
    return [
        *("--images", str(root / "images"), "--views", "left,front,right", "--poses", str(root / "poses.yaml")),
        *("--depth_folder", str(root / "depth"), "--out_dir", str(root / "out"), "--quiet"),
    ]


def test_a_bootstrap_every_two_instants_keeps_one_metric_map(room: Room, tmp_path: Path) -> None:
    command = _rig(room, tmp_path)
    for step in (0, 2, 3):
        _save(tmp_path / "start", room, step)
    told = ["--bootstrap", str(tmp_path / "start"), "--rebootstrap_period", "2", "--save_per_frame_depth", "1"]
    assert main([*command, *told]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # Found due when the instant 2 had been streamed; then it takes the place of streaming.
    assert [row["batch"] for row in metrics["records"]] == [1] * 3 + [2] * 3
    assert [(row["batch"], row["cameras"]) for row in metrics["bootstraps"]] == [(0, list(CAMERAS)), (3, list(CAMERAS))]
    assert metrics["bootstraps"][1]["reason"] == "2.0 s passed since the last bootstrap"
    assert metrics["scale"]["factor"] == pytest.approx(1 / 0.37, rel=1e-6)
    for row in metrics["records"]:
        with np.load(
            tmp_path / "out" / "depth_metric" / f"camera_{row['camera']}_batch_{row['batch']:05d}.npz"
        ) as file:
            frame = room.index(row["camera"], row["batch"])
            assert np.nanmedian(np.abs(file["depth"] - room.frames["depth"][frame])[room.still(frame)]) <= 0.03
    # Where there is none, the map goes on, and this is said.
    (tmp_path / "start" / "00003.npz").unlink()
    assert main([*command, *told]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["records"]) == 9
    assert "expected a bootstrap of instant 3, found those of 00000, 00002" in metrics["events"][-1]["problem"]
    assert main([*command, *told, "--no_rebootstrap"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "a new bootstrap is due: 2.0 s passed" in metrics["events"][0]["problem"]
    with pytest.raises(InputError, match="found those of none"):
        NpzFolderSource(tmp_path).bootstrap({})


def test_yaml_is_read_as_json_is(tmp_path: Path) -> None:
    (tmp_path / "k.yaml").write_text("intrinsics:\n  - {id: left, matrix: [[100, 0, 50], [0, 100, 40], [0, 0, 1]]}\n")
    np.testing.assert_array_equal(read_intrinsics(tmp_path / "k.yaml")["left"], [[100, 0, 50], [0, 100, 40], [0, 0, 1]])
    (tmp_path / "p.yml").write_text(f"3: {np.eye(4).tolist()}\n")
    assert read_poses(tmp_path / "p.yml")["3"].keys() == {None}
    for text in ("a: [", "3", "a: b", "!!python/object/apply:os.getcwd []"):
        (tmp_path / "k.yaml").write_text(text)
        with pytest.raises(InputError):
            read_intrinsics(tmp_path / "k.yaml")


# -- depth -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "model", "message"),
    [
        ("relative", "auto", ""),
        ("relative", "disparity", ""),
        ("relative", "scale", "for the relative output of"),
        ("relative", "scale_shift", "which takes it for depth"),
        ("relative", "invdepth_scale_shift", "which takes it for depth"),
        ("metric", "auto", ""),
        ("metric", "invdepth_scale_shift", ""),
        ("metric", "scale", "the fit in disparity holds a pure scale too"),
        ("metric", "scale_shift", "let far pixels decide"),
    ],
)
def test_models_of_another_domain_are_refused(artifact_cache: Path, kind: str, model: str, message: str) -> None:
    artifact = small_depth(artifact_cache, 20.0 if kind == "metric" else None)
    told = make_parser("").parse_args([*_BASE, "--depth_engine", str(artifact), "--align_model", model])
    check_options(told)
    if not message:
        assert open_disparities(told) is not None
        return
    with pytest.raises(InputError, match=message):
        open_disparities(told)


def test_the_fastest_precision_that_runs_here_is_taken(artifact_cache: Path, tmp_path: Path) -> None:
    source = small_depth(artifact_cache)
    (tmp_path / "a").mkdir()
    for name, precision in (("a/x.pt2", "fp32"), ("y.pt2", "bf16"), ("z.pt2", "fp16")):
        with_manifest(source, tmp_path / name, lambda data, precision=precision: data.update(precision=precision))  # type: ignore[misc]
    with_manifest(source, tmp_path / "other.pt2", lambda data: data.update(family="f3", precision="int8"))
    assert choose_depth_engine(tmp_path) == (tmp_path / "z.pt2", "fp16")
    assert choose_depth_engine(tmp_path, "fp32") == (tmp_path / "a" / "x.pt2", "fp32")
    with pytest.raises(InputError, match=r"precision int8 that runs on cpu .* x\.pt2: fp32; y\.pt2: bf16"):
        choose_depth_engine(tmp_path, "int8")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no artifact of the family depth"):
        choose_depth_engine(tmp_path / "none")
    with pytest.raises(InputError, match="found nothing at"):
        choose_depth_engine(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--test_mode", "1"], "expected no --test_mode"),
        (["--trt_precision", "fp16"], "--trt_precision with --depth_engine_dir"),
        (["--depth_folder", "d", "--depth_workers", "2"], "--depth_workers of a depth network"),
        (["--depth_folder", "d", "--align_model", "scale"], "which takes it for depth"),
        (["--depth_folder", "d", "--depth_engine_dir", "e"], "found both --depth_engine_dir and --depth_folder"),
        (["--tsdf_backend", "open3d"], "--fusion tsdf for --tsdf_backend open3d"),
    ],
)
def test_contradictions_are_refused_before_anything_is_opened(more: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_options(make_parser("").parse_args([*_BASE, *more]))


def test_a_map_of_points_only_is_refused() -> None:
    told = make_parser("").parse_args(["--initial_map", "m.ply", "--depth_folder", "d", "--out_dir", "out"])
    with pytest.raises(InputError, match=r"normals, weights and its unit, found only points in m\.ply"):
        check_options(told)


# -- folders that grow -------------------------------------------------------------------------------------------------


class _Clock:
    """Time that passes only in sleep, while files arrive."""

    def __init__(self, arrivals: dict[float, Callable[[], object]]) -> None:
        self.now = 0.0
        self._arrivals = sorted(arrivals.items())

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self._arrivals and self._arrivals[0][0] <= self.now:
            self._arrivals.pop(0)[1]()


def test_a_folder_is_followed_while_it_grows(room: Room, tmp_path: Path) -> None:
    picture = (room.folder / "left_00.png").read_bytes()
    for camera in "ab":
        (tmp_path / camera).mkdir()

    def write(name: str, data: bytes = picture) -> Callable[[], object]:
        return lambda: (tmp_path / name).write_bytes(data)

    write("a/0.png")()
    clock = _Clock(
        {
            0.5: write("b/0.png", picture[:200]),  # still being written
            0.8: write("b/0.png"),
            1.0: write("b/1.png"),
            1.2: write("a/1.png", b""),  # only opened yet
            1.5: write("a/1.png"),
            2.0: write("a/2.png"),  # b has ended
            4.5: write("a/3.png", b"broken"),
        }
    )
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    batches = list(live_batches(folders, patience_s=2.0, poll_s=0.1, clock=clock, sleep=clock.sleep))
    assert [(batch.frame, sorted(batch.names.items())) for batch in batches] == [
        (0, [("a", "0"), ("b", "0")]),
        (1, [("a", "1"), ("b", "1")]),
        (2, [("a", "2")]),
        (3, []),
    ]
    assert batches[0].images["a"].shape == (120, 160, 3)
    assert batches[2].problems == {"b": "no image came within 2 s"}
    assert "3.png" in batches[3].problems["a"]
    assert 7.5 < clock.now < 8.5  # two seconds after the last


def test_a_live_folder_that_is_not_there_falls_back_to_images(room: Room, tmp_path: Path) -> None:
    command = [*_rig(room, tmp_path), "--bootstrap", "b.npz", "--live_patience", "0.3"]
    parser = make_parser("")
    for live, name in ((tmp_path / "nowhere", "images"), (tmp_path / "images", "live")):
        cameras, batches = open_batches(parser.parse_args([*command, "--images_live", str(live)]))
        assert cameras == ["left", "front", "right"]
        assert [sorted(batch.names.values()) for batch in batches] == [[f"{step:02d}"] * 3 for step in range(4)], name
    with pytest.raises(InputError, match="found nothing at"):
        open_batches(parser.parse_args([*_BASE, "--images_live", str(tmp_path / "nowhere")]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--images", "EMPTY"], "expected images, or a folder of them for each camera, found nothing in "),
        (["--out_dir", "FILE"], "expected a file or folder that can be used, found Not a directory for "),
        (["--device", "tpu"], "expected the device cpu, cuda or cuda:N, found 'tpu'"),
        (["--device", "cuda:99"], "expected a GPU for the device cuda:99, found "),
        (["--bootstrap", "FILE"], "expected a bootstrap, found no such format in "),
        (
            ["--metric_depth", "REAR"],
            "'right'], found it of ['rear']",
        ),
    ],
)
def test_places_and_devices_that_are_no_good_are_one_sentence(
    room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("x")
    np.savez(tmp_path / "REAR", rear=np.ones((120, 160)))
    (tmp_path / "REAR.npz").rename(tmp_path / "REAR")
    for name in CAMERAS:
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "00.png").symlink_to((room.folder / f"{name}_00.png").resolve())
    told = ["--images", str(tmp_path / "images"), "--bootstrap", str(room.folder / "vggt_like.npz"), "--quiet"]
    told += ["--views", "left,front,right", "--out_dir", str(tmp_path / "out")]
    assert main([*told, *(str(tmp_path / word) if word.isupper() else word for word in more)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
