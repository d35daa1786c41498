# SPDX-License-Identifier: Apache-2.0
"""The reference encoder (golden/bev/lss_tiny_*) through compiled artifacts, with either index rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.compiled_model import load_model

# See test_model.py.
FLOAT32 = 1e-6


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_one_artifact_for_both_rules(lss_golden: Any, lss_artifact: Callable[[str], Path], suffix: str) -> None:
    with load_model(lss_artifact(suffix)) as model:
        names = [spec.name for spec in model.manifest.inputs]
        planes = suffix == ".onnx"
        assert names == ["images", "cameras", *(["planes"] if planes else ["ranks_feat", "ranks_depth", "offsets"])]
        for rule in ("trunc", "floor"):
            inputs = dict(zip(names, lss_golden.inputs(rule, planes=planes)))
            found = model.run(**inputs)["bev"]
            wanted = lss_golden.case[f"bev_{rule}_float64"]
            assert float((found - wanted).abs().max() / wanted.abs().max()) < FLOAT32
        # The rules differ: which one counts lies in the tables.
        both = [lss_golden.case[f"bev_{rule}_float64"] for rule in ("trunc", "floor")]
        assert float((both[0] - both[1]).abs().max() / both[0].abs().max()) > 0.1


def test_the_manifest_tells_everything(lss_golden: Any, lss_artifact: Callable[[str], Path]) -> None:
    from aot_runtime.checkpoint import state_digest
    from aot_runtime.verdict import read_manifest
    from bev_ros.config import BevConfig

    manifest = read_manifest(lss_artifact(".pt2"))
    told = dict(manifest.preprocessing)
    assert (manifest.family, manifest.variant, manifest.task) == ("bev", "lss_tiny", "bev_features")
    assert manifest.checkpoint.licence == "MIT"
    assert BevConfig.from_json(told.pop("config")) == lss_golden.config
    assert told.pop("weights") == state_digest(lss_golden.encoder().state_dict())
    assert told.pop("resize").startswith("Pillow's bicubic")
    assert told.pop("axes").startswith("rows are y, growing to the left")
    assert told.pop("float32")[2] == "pooling"
    assert told == {
        "part": "fused",
        "input": "rgb_cameras",
        "colour_order": "RGB",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "range": [0, 255],
        "cells": "tables",
        "kernel": False,
        "axis_order": "C,Y,X",
        "float32_error": None,
    }
    dims = {dim.name: (dim.min, dim.max) for dim in manifest.dims}
    assert dims == {"points": (2, 3 * 14 * 16 * 24)}
    assert [(spec.name, spec.dtype, spec.shape) for spec in (*manifest.inputs, *manifest.outputs)] == [
        ("images", "float32", (3, 3, 64, 96)),
        ("cameras", "float32", (3, 27)),
        ("ranks_feat", "int32", ("points",)),
        ("ranks_depth", "int32", ("points",)),
        ("offsets", "int32", (30 * 40 + 2,)),
        ("bev", "float32", (8, 30, 40)),
    ]


def test_the_volume_is_in_no_graph(lss_golden: Any, lss_artifact: Callable[[str], Path]) -> None:
    import onnx

    case = lss_golden.case
    volume = case["depth"].numel() * case["context"].shape[1]
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(lss_artifact(".onnx")))).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    assert len(sizes) > 100
    counts = {math.prod(shape) for shape in sizes.values()}
    # A plane of it is there, 14 times.
    assert volume // 14 in counts
    assert volume not in counts
