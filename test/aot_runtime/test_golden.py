# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aot_runtime import golden as goldens
from aot_runtime.errors import ArtifactError
from aot_runtime.manifest import Golden, GoldenInput

MASK = (1 << 64) - 1
CASES = json.loads((Path(__file__).resolve().parent.parent / "data" / "golden_cases.json").read_text())


def finalise(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def word(seed: int, stream: int, i: int) -> int:
    """The generator of the module's docstring in plain integers, written apart from it."""
    key = finalise((seed + (stream + 1) * 0xD1342543DE82EF95) & MASK)
    return finalise((key + (i + 1) * 0x9E3779B97F4A7C15) & MASK)


def test_the_finaliser_is_splitmix64s() -> None:
    # First outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) for the state 1234567.
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert goldens._finalise(states).tolist() == expected
    assert [finalise((1234567 + k * 0x9E3779B97F4A7C15) & MASK) for k in range(1, 6)] == expected


@pytest.mark.parametrize("seed", [0, 7, goldens.DEFAULT_SEED, MASK])
@pytest.mark.parametrize("stream", [0, 1, 5, goldens.SAMPLE_STREAM + 3])
def test_words_are_the_documented_ones(seed: int, stream: int) -> None:
    assert goldens.words(seed, stream, 50).tolist() == [word(seed, stream, i) for i in range(50)]


def test_uniform_by_hand() -> None:
    values = goldens.draw(goldens.uniform(-2.5, 0.75), (3, 5), seed=9, stream=2)
    assert values.dtype == np.float32
    expected = [np.float32(-2.5 + 3.25 * ((word(9, 2, i) >> 40) / 2**24)) for i in range(15)]
    assert values.reshape(-1).tolist() == [float(v) for v in expected]


def test_uniform_stays_inside_and_fills_the_range() -> None:
    values = goldens.draw(goldens.uniform(), (100_000,), seed=1, stream=0)
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(float(values.mean()) - 0.5) < 0.005
    assert len(np.unique(values)) > 99_000


def test_grid_by_hand() -> None:
    law = goldens.grid(640, 480, 20, (2, 1))
    values = goldens.draw(law, (7, 4), seed=3, stream=0)
    for row in range(7):
        for column, (count, divisor) in enumerate([(640, 640), (480, 480), (20, 20), (2, 1)]):
            assert values[row, column] == np.float32((word(3, 0, row * 4 + column) % count) / divisor)
    assert set(goldens.draw(law, (500, 4), 3, 0)[:, 3].tolist()) == {0.0, 1.0}


def test_integers() -> None:
    values = goldens.draw(goldens.integer(-3, 4), (1000,), seed=3, stream=1)
    assert values.dtype == np.int64
    assert sorted(set(values.tolist())) == [-3, -2, -1, 0, 1, 2, 3]
    assert values[0] == word(3, 1, 0) % 7 - 3


def test_a_ramp_rises_from_low_to_high() -> None:
    values = goldens.draw(goldens.ramp(0, 1000), (12,), seed=3, stream=1)
    assert values.dtype == np.int64
    assert values.tolist() == [i * 1000 // 11 for i in range(12)]
    assert goldens.draw(goldens.ramp(-4, -4), (3,), 1, 0).tolist() == [-4, -4, -4]


def test_nothing_is_drawn_for_zero_events() -> None:
    assert goldens.draw(goldens.grid(3, 3, 3, 2), (0, 4), 1, 0).shape == (0, 4)
    assert goldens.sample_indices(1, 0, 0).shape == (0,)


@pytest.mark.parametrize(
    "law",
    [
        {},
        {"kind": "normal"},
        {"kind": "uniform", "low": 0},
        {"kind": "uniform", "low": "a", "high": 1},
        goldens.grid(3, 4),
        {"kind": "grid", "columns": [[0, 1], [1, 1], [1, 0], [1, 1]]},
        goldens.integer(4, 4),
        goldens.ramp(4, 3),
        goldens.ramp(0, (1 << 31) + 1),
    ],
)
def test_a_law_that_does_not_fit_is_named(law: goldens.Law) -> None:
    with pytest.raises(
        ArtifactError, match=r"expected a law uniform, grid, integer or ramp that fits shape \(2, 4\), found"
    ):
        goldens.draw(law, (2, 4), 1, 0)


@pytest.mark.parametrize("case", CASES["draws"], ids=lambda case: json.dumps(case["law"]))
def test_table_of_draws_shared_with_cpp(case: dict) -> None:
    values = goldens.draw(case["law"], tuple(case["shape"]), int(case["seed"]), case["stream"])
    if values.dtype == np.float32:
        assert [f"{bits:08x}" for bits in values.reshape(-1).view(np.uint32)] == case["float32_bits"]
    else:
        assert values.reshape(-1).tolist() == case["integers"]


@pytest.mark.parametrize("case", CASES["samples"])
def test_table_of_sample_positions_shared_with_cpp(case: dict) -> None:
    assert goldens.sample_indices(int(case["seed"]), case["output"], case["elements"]).tolist() == case["indices"]


def test_sample_positions() -> None:
    assert goldens.sample_indices(5, 2, 1000).tolist() == [word(5, (1 << 32) + 2, i) % 1000 for i in range(256)]
    assert len(goldens.sample_indices(5, 2, 10)) == 10


def test_inputs_have_the_declared_dtypes() -> None:
    inputs = (
        GoldenInput("a", (2, 3), goldens.uniform(0, 255)),
        GoldenInput("b", (4,), goldens.integer(0, 2)),
        GoldenInput("c", (2,), goldens.uniform()),
    )
    tensors = goldens.make_inputs(inputs, {"a": "uint8", "b": "bool", "c": "bfloat16"}, seed=1)
    assert [tensors[name].dtype for name in "abc"] == [torch.uint8, torch.bool, torch.bfloat16]
    assert tensors["a"].tolist() == goldens.draw(goldens.uniform(0, 255), (2, 3), 1, 0).astype(np.uint8).tolist()


def test_statistics() -> None:
    numbers = goldens.statistics(torch.tensor([1.0, 2.0, float("nan"), 6.0, float("inf")]))
    assert numbers == goldens.Statistics(3.0, pytest.approx((14 / 3) ** 0.5), 1.0, 6.0, 0.6)
    assert goldens.statistics(torch.zeros(0, 3)) == goldens.Statistics(0.0, 0.0, 0.0, 0.0, 1.0)
    assert goldens.statistics(torch.full((2,), float("nan"))).finite_fraction == 0.0
    big = torch.ones((1 << 22) + 5)
    big[-1] = 3
    assert goldens.statistics(big).max == 3.0


def test_digest_is_of_the_bytes_in_c_order() -> None:
    import hashlib

    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert goldens.tensor_sha256(tensor.t()) == hashlib.sha256(tensor.t().contiguous().numpy().tobytes()).hexdigest()
    assert goldens.tensor_sha256(torch.tensor([True, False])) == hashlib.sha256(b"\x01\x00").hexdigest()
    assert goldens.tensor_sha256(torch.zeros(0)) == hashlib.sha256(b"").hexdigest()


@pytest.fixture
def golden() -> tuple[Golden, torch.Tensor]:
    reference = torch.linspace(-1, 1, 600).reshape(20, 30)
    output = goldens.describe_output("y", reference, reference, seed=4, output=0, tolerance=0.01)
    return Golden(seed=4, inputs=(), outputs=(output,)), reference


def test_the_same_output_passes(golden: tuple[Golden, torch.Tensor]) -> None:
    expected, reference = golden
    assert goldens.compare(expected, {"y": reference}) is None
    assert goldens.compare(expected, {"y": reference + 0.009}) is None
    assert goldens.compare(expected, {"y": reference.half()}) is None


def test_nan_where_the_golden_has_a_number_is_no_pass() -> None:
    """A network that may answer NaN somewhere (its golden has some) must not answer it elsewhere."""
    reference = torch.linspace(-1, 1, 600)
    sampled = goldens.sample_indices(4, 0, 600)
    elsewhere = next(n for n in range(600) if n not in sampled)
    reference[elsewhere] = torch.nan
    expected = Golden(4, (), (goldens.describe_output("y", reference, reference, seed=4, output=0, tolerance=0.01),))
    assert goldens.compare(expected, {"y": reference}) is None
    moved = reference.clone()
    moved[elsewhere], moved[int(sampled[7])] = 0.0, torch.nan
    wrong = goldens.compare(expected, {"y": moved})
    assert wrong is not None
    assert "found nan" in wrong.text


def test_a_wrong_output_is_told_with_numbers(golden: tuple[Golden, torch.Tensor]) -> None:
    expected, reference = golden
    shifted = goldens.compare(expected, {"y": reference + 0.02})
    assert shifted is not None
    assert not shifted.non_finite
    assert "+- 0.01 at sample" in shifted.text
    transposed = goldens.compare(expected, {"y": reference.t()})
    assert transposed is not None
    assert transposed.text == "shape (20, 30), found (30, 20)"


def test_a_nan_anywhere_is_told(golden: tuple[Golden, torch.Tensor]) -> None:
    expected, reference = golden
    sampled = set(goldens.sample_indices(4, 0, 600).tolist())
    unsampled = next(i for i in range(600) if i not in sampled)
    broken = reference.clone()
    broken.view(-1)[unsampled] = float("nan")
    mismatch = goldens.compare(expected, {"y": broken})
    assert mismatch is not None
    assert mismatch.non_finite
    assert "0.167 % NaN or infinite" in mismatch.text


def test_an_outlier_between_the_samples_is_seen_in_the_statistics(golden: tuple[Golden, torch.Tensor]) -> None:
    expected, reference = golden
    sampled = set(goldens.sample_indices(4, 0, 600).tolist())
    unsampled = next(i for i in range(600) if i not in sampled)
    broken = reference.clone()
    broken.view(-1)[unsampled] = 50.0
    mismatch = goldens.compare(expected, {"y": broken})
    assert mismatch is not None
    assert "mean" in mismatch.text or "max" in mismatch.text


def test_a_record_with_too_few_samples_fails(golden: tuple[Golden, torch.Tensor]) -> None:
    expected, reference = golden
    short = dataclasses.replace(expected.outputs[0], values=expected.outputs[0].values[:3])
    mismatch = goldens.compare(dataclasses.replace(expected, outputs=(short,)), {"y": reference})
    assert mismatch is not None
    assert mismatch.text == "3 samples, found 256"
