# SPDX-License-Identifier: Apache-2.0
"""What compilers, ONNX, TensorRT and CUDA graphs ask of the exported module."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aliked_ros.alignment import align, nearest
from aliked_ros.config import CONFIGS, from_name
from aliked_ros.deploy import DeployedALIKED
from aliked_ros.model import ALIKED
from aot_runtime.errors import ExportError, InputError

# Their sizes depend on values, or they wait for the device to look at one.
SYNCHRONISING = ("nonzero", "item", "_local_scalar_dense", "masked_select", "unique", "_assert_async", "argwhere")


def small(**options: Any) -> DeployedALIKED:
    settings: dict[str, Any] = {"height": 50, "width": 70, "top_k": 20, **options}
    return DeployedALIKED(ALIKED(from_name("t16")).randomise(1), **settings)


def picture(height: int = 50, width: int = 70) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_in_the_program_synchronises_or_lives_on_another_device(dtype: torch.dtype) -> None:
    module = small(score_map=True).cast_precision(dtype)
    program = torch.export.export(module, (picture(),), strict=False)
    # A tensor made in forward from Python numbers is a constant on the CPU: copying it to a GPU waits.
    assert not program.constants
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            name = str(node.target)
            assert not any(word in name for word in SYNCHRONISING), name
            assert "grid_sampler" not in name
            assert "deform" not in name
            if name == "aten.index.Tensor":
                pytest.fail("advanced indexing exports to GatherND")
        if "val" in node.meta:
            for value in torch.utils._pytree.tree_leaves(node.meta["val"]):
                if isinstance(value, torch.Tensor):
                    assert all(isinstance(size, int) for size in value.shape)


def test_the_same_bits_every_time() -> None:
    module, image = small(), picture()
    first, second = module(image), module(image)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_the_original_network_is_left_untouched() -> None:
    model = ALIKED(from_name("t16")).randomise(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    DeployedALIKED(model, height=50, width=70, top_k=20).cast_precision(torch.float16)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_outputs() -> None:
    outputs = small(score_map=True)(picture())
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {
        "keypoints": (1, 20, 2),
        "scores": (1, 20),
        "peak_scores": (1, 20),
        "dispersity": (1, 20),
        "descriptors": (1, 20, 64),
        "checks": (1, 4, 69),
        "score_map": (1, 50, 70),
    }
    assert bool((outputs["peak_scores"].diff() <= 0).all())
    torch.testing.assert_close(outputs["descriptors"].norm(dim=-1), torch.ones(1, 20))


def test_checks_do_not_depend_on_the_order() -> None:
    from aliked_ros.detection import Points

    module, outputs = small(), small()(picture())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    fields = ("keypoints", "scores", "peak_scores", "dispersity")
    points = Points(*(outputs[name][0][order] for name in fields))
    shuffled = module.moments(points, outputs["descriptors"][0][order])
    torch.testing.assert_close(shuffled, outputs["checks"][0], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(module.moments(points, outputs["descriptors"][0]), outputs["checks"][0], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 31}, "from 32x32 pixels, found 70x31"),
        ({"top_k": 0}, "--top_k from 1 to 408"),
        ({"top_k": 409}, "--top_k from 1 to 408 for 70x50 pixels"),
        ({"nms_rounds": 0}, "one or more rounds"),
    ],
)
def test_impossible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**options)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_image_gives_finite_numbers(value: int) -> None:
    outputs = small(top_k=408)(torch.full((1, 50, 70, 3), value, dtype=torch.uint8))
    for name, tensor in outputs.items():
        assert bool(torch.isfinite(tensor).all()), name


def test_names_and_sizes_of_the_networks() -> None:
    counts = {name: sum(p.numel() for p in ALIKED(config).parameters()) for name, config in CONFIGS.items()}
    assert counts == {
        "aliked-t16": 192_100,
        "aliked-n16": 677_356,
        "aliked-n16rot": 677_356,
        "aliked-n32": 979_500,
    }
    assert len(ALIKED(from_name("n32")).state_dict()) == 76
    with pytest.raises(InputError, match="use one of: aliked-t16"):
        from_name("n64")


def outputs_of(xy: torch.Tensor, peaks: torch.Tensor) -> dict[str, torch.Tensor]:
    scores = torch.linspace(0.9, 0.1, len(xy))[None]
    rows = {"scores": scores, "dispersity": scores, "descriptors": xy[None] / 100, "checks": torch.ones(1, 2)}
    return {"keypoints": xy[None], "peak_scores": peaks[None], **rows}


def test_alignment_undoes_a_change_of_order() -> None:
    xy = torch.arange(40.0).view(20, 2) * 3
    eager = outputs_of(xy, torch.ones(20))
    order = torch.arange(19, -1, -1)
    compiled = {name: value if name == "checks" else value[:, order] for name, value in eager.items()}
    for name, value in align(eager, compiled).items():
        assert torch.equal(value, eager[name]), name


def test_alignment_allows_few_to_be_missing_and_ignores_fillers() -> None:
    xy = torch.arange(40.0).view(20, 2) * 3
    eager = outputs_of(xy, torch.cat([torch.ones(18), torch.zeros(2)]))
    moved = xy.clone()
    moved[[3, 18, 19]] += 1000
    found = align(eager, outputs_of(moved, torch.ones(20)))
    assert torch.equal(found["keypoints"], eager["keypoints"])
    moved[4] += 1000
    with pytest.raises(ExportError, match=r"all but 1 of 18 eager keypoints .* found 2 without"):
        align(eager, outputs_of(moved, torch.ones(20)))
    with pytest.raises(ExportError, match="found 18 without"):
        align(eager, outputs_of(xy * float("nan"), torch.ones(20)))


def test_nearest() -> None:
    distance, index = nearest(torch.tensor([[0.0, 0], [9, 9]]), torch.tensor([[9.0, 8], [5, 5], [0, 3]]))
    assert distance.tolist() == [3, 1]
    assert index.tolist() == [2, 0]
