# SPDX-License-Identifier: Apache-2.0
"""Measures against numbers worked out by hand, warps against geometry, and the command on real images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aliked_ros.evaluate import main
from aliked_ros.evaluation import as_plain, compare_runs, fit_image, read_pairs, summarise
from aliked_ros.metrics import (
    ViewScore,
    angle_between,
    corner_error,
    project,
    recall_area,
    rotation_angle,
    score_views,
)
from aliked_ros.warps import KINDS, Warp, corners_of, draw_warp
from aot_runtime.errors import InputError

SIZE = (100, 200)
# As in test_golden.py, so that the same compiled artifact serves.
CROP = {"height": 120, "width": 160, "top_k": 300, "score_map": True}


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def test_measures_by_hand() -> None:
    # The second view is the first moved right by 20: what lies beyond x = 175 is not seen by both (edge of 4 pixels).
    first = np.array([[10.0, 50], [50, 50], [100, 50], [190, 50]], np.float32)
    second = np.array([[30.5, 50], [72, 50], [130, 50], [10, 50], [90, 90]], np.float32)
    pairs = np.array([0, 1, 2, 3]), np.array([0, 1, 2, 3])
    score = score_views(first, second, pairs, shift(20, 0), 2.5, SIZE)
    # Seen by both: of the first all but (190, 50); of the second all but (10, 50), whose place is x = -10.
    assert score.covisible == (3, 4)
    # Distances to the nearest: 0.5, 2, 10 from the first; 0.5, 2, 10 and far for (90, 90) from the second.
    assert score.repeatability == pytest.approx((2 / 7, 4 / 7, 4 / 7))
    # Errors of the matches: 0.5, 2, 10 and 200.
    assert score.accuracy == pytest.approx((1 / 4, 2 / 4, 2 / 4))
    assert score.matching == pytest.approx((1 / 3.5, 2 / 3.5, 2 / 3.5))
    assert (score.matches, score.corner_error) == (4, 2.5)


def test_no_keypoints_score_nothing() -> None:
    none, index = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    score = score_views(none, none, (index, index), np.eye(3), np.inf, SIZE)
    assert score == ViewScore((0, 0), 0, (0, 0, 0), (0, 0, 0), (0, 0, 0), np.inf)
    some = np.array([[50, 50.0]], np.float32)
    assert score_views(some, none, (index, index), np.eye(3), np.inf, SIZE).repeatability == (0, 0, 0)


def test_corner_errors_and_their_area() -> None:
    assert corner_error(shift(3, 4), np.eye(3), SIZE) == pytest.approx(5)
    assert corner_error(np.eye(3), np.eye(3), SIZE) == 0
    # A homography that sends a corner to infinity.
    assert corner_error(np.array([[1, 0, 0], [0, 1, 0], [-1 / 199, 0, 1]]), np.eye(3), SIZE) == np.inf
    assert recall_area([0, 0, 0], 3) == pytest.approx(1)
    assert recall_area([4, np.inf], 3) == 0
    # Up to 1 the share rises to 1/2 (area 1/4), and stays there up to 3 (area 1): 1.25 of 3.
    assert recall_area([1, 9], 3) == pytest.approx(1.25 / 3)
    assert recall_area([1, 2], 2) == pytest.approx((0.25 + 0.75) / 2)


def test_angles() -> None:
    assert angle_between(np.array([1.0, 0, 0]), np.array([0, 2.0, 0])) == pytest.approx(90)
    for degrees in (0.0, 1e-4, 30.0, 179.0):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        assert rotation_angle(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])) == pytest.approx(degrees, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_warps_come_from_their_seed_and_move_pixels_as_they_say(
    kind: str, read_image: Callable[[str], np.ndarray]
) -> None:
    image = read_image("tum_1311868169.163498.png")
    size = image.shape[:2]
    warp, same, other = draw_warp(kind, size, 5), draw_warp(kind, size, 5), draw_warp(kind, size, 6)
    view = warp.apply(image)
    assert (view.shape, view.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(view, same.apply(image))
    assert (other.apply(image) != view).mean() > 0.1
    corners = project(warp.matrix, corners_of(size))
    if kind == "illumination":
        np.testing.assert_array_equal(warp.matrix, np.eye(3))
        assert (warp.gain, warp.gamma, warp.noise) != (1, 1, 0)
        return
    if kind == "viewpoint":
        inside = np.array([size[1] - 1, size[0] - 1])
        assert (corners >= -1e-3).all()
        assert (corners <= inside + 1e-3).all()
        assert (np.abs(corners - corners_of(size)) <= 0.2 * np.array([size[1], size[0]]) + 1e-3).all()
    else:
        middle = np.array([[(size[1] - 1) / 2, (size[0] - 1) / 2]])
        np.testing.assert_allclose(project(warp.matrix, middle), middle)
    # A white square on black is where the matrix puts it.
    square = np.zeros((*size, 3), np.uint8)
    square[200:221, 400:421] = 255
    bright = warp.apply(square)[:, :, 0].astype(np.float64)
    found = [(bright.sum(axis) * np.arange(bright.shape[1 - axis])).sum() / bright.sum() for axis in (0, 1)]
    np.testing.assert_allclose(found, project(warp.matrix, np.array([[410.0, 210]]))[0], atol=0.1)


def test_rotation_turns_and_scale_grows() -> None:
    turn = draw_warp("rotation", SIZE, 1).matrix[:2, :2]
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-12)
    scales = [draw_warp("scale", SIZE, seed).matrix[0, 0] for seed in range(40)]
    assert 0.5 <= min(scales) < 0.6
    assert 1.7 < max(scales) <= 2
    with pytest.raises(InputError, match="expected a kind of warp viewpoint, rotation, scale, illumination"):
        draw_warp("fisheye", SIZE, 0)
    dark = Warp("illumination", np.eye(3), gain=0.5, gamma=2.0).apply(np.full((2, 2, 3), 128, np.uint8))
    assert (dark == round(255 * 0.5 * (128 / 255) ** 2)).all()


def test_images_are_scaled_to_cover_and_cut() -> None:
    image = np.zeros((100, 400, 3), np.uint8)
    image[:, 200:] = 255
    fitted = fit_image(image, (50, 60))
    assert fitted.shape == (50, 60, 3)
    assert fitted[:, :29].max() == 0
    assert fitted[:, 31:].min() == 255
    np.testing.assert_array_equal(fit_image(image, (100, 400)), image)
    assert fit_image(image, (200, 300)).shape == (200, 300, 3)


def score(error: float, matches: int = 10) -> ViewScore:
    return ViewScore((20, 20), matches, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (0.7, 0.8, 0.9), error)


def test_summary() -> None:
    told = summarise([score(0.5), score(4, 20), score(np.inf, 0)])
    assert told["matches"] == 10
    assert told["repeatability @3px"] == pytest.approx(0.2)
    assert told["MMA @1px"] == pytest.approx(0.4)
    assert told["matching score @5px"] == pytest.approx(0.9)
    assert [told[f"homography accuracy @{t}px"] for t in (1, 3, 5)] == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert told["corner error, median px"] == 4
    assert told["homography AUC @1px"] == pytest.approx(recall_area([0.5, 4, np.inf], 1))


def test_harm_is_what_exceeds_the_spread() -> None:
    reference = [{"matches": 10.0, "corner error, px": 1.0}, {"matches": 14.0, "corner error, px": 1.2}]

    def harmed(*rows: dict[str, float]) -> list[bool]:
        return [row.harmed for row in compare_runs("task", reference, list(rows))]

    assert harmed(*reference) == [False, False]
    # The spreads are 2.83 and 0.141. More matches and less error do no harm.
    assert harmed({"matches": 8, "corner error, px": 1.1}, {"matches": 12, "corner error, px": 1.3}) == [False, False]
    assert harmed({"matches": 7, "corner error, px": 1.2}, {"matches": 11, "corner error, px": 1.4}) == [True, True]
    assert harmed({"matches": 99, "corner error, px": 0.1}, {"matches": 99, "corner error, px": 0.1}) == [False, False]
    row = compare_runs(
        "task", reference, [{"matches": 7, "corner error, px": 1}, {"matches": 13, "corner error, px": 1}]
    )[0]
    assert (row.reference, row.value, row.difference) == (12, 10, -2)
    assert (row.spread, row.difference_spread) == (pytest.approx(8**0.5), pytest.approx(2**0.5))
    lost = compare_runs("t", [{"corner error": 1.0}] * 2, [{"corner error": np.inf}] * 2)[0]
    assert as_plain({"a": [lost.value, 1.0]}) == {"a": [None, 1.0]}
    with pytest.raises(InputError, match="expected two or more seeds"):
        compare_runs("task", reference[:1], reference[:1])


@pytest.fixture
def weights(shared: Path) -> list[str]:
    return ["-m", "t16", "-c", str(shared / "weights" / "aliked" / "aliked-t16.pth"), "--top_k", "300"]


@pytest.fixture
def pair_file(shared: Path, tmp_path: Path) -> list[str]:
    images = ["data/multiview/redwood_rgbd/00000.jpg", "data/multiview/redwood_rgbd/00002.jpg"]
    listed = [{"name": "room", "images": images, "intrinsics": [525, 525, 319.5, 239.5]}]
    (tmp_path / "pairs.json").write_text(json.dumps(listed))
    return ["--pairs", str(tmp_path / "pairs.json"), "--root", str(shared)]


def test_half_precision_harms_nothing(
    shared: Path, weights: list[str], pair_file: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(shared / "data" / "images" / "tum_1311868169.163498.png")
    files = ["--json", str(tmp_path / "e.json"), "--markdown", str(tmp_path / "e.md")]
    small = ["--width", "320", "--height", "240", "--seeds", "2", "--kinds", "viewpoint", "illumination"]
    assert main([image, *weights, *small, *pair_file, *files]) == 0
    told = json.loads((tmp_path / "e.json").read_text())
    assert told["reference"] == "aliked-t16 fp32, PyTorch"
    assert told["environment"]["command"].startswith("evaluate_keypoints ")
    rows = {(row["task"], row["measure"]): row for row in told["comparisons"]["aliked-t16 fp16, PyTorch"]}
    assert {task for task, _ in rows} == {"warps: viewpoint", "warps: illumination", "warps: all", "pair: room"}
    for (task, measure), row in rows.items():
        if measure.startswith(("repeatability", "MMA", "matching score")):
            assert abs(row["difference"]) < 0.02, (task, measure)
    assert rows["warps: all", "MMA @3px"]["reference"] > 0.9
    assert rows["warps: all", "matches"]["reference"] > 100
    assert rows["pair: room", "pose inliers"]["reference"] > 50
    text = (tmp_path / "e.md").read_text()
    assert "| warps: all | MMA @3px | 0.9" in text
    assert capsys.readouterr().out.strip() == text.strip()


def test_a_network_with_few_keypoints_is_harmed(
    shared: Path, weights: list[str], aliked_artifact: Callable[..., Path], tmp_path: Path
) -> None:
    """The measures can fail: an artifact with a third of the keypoints has fewer matches beyond any spread."""
    small = aliked_artifact("t16", **CROP)
    crop = str(shared / "golden" / "aliked" / "crop160x120.png")
    command = [
        crop,
        *weights,
        "--top_k",
        "1000",
        "--precisions",
        "fp32",
        "--artifacts",
        str(small),
        "--width",
        "160",
        "--height",
        "120",
    ]
    command += ["--seeds", "2", "--kinds", "illumination", "--json", str(tmp_path / "e.json")]
    assert main([*command, "--fail-if-harmed"]) == 1
    (rows,) = json.loads((tmp_path / "e.json").read_text())["comparisons"].values()
    assert next(row for row in rows if row["measure"] == "matches")["harmed"]
    assert main(command) == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "expected images to warp or --pairs FILE, found neither"),
        (["IMAGE", "--seeds", "1"], "expected two or more --seeds"),
        (["IMAGE", "--precisions", "fp32"], "expected two or more networks, found 1"),
        (["absent.png"], "expected images or a bag, found nothing at absent.png"),
        (["--pairs", "absent.json"], "expected a JSON list of pairs"),
        (["IMAGE", "--artifacts", "absent.pt2"], "REFUSE"),
        (["IMAGE", "-m", "n32"], "expected weights of aliked-n32"),
        (["IMAGE", "--width", "16", "--height", "16"], "expected an image from 32x32 pixels"),
    ],
)
def test_mistakes_are_exit_code_2_and_one_sentence(
    options: list[str], reason: str, shared: Path, weights: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    crop = str(shared / "golden" / "aliked" / "crop160x120.png")
    assert main([*weights, *(crop if option == "IMAGE" else option for option in options)]) == 2
    assert f"error: {reason}" in capsys.readouterr().err


def test_an_artifact_of_another_size_is_refused(
    shared: Path, weights: list[str], aliked_artifact: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    small = aliked_artifact("t16", **CROP)
    crop = str(shared / "golden" / "aliked" / "crop160x120.png")
    assert main([crop, *weights, "--artifacts", str(small)]) == 2
    assert "expected an artifact for images of 640x480, found one for 160x120" in capsys.readouterr().err


@pytest.mark.parametrize(
    "listed", ["{", '{"name": 1}', '[{"name": "a"}]', '[{"name": "a", "images": ["x.png"]}]', "[3]"]
)
def test_malformed_pairs(listed: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text(listed)
    with pytest.raises(InputError, match=r"expected (a JSON list of pairs|an image).*pairs.json|x\.png"):
        read_pairs(tmp_path / "pairs.json", tmp_path)


def test_the_pairs_of_the_benchmark(shared: Path) -> None:
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "aliked_pairs.json"
    pairs = read_pairs(file, shared / "data")
    assert [pair.name.split()[0] for pair in pairs] == ["Piazza", "KITTI", "TUM", "Redwood"]
    assert [pair.camera is None for pair in pairs] == [True, False, False, False]
    pose = pairs[-1].pose
    assert pose is not None
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.linalg.norm(pose[:3, 3]) == pytest.approx(0.098, abs=0.001)
