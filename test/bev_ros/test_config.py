# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.errors import InputError
from bev_ros.config import PRESETS, BevConfig, preset
from bev_ros.encoders import read_config
from bev_ros.grid import BevGrid


@pytest.mark.parametrize("name", PRESETS)
def test_configurations_survive_json(name: str) -> None:
    config = preset(name, custom_options={"a": [1, 2]})
    assert BevConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_the_published_sizes() -> None:
    config = preset("bevdepth-r50-256x704")
    assert (config.frustum.bins, config.frustum.size, config.shape) == (112, (16, 44), (80, 128, 128))
    assert (config.order, config.grid.rule, config.lifted_points) == ("bgr", "trunc", 473_088)
    config = preset("agentformer")
    assert (config.frustum.bins, config.shape) == (28, (256, 100, 100))
    staged = preset("bevdepth-r50-256x704", bev_stage="resnet18")
    assert (staged.pooled_channels, staged.shape) == (80, (256, 128, 128))


def test_heights_are_channels_where_they_are_kept() -> None:
    grid = BevGrid((-8.0, 8.0, 1.0), (-4.0, 4.0, 1.0), (-3.0, 3.0, 2.0))
    config = preset("tiny", grid=grid, keep_z=True)
    assert (config.map_shape, config.cells, config.shape) == ((3, 8, 16), 384, (24, 8, 16))
    assert replace(config, keep_z=False).shape == (8, 8, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg"}, "expected backbone resnet10, .* found 'vgg'"),
        ({"neck": "pan"}, "expected neck fpn, second_fpn, found 'pan'"),
        ({"head": "x"}, "expected head lss, bevdepth, found 'x'"),
        ({"bev_stage": "unet"}, "expected BEV stage none, resnet18, found 'unet'"),
        ({"stride": 12}, "expected stride 4, 8, 16, 32, found 12"),
        ({"order": "gbr"}, "expected order of channels rgb, bgr, found 'gbr'"),
        ({"pixels": "edges"}, "expected pixel rule corners, centres, found 'edges'"),
        ({"cameras": 0}, "expected cameras from 1, found 0"),
        ({"sweeps": 0}, "expected sweeps from 1, found 0"),
        ({"sweeps": 2, "keep_z": True}, "expected heights apart or several sweeps, found keep_z and 2 sweeps"),
        ({"channels": -1}, "expected channels from 1, found -1"),
        ({"image": (64, 100)}, "expected a stride that divides the image's height and width, found stride 8"),
        ({"depth": (0.0, 10.0, 1.0)}, "expected depth from above 0"),
        ({"depth": (1.0, 10.0, 2.0)}, "a multiple of the step"),
        ({"use_da": True, "head": "lss"}, "expected use_da with the head bevdepth, found it with lss"),
        ({"neck": "second_fpn", "neck_channels": 18}, "expected neck_channels in fours"),
        ({"custom_encoder": "mymodule"}, "expected a custom encoder as module:Class, found 'mymodule'"),
        ({"bev_stage": "resnet18"}, "expected whole 8s of cells with a BEV stage, found 20 x 20"),
    ],
)
def test_what_is_impossible_is_refused_at_once(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        preset("tiny", **changes)


def test_unknown_presets_and_malformed_json_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a preset of bevdepth-r50-256x704, agentformer, tiny, found 'x'"):
        preset("x")
    told = preset("tiny").to_json()
    for change, message in (
        ({"colour": 1}, "expected the fields of a BEV encoder, found colour in x.json"),
        ({"cameras": "3"}, "cameras is '3'"),
        ({"grid": None}, "expected a grid with x, y, z and rule, found None"),
        ({"image": 5}, r"expected an image \(height, width\), found 5"),
        ({"use_da": 1}, "use_da is 1"),
        ({"custom_options": [1]}, "custom_options is"),
    ):
        with pytest.raises(InputError, match=message):
            BevConfig.from_json({**told, **change}, "x.json")
    del told["depth"]
    with pytest.raises(InputError, match="depth"):
        BevConfig.from_json(told)


def test_configurations_from_files(tmp_path: Path) -> None:
    file = tmp_path / "encoder.yaml"
    file.write_text("preset: tiny\nname: mine\ncameras: 2\ngrid: {x: [-4, 4, 1], y: [-4, 4, 1], z: [-5, 5, 10]}\n")
    config = read_config(file)
    assert config == preset("tiny", name="mine", cameras=2, grid=BevGrid((-4, 4, 1), (-4, 4, 1), (-5, 5, 10), "trunc"))
    whole = tmp_path / "encoder.json"
    whole.write_text(json.dumps(config.to_json()))
    assert read_config(whole) == config
    for name, text, message in (
        ("a.json", "{", "expected a readable configuration"),
        ("a.yaml", "a: [", "expected a readable configuration"),
        ("a.yaml", "[1]", "expected the fields of a BEV encoder, found list"),
        ("a.txt", "{}", "expected a configuration .json, .yaml or .yml"),
        ("a.yaml", "preset: x", "expected a preset of"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_config(tmp_path / name)
    with pytest.raises(InputError, match=r"expected a readable configuration, found .*absent"):
        read_config(tmp_path / "absent.json")
