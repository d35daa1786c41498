# SPDX-License-Identifier: Apache-2.0
"""What --format, --precision and the options of engines mean for an export command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from aot_runtime.errors import ExportError, InputError
from aot_runtime.formats import (
    PRECISION_OF_AUTOCAST,
    add_format_arguments,
    choose_device,
    choose_precision,
    output_path,
    read_engine_options,
)

DEFAULT = "model_aoti.pt2"


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--autocast", choices=tuple(PRECISION_OF_AUTOCAST), default="None")
    add_format_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("name", "wanted", "file"),
    [
        (DEFAULT, None, "model_aoti.pt2"),
        (DEFAULT, "onnx", "model_aoti.onnx"),
        (DEFAULT, "engine", "model_aoti.engine"),
        ("a.engine", None, "a.engine"),
        ("folder/a.onnx", "onnx", "folder/a.onnx"),
        ("v1.0", "onnx", "v1.0.onnx"),
        ("v1.0", None, "v1.0.pt2"),
    ],
)
def test_the_suffix_follows_the_format(name: str, wanted: str | None, file: str) -> None:
    assert output_path(name, DEFAULT, wanted) == Path(file)


def test_a_suffix_of_another_format_is_refused() -> None:
    with pytest.raises(InputError, match=r"ends in \.onnx for --format onnx, found a\.pt2"):
        output_path("a.pt2", DEFAULT, "onnx")


@pytest.mark.parametrize(
    ("arguments", "file", "precision"),
    [
        ([], "a.pt2", "fp32"),
        (["--autocast", "bfloat16"], "a.pt2", "bf16"),
        (["--autocast", "float16"], "a.onnx", "fp16"),
        (["--precision", "bf16"], "a.engine", "bf16"),
        (["--precision", "int8"], "a.engine", "int8"),
        (["--precision", "fp16", "--autocast", "float16"], "a.pt2", "fp16"),
    ],
)
def test_the_precision(arguments: list[str], file: str, precision: str) -> None:
    assert choose_precision(parse(*arguments), Path(file)) == precision


@pytest.mark.parametrize(
    ("arguments", "file", "message"),
    [
        (["--precision", "int8"], "a.pt2", "--precision int8 for engines only, found a.pt2; add --format engine"),
        (["--precision", "fp8"], "a.onnx", "--precision fp8 for engines only"),
        (["--autocast", "bfloat16"], "a.onnx", "found bfloat16 for a.onnx; export float32; build_engine --precision"),
        (["--precision", "fp16", "--autocast", "bfloat16"], "a.pt2", "found bfloat16 and fp16; give one"),
    ],
)
def test_precisions_that_a_file_cannot_have(arguments: list[str], file: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        choose_precision(parse(*arguments), Path(file))
    assert message in str(raised.value)


def test_options_of_engines_reach_the_build() -> None:
    given = ["--target", "sm_120", "--calib-data", "frames", "--shapes", "n=1:2:3", "--keep-onnx", "a.onnx"]
    options = read_engine_options(parse(*given, "--opt-level", "0"), Path("a.engine"))
    assert options is not None
    assert (options.target, options.calib_data, options.sizes) == ("sm_120", "frames", {"n": (1, 2, 3)})
    assert (options.keep_onnx, options.optimization_level) == ("a.onnx", 0)
    with pytest.raises(ExportError, match="--calib-batches >= 1"):
        read_engine_options(parse("--calib-batches", "0"), Path("a.engine"))


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--target", "sm_89"], "--target"),
        (["--calib-data", "x"], "--calib-data"),
        (["--opt-level", "0"], "--opt-level"),
        (["--shapes", "n=1:2:3"], "--shapes"),
        (["--keep-onnx", "x.onnx"], "--keep-onnx"),
    ],
)
@pytest.mark.parametrize("file", ["a.pt2", "a.onnx"])
def test_options_of_engines_are_refused_elsewhere(arguments: list[str], flag: str, file: str) -> None:
    assert read_engine_options(parse(), Path(file)) is None
    with pytest.raises(InputError, match=f"expected {flag} for engines only, found it for {file}; add --format engine"):
        read_engine_options(parse(*arguments), Path(file))


def test_only_a_package_is_made_on_the_gpu_unasked(monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    made = {file: choose_device(None, Path(file)) for file in ("a.pt2", "a.onnx", "a.engine")}
    assert made == {"a.pt2": "cuda", "a.onnx": "cpu", "a.engine": "cpu"}
    assert choose_device("cuda:1", Path("a.onnx")) == "cuda:1"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device(None, Path("a.pt2")) == "cpu"
