# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aot_runtime.errors import InputError
from f3_ros.config import EncoderConfig
from f3_ros.encoder import (
    Downsampling,
    MultiResolutionHashEncoder,
    PackedEncoder,
    VoxelTable,
    bilinear_taps,
    mask_padding,
    pixels,
    pool,
)

CASES = [
    (name, case) for name in ("f3_small_direct", "f3_small_hashed") for case in ("grid", "dup", "border", "offgrid")
]
FRAME = (64, 48, 20)


def random_events(count: int, frame: tuple[int, int, int] = FRAME, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    columns = [generator.integers(0, size, count) / size for size in frame]
    return torch.from_numpy(np.stack([*columns, generator.integers(0, 2, count)], 1).astype(np.float32))


def small_encoder() -> MultiResolutionHashEncoder:
    return MultiResolutionHashEncoder(EncoderConfig(2, 9, ((4, 4, 1), (9, 8, 3), (20, 15, 4))))


@pytest.mark.parametrize(("name", "case"), [*CASES, ("f3_small_direct", "one"), ("f3_dilated_k5", "grid")])
def test_encoder_matches_the_official_one(name: str, case: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    with torch.no_grad():
        found = golden.model().multi_hash_encoder(golden.events(case))
    expected = golden.outputs[f"encoded_{case}"]
    torch.testing.assert_close(found[: len(expected)], expected, atol=1e-6, rtol=0)


def test_polarity_tables_match_the_official_ones(f3_golden: Any) -> None:
    golden = f3_golden("f3_polarity_tables")
    with torch.no_grad():
        encoder = golden.model().multi_hash_encoder
        torch.testing.assert_close(encoder(golden.events("")), golden.outputs["encoded"], atol=1e-6, rtol=0)
        other = golden.events("").clone()
        other[:, 3] = 0.5
        assert not encoder(other).any(), "a polarity other than 0 and 1 chooses no table"


@pytest.mark.parametrize("name", ["f3_small_direct", "f3_small_hashed", "f3_polarity_tables"])
def test_packed_tables_hold_every_row_that_matters(name: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    encoder = golden.model().multi_hash_encoder
    packed = PackedEncoder(encoder)
    events = torch.cat([random_events(2000), *(e for key, e in golden.inputs.items() if key.startswith("events"))])
    with torch.no_grad():
        assert torch.equal(packed(events), encoder(events))
    assert len(packed.table()) <= len(encoder.table())


@pytest.mark.parametrize("name", ["f3_small_direct", "f3_small_hashed", "f3_v1_upsampling", "f3_ds8_decoder"])
def test_voxel_table_matches_the_official_one(name: str, f3_golden: Any) -> None:
    golden = f3_golden(name)
    encoder = golden.model().multi_hash_encoder
    table = VoxelTable(encoder, FRAME, np.arange(64), np.arange(48))
    x, y, t = golden.outputs["hashed_feats_sample_idx"].T
    found = table._table.view(64, 48, 20, -1)[x, y, t]
    torch.testing.assert_close(found, golden.outputs["hashed_feats_sample"], atol=1e-6, rtol=0)
    events = golden.events("grid")
    with torch.no_grad():
        assert torch.equal(table(events, *pixels(events, 64, 48)), encoder(events)), "on the grid it is bit-identical"


def test_half_voxel_table_keeps_small_features() -> None:
    encoder = small_encoder()
    with torch.no_grad():
        encoder.hashmap *= 1e-3  # float16 alone would make these subnormal
        events = random_events(500)
        table = VoxelTable(encoder, FRAME, np.arange(64), np.arange(48))
        exact = table(events, *pixels(events, 64, 48))
        table.halve()
        found = table(events, *pixels(events, 64, 48))
    assert table._table.dtype == torch.float16
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-3


def test_voxel_table_refuses_polarity_tables() -> None:
    encoder = MultiResolutionHashEncoder(EncoderConfig(2, 9, ((4, 4, 1),), polarity=True))
    with pytest.raises(InputError, match="polarity"):
        VoxelTable(encoder, FRAME, np.arange(64), np.arange(48))


def test_malformed_coordinates_stay_inside_the_tables() -> None:
    encoder = small_encoder()
    bad = torch.tensor([[-5.0, 0.5, 0.5], [1e9, -1e9, 2.0], [float("inf"), 0.0, 0.0], [float("nan")] * 3])
    rows, _ = encoder.corners(bad)
    assert int(rows.min()) >= 0
    assert int(rows.max()) < len(encoder.table())
    for pixel, size in zip(pixels(bad, 64, 48), (64, 48)):
        assert int(pixel.min()) >= 0
        assert int(pixel.max()) < size


def test_pixels_round_half_to_even() -> None:
    events = torch.tensor([[0.5 / 64, 1.5 / 48], [2.5 / 64, 1.0], [63.4 / 64, 47.6 / 48]])
    xi, yi = pixels(events, 64, 48)
    assert xi.tolist() == [0, 2, 63]
    assert yi.tolist() == [2, 47, 47]


def test_hashing_needs_32_bits_only() -> None:
    with pytest.raises(ValueError, match="32-bit"):
        MultiResolutionHashEncoder(EncoderConfig(2, 12, ((1, 1 << 30, 1),)))


@pytest.mark.parametrize("target", [1, 2, 3, 16, 17, 21, 31, 32, 33, 48, 63, 64, 65, 100, 129])
def test_transposed_bilinear_weights_are_torchs_own(target: int) -> None:
    outputs, weights = bilinear_taps(64, target)
    matrix = np.zeros((64, target), np.float32)
    for source in range(64):
        np.add.at(matrix[source], outputs[source], weights[source])
    expected = F.interpolate(
        torch.eye(64).view(64, 1, 64, 1), size=(target, 1), mode="bilinear", align_corners=True
    ).view(64, target)
    assert np.array_equal(matrix, expected.numpy())
    if 2 * (target - 1) <= 63:
        assert outputs.shape[1] == 1, "shrinking by two or more, an event reaches at most one cell"


@pytest.mark.parametrize(
    "target", [(16, 12), (21, 17), (32, 24), (33, 25), (48, 32), (50, 41), (63, 47), (64, 24), (20, 48), (1, 1), (2, 3)]
)
def test_direct_downsampling_equals_pooling_then_resizing(target: tuple[int, int]) -> None:
    events = random_events(4000)
    features = torch.randn(len(events), 5, generator=torch.Generator().manual_seed(1))
    xi, yi = pixels(events, 64, 48)
    full = pool(features, xi * 48 + yi, 1, 64, 48)
    expected = F.interpolate(full.permute(0, 3, 1, 2), size=target, mode="bilinear", align_corners=True)
    found = Downsampling((64, 48), target).pool(features, xi, yi)
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1), atol=2e-5, rtol=1e-5)


def test_direct_downsampling_at_the_benchmark_size() -> None:
    scatter = Downsampling((1280, 720), (320, 240))
    columns, rows = scatter.used()
    assert scatter._x_out.shape == (1280, 1)
    assert scatter._y_out.shape == (720, 1)
    assert len(columns) * len(rows) <= 4 * 320 * 240
    assert not Downsampling.worthwhile((1280, 720), (1281, 720))


def test_padding_contributes_nothing() -> None:
    events = torch.tensor([[0.5, 0.5, 0.0, 1.0], [-1.0, -1.0, -1.0, -1.0]])
    assert mask_padding(events, torch.ones(2, 3)).tolist() == [[1, 1, 1], [0, 0, 0]]
