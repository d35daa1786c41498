# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from aot_runtime.errors import InputError
from f3_ros.events.filters import HotPixelMask, NeighbourNoiseFilter, RefractoryFilter, count_per_pixel
from f3_ros.events.types import Events


def make_events(*values: tuple[int, int, int]) -> Events:
    x, y, t = (np.array(column) for column in zip(*values))
    return Events(x.astype(np.uint16), y.astype(np.uint16), t, np.ones(len(t), np.uint8))


def rows(events: Events) -> list[tuple[int, int, int]]:
    return list(zip(events.x.tolist(), events.y.tolist(), events.t.tolist()))


def random_events(n: int, seed: int = 0, side: int = 32, step: int = 40) -> Events:
    rng = np.random.default_rng(seed)
    return Events(
        rng.integers(0, side, n).astype(np.uint16), rng.integers(0, side, n).astype(np.uint16),
        np.cumsum(rng.integers(0, step, n)), rng.integers(0, 2, n).astype(np.uint8),
    )  # fmt: skip


def every_filter(side: int = 32) -> list:
    mask = np.zeros((side, side), bool)
    mask[::3, ::2] = True
    return [HotPixelMask(mask), RefractoryFilter(side, side, 5000), NeighbourNoiseFilter(side, side, 300)]


def test_hot_pixels_of_the_simulated_recording_are_found(shared):
    import h5py

    with h5py.File(shared / "data" / "events" / "synthetic" / "room_seed1_346x260.h5") as h5:
        group = h5["prophesee/left"]
        events = Events(group["x"][:], group["y"][:], group["t"][:], group["p"][:].astype(np.uint8))
        hot = h5["sim/hot_pixels"][:]
        noise = h5["sim/is_noise"][:].astype(bool)
    true_mask = np.zeros((260, 346), bool)
    hot = hot.reshape(-1, hot.shape[-1]) if hot.ndim == 2 else np.stack([hot % 346, hot // 346], axis=1)
    true_mask[hot[:, 1].astype(int), hot[:, 0].astype(int)] = True
    counts = np.zeros((260, 346), np.int64)
    count_per_pixel(events, counts)
    assert counts.sum() == len(events)
    noise_filter = HotPixelMask.from_counts(counts, k=30)
    assert noise_filter.mask[true_mask].all()
    assert noise_filter.mask.sum() <= 4 * true_mask.sum()
    kept = noise_filter.apply(events)
    assert noise_filter.passed == len(kept)
    assert noise_filter.dropped == len(events) - len(kept)
    of_hot = true_mask[events.y, events.x] & noise
    assert noise_filter.dropped >= of_hot.sum() > 0


def test_a_quiet_recording_has_no_hot_pixels():
    counts = np.zeros((10, 10), np.int64)
    counts[3, 4] = 5
    assert not HotPixelMask.from_counts(counts).mask.any()
    counts[5, 6] = 500
    assert np.argwhere(HotPixelMask.from_counts(counts).mask).tolist() == [[5, 6]]


@pytest.mark.parametrize("suffix", [".npz", ".png"])
def test_masks_survive_a_file(tmp_path, suffix):
    mask = np.random.default_rng(0).random((13, 17)) < 0.2
    HotPixelMask(mask).save(tmp_path / f"mask{suffix}")
    loaded = HotPixelMask.load(tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(loaded.mask, mask)
    assert (loaded.width, loaded.height) == (17, 13)


def test_wrong_masks_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"shape \(H, W\), found shape \(3,\)"):
        HotPixelMask(np.zeros(3))
    with pytest.raises(InputError, match="found nothing at"):
        HotPixelMask.load(tmp_path / "none.npz")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match="expected a picture"):
        HotPixelMask.load(tmp_path / "text.png")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="expected an array `mask`"):
        HotPixelMask.load(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", other=np.zeros(3))
    with pytest.raises(InputError, match="expected an array `mask`"):
        HotPixelMask.load(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"ending in \.npz or \.png"):
        HotPixelMask(np.zeros((2, 2))).save(tmp_path / "mask.txt")
    with pytest.raises(InputError, match="positive sensor size, found 0x3"):
        RefractoryFilter(0, 3)


def test_hot_pixel_mask_takes_out_its_pixels_and_what_lies_outside():
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    found = HotPixelMask(mask).apply(make_events((2, 1, 0), (1, 2, 1), (5, 1, 2), (2, 4, 3), (4, 3, 4)))
    assert rows(found) == [(1, 2, 1), (4, 3, 4)]


def test_refractory_counts_from_the_last_kept_event():
    noise_filter = RefractoryFilter(8, 8, 100)
    events = make_events((1, 1, 0), (1, 1, 99), (1, 2, 99), (1, 1, 100), (1, 1, 150), (1, 1, 200), (9, 1, 300))
    assert rows(noise_filter.apply(events)) == [(1, 1, 0), (1, 2, 99), (1, 1, 100), (1, 1, 200)]
    assert (noise_filter.passed, noise_filter.dropped) == (4, 3)
    assert rows(noise_filter.apply(make_events((1, 1, 250), (1, 1, 10)))) == [(1, 1, 10)]  # time went back
    noise_filter.reset()
    assert len(noise_filter.apply(make_events((1, 1, 11)))) == 1


def test_neighbours_support_each_other_but_not_themselves():
    noise_filter = NeighbourNoiseFilter(8, 8, 100)
    events = make_events(
        (1, 1, 0), (1, 1, 10), (2, 2, 50), (4, 2, 60), (3, 1, 150), (0, 0, 111), (7, 7, 120), (8, 7, 121)
    )
    assert rows(noise_filter.apply(events)) == [(2, 2, 50), (3, 1, 150)]
    noise_filter.reset()
    assert len(noise_filter.apply(make_events((3, 2, 151)))) == 0


def test_neighbour_filter_is_the_plain_definition():
    events = random_events(3000)
    last = np.full((34, 34), -(10**9))
    expected = []
    for x, y, t in rows(events):
        around = last[y : y + 3, x : x + 3].copy()
        around[1, 1] = -(10**9)
        if t - around.max() <= 300:
            expected.append((x, y, t))
        last[y + 1, x + 1] = t
    assert rows(NeighbourNoiseFilter(32, 32, 300).apply(events)) == expected
    assert 100 < len(expected) < 2900


@pytest.mark.parametrize("which", [0, 1, 2])
def test_packets_make_no_difference(which):
    events = random_events(5000)
    whole = every_filter()[which]
    expected = rows(whole.apply(events))
    cut = every_filter()[which]
    found = [row for i in range(0, 5000, 7) for row in rows(cut.apply(events[i : i + 7]))]
    assert found == expected
    assert (cut.passed, cut.dropped) == (whole.passed, whole.dropped)
    assert whole.dropped > 0
    assert len(cut.apply(Events.empty())) == 0
