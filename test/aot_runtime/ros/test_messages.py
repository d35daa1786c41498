# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs", reason="the ROS messages are not installed")

from sensor_msgs.msg import CompressedImage, Image

from aot_runtime.errors import InputError
from aot_runtime.ros.messages import (
    image_to_array,
    image_view,
    ns_to_stamp,
    payload_view,
    pixel_format,
    stamp_to_ns,
    to_image,
)

PLAIN = ["mono8", "mono16", "bgr8", "rgb8", "bgra8", "rgba8", "8UC1", "8SC2", "16UC3", "16SC1", "32SC4", "32FC1"]
PLAIN += ["32FC32", "64FC1", "bgr16", "rgba16", "32FC"]


def padded(encoding: str, height: int, width: int, pad: int, big: bool) -> tuple[Image, np.ndarray]:
    """A message whose rows end in `pad` bytes of 0xAB, and the pixels it means."""
    form = pixel_format(encoding)
    assert form is not None
    rng = np.random.default_rng(height * 100 + width)
    pixels = rng.integers(0, 100, (height, width, form.channels)).astype(form.dtype)
    row = np.full((height, width * form.pixel_bytes + pad), 0xAB, np.uint8)
    wire = pixels.astype(form.dtype.newbyteorder(">" if big else "<"))
    row[:, : width * form.pixel_bytes] = wire.reshape(height, -1).view(np.uint8)
    msg = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=row.shape[1])
    msg.data.frombytes(row.tobytes())
    return msg, pixels[:, :, 0] if form.channels == 1 else pixels


@pytest.mark.parametrize("encoding", PLAIN)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 8])
def test_view_honours_step_and_byte_order(encoding: str, big: bool, pad: int) -> None:
    msg, pixels = padded(encoding, 5, 7, pad, big)
    view = image_view(msg)
    np.testing.assert_array_equal(view, pixels)
    form = pixel_format(encoding)
    assert form is not None
    if pad % form.dtype.itemsize == 0:
        assert np.shares_memory(view, payload_view(msg.data))


@pytest.mark.parametrize("encoding", PLAIN)
def test_to_image_and_back(encoding: str) -> None:
    _, pixels = padded(encoding, 4, 3, 0, False)
    back = image_view(to_image(pixels[::-1], encoding))  # also from a strided array
    np.testing.assert_array_equal(back, pixels[::-1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "bgr9"}, "expected a plain image encoding, found 'bgr9'"),
        ({"encoding": "32FC0"}, "found '32FC0'"),
        ({"height": 0}, "non-empty image, found 7x0"),
        ({"width": 0}, "non-empty image, found 0x5"),
        ({"step": 20}, r"expected step >= 21 \(7 pixels of bgr8\), found 20"),
        ({"step": 22}, "expected 110 bytes of data .* found 105"),
        ({"data": array.array("B", bytes(104))}, "expected 105 bytes of data .* found 104"),
        ({"data": array.array("B")}, "found 0"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "expected step"),
    ],
)
def test_malformed_images_are_refused_with_a_reason(change: dict, reason: str) -> None:
    msg, _ = padded("bgr8", 5, 7, 0, False)
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(InputError, match=reason):
        image_view(msg)


def test_nan_is_refused_only_where_asked() -> None:
    msg = to_image(np.array([[1.0, np.nan]], np.float32), "32FC1")
    assert np.isnan(image_view(msg)[0, 1])
    with pytest.raises(InputError, match="finite"):
        image_view(msg, allow_nan=False)


@pytest.mark.parametrize(
    ("array_", "encoding", "reason"),
    [
        (np.zeros((2, 2), np.uint8), "32FC1", "expected float32"),
        (np.zeros((2, 2), np.uint8), "bgr8", r"\(H, W, 3\)"),
        (np.zeros((0, 2), np.uint8), "mono8", "non-empty"),
        (np.zeros((2,), np.uint8), "mono8", "non-empty"),
        (np.zeros((2, 2), np.uint8), "bayer_rggb8", "plain"),
    ],
)
def test_to_image_refuses_what_does_not_fit(array_: np.ndarray, encoding: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        to_image(array_, encoding)


@given(
    encoding=st.one_of(st.sampled_from(PLAIN + ["bayer_rggb8", "yuv422", "nv12", "bayer_gbrg16"]), st.text(max_size=8)),
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 80),
    data=st.binary(max_size=400),
    big=st.integers(0, 255),
    desired=st.sampled_from([None, "mono8", "bgr8", "rgb8"]),
)
@settings(max_examples=400, deadline=None)
def test_random_images_give_an_array_or_an_input_error(
    encoding: str, height: int, width: int, step: int, data: bytes, big: int, desired: str | None
) -> None:
    try:
        msg = Image(height=height, width=width, step=step, is_bigendian=big)
        msg.encoding = encoding
        msg.data = array.array("B", data)
        pixels = image_to_array(msg, desired)
    except InputError:
        return
    assert pixels.shape[:2] == (height, width)


@given(data=st.binary(max_size=300), name=st.sampled_from(["jpeg", "png", ""]))
@settings(max_examples=100, deadline=None)
def test_random_compressed_images_give_an_array_or_an_input_error(data: bytes, name: str) -> None:
    msg = CompressedImage(format=name, data=array.array("B", data))
    with contextlib.suppress(InputError):
        assert image_to_array(msg, "bgr8").ndim == 3


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_of_one_colour_comes_out_in_that_colour(pattern: str, bits: int) -> None:
    value = {"r": 200, "g": 120, "b": 40}
    scale = 1 if bits == 8 else 256
    tile = np.array([value[c] for c in pattern]).reshape(2, 2) * scale
    mosaic = np.tile(tile, (4, 6)).astype(f"u{bits // 8}")
    msg = to_image(mosaic, "mono8" if bits == 8 else "mono16")
    msg.encoding = f"bayer_{pattern}{bits}"
    bgr = image_to_array(msg)
    assert bgr.shape == (8, 12, 3)
    np.testing.assert_array_equal(bgr[3, 4], np.array([40, 120, 200]) * scale)
    np.testing.assert_array_equal(image_to_array(msg, "rgb8")[3, 4], [200, 120, 40])


@pytest.mark.parametrize(("encoding", "luma"), [("yuv422", 1), ("uyvy", 1), ("yuv422_yuy2", 0), ("yuyv", 0)])
def test_packed_yuv_honours_step(encoding: str, luma: int) -> None:
    rows = np.full((4, 6, 2), 128, np.uint8)
    rows[:, :, luma] = 16 + 219 // 2
    msg = Image(height=4, width=6, encoding=encoding, step=15)
    msg.data.frombytes(np.pad(rows.reshape(4, 12), ((0, 0), (0, 3))).tobytes())
    bgr = image_to_array(msg)
    assert bgr.shape == (4, 6, 3)
    assert np.ptp(bgr) <= 1
    assert abs(int(bgr[0, 0, 0]) - 127) <= 2


def test_nv12_and_odd_sizes() -> None:
    msg = Image(height=4, width=6, encoding="nv12", step=6)
    msg.data.frombytes(bytes([235] * 24 + [128] * 12))
    assert (image_to_array(msg) >= 254).all()
    msg.height = 3
    with pytest.raises(InputError, match="even width and height"):
        image_to_array(msg)


def test_compressed_png_keeps_its_pixels() -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    msg = CompressedImage(format="png", data=array.array("B", cv2.imencode(".png", pixels)[1].tobytes()))
    np.testing.assert_array_equal(image_to_array(msg), pixels)
    np.testing.assert_array_equal(image_to_array(msg, "rgb8"), pixels[:, :, ::-1])


def test_conversions_between_plain_encodings() -> None:
    rgba = np.array([[[10, 20, 30, 255]]], np.uint8)
    np.testing.assert_array_equal(image_to_array(to_image(rgba, "rgba8"), "bgr8"), [[[30, 20, 10]]])
    np.testing.assert_array_equal(image_to_array(to_image(rgba, "rgba8"), "rgb8"), [[[10, 20, 30]]])
    grey = to_image(np.array([[0x1234]], np.uint16), "mono16")
    np.testing.assert_array_equal(image_to_array(grey, "mono8"), [[0x12]])
    np.testing.assert_array_equal(image_to_array(grey, "rgb8"), [[[0x12] * 3]])
    with pytest.raises(InputError, match="converts to bgr8"):
        image_to_array(to_image(np.zeros((1, 1), np.float32), "32FC1"), "bgr8")


def test_stamps() -> None:
    assert stamp_to_ns(ns_to_stamp(1_700_000_000_123_456_789)) == 1_700_000_000_123_456_789
    for bad in (-1, 2**31 * 10**9):
        with pytest.raises(InputError, match="expected a time"):
            ns_to_stamp(bad)
    stamp = ns_to_stamp(0)
    stamp.nanosec = 10**9
    with pytest.raises(InputError, match="nanosec below 1e9"):
        stamp_to_ns(stamp)


def test_payload_view_shares_memory() -> None:
    data = array.array("B", [1, 2, 3])
    view = payload_view(data)
    data[0] = 9
    assert view.tolist() == [9, 2, 3]
    assert payload_view(array.array("B")).shape == (0,)
    assert payload_view([4, 5]).tolist() == [4, 5]
