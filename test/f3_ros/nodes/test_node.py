# SPDX-License-Identifier: Apache-2.0
"""replay_node -> f3_node through real rclpy: every recording, bad input, time jumps, overload, pictures."""

from __future__ import annotations

import array
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")
pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from event_camera_msgs.msg import EventPacket
from event_driver import Driver, packet
from node_checks import values_of
from sensor_msgs.msg import Image

from aot_runtime.ros.messages import ns_to_stamp, stamp_to_ns
from aot_runtime.ros.qos import events_qos
from f3_ros.event_messages import message_from_packet

WINDOW_US = 20_000


def numbers(infos: list[DiagnosticStatus], key: str) -> list[int]:
    return [int(values_of(info)[key]) for info in infos]


# -- real recordings ---------------------------------------------------------------------------------------------------

RECORDINGS = {
    # name: (file, truth, divisor of the truth's time to microseconds)
    "evt3_hd_raw": ("evt3_gen41_1280x720.raw", "evt3_gen41_1280x720.truth.npz", 1),
    "evt3_gen31_bag": ("bag_evt3_gen31_sqlite3", "bag_evt3_gen31_sqlite3/truth.npz", 1),
    "evt3_gen41_bag": ("bag_evt3_gen41_sqlite3", "bag_evt3_gen41_sqlite3/truth.npz", 1),
    "libcaer_bag": ("bag_libcaer_dvxplorer_sqlite3", "bag_libcaer_dvxplorer_sqlite3/truth.npz", 1000),
    "libcaer_cmp_bag": ("bag_libcaer_cmp_davis346_mcap", "bag_libcaer_cmp_davis346_mcap/truth.npz", 1000),
    "mono_bag": ("bag_mono_sqlite3", "bag_mono_sqlite3/truth.npz", 1000),
}


def windows_with_events(truth: Path, divisor: int) -> dict[int, int]:
    """Events per 20 ms cell of sensor time, from the truth file alone: {start of the cell in us: events}."""
    t = np.load(truth)["t"].astype(np.int64) // divisor
    starts, counts = np.unique(t // WINDOW_US * WINDOW_US, return_counts=True)
    return dict(zip(starts.tolist(), counts.tolist()))


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_event_of_a_recording_is_used_once(
    name: str, shared: Path, ros: Any, f3: Callable[..., Any], replay: Callable[..., Any]
) -> None:
    file, truth, divisor = RECORDINGS[name]
    expected = windows_with_events(shared / "data" / "events" / truth, divisor)
    node = f3()
    features = ros.listen(Image, "/f3/features")
    infos = ros.listen(DiagnosticStatus, "/f3/window_info")
    player = replay(shared / "data" / "events" / file)
    assert ros.until(lambda: player.exit_code is not None)
    assert player.exit_code == 0
    ros.remove(player)  # the end of lock-step: now the open window closes by wall time
    last_start = max(expected)
    assert ros.until(lambda: infos and numbers(infos[-1:], "start_us")[0] >= last_start, 20)

    # From the first event to the last, every cell of 20 ms is one window, also those without events.
    first_start = min(expected)
    n_windows = (last_start - first_start) // WINDOW_US + 1
    starts = numbers(infos, "start_us")
    assert starts == [first_start + k * WINDOW_US for k in range(n_windows)]
    assert numbers(infos, "n_received") == [expected.get(start, 0) for start in starts]
    assert numbers(infos, "n_used") == numbers(infos, "n_received")
    assert sum(numbers(infos, "n_used")) == len(np.load(shared / "data" / "events" / truth)["t"])
    assert len(features) == n_windows
    assert not any("queue" in cause or "window" in cause for cause in node.health.drops())

    image = features[-1]
    assert (image.width, image.height, image.encoding, image.step) == (160, 90, "32FC8", 160 * 8 * 4)
    assert len(image.data) == 160 * 90 * 8 * 4
    assert [stamp_to_ns(f.header.stamp) for f in features] == numbers(infos, "stamp_ns")
    assert all(a <= b for a, b in zip(numbers(infos, "stamp_ns"), numbers(infos, "stamp_ns")[1:]))


# -- made-up packets ---------------------------------------------------------------------------------------------------


def test_bad_input_is_counted_and_the_node_lives_on(ros: Any, f3: Callable[..., Any]) -> None:
    node = f3()
    infos = ros.listen(DiagnosticStatus, "/f3/window_info")
    driver = Driver(ros)
    rng = np.random.default_rng(5)
    noise = array.array("B", rng.integers(0, 256, 5001, dtype=np.uint8).tobytes())
    driver.send(packet(0, 0))
    driver.send(packet(1, 4000), encoding="evt9")
    driver.send(packet(2, 8000), is_bigendian=True)
    driver.send(packet(3, 12_000), width=0)
    driver.send(packet(4, 16_000), height=2**32 - 1)
    driver.send(packet(5, 16_000), encoding="")
    driver.send(packet(6, 16_000), events=array.array("B"))
    driver.send(packet(7, 16_000), events=array.array("B", [1]))
    driver.send(packet(8, 16_000), events=noise)
    driver.send(packet(2**64 - 1, 16_000))
    bad_stamp = message_from_packet(packet(9, 20_000))
    bad_stamp.header.stamp.nanosec = 2 * 10**9
    driver.send_unanswered(bad_stamp)
    assert ros.until(lambda: "bad_stamp" in node.health.drops())
    drops = node.health.drops()
    assert drops["unknown_encoding_packets"] == 2
    assert drops["bigendian_packets"] == 1
    assert drops["bad_size_packets"] == 2
    assert drops["bad_stamp"] == 1
    assert node.health.state == "active"
    # Good packets in new sensor time come out whole again.
    first = 10
    for k in range(12):
        driver.send(packet(first + k, 40_000 + 4000 * k))
    assert ros.until(lambda: numbers(infos, "start_us")[-1:] >= [60_000] or len(infos) > 3)
    by_start = dict(zip(numbers(infos, "start_us"), numbers(infos, "n_received")))
    assert by_start[60_000] == 500


def test_random_bytes_in_every_encoding_never_stop_the_node(ros: Any, f3: Callable[..., Any]) -> None:
    node = f3()
    driver = Driver(ros)
    rng = np.random.default_rng(6)
    seq = 0
    for encoding in ("evt3", "evt2", "evt21", "libcaer", "libcaer_cmp", "mono"):
        for n in (0, 1, 7, 800, 4096):
            payload = array.array("B", rng.integers(0, 256, n, dtype=np.uint8).tobytes())
            driver.send(packet(seq, 0), encoding=encoding, events=payload, time_base=int(rng.integers(0, 2**63)))
            seq += int(rng.integers(1, 3))
    assert node.health.state == "active"
    assert node.health.count("receive") == 30
    assert node.health.count("decode") == 30


def test_sensor_larger_than_the_model_is_refused_and_named_in_diagnostics(ros: Any, f3: Callable[..., Any]) -> None:
    node = f3(diagnostics_period=0.1)
    node.health.stall_s = 0.5
    reports = ros.listen(DiagnosticArray, "/diagnostics", 100)
    features = ros.listen(Image, "/f3/features")
    driver = Driver(ros)

    def error() -> str:
        status = reports[-1].status[0] if reports else DiagnosticStatus()
        return status.message if status.level == DiagnosticStatus.ERROR else ""

    for k in range(200):
        driver.send(packet(k, 4000 * k, n=5, size=(1920, 1080)))
        ros.spin(0.01)
        if error():
            break
    assert "input arrives but nothing is published: stuck at infer" in error()
    assert "expected a sensor of at most 1280x720" in error()
    assert "found packets of 1920x1080" in error()
    assert not features
    assert node.health.drops()["window_refused"] > 0


def test_lost_packet_makes_one_window_incomplete_and_can_drop_it(ros: Any, f3: Callable[..., Any]) -> None:
    node = f3(incomplete_windows="drop")
    infos = ros.listen(DiagnosticStatus, "/f3/window_info")
    driver = Driver(ros)
    for k in range(21):
        if k != 12:  # the third packet of the window 40..60 ms
            driver.send(packet(k, 4000 * k))
    assert ros.until(lambda: len(infos) >= 2)
    assert numbers(infos, "start_us") == [20_000, 60_000]
    assert numbers(infos, "n_received") == [500, 500]
    drops = node.health.drops()
    assert drops["lost_packets"] == 1
    assert drops["incomplete_window"] == 2  # the stream's first window, and the one with the hole


def test_stream_that_stops_is_flushed_by_wall_time(ros: Any, f3: Callable[..., Any]) -> None:
    f3()
    infos = ros.listen(DiagnosticStatus, "/f3/window_info")
    publisher = ros.listener.create_publisher(EventPacket, "/f3/events", events_qos())
    assert ros.until(lambda: publisher.get_subscription_count() > 0)
    publisher.publish(message_from_packet(packet(0, 0, n=77)))
    assert ros.until(lambda: infos)
    assert (numbers(infos, "n_received"), values_of(infos[0])["complete"]) == ([77], "false")
    ros.spin(0.2)
    assert len(infos) == 1


def test_stream_that_jumps_back_starts_anew(ros: Any, f3: Callable[..., Any]) -> None:
    node = f3()
    infos = ros.listen(DiagnosticStatus, "/f3/window_info")
    features = ros.listen(Image, "/f3/features")
    driver = Driver(ros)
    for loop in range(2):  # a bag that loops: stamps and sensor time go back
        for k in range(11):
            driver.send(packet(100 + k, 2_000_000 - 1_500_000 * loop + 4000 * k), seq=100 + 11 * loop + k)
    assert ros.until(lambda: len(infos) >= 5)
    starts = numbers(infos, "start_us")
    assert starts == [2_000_000, 2_020_000, 2_040_000, 500_000, 520_000]
    assert numbers(infos, "n_received") == [500, 500, 100, 500, 500]
    stamps = [stamp_to_ns(f.header.stamp) for f in features]
    assert stamps[3] < stamps[2], "published stamps follow the input back"
    assert node.health.drops()["time_jump_back"] == 1


def test_late_input_is_dropped_by_age(ros: Any, f3: Callable[..., Any]) -> None:
    node = f3(max_input_age=5.0)
    driver = Driver(ros)
    old = message_from_packet(packet(0, 0))  # stamped in 2023
    driver.send_unanswered(old)
    assert ros.until(lambda: node.health.drops().get("late") == 1)
    fresh = message_from_packet(packet(1, 0), stamp_ns=node.now_ns())
    driver.send(fresh)
    assert node.health.drops()["late"] == 1


def test_ros_time_that_jumps_back_resets_the_stream(ros: Any, f3: Callable[..., Any]) -> None:
    from rosgraph_msgs.msg import Clock

    node = f3(use_sim_time=True)
    clock = ros.listener.create_publisher(Clock, "/clock", 10)
    assert ros.until(lambda: clock.get_subscription_count() > 0)
    for second in (100, 101):
        clock.publish(Clock(clock=ns_to_stamp(second * 10**9)))
        assert ros.until(lambda s=second: node.now_ns() == s * 10**9)
    before = node.health.drops().get("time_jump_ros", 0)
    clock.publish(Clock(clock=ns_to_stamp(50 * 10**9)))
    assert ros.until(lambda: node.health.drops().get("time_jump_ros", 0) == before + 1)
    assert node.health.state == "active"


def test_overload_drops_whole_windows_and_counts_them(
    ros: Any, f3: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = f3(window_queue=1)
    process = node._pipeline.process
    monkeypatch.setattr(node._pipeline, "process", lambda *a, **k: (time.sleep(0.3), process(*a, **k))[1])
    features = ros.listen(Image, "/f3/features")
    publisher = ros.listener.create_publisher(EventPacket, "/f3/events", events_qos())
    assert ros.until(lambda: publisher.get_subscription_count() > 0)
    for k in range(51):
        publisher.publish(message_from_packet(packet(k, 4000 * k)))
    assert ros.until(lambda: node.health.count("decode") == 51)
    # 10 whole windows, and the last one closed by wall time once the model is idle
    assert ros.until(lambda: node._processor.windows == 11 and node._infer_worker.idle)
    drops = node.health.drops()["window_queue_full"]
    assert drops >= 5
    assert ros.until(lambda: len(features) == 11 - drops)
    assert node.health.count("publish") == 11 - drops


# -- outputs -----------------------------------------------------------------------------------------------------------


def test_pictures_are_made_while_subscribed(ros: Any, f3: Callable[..., Any]) -> None:
    f3(frame_id="left_eye")
    events = ros.listen(Image, "/f3/event_image")
    pca = ros.listen(Image, "/f3/feature_image")
    driver = Driver(ros)
    ros.spin(0.1)
    for k in range(6):
        driver.send(packet(k, 4000 * k, n=1000))
    assert ros.until(lambda: events and pca)
    assert (events[0].width, events[0].height, events[0].encoding) == (1280, 720, "bgr8")
    assert (pca[0].width, pca[0].height, pca[0].encoding) == (160, 90, "bgr8")
    lit = np.frombuffer(events[0].data, np.uint8).reshape(720, 1280, 3).any(axis=2).sum()
    assert 4900 < lit <= 5000
    assert events[0].header.frame_id == pca[0].header.frame_id == "left_eye"
