# SPDX-License-Identifier: Apache-2.0
"""The command `events`: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from f3_ros.events.cli import main
from f3_ros.events.packet_decoder import PacketDecoder
from f3_ros.events.readers import open_events
from f3_ros.events.summary import MillisecondCounter
from f3_ros.events.types import Events


@pytest.fixture(scope="module")
def data(shared: Path) -> Path:
    return shared / "data" / "events"


def read(path: Path) -> Events:
    with open_events(path) as reader:
        return Events.concatenate(list(reader.chunks()))


def test_info_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", str(data / "bag_evt3_gen31_sqlite3")]) == 0
    found = json.loads(capsys.readouterr().out)
    truth = np.load(data / "bag_evt3_gen31_sqlite3" / "truth.npz")
    assert (found["n_events"], found["n_on"], found["n_triggers"]) == (46_365, int(truth["p"].sum()), 1216)
    assert (found["width"], found["height"], found["encoding"]) == (640, 480, "evt3")
    assert (found["t_first_us"], found["t_last_us"]) == (int(truth["t"][0]), int(truth["t"][-1]))
    assert found["duration_us"] == int(truth["t"][-1] - truth["t"][0])
    counts = np.bincount((truth["t"] - truth["t"][0]) // 1000)
    assert found["per_ms"]["max"] == counts.max()
    assert found["per_ms"]["mean"] == pytest.approx(counts.mean())
    assert found["per_ms"]["p50"] == np.quantile(counts, 0.5, method="inverted_cdf")
    assert found["per_ms"]["p99"] == np.quantile(counts, 0.99, method="inverted_cdf")
    assert found["dropped"] == {}


def test_info_table(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(data / "evt3_gen41_1280x720.raw"), "--start", "0.002", "--duration", "0.001"]) == 0
    captured = capsys.readouterr()
    assert "1280 x 720" in captured.out
    assert "notice: the header has no geometry" in captured.err


def test_quiet_milliseconds_count() -> None:
    counter = MillisecondCounter()
    counter.add(np.array([0, 10, 999, 5000]))
    counter.add(np.array([5001, 9000]))
    found = counter.statistics(9000)
    assert found == {"mean": 0.6, "p50": 0.0, "p99": 3.0, "max": 3.0, "quiet_fraction": 0.7}
    assert MillisecondCounter().statistics(0)["max"] == 0


@pytest.mark.parametrize("out", ["a.h5", "a.raw", "a.mcap", "a.db3", "bag"])
@pytest.mark.parametrize("source", ["evt2_gen31_640x480.raw", "bag_evt3_gen41_sqlite3", "mvsec_layout_davis346.hdf5"])
def test_convert(data: Path, tmp_path: Path, source: str, out: str) -> None:
    target = tmp_path / out
    assert main(["convert", str(data / source), str(target)]) == 0
    old, new = read(data / source), read(target)
    for name in ("x", "y", "p"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    np.testing.assert_array_equal(new.t - new.t[0], old.t - old.t[0])
    assert (int(old.t[0]) - int(new.t[0])) % (1 << 24) == 0  # EVT3 words hold 24 bits
    if out == "a.h5":
        assert new.t[0] == old.t[0]
    if out in ("a.mcap", "a.db3", "bag"):
        with open_events(target) as reader:
            assert reader.encoding == "evt3"


@pytest.mark.parametrize("encoding", ["evt3", "libcaer", "mono"])
def test_convert_encoding_and_part(data: Path, tmp_path: Path, encoding: str) -> None:
    source = data / "evt2_gen31_640x480.raw"
    arguments = ["--start", "0.005", "--duration", "0.01", "--storage", "sqlite3", "--out-topic", "/cam/events"]
    assert main(["convert", str(source), str(tmp_path / "bag"), "--encoding", encoding, *arguments]) == 0
    old = read(source)
    old = old[(old.t >= old.t[0] + 5000) & (old.t < old.t[0] + 15_000)]
    with open_events(tmp_path / "bag", topic="/cam/events") as reader:
        assert reader.encoding == encoding
        decoder = PacketDecoder()
        assert sum(len(decoder.decode(packet).events) for packet in reader.packets()) == len(old)


def test_simulate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "64", "--height", "48", "--duration", "0.02", "--seed", "2", "--gt-us", "5000"]
    for name in ("a.h5", "b.h5", "a.raw", "bag"):
        assert main(["simulate", str(tmp_path / name), *small]) == 0
    events = read(tmp_path / "a.h5")
    assert f"a.h5: {len(events)} events" in capsys.readouterr().out.replace("\n", " ")
    for name in ("b.h5", "a.raw", "bag"):
        again = read(tmp_path / name)
        for field in ("x", "y", "t", "p"):
            np.testing.assert_array_equal(getattr(again, field), getattr(events, field))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["depth/prophesee/left"].shape == (4, 48, 64)
        assert json.loads(file.attrs["params"])["seed"] == 2


def test_plot(data: Path, tmp_path: Path) -> None:
    import cv2

    source = data / "bag_libcaer_cmp_davis346_mcap"
    assert main(["plot", str(source), str(tmp_path / "a.png"), "--time-ms", "50", "--window-ms", "10"]) == 0
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture is not None
    blue = (picture[..., 0] == 255) & (picture[..., 1] == 0) & (picture[..., 2] == 0)
    red = (picture[..., 2] == 255) & (picture[..., 0] == 0) & (picture[..., 1] == 0)
    assert blue.sum() > 1000
    assert red.sum() > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "{tmp}/gone.raw"], "No such file"),
        (["convert", "{data}/ncars_atis.dat", "{tmp}/exists.h5"], "existing"),
        (["convert", "{data}/ncars_atis.dat", "{tmp}/a.xyz"], "a folder name without a dot"),
        (["convert", "{data}/bag_mono_sqlite3", "{tmp}/a.h5", "--topic", "/none"], "expected an event topic /none"),
        (["convert", "{data}/ncars_atis.dat", "{tmp}/a.h5", "--start", "-1"], "start_us >= 0"),
        (["info", "{data}/m3ed_layout_gen41_1280x720.h5", "--camera", "right"], "found 'left'"),
        (["simulate", "{tmp}/a.h5", "--duration", "0"], "--duration above 0"),
        (["simulate", "{tmp}/a.h5", "--threshold", "0"], "--threshold"),
        (["plot", "{data}/ncars_atis.dat", "{tmp}/a.png", "--window-ms", "0"], "--window-ms above 0"),
    ],
)
def test_errors(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "exists.h5").touch()
    assert main([argument.format(data=data, tmp=tmp_path) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert {path.name for path in tmp_path.iterdir()} == {"exists.h5"}


def test_same_in_and_out_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes((data / "m3ed_layout_gen41_1280x720.h5").read_bytes())
    assert main(["convert", str(path), str(path), "--force"]) == 2
    assert "expected OUT to differ from FILE" in capsys.readouterr().err
    assert len(read(path)) == 49_316


@pytest.mark.parametrize("command", [[], ["info"], ["convert"], ["simulate"], ["plot"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "usage: events" in capsys.readouterr().out
