# SPDX-License-Identifier: Apache-2.0
"""Command `compare_artifacts`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aot_runtime.compare import compare_artifacts, compare_keypoints, compare_outputs, main
from aot_runtime.errors import ExportError, InputError
from aot_runtime.export import export_model
from aot_runtime.keypoints import align_keypoints, mutual_nearest
from aot_runtime.manifest import CheckpointInfo, Manifest


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory, tiny_network: Any, export_arguments: dict[str, Any]) -> Path:
    """The tiny network as ONNX."""
    path = tmp_path_factory.mktemp("compare") / "tiny.onnx"
    export_model(copy.deepcopy(tiny_network), path=path, **export_arguments)
    return path


def test_two_runtimes_of_one_network(
    tiny_artifact: tuple[Path, Manifest], onnx_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compare_artifacts(tiny_artifact[0], onnx_file)
    assert [item.name for item in comparison.outputs] == ["features", "total"]
    assert all(item.max_abs < 1e-5 and item.finite for item in comparison.outputs)
    assert all(item.cosine == pytest.approx(1.0) for item in comparison.outputs)
    assert comparison.keypoints is None
    assert main([str(tiny_artifact[0]), str(onnx_file)]) == 0
    printed = capsys.readouterr().out
    for words in ("output", "max abs error", "features", "total", "1.000000"):
        assert words in printed


def test_own_inputs_and_limits(
    tiny_artifact: tuple[Path, Manifest], onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = tmp_path / "i.npz"
    np.savez(arrays, events=np.random.default_rng(0).random((7, 4)), scale=np.full(8, 0.7))
    command = [str(tiny_artifact[0]), str(onnx_file), "--input", str(arrays), "--json"]
    assert main([*command, "--max-error", "1e-4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in report["outputs"]] == ["features", "total"]
    assert report["keypoints"] is None
    assert main([*command, "--max-error", "-1"]) == 1


def test_numbers_of_an_output() -> None:
    a = np.array([[1.0, -2.0], [0.0, 4.0]])
    (error,) = compare_outputs({"y": a}, {"y": a + np.array([[0.0, 0.5], [0.0, 0.0]])}).outputs
    assert (error.max_abs, error.mean_abs, error.max_rel, error.finite) == (0.5, 0.125, 0.125, True)
    assert error.cosine == pytest.approx((1 + 3 + 16) / (21**0.5 * (1 + 2.25 + 16) ** 0.5))
    (broken,) = compare_outputs({"y": a}, {"y": a * np.nan}).outputs
    assert not broken.finite
    (empty,) = compare_outputs({"y": a[:0]}, {"y": a[:0]}).outputs
    assert (empty.max_abs, empty.cosine) == (0.0, None)
    with pytest.raises(InputError, match=r"output y of shape \(2, 2\) in both artifacts, found \(2, 1\)"):
        compare_outputs({"y": a}, {"y": a[:, :1]})


def test_mutual_nearest_neighbours() -> None:
    a = np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0], [10.4, 0.0]])
    b = np.array([[20.1, 0.0], [10.1, 0.0], [50.0, 0.0]])
    i, j = mutual_nearest(a, b, 3.0)
    # a[3] is near b[1] too, but b[1] is nearer to a[1].
    assert (i.tolist(), j.tolist()) == ([1, 2], [1, 0])
    assert mutual_nearest(a, b, 0.05)[0].size == 0
    assert mutual_nearest(a[:0], b, 3.0)[0].size == 0


def points(count: int = 200) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    # On a grid, so that nothing else is within matching distance.
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(10)), -1).reshape(-1, 2)[:count] * 10.0
    descriptors = generator.normal(size=(1, count, 16))
    return {
        "keypoints": grid[None] + generator.random((1, count, 2)),
        "scores": generator.random((1, count)),
        "descriptors": descriptors / np.linalg.norm(descriptors, axis=2, keepdims=True),
    }


def test_keypoints_in_another_order_are_the_same() -> None:
    a = points()
    order = np.random.default_rng(4).permutation(200)
    b = {name: array[:, order] for name, array in a.items()}
    comparison = compare_outputs(a, b)
    assert comparison.outputs == ()
    found = comparison.keypoints
    assert found is not None
    assert (found.count_a, found.count_b, found.matched, found.missed) == (200, 200, 200, 0.0)
    assert (found.position_max, found.score_max) == (0.0, 0.0)
    assert found.cosine_p01 == pytest.approx(1.0)


def test_keypoints_that_moved_and_vanished() -> None:
    a = points()
    b = {name: array.copy() for name, array in a.items()}
    b["keypoints"][0, :, 0] += 0.25
    b["keypoints"][0, :10] += 500.0
    b["scores"] += 0.125
    b["descriptors"][0, 50] *= -1.0
    found = compare_keypoints(a, b, 3.0)
    assert (found.matched, found.missed) == (190, pytest.approx(0.05))
    assert found.position_median == pytest.approx(0.25)
    assert found.score_max == pytest.approx(0.125)
    assert found.cosine_median == pytest.approx(1.0)
    nothing = compare_keypoints(a, {**b, "keypoints": b["keypoints"] + 1000.0}, 3.0)
    assert (nothing.matched, nothing.missed, nothing.score_max, nothing.cosine_p01) == (0, 1.0, None, None)
    with pytest.raises(InputError, match=r"keypoints .1, K, 2. with scores or descriptors in both"):
        compare_keypoints(a, {"keypoints": a["keypoints"]}, 3.0)


def test_rows_are_put_in_the_order_of_the_reference() -> None:
    a = {name: torch.from_numpy(array) for name, array in points().items()}
    a["score_map"] = torch.rand(1, 1, 9, 9)
    order = torch.from_numpy(np.random.default_rng(4).permutation(200))
    b = {name: tensor if name == "score_map" else tensor[:, order].clone() for name, tensor in a.items()}
    b["keypoints"] += 0.1
    b["keypoints"][0, :2] += 400.0
    aligned = align_keypoints(a, b, missing=0.01)
    errors = (aligned["keypoints"] - a["keypoints"]).abs()
    # Two have no match and take the reference's place.
    assert int((errors.sum(2) == 0).sum()) == 2
    assert float(errors.max()) == pytest.approx(0.1)
    assert torch.equal(aligned["descriptors"], a["descriptors"])
    assert torch.equal(aligned["score_map"], a["score_map"])
    with pytest.raises(ExportError, match=r"all but 0.1 % of 200 keypoints within 1 px .*found 2 without"):
        align_keypoints(a, b, missing=0.001)
    fewer = {name: tensor[:, :50] for name, tensor in a.items()}
    assert align_keypoints(a, fewer, missing=0.01)["keypoints"].shape == (1, 50, 2)


class Points(torch.nn.Module):
    """Keypoints that depend on the image, in the order of their scores."""

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        pooled = torch.nn.functional.avg_pool2d(image, 8).flatten(2)
        scores, index = pooled[:, 0].topk(10)
        keypoints = torch.stack([index % 8, index // 8], -1).float() * 8
        descriptors = torch.nn.functional.normalize(pooled.transpose(1, 2)[:, :10] - 0.5, dim=2)
        return {"keypoints": keypoints, "descriptors": descriptors, "scores": scores, "score_map": pooled}


def test_a_keypoint_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("keypoints", "descriptors", "scores", "score_map")
    for name in ("a.onnx", "b.onnx"):
        export_model(
            Points(),
            {"image": torch.zeros(1, 3, 64, 64)},
            path=tmp_path / name,
            family="points",
            variant="v",
            task="t",
            outputs=[(name, "", "") for name in names],
            checkpoint=CheckpointInfo.random(0),
            progress=False,
        )
    assert main([str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--max-missed", "0"]) == 0
    printed = capsys.readouterr().out
    for words in ("score_map", "matched within 3 px", "10 (0.00 % missed)", "descriptor cosine"):
        assert words in printed
    np.savez(tmp_path / "i.npz", image=np.zeros((1, 3, 64, 64)))
    assert main([str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--input", str(tmp_path / "i.npz")]) == 0


def test_mistakes_are_one_line(
    tiny_artifact: tuple[Path, Manifest], onnx_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = str(tiny_artifact[0])

    def error(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "REFUSE MISSING_FILE" in error(tiny, "none.onnx")
    assert "expected a .npz file, found none.npz unreadable" in error(tiny, str(onnx_file), "--input", "none.npz")
    (tmp_path / "i.npz").write_bytes(b"PK garbage")
    assert "i.npz unreadable" in error(tiny, str(onnx_file), "--input", str(tmp_path / "i.npz"))
    np.savez(tmp_path / "i.npz", events=np.zeros((3, 5)), scale=np.ones(8))
    assert "input events: expected shape" in error(tiny, str(onnx_file), "--input", str(tmp_path / "i.npz"))
    export_model(
        Points(),
        {"image": torch.zeros(1, 3, 64, 64)},
        path=tmp_path / "p.onnx",
        family="points",
        variant="v",
        task="t",
        outputs=[(name, "", "") for name in ("keypoints", "descriptors", "scores", "score_map")],
        checkpoint=CheckpointInfo.random(0),
        progress=False,
    )
    assert f"expected an input events as in {tiny}, found image in" in error(tiny, str(tmp_path / "p.onnx"))
    assert "expected a device cpu" in error(tiny, str(onnx_file), "--device-b", "tpu")
