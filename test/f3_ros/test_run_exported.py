# SPDX-License-Identifier: Apache-2.0
"""The official command line, its pictures to the pixel, every kind of recording, and what goes wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from kept_artifacts import cached

from aot_runtime.pca import PcaBasis
from f3_ros import run_exported
from f3_ros.config import CONFIGS
from f3_ros.events.readers import open_events
from f3_ros.flow_pictures import flow_picture
from f3_ros.instants import instant
from f3_ros.perception import PerceptionPipeline, PerceptionResult
from f3_ros.pipeline import F3Pipeline

M3ED = "m3ed_layout_gen41_1280x720.h5"
DSEC = "dsec_layout_gen31_640x480/events.h5"
CHANNELS, HEIGHT, WIDTH = 8, 28, 42
OFFICIAL = ["events_plot", "f3_feat_pca", "depth_colored", "flow_viz", "flow_viz_overlay"]
PICTURES = ["events_plot", "f3_feat_pca", "depth_colored", "depth_magma", "flow_viz", "flow_viz_overlay"]
PICTURES += ["flow_sensor", "overview"]
Head = Callable[..., Path]


@pytest.fixture(scope="session")
def hd_f3(artifact_cache: Path) -> Path:
    """An F3 for 1280x720 as M3ED's, but with a tiny network on a small field."""
    from aot_runtime.manifest import CheckpointInfo
    from f3_ros.export_f3 import export_f3, make_model

    small = {"dims": (CHANNELS,), "kernels": (3,), "depths": (1,), "bottlenecks": (2,), "dilations": (1,)}
    config = replace(CONFIGS["1280x720x20_patchff_ds1_small"], entry_kernels=(1,), entry_strides=(1,), **small)
    checkpoint = CheckpointInfo("tiny.pth", "0" * 64, "Apache-2.0")
    options: dict[str, Any] = {"variable": True, "n_events": 1000, "max_events": 200_000, "downsample": (64, 36)}
    return cached(
        artifact_cache,
        "f3_hd_tiny",
        ".pt2",
        (
            *(f"f3_ros/{name}.py" for name in ("blocks", "encoder", "model", "deploy", "export_f3")),
            "aot_runtime/export.py",
        ),
        lambda path: export_f3(make_model(config).randomise(5), path, checkpoint=checkpoint, progress=False, **options),
        asked=(config, options),
    )


@pytest.fixture
def heads(stand_in_head: Head) -> list[str]:
    """The flags of both heads."""
    depth, flow = (str(stand_in_head(family, CHANNELS, HEIGHT, WIDTH)) for family in ("depth", "flow"))
    return ["--dav2_pt2_path", depth, "--flowhead_pt2_path", flow]


@pytest.fixture
def events(shared: Path) -> Path:
    return shared / "data" / "events"


def run_here(f3: Path, heads: list[str], recording: Path, time_ms: int) -> tuple[np.ndarray, PerceptionResult]:
    """The rows of an instant and the networks' results, without the command."""
    pipeline = PerceptionPipeline(F3Pipeline(f3), heads[1], heads[3])
    with open_events(recording) as reader:
        window = instant(reader, time_ms, 20_000)
        size = (reader.width, reader.height)
    rows = pipeline.f3.tensor(window, *size)
    result = pipeline.process(window, *size)
    pipeline.close()
    return rows, result


def expected_pictures(rows: np.ndarray, result: PerceptionResult) -> dict[str, np.ndarray]:
    """What the official script would write of these results, by the formulas of reference f3.md section 9."""
    assert result.features is not None
    assert result.depth is not None
    assert result.flow is not None
    x, y, p = np.rint(rows[:, 0] * 1280).astype(int), np.rint(rows[:, 1] * 720).astype(int), rows[:, 3]
    plot = np.zeros((720, 1280, 3), np.uint8)
    plot[y, x, 0] = (p == 1) * 255
    plot[y, x, 2] = (p == 0) * 255
    flat = result.features.transpose(1, 2, 0).reshape(-1, CHANNELS).astype(np.float64)
    centred = flat - flat.mean(0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:3]
    # Their sign is arbitrary; ours makes the largest entry positive.
    largest = np.take_along_axis(components, np.abs(components).argmax(1)[:, None], axis=1)
    projected = centred @ (components * np.sign(largest)).T
    projected = np.clip(projected, projected.mean(0) - projected.std(0), projected.mean(0) + projected.std(0))
    scaled = (projected - projected.min()) / (projected.max() - projected.min()) * 255
    depth = (result.depth - result.depth.min()) / (result.depth.max() - result.depth.min()) * 255
    flow = flow_picture(result.flow)  # the golden file's to the bit; OpenCV's own colours depend on its version
    mask = cv2.resize((plot == 255).max(axis=2).astype(np.uint8), (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    return {
        "events_plot": plot,
        "f3_feat_pca": scaled.astype(np.uint8).reshape(*result.features.shape[1:], 3),
        "depth_colored": np.repeat(depth.astype(np.uint8)[..., None], 3, axis=2),
        "flow_viz": flow,
        "flow_viz_overlay": flow * mask[..., None],
    }


def assert_same_picture(name: str, found: np.ndarray, expected: np.ndarray) -> None:
    """Exact; principal components within the golden files' bound, a level in half a per cent of the pixels."""
    assert found.shape == expected.shape, name
    difference = np.abs(found.astype(int) - expected)
    if name != "f3_feat_pca":
        assert not difference.any(), name
    assert difference.max() <= 1, name
    assert (difference > 0).mean() < 0.005, name


@pytest.mark.parametrize(("recording", "time_ms"), [(M3ED, 300), (DSEC, 23), ("evt3_gen41_1280x720.raw", 9)])
def test_the_official_command_line_writes_the_official_pictures(
    recording: str,
    time_ms: int,
    hd_f3: Path,
    heads: list[str],
    events: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--f3_pt2_path", str(hd_f3), *heads, "--h5_file", str(events / recording), "--time_ms", str(time_ms)]
    command += ["--dav2_height", str(HEIGHT), "--dav2_width", str(WIDTH), "--flow_height", str(HEIGHT)]
    command += ["--flow_width", str(WIDTH), "--runs", "2", "--warmup_runs", "1"]
    assert run_exported.main(command) == 0
    shown = capsys.readouterr()
    assert "Average inference time over 2 runs" in shown.out
    assert ("thinned" in shown.err) == ("raw" in recording)
    for stage in ("event upload", "F3", "resize", "depth", "flow", "F3 + depth", "F3 + flow", "all"):
        assert stage in shown.out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.png" for name in PICTURES)
    rows, result = run_here(hd_f3, heads, events / recording, time_ms)
    assert len(rows) > 1000
    for name, expected in expected_pictures(rows, result).items():
        found = cv2.imread(str(tmp_path / f"{name}.png"))
        assert found is not None
        assert_same_picture(name, found, expected)
    assert cv2.imread(str(tmp_path / "depth_colored.png"), cv2.IMREAD_UNCHANGED).ndim == 2  # type: ignore[union-attr]


def test_a_smaller_sensor_is_centred_and_our_pictures_are_on_its_pixels(
    hd_f3: Path, heads: list[str], events: Path, tmp_path: Path
) -> None:
    command = ["--f3-pt2-path", str(hd_f3), *heads, "--events", str(events / DSEC), "--time-ms", "23", "--runs", "0"]
    assert run_exported.main([*command, "--output", str(tmp_path / "new" / "folder")]) == 0
    shapes = {name: cv2.imread(str(tmp_path / "new" / "folder" / f"{name}.png")).shape for name in PICTURES}  # type: ignore[union-attr]
    assert shapes["events_plot"] == (720, 1280, 3)
    assert shapes["depth_colored"] == shapes["flow_viz"] == shapes["flow_viz_overlay"] == (HEIGHT, WIDTH, 3)
    assert shapes["depth_magma"] == shapes["flow_sensor"] == (480, 640, 3)
    plot = cv2.imread(str(tmp_path / "new" / "folder" / "events_plot.png"))
    assert plot is not None
    assert plot[120:600, 320:960].any()
    plot[120:600, 320:960] = 0
    assert not plot.any()


@pytest.mark.parametrize(
    ("kind", "picture"), [("relative", "depth_magma"), ("disparity", "depth_magma"), ("metric", "depth_jet")]
)
def test_either_head_is_optional(
    kind: str,
    picture: str,
    hd_f3: Path,
    stand_in_head: Head,
    events: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = ["--f3_pt2_path", str(hd_f3), "--h5_file", str(events / M3ED), "--time_ms", "300", "--runs", "1"]
    base += ["--warmup_runs", "0"]
    assert run_exported.main([*base, "--output", str(tmp_path / "f3")]) == 0
    assert sorted(path.stem for path in (tmp_path / "f3").iterdir()) == ["events_plot", "f3_feat_pca", "overview"]
    told = {"kind": kind, **({"focal_baseline": 123.78} if kind == "disparity" else {})}
    depth = stand_in_head("depth", CHANNELS, HEIGHT, WIDTH, **told)
    # The flow's size is that of a head which is not there: as in the official script, nobody asks.
    command = [*base, "--dav2_pt2_path", str(depth), "--flow_height", "999", "--output", str(tmp_path / "depth")]
    assert run_exported.main(command) == 0
    written = {path.stem for path in (tmp_path / "depth").iterdir()}
    assert written == {"events_plot", "f3_feat_pca", "overview", "depth_colored", picture}
    assert "F3 + flow" not in capsys.readouterr().out


def test_the_json_tells_everything(
    hd_f3: Path, heads: list[str], events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--f3_pt2_path", str(hd_f3), *heads, "--h5_file", str(events / M3ED), "--time_ms", "300", "--runs", "2"]
    command += ["--warmup_runs", "0", "--output", str(tmp_path)]
    assert run_exported.main([*command, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recording"] == {"file": str(events / M3ED), "format": "hdf5 m3ed", "size": [1280, 720]}
    assert (told["time_ms"], told["complete"], told["device"]) == (300, True, "cpu")
    assert told["events"] == told["events_used"] > 1000
    assert {name: model["size"] for name, model in told["models"].items()} == {
        "f3": [36, 64], "depth": [HEIGHT, WIDTH], "flow": [HEIGHT, WIDTH]
    }  # fmt: skip
    assert told["pictures"] == PICTURES
    stages = ["event upload", "F3", "resize", "depth", "flow", "F3 + depth", "F3 + flow", "all"]
    assert [row["stage"] for row in told["results"]] == stages
    assert told["environment"]["command"].startswith("run_exported --f3_pt2_path")
    assert run_exported.main([*command, "--json", str(tmp_path / "times.json")]) == 0
    assert json.loads((tmp_path / "times.json").read_text())["pictures"] == PICTURES
    assert "p99 ms" in capsys.readouterr().out


def test_a_whole_file_gives_numbered_pictures_and_a_table(
    hd_f3: Path, heads: list[str], events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--f3_pt2_path", str(hd_f3), *heads, "--events", str(events / M3ED), "--all", "--stride_ms", "240"]
    command += ["--runs", "1", "--warmup_runs", "0", "--output", str(tmp_path), "--json", "-"]
    assert run_exported.main(command) == 0
    told = json.loads(capsys.readouterr().out)
    with (tmp_path / "windows.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["time_ms"]) for line in lines] == [20, 260, 500]
    assert [window["time_ms"] for window in told["windows"]] == [20, 260, 500]
    assert [line["complete"] for line in lines] == ["0", "1", "1"]
    assert all(float(line["process_ms"]) > 0 for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {"windows.csv", *PICTURES}
    for name in PICTURES:
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [f"{k:06d}.png" for k in range(3)]
    assert {row["stage"] for row in told["results"]} >= {"F3", "all"}
    # A window of the whole file is the instant of that time; but components keep the sign of the window before.
    (_, before), (rows, result) = (run_here(hd_f3, heads, events / M3ED, time_ms) for time_ms in (20, 260))
    assert int(lines[1]["events"]) == len(rows)
    assert before.features is not None
    assert result.features is not None
    basis = PcaBasis.fit(result.features, PcaBasis.fit(before.features))
    expected = {**expected_pictures(rows, result), "f3_feat_pca": basis.paint(result.features)}
    for name in OFFICIAL:
        found = cv2.imread(str(tmp_path / name / "000001.png"))
        assert found is not None
        assert_same_picture(name, found, expected[name])


@pytest.mark.parametrize(
    ("name", "time_ms"),
    [
        ("bag_evt3_gen41_sqlite3", 500),
        ("dvxplorer_lite_320x240.aedat4", 200),
        ("mvsec_layout_davis346.hdf5", 30),
        ("ncars_atis.dat", 50),
        ("evt2_gen31_640x480.raw", 20),
        ("synthetic/room_seed1_346x260.h5", 250),
    ],
)
def test_every_kind_of_recording(name: str, time_ms: int, hd_f3: Path, events: Path, tmp_path: Path) -> None:
    command = ["--f3_pt2_path", str(hd_f3), "--events", str(events / name), "--time_ms", str(time_ms), "--runs", "0"]
    assert run_exported.main([*command, "--output", str(tmp_path)]) == 0
    plot = cv2.imread(str(tmp_path / "events_plot.png"))
    assert plot is not None
    assert plot.any()


def test_events_outside_a_smaller_frame_are_left_out_and_said(
    f3_artifact: Any, events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    f3 = f3_artifact("f3_small_direct", variable=True, n_events=1500, max_events=4000)
    command = ["--f3_pt2_path", str(f3), "--events", str(events / "evt3_gen41_1280x720.raw"), "--time_ms", "9"]
    assert run_exported.main([*command, "--runs", "0", "--output", str(tmp_path)]) == 0
    assert "outside the network's 64x48 pixels" in capsys.readouterr().err
    overview = cv2.imread(str(tmp_path / "overview.png"))
    assert overview is not None


def test_the_real_heads_run_as_exported(
    hd_f3: Path, artifact_cache: Path, events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FlowHead and Depth Anything V2, tiny, from our own export commands' functions."""
    from aot_runtime.manifest import CheckpointInfo
    from depth_ros.export_dav2 import export_dav2
    from depth_ros.model.depth_anything import DepthAnythingV2, DepthConfig
    from f3_ros.export_flowhead import export_flowhead
    from f3_ros.flow_head import FlowHead

    same: dict[str, Any] = {"height": HEIGHT, "width": WIDTH, "checkpoint": CheckpointInfo.random(1), "progress": False}
    config = DepthConfig("tiny", 32, 4, 2, (0, 1, 2, 3), 8, (8, 8, 8, 8), input_channels=CHANNELS, image_size=56)
    depth = cached(
        artifact_cache,
        "run_exported_depth",
        ".pt2",
        ("depth_ros",),
        lambda path: export_dav2(DepthAnythingV2(config).eval().randomise(1), path, **same),
        asked=config,
    )
    flow = cached(
        artifact_cache,
        "run_exported_flow",
        ".pt2",
        ("f3_ros/flow_head.py", "f3_ros/export_flowhead.py"),
        lambda path: export_flowhead(FlowHead(CHANNELS, (3, 3), (2, 2), (1, 1)).randomise(1), path, **same),
    )
    real = ["--dav2_pt2_path", str(depth), "--flowhead_pt2_path", str(flow)]
    command = [*_flags(hd_f3, events / M3ED), *real, "--time_ms", "300", "--runs", "1", "--output", str(tmp_path)]
    assert run_exported.main([*command, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [model["random_weights"] for model in told["models"].values()] == [False, True, True]
    for name, expected in expected_pictures(*run_here(hd_f3, real, events / M3ED, 300)).items():
        found = cv2.imread(str(tmp_path / f"{name}.png"))
        assert found is not None
        assert_same_picture(name, found, expected)


def _flags(f3: object, recording: object, *more: object) -> list[str]:
    return [str(part) for part in ("--f3_pt2_path", f3, "--h5_file", recording, "--runs", 0, *more)]


def test_mistakes_are_explained_in_one_line(
    hd_f3: Path,
    heads: list[str],
    stand_in_head: Head,
    events: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    m3ed = events / M3ED
    depth, flow = heads[1], heads[3]
    wide = stand_in_head("depth", 16, HEIGHT, WIDTH)
    cases: list[tuple[list[str], str]] = [
        (_flags(hd_f3, m3ed), "expected a time of 1 .. 713 ms, found --time_ms 30000"),
        (_flags(hd_f3, "absent.h5"), "No such file or directory for absent.h5"),
        (["--f3_pt2_path", str(hd_f3)], "found No such file or directory for car_urban_day_penno_small_loop_data.h5"),
        (_flags(hd_f3, events / "README.md"), "expected a recording of events"),
        (_flags("absent.pt2", m3ed), "found no file absent.pt2"),
        (_flags(m3ed, m3ed), "REFUSE"),
        (_flags(depth, m3ed), "expected an artifact of the family f3, found depth"),
        (_flags(hd_f3, m3ed, "--dav2_pt2_path", "absent.pt2"), "found no file absent.pt2"),
        (_flags(hd_f3, m3ed, "--dav2_pt2_path", flow), "expected an artifact of the family depth, found flow"),
        (_flags(hd_f3, m3ed, "--flowhead_pt2_path", depth), "expected an artifact of the family flow, found depth"),
        (_flags(hd_f3, m3ed, "--dav2_pt2_path", wide), "head for the 8 channels"),
        (
            _flags(hd_f3, m3ed, *heads, "--dav2_height", 238, "--dav2_width", 308),
            "a depth head for 238x308 (height x width) as --dav2_height and --dav2_width say, found one for 28x42",
        ),
        (_flags(hd_f3, m3ed, *heads, "--flow_width", 308), "expected a flow head for 28x308"),
        (_flags(hd_f3, m3ed, "--camera", "right"), "expected camera 'right', found 'left'"),
        (_flags(hd_f3, m3ed, "--all", "--time_ms", 20), "either --all or --time_ms, found both"),
        (_flags(hd_f3, m3ed, "--stride_ms", 20), "--stride_ms only with --all"),
        (_flags(hd_f3, m3ed, "--all", "--stride_ms", 0), "stride of 1 ms or more, found 0"),
        (_flags(hd_f3, m3ed, "--warmup_runs", -1), "counts of runs from 0"),
        (_flags(hd_f3, m3ed, "--time_ms", 300, "--cuda_graph"), "expected a CUDA device for --cuda_graph, found cpu"),
        (_flags(hd_f3, m3ed, "--device", "cuda"), "expected an artifact for device cuda"),
        (_flags(hd_f3, m3ed, "--output", __file__), "expected a folder for pictures, found a file"),
    ]
    for command, message in cases:
        assert run_exported.main(command) == 2, command
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: "), error
        assert message in error, (message, error)
        assert not list(tmp_path.iterdir()), command


def test_a_head_of_another_backbone_is_a_warning(
    hd_f3: Path, stand_in_head: Head, events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = stand_in_head("depth", CHANNELS, HEIGHT, WIDTH, backbone_digest="a" * 64)
    command = _flags(hd_f3, events / M3ED, "--time_ms", 300, "--dav2_pt2_path", depth, "--output", tmp_path)
    assert run_exported.main(command) == 0
    assert "was trained on other F3 weights" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from f3_ros import run_exported as r; r._parser().format_help(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
