# SPDX-License-Identifier: Apache-2.0
"""Approximate time synchronisation: which items meet, what waits, what is dropped and why."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aot_runtime.errors import InputError
from aot_runtime.ros.sync import Match, Synchronizer

MS = 1_000_000


def stamps(matches: list[Match[str]]) -> list[dict[str, int]]:
    return [{name: entry.stamp_ns // MS for name, entry in match.items.items()} for match in matches]


def feed(sync: Synchronizer[str], *entries: tuple[str, int]) -> list[dict[str, int]]:
    """Adds (topic, stamp in ms) in this order, each arriving at its stamp."""
    return stamps([m for name, ms in entries for m in sync.add(name, ms * MS, f"{name}{ms}", ms * MS)])


def test_items_of_the_same_stamp_meet_at_once() -> None:
    sync = Synchronizer[str](("a", "b"), 0)
    assert feed(sync, ("a", 10)) == []
    (match,) = sync.add("b", 10 * MS, "b10", 11 * MS)
    assert match.stamp_ns == 10 * MS
    assert {name: entry.item for name, entry in match.items.items()} == {"a": "a10", "b": "b10"}
    assert sync.pending == {"a": 0, "b": 0}
    assert sum(sync.drops.values()) == 0


def test_the_slop_is_inclusive() -> None:
    assert feed(Synchronizer[str](("a", "b"), 5 * MS), ("a", 10), ("b", 15)) == [{"a": 10, "b": 15}]
    assert feed(Synchronizer[str](("a", "b"), 5 * MS), ("a", 10), ("b", 16)) == []


def test_of_several_that_wait_the_nearest_is_taken_and_those_before_it_are_counted() -> None:
    sync = Synchronizer[str](("a", "b"), 20 * MS)
    assert feed(sync, ("a", 0), ("a", 10), ("a", 20), ("b", 12)) == [{"a": 10, "b": 12}]
    assert sync.drops["unmatched"] == 1
    assert sync.pending == {"a": 1, "b": 0}


def test_a_slow_topic_leaves_the_other_unmatched_but_bounded() -> None:
    sync = Synchronizer[str](("image", "mask"), 4 * MS, depth=3)
    found = feed(sync, *(("image", ms) for ms in range(0, 100, 10)), ("mask", 90))
    assert found == [{"image": 90, "mask": 90}]
    assert sync.drops == {"unmatched": 2, "overflow": 7, "late": 0, "cleared": 0}


def test_topics_out_of_step_and_out_of_order() -> None:
    sync = Synchronizer[str](("a", "b"), 2 * MS)
    assert feed(sync, ("a", 20), ("a", 10), ("b", 11), ("b", 19)) == [{"a": 10, "b": 11}, {"a": 20, "b": 19}]
    assert feed(sync, ("a", 15), ("b", 30), ("a", 30)) == [{"a": 30, "b": 30}]
    assert sync.drops["late"] == 1


def test_three_topics_with_jitter_give_every_set() -> None:
    sync = Synchronizer[str](("a", "b", "c"), 13 * MS)
    jitter = itertools.cycle((0, 3, -4, 7, -6))
    found = feed(sync, *((name, 100 * k + next(jitter)) for k in range(1, 40) for name in ("a", "b", "c")))
    assert len(found) == 39
    assert all(max(item.values()) - min(item.values()) <= 13 for item in found)
    assert sum(sync.drops.values()) == 0


def test_time_that_goes_back_needs_clear() -> None:
    sync = Synchronizer[str](("a", "b"), 0)
    assert len(feed(sync, ("a", 1000), ("b", 1000), ("a", 1010))) == 1
    assert feed(sync, ("a", 10), ("b", 10)) == []
    sync.clear()
    assert feed(sync, ("a", 10), ("b", 10)) == [{"a": 10, "b": 10}]
    assert sync.drops == {"unmatched": 0, "overflow": 0, "late": 2, "cleared": 1}


def test_optional_topics_are_waited_for_and_then_done_without() -> None:
    sync = Synchronizer[str](("a", "b", "c"), 5 * MS, required=("a",), patience_ns=50 * MS)
    assert feed(sync, ("a", 100), ("b", 102)) == []
    assert sync.poll(149 * MS) == []
    assert stamps(sync.poll(150 * MS)) == [{"a": 100, "b": 102}]
    assert feed(sync, ("c", 101)) == []
    assert sync.poll(151 * MS) == [], "it may still meet an item that is under way"
    assert feed(sync, ("a", 200), ("b", 200), ("c", 201)) == [{"a": 200, "b": 200, "c": 201}]
    assert sync.drops["unmatched"] == 1


def test_nobody_waits_for_an_optional_topic_that_has_gone_on() -> None:
    sync = Synchronizer[str](("a", "b", "c"), 5 * MS, required=("a",), patience_ns=1000 * MS)
    assert feed(sync, ("a", 0), ("b", 1)) == []
    assert feed(sync, ("c", 100)) == [{"a": 0, "b": 1}]
    assert feed(sync, ("a", 100), ("b", 101)) == [{"a": 100, "b": 101, "c": 100}]
    # Without its required partner an item is dropped, and what belongs to the next set stays.
    assert feed(sync, ("b", 200), ("c", 201), ("a", 300)) == []
    assert feed(sync, ("c", 301), ("b", 302)) == [{"a": 300, "b": 302, "c": 301}]
    assert sync.drops == {"unmatched": 2, "overflow": 0, "late": 0, "cleared": 0}


def test_an_item_without_its_required_partner_goes_when_patience_ends() -> None:
    sync = Synchronizer[str](("a", "b"), 5 * MS, required=("a",), patience_ns=50 * MS)
    assert feed(sync, ("b", 100), ("a", 120)) == []
    assert stamps(sync.poll(170 * MS)) == [{"a": 120}]
    assert sync.drops["unmatched"] == 1
    assert sync.poll(10_000 * MS) == []


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ((), {}, "expected different topic names"),
        (("a", "a"), {}, "expected different topic names"),
        (("a",), {"required": ("b",)}, "required ['b']"),
        (("a", "b"), {"required": ("a",)}, "expected patience_ns"),
        (("a",), {"depth": 0}, "depth >= 1"),
    ],
)
def test_arguments_that_make_no_sense(names: tuple[str, ...], options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Synchronizer[str](names, 0, **options)  # type: ignore[arg-type]
    assert said in str(caught.value)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=80),
    st.integers(0, 12),
    st.integers(1, 5),
    st.booleans(),
)
def test_nothing_is_used_twice_lost_or_too_far_apart(
    entries: list[tuple[str, int]], slop: int, depth: int, partial: bool
) -> None:
    options = {"required": ("a",), "patience_ns": 5} if partial else {}
    sync = Synchronizer[int]("abc", slop, depth=depth, **options)  # type: ignore[arg-type]
    matches = []
    for n, (name, stamp) in enumerate(entries):
        matches += sync.add(name, stamp, n, n)
        matches += sync.poll(n)
    used = [entry.item for match in matches for entry in match.items.values()]
    assert len(set(used)) == len(used)
    assert len(used) + sum(sync.pending.values()) + sum(sync.drops.values()) == len(entries)
    assert all(count <= depth for count in sync.pending.values())
    for match in matches:
        assert "a" in match.items
        assert partial or len(match.items) == 3
        assert all(abs(entry.stamp_ns - match.stamp_ns) <= slop for entry in match.items.values())
    for name in "abc":
        order = [match.items[name].stamp_ns for match in matches if name in match.items]
        assert order == sorted(order)
