# SPDX-License-Identifier: Apache-2.0
"""Transforms over time: interpolation, chains, what is refused, and what cannot hang."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from aot_runtime.errors import InputError
from aot_runtime.transforms import TransformBuffer, interpolate, inverse, to_matrix, to_parts

S = 1_000_000_000


def turned(degrees: float, x: float = 0.0) -> np.ndarray:
    """A turn about z after which comes a shift along x."""
    half = np.radians(degrees) / 2
    return to_matrix((x, 0, 0), (0, 0, np.sin(half), np.cos(half)))


def test_quaternions_there_and_back() -> None:
    rng = np.random.default_rng(0)
    for quaternion in [*rng.normal(size=(200, 4)), *np.eye(4), *(np.eye(4) + 1e-9)]:
        quaternion = quaternion / np.linalg.norm(quaternion)
        matrix = to_matrix((1, 2, 3), quaternion)
        assert matrix[:3, :3] @ matrix[:3, :3].T == pytest.approx(np.eye(3), abs=1e-14)
        assert np.linalg.det(matrix) == pytest.approx(1)
        shift, back = to_parts(matrix)
        assert shift.tolist() == [1, 2, 3]
        assert abs(back @ quaternion) == pytest.approx(1, abs=1e-14)
        assert back[3] >= 0
        assert inverse(matrix) @ matrix == pytest.approx(np.eye(4), abs=1e-14)


def test_a_quarter_turn_about_z_takes_x_to_y() -> None:
    root = np.sqrt(0.5)
    assert to_matrix((0, 0, 0), (0, 0, root, root)) @ [1, 0, 0, 1] == pytest.approx([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("quaternion", "reason"),
    [
        ((0, 0, 0, 0), "length 0"),
        ((0, 0, 0, 1.002), "length 1.002"),
        ((0, 0, 0, np.nan), "finite"),
        ((0, 0, 1), "3 . 4"),
    ],
)
def test_quaternions_that_are_none(quaternion: tuple[float, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        to_matrix((0, 0, 0), quaternion)


def test_a_quaternion_that_is_slightly_off_is_normalised() -> None:
    assert to_matrix((0, 0, 0), (0, 0, 0, 1.0009)) == pytest.approx(np.eye(4))


def test_between_two_stamps_translation_is_linear_and_rotation_spherical() -> None:
    buffer = TransformBuffer()
    buffer.set("map", "base", turned(10, 1.0), 1 * S)
    buffer.set("map", "base", turned(50, 3.0), 3 * S)
    assert buffer.lookup("map", "base", 2 * S) == pytest.approx(turned(30, 2.0))
    assert buffer.lookup("map", "base", 1 * S + S // 2) == pytest.approx(turned(20, 1.5))
    assert buffer.lookup("base", "map", 2 * S) == pytest.approx(inverse(turned(30, 2.0)))
    assert buffer.lookup("map", "base", 3 * S) == pytest.approx(turned(50, 3.0))
    assert buffer.lookup("map", "base", None) == pytest.approx(turned(50, 3.0))


def test_the_short_way_round() -> None:
    assert interpolate(turned(170), turned(-170), 0.5) == pytest.approx(turned(180), abs=1e-12)
    assert interpolate(turned(20), turned(20), 0.3) == pytest.approx(turned(20))


def test_chains_with_static_parts() -> None:
    buffer = TransformBuffer()
    buffer.set("/map", "odom", turned(0, 100), 0, static=True)
    for second in range(5):
        buffer.set("odom", "base", turned(0, second), second * S)
    buffer.set("base", "left", turned(90), 0, static=True)
    buffer.set("base", "right", turned(-90), 0, static=True)
    assert buffer.lookup("map", "/left", 2 * S) == pytest.approx(turned(0, 102) @ turned(90))
    # Siblings meet at their parent, whatever the moving part above them knows.
    assert buffer.lookup("left", "right", 99 * S) == pytest.approx(turned(-180), abs=1e-12)
    assert buffer.lookup("anything", "anything", 5) == pytest.approx(np.eye(4))
    assert buffer.frames == ("base", "left", "map", "odom", "right")


def test_the_latest_common_time() -> None:
    buffer = TransformBuffer()
    for second in range(5):
        buffer.set("map", "base", turned(0, second), second * S)
    buffer.set("base", "arm", turned(0, 0.5), 2 * S)
    assert buffer.lookup("map", "arm", None) == pytest.approx(turned(0, 2.5))


def test_what_is_not_there_says_so() -> None:
    buffer = TransformBuffer()
    with pytest.raises(InputError, match="expected a transform of 'map', found frames none"):
        buffer.lookup("map", "base", 0)
    buffer.set("map", "base", turned(0), 10 * S)
    buffer.set("map", "base", turned(0), 12 * S)
    buffer.set("world", "camera", turned(0), 0, static=True)
    with pytest.raises(InputError, match=r"expected a transform of 'lens', found frames base, camera, map, world"):
        buffer.lookup("map", "lens", 11 * S)
    with pytest.raises(InputError, match="'camera' under 'world' and 'map' under 'map'"):
        buffer.lookup("map", "camera", 11 * S)
    with pytest.raises(InputError, match=r"at 12.250 s, found the newest 0.250 s before it"):
        buffer.lookup("map", "base", 12 * S + S // 4)
    with pytest.raises(InputError, match=r"at 9.500 s, found the oldest 0.500 s after it"):
        buffer.lookup("map", "base", 9 * S + S // 2)


def test_old_transforms_go_and_a_jump_back_starts_anew() -> None:
    buffer = TransformBuffer(cache_s=2.0)
    for second in range(6):
        buffer.set("map", "base", turned(0, second), second * S)
    with pytest.raises(InputError, match=r"oldest 0.500 s after"):
        buffer.lookup("map", "base", 2 * S + S // 2)
    assert buffer.lookup("map", "base", 3 * S)[0, 3] == 3
    buffer.set("map", "base", turned(0, 4.5), 4 * S + S // 2)  # out of order, but not a jump
    assert buffer.lookup("map", "base", 4 * S + S // 4)[0, 3] == pytest.approx(4.25)
    assert not buffer.counts
    buffer.set("map", "base", turned(0, 7), 1 * S)
    assert buffer.counts == {"jump_back": 1}
    assert buffer.lookup("map", "base", None)[0, 3] == 7


def test_clear_keeps_what_is_static_and_what_came_after_the_jump() -> None:
    buffer = TransformBuffer()
    buffer.set("base", "camera", turned(5), 0, static=True)
    for second in (1, 2, 8, 9):
        buffer.set("map", "base", turned(0, second), second * S)
    buffer.clear(after_ns=2 * S)
    assert buffer.lookup("map", "base", None)[0, 3] == 2
    buffer.clear()
    assert buffer.frames == ("base", "camera")
    assert buffer.lookup("base", "camera", 77) == pytest.approx(turned(5))


def test_a_second_parent_wins_and_is_counted() -> None:
    buffer = TransformBuffer()
    buffer.set("map", "base", turned(0, 1), 0)
    buffer.set("odom", "base", turned(0, 2), 0)
    assert buffer.counts == {"parent_changed": 1}
    assert buffer.lookup("odom", "base", 0)[0, 3] == 2
    with pytest.raises(InputError, match="of 'map'"):
        buffer.lookup("map", "base", 0)


def test_loops_do_not_hang() -> None:
    buffer = TransformBuffer()
    buffer.set("a", "b", turned(1), 0, static=True)
    buffer.set("b", "c", turned(2), 0, static=True)
    buffer.set("c", "a", turned(3), 0, static=True)
    buffer.set("x", "y", turned(3), 0, static=True)
    assert buffer.lookup("a", "c", 0) == pytest.approx(turned(-3))
    with pytest.raises(InputError, match="in one tree"):
        buffer.lookup("x", "c", 0)


@pytest.mark.parametrize(
    ("parent", "child", "matrix", "reason"),
    [
        ("", "a", np.eye(4), "name of a frame"),
        ("a", "/", np.eye(4), "name of a frame"),
        ("a", "/a", np.eye(4), "'a' twice"),
        ("a", "b", np.eye(3), "finite"),
        ("a", "b", np.full((4, 4), np.nan), "finite"),
        ("a", "b", np.diag([2.0, 2, 2, 1]), "a rotation and a translation"),
        ("a", "b", np.diag([-1.0, 1, 1, 1]), "a rotation and a translation"),
        ("a", "b", np.diag([1.0, 1, 1, 2]), "a rotation and a translation"),
    ],
)
def test_transforms_that_are_refused(parent: str, child: str, matrix: np.ndarray, reason: str) -> None:
    buffer = TransformBuffer()
    with pytest.raises(InputError, match=reason):
        buffer.set(parent, child, matrix, 0)
    assert not buffer.frames


def test_waiting_for_a_transform_that_comes() -> None:
    buffer = TransformBuffer()
    buffer.set("map", "base", turned(0, 1), 1 * S)

    def feed() -> None:
        time.sleep(0.05)
        buffer.set("map", "base", turned(0, 2), 2 * S)
        time.sleep(0.05)
        buffer.set("map", "base", turned(0, 3), 3 * S)

    thread = threading.Thread(target=feed)
    thread.start()
    assert buffer.lookup("map", "base", 2 * S + S // 2, timeout_s=10)[0, 3] == pytest.approx(2.5)
    thread.join()
    with pytest.raises(InputError, match=r"newest 1.000 s before"):
        buffer.lookup("map", "base", 4 * S, timeout_s=0.05)
