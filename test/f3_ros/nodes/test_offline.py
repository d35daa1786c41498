# SPDX-License-Identifier: Apache-2.0
"""The offline runner gives what the live node gives, byte by byte, and writes it in three forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_processes import run_without_ros

from aot_runtime.errors import InputError
from f3_ros.offline import main, run_file


@pytest.fixture(scope="module")
def pipeline(micro_f3: Path) -> Any:
    from f3_ros.pipeline import F3Pipeline

    return F3Pipeline(micro_f3)


def offline(file: Path, pipeline: Any, **values: Any) -> list[tuple[Any, Any]]:
    from f3_ros.parameters import stream_config

    return list(run_file(file, pipeline, stream_config(pipeline, values)))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("evt3_gen41_1280x720.raw", {}),
        ("bag_evt3_gen31_sqlite3", {}),
        ("bag_evt3_gen41_sqlite3", {"window_stride_us": 10_000}),
        ("bag_libcaer_dvxplorer_sqlite3", {"refractory_us": 1000, "noise_us": 5000}),
        ("bag_libcaer_cmp_davis346_mcap", {"window_mode": "hybrid", "window_count": 5000, "window_max_events": 4000}),
    ],
)
def test_live_features_equal_offline_features_byte_by_byte(
    name: str,
    values: dict[str, Any],
    shared: Path,
    pipeline: Any,
    ros: Any,
    f3: Callable[..., Any],
    replay: Callable[..., Any],
) -> None:
    from sensor_msgs.msg import Image

    from aot_runtime.ros.messages import image_view, stamp_to_ns

    file = shared / "data" / "events" / name
    expected = offline(file, pipeline, **values)
    f3(**values)
    features = ros.listen(Image, "/f3/features")
    player = replay(file)
    assert ros.until(lambda: player.exit_code is not None)
    ros.remove(player)
    assert ros.until(lambda: len(features) >= len(expected))
    ros.spin(0.1)
    assert len(features) == len(expected)
    for message, (item, result) in zip(features, expected):
        assert message.data.tobytes() == np.ascontiguousarray(result.features.transpose(1, 2, 0)).tobytes()
        assert np.array_equal(image_view(message).transpose(2, 0, 1), result.features)
        assert stamp_to_ns(message.header.stamp) == item.stamp_ns
        assert message.header.frame_id == item.frame_id


def test_packet_length_of_a_raw_file_does_not_change_features(shared: Path, pipeline: Any) -> None:
    from f3_ros.parameters import stream_config

    file = shared / "data" / "events" / "evt3_gen41_1280x720.raw"
    config = stream_config(pipeline, {"window_duration_us": 5000})
    coarse = list(run_file(file, pipeline, config, packet_us=4000))
    fine = list(run_file(file, pipeline, config, packet_us=300))
    assert len(coarse) == len(fine) > 1
    for (_, a), (_, b) in zip(coarse, fine):
        assert a.n_events_used == b.n_events_used
        np.testing.assert_array_equal(a.features, b.features)


def test_command_writes_npz_folder_and_bag(
    shared: Path, micro_f3: Path, pipeline: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shared / "data" / "events" / "bag_libcaer_cmp_davis346_mcap"
    expected = offline(file, pipeline)
    n_events = len(np.load(file / "truth.npz")["t"])
    for output in ("all.npz", "folder", "out.mcap"):
        assert main([str(file), "--artifact", str(micro_f3), "--output", str(tmp_path / output)]) == 0
        assert f"{len(expected)} windows, {n_events} events used" in capsys.readouterr().out
    with np.load(tmp_path / "all.npz") as archive:
        np.testing.assert_array_equal(archive["features"], np.stack([r.features for _, r in expected]))
        assert archive["n_received"].sum() == n_events
        assert archive["end_us"].tolist() == [item.window.end_us for item, _ in expected]
    files = sorted((tmp_path / "folder").glob("features_*.npy"))
    assert len(files) == len(expected)
    np.testing.assert_array_equal(np.load(files[-1]), expected[-1][1].features)

    from rosbags.rosbag2 import Reader

    from f3_ros.events.readers.bag_types import event_typestore

    store = event_typestore()
    with Reader(tmp_path / "out.mcap") as reader:
        images = [store.deserialize_cdr(raw, "sensor_msgs/msg/Image") for _, _, raw in reader.messages()]
    assert [image.encoding for image in images] == ["32FC8"] * len(expected)
    values = np.asarray(images[0].data).view(np.float32).reshape(90, 160, 8)
    np.testing.assert_array_equal(values.transpose(2, 0, 1), expected[0][1].features)


def test_parameters_come_from_a_file_and_the_command_line(shared: Path, micro_f3: Path, tmp_path: Path) -> None:
    file = shared / "data" / "events" / "evt3_gen41_1280x720.raw"
    params = tmp_path / "p.yaml"
    params.write_text("/**:\n  ros__parameters:\n    window_duration_us: 1000\n    window_max_events: 7\n")
    arguments = [
        str(file),
        "--artifact",
        str(micro_f3),
        "--output",
        str(tmp_path / "o.npz"),
        "--params-file",
        str(params),
    ]
    assert main([*arguments, "-p", "window_duration_us:=4000"]) == 0
    with np.load(tmp_path / "o.npz") as archive:
        assert set((archive["end_us"] - archive["start_us"]).tolist()) == {4000}
        assert archive["n_used"].max() == 7


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.raw", "--artifact", "ARTIFACT", "--output", "OUT"], "none.raw"),
        (["RAW", "--artifact", "none.pt2", "--output", "OUT"], "none.pt2"),
        (["RAW", "--artifact", "ARTIFACT", "--output", "OUT", "-p", "window_duration_us"], "expected NAME:=VALUE"),
        (["RAW", "--artifact", "ARTIFACT", "--output", "OUT", "-p", "window_mode:=often"], "window mode"),
        (["RAW", "--artifact", "ARTIFACT", "--output", "OUT", "--params-file", "RAW"], "expected a ROS parameter file"),
    ],
)
def test_mistakes_are_one_sentence_without_a_traceback(
    arguments: list[str],
    reason: str,
    shared: Path,
    micro_f3: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raw = shared / "data" / "events" / "evt3_gen41_1280x720.raw"
    names = {"RAW": str(raw), "ARTIFACT": str(micro_f3), "OUT": str(tmp_path / "o.npz")}
    assert main([names.get(a, a) for a in arguments]) == 2
    told = capsys.readouterr().err
    assert "error: " in told
    assert reason in told
    assert "Traceback" not in told


def test_incomplete_policy_is_checked() -> None:
    from f3_ros.stream import StreamConfig

    with pytest.raises(InputError, match="'use' or 'drop', found 'keep'"):
        StreamConfig(incomplete="keep")  # type: ignore[arg-type]


def test_the_command_needs_no_ros(shared: Path, micro_f3: Path, tmp_path: Path) -> None:
    """In a process where importing any ROS package fails."""
    recording = shared / "data" / "events" / "bag_mono_sqlite3"
    arguments = [str(recording), "--artifact", str(micro_f3), "--output", str(tmp_path / "out")]
    done = run_without_ros("f3_ros.offline", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("features_*.npy"))) == 1
