# SPDX-License-Identifier: Apache-2.0
"""f3_offline with heads: depth and flow in every form of output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from f3_heads import RAW, expected_of

from f3_ros.head_outputs import HeadOptions
from f3_ros.offline import main


def test_the_command_writes_depth_and_flow(
    shared: Path,
    micro_f3: Path,
    heads: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = shared / "data" / "events" / RAW
    expected = expected_of(file, micro_f3, heads, HeadOptions("sensor"))
    arguments = [str(file), "--artifact", str(micro_f3), "--depth", heads["depth_artifact"]]
    arguments += ["--flow", heads["flow_artifact"], "-p", "output_resolution:=sensor"]
    assert main([*arguments, "--output", str(tmp_path / "all.npz"), "--no-features"]) == 0
    assert "the f3 artifact has random weights" in capsys.readouterr().err
    with np.load(tmp_path / "all.npz") as archive:
        assert "features" not in archive
        assert str(archive["flow_interval_us"]) == "100000"
        for name in ("relative_depth", "flow"):
            np.testing.assert_array_equal(archive[name], np.stack([arrays[name] for _, arrays in expected]))
    assert main([*arguments, "--output", str(tmp_path / "folder")]) == 0
    for index, (_, arrays) in enumerate(expected):
        for name in ("features", "relative_depth", "flow"):
            np.testing.assert_array_equal(np.load(tmp_path / "folder" / f"{name}_{index:06d}.npy"), arrays[name])

    assert main([*arguments, "--output", str(tmp_path / "out.mcap"), "--no-features"]) == 0
    from rosbags.rosbag2 import Reader

    from f3_ros.events.readers.bag_types import event_typestore

    store, found = event_typestore(), []
    with Reader(tmp_path / "out.mcap") as reader:
        for connection, _, raw in reader.messages():
            found.append((connection.topic, store.deserialize_cdr(raw, connection.msgtype)))
    topics = [topic for topic, _ in found]
    assert topics == ["/f3/relative_depth", "/f3/flow"] * len(expected)
    (_, depth), (_, flow) = found[:2]
    assert (depth.encoding, depth.width, depth.height) == ("32FC1", 1280, 720)
    assert (flow.encoding, flow.step) == ("32FC2", 1280 * 8)
    assert bytes(flow.data) == np.ascontiguousarray(expected[0][1]["flow"].transpose(1, 2, 0)).tobytes()


def test_nothing_to_write_is_said(micro_f3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["x.raw", "--artifact", str(micro_f3), "--output", str(tmp_path / "o"), "--no-features"])
    assert code == 2
    assert "expected something to write, found --no-features without --depth and --flow" in capsys.readouterr().err
