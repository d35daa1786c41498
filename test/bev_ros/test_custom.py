# SPDX-License-Identifier: Apache-2.0
"""Image stages of one's own, eager and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bev_artifacts import tiny_images, tiny_rig

from aot_runtime.errors import InputError
from bev_ros import export_bev
from bev_ros.chain import EagerChain
from bev_ros.config import preset
from bev_ros.custom import load_custom, source_digest
from bev_ros.encoders import make_encoder
from bev_ros.pipeline import BevPipeline


def run(custom: str, **options: Any) -> tuple[np.ndarray, str]:
    """(map, identity) of the eager encoder."""
    config = preset("tiny", custom_encoder=custom, **options)
    rig = tiny_rig()
    with BevPipeline(EagerChain(*make_encoder(config, None))) as pipeline:
        return pipeline.process(tiny_images(rig), rig).features, pipeline.identity


def test_extraction_without_an_export() -> None:
    found, identity = run("bev_custom:Colours")
    further, other = run("bev_custom:Colours", custom_options={"bin": 6})
    assert identity != other
    # Depth bin 2 is 3 m from the camera, bin 6 is 7 m; the camera is 1 m in front of the vehicle's middle.
    for features, metres in ((found, 3), (further, 7)):
        rows, columns = np.nonzero(np.abs(features).max(0))
        front = columns[np.abs(rows - 9.5) < 1]
        assert front.max() == 10 + metres + 1
    # Colours repeat every three channels.
    assert np.array_equal(found[:3], found[3:6])


def test_an_export_computes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "colours.onnx"
    command = ["--preset", "tiny", "--custom-encoder", "bev_custom:Colours", "--random-weights", "-o", str(path)]
    assert export_bev.main([*command, "--runs", "0", "--licence", "mine"]) == 0
    wanted, identity = run("bev_custom:Colours")
    rig = tiny_rig()
    with BevPipeline(path) as pipeline:
        assert pipeline.config.custom_encoder == "bev_custom:Colours"
        assert pipeline.identity != identity
        np.testing.assert_allclose(pipeline.process(tiny_images(rig), rig).features, wanted, atol=1e-5)


def test_weights_of_a_custom_encoder(tmp_path: Path) -> None:
    plain, _ = run("bev_custom:Colours")
    torch.save({"state_dict": {"scale": torch.full((8,), 3.0)}}, tmp_path / "c.pth")
    config = preset("tiny", custom_encoder="bev_custom:Colours")
    encoder, info = make_encoder(config, tmp_path / "c.pth", licence="CC0")
    assert (info.licence, info.is_random) == ("CC0", False)
    rig = tiny_rig()
    with BevPipeline(EagerChain(encoder, info)) as pipeline:
        found = pipeline.process(tiny_images(rig), rig).features
        np.testing.assert_allclose(found, 3 * plain, rtol=1e-5, atol=1e-5)
    torch.save({"number": torch.tensor(2.0)}, tmp_path / "own.pth")
    encoder, info = make_encoder(preset("tiny", custom_encoder="bev_custom:OwnWeights"), tmp_path / "own.pth")
    assert encoder.backbone.scale.tolist() == [2.0] * 8
    assert info.licence == ""


def test_the_source_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    text = (Path(__file__).parents[1] / "support" / "bev_custom.py").read_text()
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "colours_a.py").write_text(text)
    (tmp_path / "colours_b.py").write_text(text + "\n# A change.\n")
    first, second = source_digest("colours_a:Colours"), source_digest("colours_b:Colours")
    assert first != second
    for name in ("colours_a", "colours_b"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent_module:Class", "that can be imported, found ModuleNotFoundError: No module named 'absent_module'"),
        ("bev_custom:Absent", "found AttributeError"),
        ("bev_custom:function", "expected bev_custom:function to be a class, found function"),
        ("bev_custom:NoModule", r"expected bev_custom:NoModule to be a torch.nn.Module, found NoModule"),
        (
            "bev_custom:WrongShape",
            r"expected context of shape \(3, 8, 8, 12\) and a float dtype .* \(3, 7, 8, 12\) float32",
        ),
        ("bev_custom:Alone", "expected depth and context from bev_custom:Alone, found Tensor"),
        ("bev_custom:Failing", "to run on 3 images of 96x64, found ZeroDivisionError: nothing works"),
    ],
)
def test_what_is_wrong_with_a_class_is_told(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_custom(preset("tiny", custom_encoder=name))


def test_unknown_options_are_told() -> None:
    config = preset("tiny", custom_encoder="bev_custom:Colours", custom_options={"colour": 1})
    with pytest.raises(InputError, match=r"to be made from a BevConfig and \{'colour': 1\}, found TypeError"):
        load_custom(config)
