# SPDX-License-Identifier: Apache-2.0
"""replay_node alone: what it publishes, when, and what it says when it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("event_camera_msgs.msg", reason="event_camera_msgs is not installed (make setup)")

from event_camera_msgs.msg import EventPacket
from std_msgs.msg import UInt64

from aot_runtime.errors import InputError
from aot_runtime.ros.messages import stamp_to_ns
from aot_runtime.ros.qos import events_qos
from f3_ros.events.readers import open_events
from f3_ros.pacing import LockStep, RealTime
from f3_ros.replay_node import PROCESSED_QOS


@pytest.fixture
def bag(shared: Path) -> Path:
    return shared / "data" / "events" / "bag_libcaer_cmp_davis346_mcap"  # 20 messages in 0.2 s


def finish(ros: Any, player: Any) -> None:
    assert ros.until(lambda: player.exit_code is not None)
    ros.spin(0.1)


def test_real_time_publishes_every_packet_as_recorded(ros: Any, replay: Callable[..., Any], bag: Path) -> None:
    got = ros.listen(EventPacket, "/f3/events", events_qos())
    player = replay(bag, rate=1.0)
    begin = time.monotonic()
    finish(ros, player)
    assert time.monotonic() - begin > 0.15
    with open_events(bag) as reader:
        packets = list(reader.packets())
    assert len(got) == len(packets) == 20
    for msg, packet in zip(got, packets):
        assert msg.events.tobytes() == bytes(packet.events)
        assert (msg.seq, msg.width, msg.height) == (packet.seq, packet.width, packet.height)
        assert (msg.encoding, msg.time_base) == (packet.encoding, packet.time_base)
        assert stamp_to_ns(msg.header.stamp) == packet.stamp_ns


def test_stamps_now_and_frame(ros: Any, replay: Callable[..., Any], bag: Path) -> None:
    got = ros.listen(EventPacket, "/f3/events", events_qos())
    finish(ros, replay(bag, rate=100.0, stamps="now", frame_id="eye"))
    assert all(abs(time.time() - stamp_to_ns(m.header.stamp) * 1e-9) < 60 for m in got)
    assert {m.header.frame_id for m in got} == {"eye"}


@pytest.mark.parametrize("stamps", ["continue", "restart"])
def test_loop_goes_on_counting(ros: Any, replay: Callable[..., Any], bag: Path, stamps: str) -> None:
    got = ros.listen(EventPacket, "/f3/events", events_qos())
    player = replay(bag, rate=50.0, loop=True, loop_stamps=stamps)
    assert ros.until(lambda: len(got) > 45)
    ros.remove(player)
    first = got[0].seq
    assert [m.seq - first for m in got] == list(range(len(got)))
    assert got[20].events.tobytes() == got[0].events.tobytes()
    times = [stamp_to_ns(m.header.stamp) for m in got]
    assert (times[20] == times[0]) == (stamps == "restart")
    assert (times[20] > times[19]) == (stamps == "continue")


def test_start_and_duration(ros: Any, replay: Callable[..., Any], shared: Path) -> None:
    file = shared / "data" / "events" / "evt3_gen41_1280x720.raw"
    got = ros.listen(EventPacket, "/f3/events", events_qos())
    finish(ros, replay(file, rate=1.0, start=0.002, duration=0.004, packet_us=1000))
    with open_events(file) as reader:
        packets = list(reader.packets(2000, 4000, 1000))
    assert [m.events.tobytes() for m in got] == [bytes(p.events) for p in packets]


def test_lock_step_never_has_more_in_flight_than_allowed(ros: Any, replay: Callable[..., Any], bag: Path) -> None:
    got = ros.listen(EventPacket, "/f3/events", events_qos())
    answers = ros.listener.create_publisher(UInt64, "/f3/processed_seq", PROCESSED_QOS)
    player = replay(bag, max_in_flight=3)
    assert ros.until(lambda: len(got) == 3)
    ros.spin(0.3)
    assert len(got) == 3, "went on without an acknowledgement"
    answers.publish(UInt64(data=got[1].seq))  # covers two packets
    assert ros.until(lambda: len(got) == 5)
    ros.spin(0.2)
    assert len(got) == 5
    while player.exit_code is None:
        answers.publish(UInt64(data=got[-1].seq))
        ros.spin(0.05)
    assert len(got) == 20


def test_nobody_acknowledges_falls_back_to_real_time(
    ros: Any, replay: Callable[..., Any], bag: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    got = ros.listen(EventPacket, "/f3/events", events_qos())
    answers = ros.listener.create_publisher(UInt64, "/f3/processed_seq", PROCESSED_QOS)
    finish(ros, replay(bag, max_in_flight=2, ack_timeout=0.5))
    assert answers
    assert len(got) == 20
    assert "nobody acknowledges packets on /f3/processed_seq" in capfd.readouterr().err


def test_no_subscriber_within_the_time_limit_is_exit_code_1(ros: Any, replay: Callable[..., Any], bag: Path) -> None:
    player = replay(bag, wait_timeout=0.2)
    assert ros.until(lambda: player.exit_code is not None)
    assert (player.exit_code, player.packets) == (1, 0)


def test_clock_follows_the_recording(ros: Any, replay: Callable[..., Any], bag: Path) -> None:
    from rosgraph_msgs.msg import Clock

    got = ros.listen(EventPacket, "/f3/events", events_qos())
    ticks = ros.listen(Clock, "/clock", 100)
    finish(ros, replay(bag, rate=10.0, publish_clock=True))
    assert [stamp_to_ns(c.clock) for c in ticks] == [stamp_to_ns(m.header.stamp) for m in got]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"file": ""}, "found no file"),
        ({"file": "none.raw"}, r"none\.raw"),
        ({"stamps": "never"}, "expected stamps to be now or recorded, found 'never'"),
        ({"publish_clock": True, "stamps": "now"}, "stamps: recorded"),
        ({"topic": "/nothing"}, "/nothing"),
    ],
)
def test_unusable_parameters_say_why(
    values: dict[str, Any], reason: str, ros: Any, replay: Callable[..., Any], bag: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        replay(**{"file": bag, **values})


def test_real_time_pace_and_restarts() -> None:
    now = [1000]
    pace = RealTime(2.0, clock=lambda: now[0])
    assert [pace.due_ns(t) for t in (500, 700, 900)] == [1000, 1100, 1200]
    now[0] = 5000
    assert pace.due_ns(100) == 5000  # went back
    assert pace.due_ns(100 + 11 * 10**9) == 5000  # a pause of more than 10 s
    assert pace.restarts == 2
    pace.restart()
    assert pace.due_ns(7) == 5000
    with pytest.raises(ValueError, match="above 0"):
        RealTime(0.0)


def test_lock_step_counts() -> None:
    step = LockStep(2)
    assert step.wait(0)
    step.sent(7)
    step.sent(9)
    assert not step.wait(0.01)
    step.acknowledge(8)  # never sent
    assert step.outstanding == 2
    step.acknowledge(9)
    assert (step.outstanding, step.acknowledged) == (0, 2)
    step.sent(10)
    assert step.forget() == 1
    assert step.wait(0, all_done=True)


def test_recorded_packets_read_back(ros: Any, replay: Callable[..., Any], bag: Path, tmp_path: Path) -> None:
    from f3_ros.recorder import TopicRecorder

    recorder = ros.add(TopicRecorder(tmp_path / "bag", ["/f3/events", "/nothing"]))
    finish(ros, replay(bag, rate=5.0))
    assert ros.until(lambda: recorder.counts["/f3/events"] == 20)
    ros.remove(recorder)
    with open_events(tmp_path / "bag") as reader, open_events(bag) as original:
        again, before = list(reader.chunks()), list(original.chunks())
    np.testing.assert_array_equal(np.concatenate([e.t for e in again]), np.concatenate([e.t for e in before]))
    with pytest.raises(InputError, match="expected a new folder"):
        TopicRecorder(tmp_path / "bag", ["/x"])
