# SPDX-License-Identifier: Apache-2.0
"""Truth in the layouts of the data sets, made small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.events.readers import open_events
from f3_ros.events.simulator import demo_scene, simulate, write_simulation_h5
from f3_ros.ground_truth import read_truth

COLUMNS = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}


def write_events(group: Any, times: np.ndarray) -> None:
    for name, dtype in COLUMNS.items():
        group[name] = (times if name == "t" else np.ones(len(times))).astype(dtype)


@pytest.fixture
def dsec(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "events.h5", "w") as file:
        write_events(file.create_group("events"), np.arange(0, 200_000, 1000))
        file["t_offset"] = np.int64(5_000_000)
    return tmp_path / "events.h5"


def test_a_simulated_file_holds_its_own_truth(tmp_path: Path) -> None:
    scene = demo_scene(48, 32, 3, texture_size=64)
    write_simulation_h5(tmp_path / "sim.h5", simulate(scene, 0.15, 1000), gt_us=50_000)
    with open_events(tmp_path / "sim.h5") as reader:
        truths = list(read_truth(tmp_path / "sim.h5", reader))
    assert [truth.time_us for truth in truths] == [0, 50_000, 100_000]
    assert [truth.flow_us for truth in truths] == [50_000, 50_000, 50_000]
    assert truths[2].flow is not None
    second = truths[1]
    assert second.depth is not None
    assert second.flow is not None
    np.testing.assert_allclose(second.depth, scene.depth(0.05), rtol=1e-6)
    np.testing.assert_allclose(second.flow, np.stack(scene.flow(0.05, 0.1)), atol=1e-4)


def test_m3ed_flow_lasts_to_the_next_label_and_offsets_move_both(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "events.h5", "w") as file:
        group = file.create_group("prophesee/left")
        write_events(group, np.arange(0, 300_000, 1000))
        group.attrs["t_offset_us"] = 7_000_000
    with h5py.File(tmp_path / "flow.h5", "w") as file:
        file["ts"] = np.array([0, 100_000, 190_000])
        file["flow/prophesee/left/x"] = np.full((3, 4, 5), 2.0, np.float32)
        file["flow/prophesee/left/y"] = np.full((3, 4, 5), -1.0, np.float32)
    with open_events(tmp_path / "events.h5") as reader:
        first, second, last = read_truth(tmp_path / "flow.h5", reader)
    assert (first.time_us, first.flow_us, second.time_us, second.flow_us) == (7_000_000, 100_000, 7_100_000, 90_000)
    assert first.depth is None
    assert first.flow is not None
    assert first.flow[:, 0, 0].tolist() == [2, -1]
    assert last.flow is None


@pytest.mark.parametrize("processed", [True, False])
def test_mvsec(tmp_path: Path, processed: bool) -> None:
    start_s = 1_500_000_000.5
    with h5py.File(tmp_path / "data.h5", "w") as file:
        times = np.arange(0, 200_000, 1000)
        if processed:
            file.attrs["absolute_start_time"] = start_s
            write_events(file.create_group("davis/left/events"), times)
        else:
            table = np.ones((len(times), 4))
            table[:, 2] = start_s + times * 1e-6
            file["davis/left/events"] = table
    with h5py.File(tmp_path / "gt.h5", "w") as file:
        file["davis/left/depth_image_raw"] = np.full((2, 4, 5), 3.0, np.float32)
        file["davis/left/depth_image_raw_ts"] = start_s + np.array([0.05, 0.1])
        file["davis/left/flow_dist"] = np.full((3, 2, 4, 5), 1.5)
        file["davis/left/flow_dist_ts"] = start_s + np.array([0.05, 0.1, 0.14])
    with open_events(tmp_path / "data.h5") as reader:
        truths = list(read_truth(tmp_path / "gt.h5", reader))
        origin = 0 if processed else round(start_s * 1e6)
    assert [truth.time_us - origin for truth in truths] == pytest.approx([50_000, 50_000, 100_000, 100_000], abs=1)
    depths = [truth for truth in truths if truth.depth is not None]
    flows = [truth for truth in truths if truth.flow is not None]
    assert len(depths) == len(flows) == 2
    assert [flow.flow_us for flow in flows] == pytest.approx([50_000, 40_000], abs=1)


def test_dsec_disparity(tmp_path: Path, dsec: Path) -> None:
    (tmp_path / "disparity" / "event").mkdir(parents=True)
    (tmp_path / "disparity" / "timestamps.txt").write_text("# us\n5100000\n")
    disparity = np.array([[0, 256], [2560, 128]], np.uint16)
    cv2.imwrite(str(tmp_path / "disparity" / "event" / "000000.png"), disparity)
    with open_events(dsec) as reader:
        (truth,) = read_truth(tmp_path / "disparity", reader, focal_baseline=50.0)
        assert truth.time_us - (reader.t_first_us or 0) == 100_000
        with pytest.raises(InputError, match="--focal-baseline"):
            list(read_truth(tmp_path / "disparity", reader))
    assert truth.depth is not None
    np.testing.assert_array_equal(truth.depth, [[np.nan, 50], [5, 100]])


def test_dsec_flow(tmp_path: Path, dsec: Path) -> None:
    (tmp_path / "flow" / "forward").mkdir(parents=True)
    (tmp_path / "flow" / "forward_timestamps.txt").write_text("# from, to\n5050000, 5150000\n")
    picture = np.zeros((1, 2, 3), np.uint16)
    picture[0, 0] = [1, 2**15 - 256, 2**15 + 384]  # known, dy, dx as OpenCV orders them
    cv2.imwrite(str(tmp_path / "flow" / "forward" / "000001.png"), picture)
    with open_events(dsec) as reader:
        (truth,) = read_truth(tmp_path / "flow", reader)
    assert (truth.time_us, truth.flow_us) == (5_050_000, 100_000)
    assert truth.flow is not None
    assert truth.flow[:, 0, 0].tolist() == [3, -2]
    assert np.isnan(truth.flow[:, 0, 1]).all()


def test_what_is_no_truth_is_named(tmp_path: Path, dsec: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.h5").write_text("no")
    with h5py.File(tmp_path / "mvsec.h5", "w") as file:
        file["davis/left/flow_dist"], file["davis/left/flow_dist_ts"] = np.zeros((1, 2, 4, 5)), [1.0]
    with h5py.File(tmp_path / "m3ed.h5", "w") as file:
        file["depth/prophesee/left"], file["ts"] = np.zeros((1, 4, 5)), [1]
    with open_events(dsec) as reader:
        for path, message in (
            (dsec, "found /events/p"),
            (tmp_path / "folder", "forward_timestamps.txt"),
            (tmp_path / "text.h5", "unreadable as HDF5"),
            (tmp_path / "absent.h5", "unreadable as HDF5"),
            (tmp_path / "mvsec.h5", "absolute_start_time"),
            (tmp_path / "m3ed.h5", "M3ED's layout"),
        ):
            with pytest.raises(InputError, match=message):
                list(read_truth(path, reader))


def test_broken_dsec_folders_are_named(tmp_path: Path, dsec: Path) -> None:
    folder = tmp_path / "flow"
    (folder / "forward").mkdir(parents=True)
    with open_events(dsec) as reader:
        for text, message in (("1, 2\n", "found 0 pictures"), ("1\n", "2 time"), ("a, b\n", "2 time")):
            (folder / "forward_timestamps.txt").write_text(text)
            with pytest.raises(InputError, match=message):
                list(read_truth(folder, reader))
        (folder / "forward_timestamps.txt").write_text("1, 2\n")
        cv2.imwrite(str(folder / "forward" / "0.png"), np.zeros((2, 2), np.uint8))
        with pytest.raises(InputError, match="uint8"):
            list(read_truth(folder, reader))
        (folder / "forward" / "0.png").write_text("no")
        with pytest.raises(InputError, match="no picture"):
            list(read_truth(folder, reader))
