# SPDX-License-Identifier: Apache-2.0
"""Recordings in C++ and in Python: the same events of whole files and parts, the same summaries; the tools' errors."""

from __future__ import annotations

import json

import pytest
from cpp_events import Answer, assert_events

from f3_ros.events.readers import open_events
from f3_ros.events.summary import summarise
from f3_ros.events.types import Events


@pytest.fixture(scope="session")
def plugins() -> dict[str, str]:
    """Where the compression filters of DSEC's files are."""
    hdf5plugin = pytest.importorskip("hdf5plugin", reason="hdf5plugin is not installed")
    return {"HDF5_PLUGIN_PATH": str(hdf5plugin.PLUGIN_PATH)}


FILES = (
    "evt3_gen41_1280x720.raw",
    "evt2_gen31_640x480.raw",
    "evt21_genx320_order_reencoded.raw",
    "evt21_imx636_order_reencoded.raw",
    "m3ed_layout_gen41_1280x720.h5",
    "dsec_layout_gen31_640x480/events.h5",
    "synthetic/room_seed1_346x260.h5",
)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("part", [(0, None), (2000, 3000), (10_000_000, None)], ids=["whole", "part", "beyond"])
def test_files_give_the_same_events(file, part, recordings, run_cpp, plugins, tmp_path):
    start, duration = part
    out = tmp_path / "events.bin"
    run_cpp("test/events/dump_events", "file", recordings / file, out, f"start_us={start}",
            f"duration_us={'none' if duration is None else duration}", "chunk=3000", env=plugins)  # fmt: skip
    answer = Answer(out)
    first, _, _, events, _ = answer.packet()
    with open_events(recordings / file) as reader:
        assert first == reader.t_first_us
        chunks = list(reader.chunks(start, duration))
        assert_events(events, Events.concatenate(chunks))
        counters = answer.counters()
        assert (counters["width"], counters["height"]) == (reader.width, reader.height)


def test_a_missing_filter_is_named(recordings, run_cpp, tmp_path):
    failed = run_cpp("test/events/dump_events", "file", recordings / "dsec_layout_gen31_640x480" / "events.h5",
                     tmp_path / "out", env={"HDF5_PLUGIN_PATH": str(tmp_path)}, fails=True)  # fmt: skip
    assert "compression filter blosc, found one without it for /events/t of" in failed.stderr
    assert "set HDF5_PLUGIN_PATH to a folder with that filter" in failed.stderr


# Tools


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("part", [(0.0, None), (0.002, 0.003)], ids=["whole", "part"])
def test_event_info_tells_what_python_tells(file, part, recordings, run_cpp, plugins):
    start, duration = part
    words = ["--start", start, *([] if duration is None else ["--duration", duration])]
    told = json.loads(run_cpp("tools/event_info", recordings / file, "--json", *words, env=plugins).stdout)
    with open_events(recordings / file) as reader:
        expected = summarise(reader, round(start * 1e6), None if duration is None else round(duration * 1e6)).to_dict()
    for name in told.keys() - {"metadata", "per_ms", "rate_per_s", "n_triggers", "dropped"}:
        assert told[name] == expected[name], name
    assert told["per_ms"] == pytest.approx(expected["per_ms"])
    assert told["rate_per_s"] == pytest.approx(expected["rate_per_s"])
    if duration is None:
        assert (told["n_triggers"], told["dropped"]) == (expected["n_triggers"], expected["dropped"])
    for name in told["metadata"].keys() - {"t_offset_us"}:
        assert told["metadata"][name] == expected["metadata"][name]


def test_tools_say_what_is_wrong(recordings, run_cpp, tmp_path):
    assert "no file at /no/such" in run_cpp("tools/event_info", "/no/such", fails=True).stderr
    assert "found --speed" in run_cpp("tools/event_info", "x", "--speed", fails=True).stderr
    assert "expected a recording, found none" in run_cpp("tools/event_info", fails=True).stderr
    assert (
        "seconds from 0 on for --start, found 'x'" in run_cpp("tools/event_info", "a", "--start=x", fails=True).stderr
    )
    assert "usage: event_info FILE" in run_cpp("tools/event_info", "--help").stdout
    evt2 = recordings / "evt2_gen31_640x480.raw"
    assert "found raw evt2" in run_cpp("tools/decode_benchmark", evt2, fails=True).stderr


def test_decode_benchmark_measures(recordings, run_cpp):
    told = json.loads(run_cpp("tools/decode_benchmark", recordings / "evt3_gen41_1280x720.raw", "--repeats", 2,
                              "--runs", 1, "--window-us", 1000, "--json").stdout)  # fmt: skip
    assert told["events"] == 2 * 219_596
    assert told["bytes_per_event"] == pytest.approx(2.8137, abs=1e-3)
    assert len(told["mev_per_s"]) == 4
    for rate in told["mev_per_s"].values():
        assert 0 < rate["median"] <= rate["best"]
