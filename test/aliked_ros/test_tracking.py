# SPDX-License-Identifier: Apache-2.0
"""Tracks: numbers and lengths through frames, lost points, limits; and the rows that go into clouds."""

from __future__ import annotations

import numpy as np
import pytest

from aliked_ros.clouds import TRACK_ROW, keypoint_row, keypoint_rows, rows_to_cloud, track_rows
from aliked_ros.pipeline import AlikedResult
from aliked_ros.tracking import Tracker, Tracks
from aot_runtime.errors import InputError

EYE = np.eye(8, dtype=np.float32)


def frame(*points: tuple[int, float, float]) -> AlikedResult:
    """Keypoints (which place of the world, x, y); each place has a descriptor of its own."""
    n = len(points)
    return AlikedResult(
        keypoints=np.array([point[1:] for point in points], np.float32).reshape(n, 2),
        scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        peak_scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        descriptors=EYE[[point[0] for point in points]],
    )


def test_numbers_stay_and_lengths_grow() -> None:
    tracker = Tracker()
    assert len(tracker.update(frame((0, 1, 1), (1, 5, 5), (2, 9, 9)))) == 0
    second = tracker.update(frame((2, 10, 9), (0, 2, 1), (3, 4, 4)))
    np.testing.assert_array_equal(second.index, [0, 1])
    np.testing.assert_array_equal(second.keypoints, [[10, 9], [2, 1]])
    np.testing.assert_array_equal(second.previous, [[9, 9], [1, 1]])
    np.testing.assert_array_equal(second.lengths, [2, 2])
    assert len(set(second.ids)) == 2
    third = tracker.update(frame((3, 4, 5), (2, 11, 9)))
    np.testing.assert_array_equal(third.lengths, [2, 3])
    assert third.ids[1] == second.ids[0]
    assert third.ids[0] not in second.ids
    # Place 0 was lost for a frame: a new track.
    tracker.update(frame((0, 3, 1)))
    fifth = tracker.update(frame((0, 4, 1)))
    np.testing.assert_array_equal(fifth.lengths, [2])
    assert fifth.ids[0] not in {*second.ids, *third.ids}


def test_frames_without_keypoints_end_all_tracks() -> None:
    tracker = Tracker()
    assert [len(tracker.update(f)) for f in (frame(), frame((0, 1, 1)), frame(), frame((0, 1, 1)))] == [0, 0, 0, 0]
    assert len(tracker.update(frame((0, 1, 1)))) == 1


def test_reset_and_another_size_start_anew() -> None:
    tracker, same = Tracker(), frame((0, 1, 1))
    tracker.update(same, (4, 5))
    assert len(tracker.update(same, (4, 5))) == 1
    assert len(tracker.update(same, (4, 6))) == 0
    tracker.reset()
    assert len(tracker.update(same, (4, 6))) == 0
    assert tracker.update(same, (4, 6)).ids.tolist() == [0]


def test_limits() -> None:
    near, far = frame((0, 0, 0)), frame((0, 3, 4))
    for limit, expected in ((0.0, 1), (5.0, 1), (4.9, 0)):
        tracker = Tracker(max_step=limit)
        tracker.update(near)
        assert len(tracker.update(far)) == expected
    strict = Tracker(min_similarity=0.8, ratio=0.5)
    first = frame((0, 1, 1), (1, 2, 2))
    strict.update(first)
    blurred = AlikedResult(
        first.keypoints,
        first.scores,
        first.peak_scores,
        first.descriptors @ np.diag([0.7, 1, 1, 1, 1, 1, 1, 1]).astype("f4"),
    )
    assert strict.update(blurred).index.tolist() == [1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"min_similarity": 1.1}, "min_similarity from -1 to 1, found 1.1"),
        ({"ratio": 0.0}, "ratio above 0"),
        ({"max_step": -1.0}, "max_step from 0"),
        ({"max_step": float("nan")}, "max_step from 0, found nan"),
    ],
)
def test_wrong_limits_are_named(options: dict[str, float], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Tracker(**options)


def test_artifacts_with_other_descriptors_do_not_match() -> None:
    tracker = Tracker()
    tracker.update(frame((0, 1, 1)))
    other = AlikedResult(np.zeros((1, 2), "f4"), np.ones(1, "f4"), np.ones(1, "f4"), np.ones((1, 4), "f4"))
    with pytest.raises(InputError, match="match keypoints of one artifact"):
        tracker.update(other)


def test_rows_hold_what_they_say() -> None:
    result = frame((0, 1.5, 2.5), (3, 4.0, 5.0))
    rows = keypoint_rows(result)
    assert rows.dtype == keypoint_row(8)
    assert rows.dtype.itemsize == 4 * (3 + 8)
    floats = rows.view(np.float32).reshape(2, 11)
    np.testing.assert_array_equal(floats, np.hstack([result.keypoints, result.scores[:, None], result.descriptors]))
    empty = keypoint_rows(frame())
    assert (empty.shape, empty.dtype) == ((0,), keypoint_row(8))
    ids = np.array([7, 2**32 + 7])
    tracks = Tracks(np.array([1, 0]), result.keypoints, result.keypoints - 1, np.ones(2, "f4"), ids, np.array([2, 3]))
    assert track_rows(tracks).tolist() == [(1.5, 2.5, 0.5, 1.5, 1.0, 1, 7, 2), (4.0, 5.0, 3.0, 4.0, 1.0, 0, 7, 3)]


def test_clouds_of_rows() -> None:
    pytest.importorskip("sensor_msgs", reason="sensor_msgs is not installed")
    from sensor_msgs.msg import PointField

    rows = np.zeros(3, TRACK_ROW)
    rows["id"] = [1, 2, 2**32 - 1]
    rows["y"][1] = np.nan
    cloud = rows_to_cloud(rows)
    assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step, cloud.is_dense) == (3, 1, 32, 96, False)
    assert cloud.data.tobytes() == rows.tobytes()
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields][4:6] == [
        ("similarity", 16, PointField.FLOAT32),
        ("index", 20, PointField.UINT32),
    ]
    assert rows_to_cloud(rows[::2]).data.tobytes() == rows[::2].tobytes()
    assert rows_to_cloud(rows[:0]).is_dense
    with pytest.raises(InputError, match="expected fields of float32 or uint32, found x of float64"):
        rows_to_cloud(np.zeros(2, [("x", "f8")]))
    with pytest.raises(InputError, match=r"expected rows \(N,\) of named fields"):
        rows_to_cloud(np.zeros((2, 3), np.float32))
