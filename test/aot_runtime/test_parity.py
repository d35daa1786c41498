# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from aot_runtime.errors import ExportError
from aot_runtime.parity import DEFAULT_TOLERANCES, Tolerance, choose_tolerances, compare_outputs

LOOSE = Tolerance(0.5, 0.0)


def test_errors_are_measured() -> None:
    eager, compiled = torch.tensor([1.0, -4.0, 2.0]), torch.tensor([1.0, -4.0, 2.5])
    (parity,) = compare_outputs([eager], [compiled], {"y": Tolerance(0.1, 0.2, cosine=0.9)})
    assert parity.max_abs == 0.5
    assert parity.max_rel == 0.125
    assert parity.tolerance == pytest.approx(0.1 + 0.2 * 4)
    assert parity.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(eager, compiled, dim=0)))


def test_integers_and_empty_outputs() -> None:
    eager = [torch.tensor([3, 4]), torch.zeros(0, 5), torch.tensor([True])]
    parities = compare_outputs(eager, eager, dict.fromkeys("abc", Tolerance(0.0, 0.0, cosine=1.0)))
    assert [item.max_abs for item in parities] == [0.0, 0.0, 0.0]
    assert parities[1].cosine is None


def test_too_large_an_error_names_output_numbers_and_tolerance() -> None:
    with pytest.raises(ExportError) as caught:
        compare_outputs([torch.ones(4)], [torch.full((4,), 1.25)], {"depth": Tolerance(0.1, 0.0)}, " at n = 7")
    assert caught.value.reason == (
        "expected compiled output depth at n = 7 within 0.1 of eager, found max abs error 0.25 "
        "(relative to the largest value 0.25)"
    )
    assert "nothing was written" in caught.value.remedy


def test_a_low_cosine_is_refused() -> None:
    with pytest.raises(ExportError, match=r"output y with cosine similarity >= 0.99 to eager, found 0\.7071"):
        compare_outputs([torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])], {"y": Tolerance(2.0, 0.0, cosine=0.99)})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ExportError, match="finite numbers in compiled output y, found 1 of 2 elements NaN or infinite"):
        compare_outputs([torch.zeros(2)], [torch.tensor([0.0, bad])], {"y": LOOSE})


def test_other_shapes_dtypes_and_counts_are_refused() -> None:
    with pytest.raises(ExportError, match=r"output y to be torch.float32 \(2,\), found torch.float32 \(3,\)"):
        compare_outputs([torch.zeros(2)], [torch.zeros(3)], {"y": LOOSE})
    with pytest.raises(ExportError, match=r"found torch\.float16"):
        compare_outputs([torch.zeros(2)], [torch.zeros(2).half()], {"y": LOOSE})
    with pytest.raises(ExportError, match="expected 1 outputs from the compiled network, found 0"):
        compare_outputs([torch.zeros(2)], [], {"y": LOOSE})


def test_choice_of_tolerances() -> None:
    assert choose_tolerances(["a", "b"], "fp16", None) == dict.fromkeys("ab", DEFAULT_TOLERANCES["fp16"])
    assert choose_tolerances(["a", "b"], "fp32", LOOSE) == dict.fromkeys("ab", LOOSE)
    assert choose_tolerances(["a", "b"], "fp32", {"b": LOOSE}) == {"a": DEFAULT_TOLERANCES["fp32"], "b": LOOSE}
    with pytest.raises(ExportError, match=r"expected tolerances for outputs \['a'\], found \['z'\]"):
        choose_tolerances(["a"], "fp32", {"z": LOOSE})
