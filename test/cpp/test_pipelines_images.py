# SPDX-License-Identifier: Apache-2.0
"""Image messages as C++ and Python read them: the same pixels, the same refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from cpp_programs import find_program, run_json

from aot_runtime.errors import InputError
from aot_runtime.ros.messages import image_to_array, image_view

PLAIN = ("mono8", "mono16", "bgr8", "rgb8", "bgra8", "rgba8", "bgr16", "rgb16", "bgra16", "rgba16")
TYPED = ("8UC1", "8UC", "8UC3", "8UC4", "16UC1", "16SC2", "32SC1", "32FC1", "32FC3", "64FC2", "8SC2", "32FC32")
EXOTIC = (
    *(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)),
    *("yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21"),
)
DTYPES = {"CV_8U": "u1", "CV_8S": "i1", "CV_16U": "u2", "CV_16S": "i2", "CV_32S": "i4", "CV_32F": "f4", "CV_64F": "f8"}
# Bytes of a pixel (of a row of a plane for nv12 and nv21), to make sizes that may fit.
PIXEL_BYTES = {"mono8": 1, "mono16": 2, "bgr8": 3, "rgb8": 3, "bgra8": 4, "rgba8": 4, "bgr16": 6, "rgb16": 6}
PIXEL_BYTES |= {"bgra16": 8, "rgba16": 8, "8UC1": 1, "8UC": 1, "8UC3": 3, "8UC4": 4, "16UC1": 2, "16SC2": 4}
PIXEL_BYTES |= {"32SC1": 4, "32FC1": 4, "32FC3": 12, "64FC2": 16, "8SC2": 2, "32FC32": 128}


def pixel_bytes(encoding: str) -> int:
    if encoding in PIXEL_BYTES:
        return PIXEL_BYTES[encoding]
    return 2 if encoding.endswith("16") or encoding[:2] in ("yu", "uy") else 1


def read(msg: Any, desired: str) -> tuple[np.ndarray | None, str]:
    """Python's pixels, or the words of its refusal."""
    try:
        return (image_to_array(msg, desired) if desired else image_view(msg)), ""
    except InputError as error:
        return None, str(error)


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., tuple[int, int]]:
    """compare([(message, desired)]): both languages give the same pixels or the same words; counts (pixels, errors)."""
    program = find_program("test/images/convert_image")

    def run(cases: list[tuple[Any, str]], *, same_words: bool = True, tolerance: int = 0) -> tuple[int, int]:
        told = []
        for index, (msg, desired) in enumerate(cases):
            file = tmp_path / f"{index}.data"
            file.write_bytes(bytes(msg.data))
            fields = {key: value for key, value in vars(msg).items() if key != "data"}
            told.append({**fields, "file": str(file), "desired": desired})
        results = run_json(program, request={"images": told, "folder": str(tmp_path)})["results"]
        good = 0
        for index, ((msg, desired), found) in enumerate(zip(cases, results, strict=True)):
            expected, error = read(msg, desired)
            if expected is None:
                assert "error" in found, (msg, desired, error)
                assert not same_words or found["error"] == error
                continue
            assert "error" not in found, (msg, desired, found)
            pixels = np.frombuffer((tmp_path / f"{index}.bin").read_bytes(), DTYPES[found["type"]])
            pixels = pixels.reshape(found["shape"])
            wanted = expected if expected.ndim == 3 else expected[:, :, None]
            if tolerance:
                np.testing.assert_allclose(pixels.astype(int), wanted.astype(int), rtol=0, atol=tolerance)
            else:
                np.testing.assert_array_equal(pixels, wanted.astype(wanted.dtype.newbyteorder("=")))
            good += 1
        return good, len(cases) - good

    return run


def message(rng: np.random.Generator, encoding: str, height: int, width: int, *, spare: int = 0, extra: int = 0) -> Any:
    """A message of random pixels; `spare` bytes behind each row, `extra` bytes of data too many."""
    step = width * pixel_bytes(encoding) + spare
    rows = height * 3 // 2 if encoding in ("nv12", "nv21") else height
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=step,
        is_bigendian=bool(rng.integers(2)),
        data=rng.integers(0, 256, max(0, step * rows + extra), np.uint8).tobytes(),
    )


def test_plain_encodings(compare: Callable[..., tuple[int, int]]) -> None:
    rng = np.random.default_rng(1)
    cases = [(message(rng, encoding, 6, 8, spare=spare), "") for encoding in (*PLAIN, *TYPED) for spare in (0, 1, 8)]
    assert compare(cases) == (len(cases), 0)


def test_conversions(compare: Callable[..., tuple[int, int]]) -> None:
    rng = np.random.default_rng(2)
    cases = [
        (message(rng, encoding, 16, 24, spare=spare), desired)
        for encoding in (*PLAIN, *TYPED)
        for desired in ("mono8", "bgr8", "rgb8", "rgba8")
        for spare in (0, 3)
    ]
    good, bad = compare(cases)
    assert good > 80
    assert bad > 50  # 32FC1 and its kin do not become colours


def test_bayer_and_yuv(compare: Callable[..., tuple[int, int]]) -> None:
    rng = np.random.default_rng(3)
    cases = [
        (message(rng, encoding, 16, 24, spare=spare), desired)
        for encoding in EXOTIC
        for desired in ("bgr8", "rgb8", "mono8")
        for spare in (0, 2)
    ]
    assert compare(cases) == (len(cases), 0)


def test_malformed_messages_are_refused_in_the_same_words(compare: Callable[..., tuple[int, int]]) -> None:
    rng = np.random.default_rng(4)
    cases = []
    for _ in range(800):
        encoding = str(rng.choice((*PLAIN, *TYPED, *EXOTIC, "nonsense", "", "8UC0", "mono", "bayer_rggb", "9UC1")))
        size = rng.integers(0, 7, 2)
        msg = message(rng, encoding, *map(int, size), spare=int(rng.integers(-2, 3)), extra=int(rng.integers(-3, 2)))
        msg.step = max(0, msg.step)
        cases.append((msg, str(rng.choice(("", "mono8", "rgb8")))))
    good, bad = compare(cases)
    assert good > 20
    assert bad > 100


def test_compressed_images(compare: Callable[..., tuple[int, int]], shared: Path) -> None:
    image = cv2.imread(str(shared / "data" / "images" / "kitti_000100.png"))[:64, :96]
    deep = image.astype(np.uint16) * 257
    alpha = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)

    def case(pixels: np.ndarray, suffix: str) -> list[tuple[Any, str]]:
        data = cv2.imencode(suffix, pixels)[1].tobytes()
        return [(SimpleNamespace(format=suffix, data=data), desired) for desired in ("rgb8", "bgr8", "mono8")]

    lossless = [item for pixels in (image, deep, alpha, grey) for item in case(pixels, ".png")]
    assert compare(lossless) == (len(lossless), 0)
    # Decoders of JPEG round differently.
    assert compare(case(image, ".jpg"), tolerance=4) == (3, 0)
    wrong = [
        (SimpleNamespace(format="png", data=data), "rgb8") for data in (b"", b"nonsense", lossless[0][0].data[:200])
    ]
    assert compare(wrong, same_words=False) == (0, 3)
