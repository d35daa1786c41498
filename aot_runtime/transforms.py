# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms between named frames over time: what tf2's buffer does, without ROS. Only numpy.

A matrix "target <- source" is (4, 4) and takes homogeneous coordinates in the source frame to the target frame; lengths
are metres. Quaternions are x, y, z, w, as in geometry_msgs. Nothing is ever extrapolated.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from aot_runtime.errors import InputError

_UNIT = 1e-3
_ORTHOGONAL = 1e-3


@dataclass
class _Link:
    """The way from a frame to its parent: one matrix for ever, or several by stamp, oldest first."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)


class TransformBuffer:
    """A forest of frames whose transforms are remembered for a while. Thread-safe.

    Args:
        cache_s: how long a transform that is not static is kept, by the stamps of its own frame.

    Attributes:
        counts: oddities so far: "parent_changed" (a frame that got another parent; the last one counts), "jump_back"
            (a frame's stamps fell by more than `cache_s`: its history starts anew).

    Raises:
        InputError: `cache_s` is not above 0.
    """

    def __init__(self, cache_s: float = 10.0) -> None:
        if not cache_s > 0:
            raise InputError(f"expected a cache of more than 0 s, found {cache_s}")
        self.counts: Counter[str] = Counter()
        self._cache_ns = round(cache_s * 1e9)
        self._links: dict[str, _Link] = {}
        self._changed = threading.Condition()

    def set(self, parent: str, child: str, matrix: np.ndarray, stamp_ns: int, *, static: bool = False) -> None:
        """Takes one transform. A second one of the same stamp replaces the first.

        Args:
            parent, child: frames; a leading "/" is ignored.
            matrix: (4, 4), parent <- child.
            stamp_ns: when it holds; ignored if static.
            static: it holds always; replaces what was known of the child.

        Raises:
            InputError: a name is empty, both are the same, or the matrix is no rigid transform.
        """
        parent, child = _frame(parent), _frame(child)
        if parent == child:
            raise InputError(f"expected two frames in a transform, found '{child}' twice", "repair its publisher")
        pose = _rigid(matrix, f"'{parent}' <- '{child}'")
        with self._changed:
            link = self._links.get(child)
            if link is not None and link.parent != parent:
                self.counts["parent_changed"] += 1
                link = None
            if static or link is None or link.static:
                link = self._links[child] = _Link(parent, static)
            elif link.stamps and stamp_ns < link.stamps[-1] - self._cache_ns:
                self.counts["jump_back"] += 1
                link = self._links[child] = _Link(parent, False)
            place = bisect.bisect_left(link.stamps, stamp_ns)
            if place < len(link.stamps) and link.stamps[place] == stamp_ns:
                link.matrices[place] = pose
            else:
                link.stamps.insert(place, stamp_ns)
                link.matrices.insert(place, pose)
            old = bisect.bisect_left(link.stamps, link.stamps[-1] - self._cache_ns)
            del link.stamps[:old], link.matrices[:old]
            self._changed.notify_all()

    def lookup(self, target: str, source: str, stamp_ns: int | None, timeout_s: float = 0.0) -> np.ndarray:
        """The transform target <- source at a time, (4, 4) float64.

        Between two stamps the translation is interpolated linearly and the rotation spherically.

        Args:
            stamp_ns: None: the latest time that all moving parts of the way know.
            timeout_s: wait so long, of wall time, for transforms that have not come yet. Not in the thread that
                feeds the buffer.

        Raises:
            InputError: a frame is unknown, the frames are not connected, or a part of the way does not reach the time;
                the message says which and by how much.
        """
        target, source = _frame(target), _frame(source)
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                try:
                    return self._lookup(target, source, stamp_ns)
                except InputError:
                    left = end - time.monotonic()
                    if left <= 0:
                        raise
                    self._changed.wait(left)

    def clear(self, after_ns: int | None = None) -> None:
        """Forgets transforms that are not static, on a jump in time.

        Args:
            after_ns: only those stamped later: after a jump back to this time, what came since then may stay.
        """
        with self._changed:
            for child, link in list(self._links.items()):
                if link.static:
                    continue
                keep = 0 if after_ns is None else bisect.bisect_right(link.stamps, after_ns)
                del link.stamps[keep:], link.matrices[keep:]
                if not keep:
                    del self._links[child]

    @property
    def frames(self) -> tuple[str, ...]:
        """All frames that are known, sorted."""
        with self._changed:
            return tuple(sorted({*self._links, *(link.parent for link in self._links.values())}))

    def ancestors(self, frame: str) -> tuple[str, ...]:
        """The frame itself, its parent, that one's parent, and so on."""
        with self._changed:
            return tuple(self._way(_frame(frame)))

    # -- with the lock held --------------------------------------------------------------------------------------------

    def _lookup(self, target: str, source: str, stamp_ns: int | None) -> np.ndarray:
        known = {*self._links, *(link.parent for link in self._links.values())}
        for name in (target, source):
            if name not in known and target != source:
                raise InputError(
                    f"expected a transform of '{name}', found frames {', '.join(sorted(known)) or 'none'}",
                    "publish it on /tf or /tf_static, or correct the frame's name",
                )
        down, up = self._way(source), self._way(target)
        common = next((frame for frame in down if frame in up), None)
        if common is None:
            raise InputError(
                f"expected '{source}' and '{target}' in one tree, found '{source}' under '{down[-1]}' and '{target}' "
                f"under '{up[-1]}'",
                "publish the transform that connects them",
            )
        down, up = down[: down.index(common)], up[: up.index(common)]
        if stamp_ns is None:
            moving = [self._links[frame] for frame in (*down, *up) if not self._links[frame].static]
            stamp_ns = min((link.stamps[-1] for link in moving), default=0)
        return np.asarray(inverse(self._along(up, stamp_ns)) @ self._along(down, stamp_ns))

    def _way(self, frame: str) -> list[str]:
        """The frame and its ancestors, nearest first; a loop ends where it would begin again."""
        way = [frame]
        while (link := self._links.get(way[-1])) is not None and link.parent not in way:
            way.append(link.parent)
        return way

    def _along(self, way: Sequence[str], stamp_ns: int) -> np.ndarray:
        """The transform from the first of these frames to the parent of the last."""
        matrix = np.eye(4)
        for frame in way:
            matrix = self._at(frame, stamp_ns) @ matrix
        return matrix

    def _at(self, frame: str, stamp_ns: int) -> np.ndarray:
        link = self._links[frame]
        if link.static:
            return link.matrices[0]
        after = bisect.bisect_left(link.stamps, stamp_ns)
        if after < len(link.stamps) and link.stamps[after] == stamp_ns:
            return link.matrices[after]
        if after in (0, len(link.stamps)):
            late = after == 0
            gap = (link.stamps[0] - stamp_ns if late else stamp_ns - link.stamps[-1]) * 1e-9
            raise InputError(
                f"expected '{link.parent}' <- '{frame}' at {stamp_ns * 1e-9:.3f} s, found the "
                f"{'oldest' if late else 'newest'} {gap:.3f} s {'after' if late else 'before'} it",
                "look up later, keep transforms longer, or check the clocks of their publishers"
                if not late
                else "keep transforms longer, or check the clocks of their publishers",
            )
        begin, end = link.stamps[after - 1], link.stamps[after]
        return interpolate(link.matrices[after - 1], link.matrices[after], (stamp_ns - begin) / (end - begin))


def to_matrix(translation: Sequence[float] | np.ndarray, quaternion: Sequence[float] | np.ndarray) -> np.ndarray:
    """(4, 4) float64 of a translation (3,) and a quaternion x, y, z, w, which is normalised.

    Raises:
        InputError: a number is not finite, or the quaternion's length differs from 1 by more than 1e-3 (all zeros is
            what a publisher sends that forgot to set it).
    """
    shift, turn = np.asarray(translation, np.float64), np.asarray(quaternion, np.float64)
    if shift.shape != (3,) or turn.shape != (4,) or not (np.isfinite(shift).all() and np.isfinite(turn).all()):
        raise InputError(
            f"expected 3 + 4 finite numbers in a transform, found {shift.tolist()} and {turn.tolist()}",
            "repair its publisher",
        )
    length = float(np.linalg.norm(turn))
    if abs(length - 1) > _UNIT:
        raise InputError(
            f"expected a quaternion of length 1, found {turn.tolist()} of length {length:.4g}", "repair its publisher"
        )
    x, y, z, w = turn / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = shift
    return matrix


def to_parts(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Translation (3,) and unit quaternion x, y, z, w with w >= 0 of a rigid (4, 4) matrix.

    The quaternion is the eigenvector, for the largest eigenvalue, of the symmetric matrix that Bar-Itzhack (2000) gives
    for a rotation; it is accurate for every angle and finds the nearest rotation to one that is slightly off.
    """
    ((xx, xy, xz), (yx, yy, yz), (zx, zy, zz)) = np.asarray(matrix, np.float64)[:3, :3].tolist()
    symmetric = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    quaternion = np.linalg.eigh(symmetric)[1][:, -1]
    return np.array(matrix, np.float64)[:3, 3], -quaternion if quaternion[3] < 0 else quaternion


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a rigid (4, 4) matrix."""
    back = np.eye(4)
    back[:3, :3] = matrix[:3, :3].T
    back[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return back


def interpolate(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The rigid (4, 4) matrix between two others: linear in translation, slerp (Shoemake 1985) in rotation."""
    (start, a), (end, b) = to_parts(first), to_parts(second)
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine  # the short way round
    angle = float(np.arccos(min(cosine, 1.0)))
    if angle < 1e-6:
        turn = (1 - share) * a + share * b
    else:
        turn = (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)
    return to_matrix((1 - share) * start + share * end, turn / np.linalg.norm(turn))


def _frame(name: str) -> str:
    frame = name[1:] if name.startswith("/") else name
    if not frame:
        raise InputError("expected the name of a frame, found none", "set frame_id in the message's header")
    return frame


def _rigid(matrix: np.ndarray, name: str) -> np.ndarray:
    pose = np.array(matrix, np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise InputError(f"expected a finite (4, 4) transform, found {pose.tolist()} for {name}")
    turn = pose[:3, :3]
    wrong = np.abs(turn @ turn.T - np.eye(3)).max() > _ORTHOGONAL or np.linalg.det(turn) < 0
    if wrong or not np.array_equal(pose[3], (0, 0, 0, 1)):
        raise InputError(f"expected a rotation and a translation, found {pose.tolist()} for {name}")
    pose.setflags(write=False)
    return pose
