# SPDX-License-Identifier: Apache-2.0
"""Checks ROS messages and turns images into numpy arrays and back.

The plain encodings become views of the message's own memory that honour `step` and byte order; the exotic ones (Bayer,
YUV, compressed) are decoded by `exotic.py`. Whatever is wrong with a message is an `InputError` that says what was
expected and what was found; nothing here raises anything else on malformed data.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aot_runtime.errors import InputError
from aot_runtime.ros import exotic
from aot_runtime.transforms import to_matrix

if TYPE_CHECKING:  # messages of a bag are decoded here without ROS too
    from builtin_interfaces.msg import Time
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

NS_PER_S = 1_000_000_000
_MAX_STAMP_NS = 2**31 * NS_PER_S - 1
_NAMED = {
    "mono8": ("u1", 1),
    "mono16": ("u2", 1),
    "bgr8": ("u1", 3),
    "rgb8": ("u1", 3),
    "bgra8": ("u1", 4),
    "rgba8": ("u1", 4),
    "bgr16": ("u2", 3),
    "rgb16": ("u2", 3),
    "bgra16": ("u2", 4),
    "rgba16": ("u2", 4),
}
_TYPED = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)C([1-9]\d{0,3})?")
_KINDS = {"8U": "u1", "8S": "i1", "16U": "u2", "16S": "i2", "32S": "i4", "32F": "f4", "64F": "f8"}


@dataclass(frozen=True)
class PixelFormat:
    """What an encoding string means: the element type (native byte order) and the channels of a pixel."""

    dtype: np.dtype
    channels: int

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel."""
        return int(self.dtype.itemsize * self.channels)


def pixel_format(encoding: str) -> PixelFormat | None:
    """The pixel format of a plain encoding (mono8 ... rgba16, 8UCn ... 64FCn), or None for any other."""
    if encoding in _NAMED:
        kind, channels = _NAMED[encoding]
        return PixelFormat(np.dtype(kind), channels)
    match = _TYPED.fullmatch(encoding)
    if match is None:
        return None
    return PixelFormat(np.dtype(_KINDS[match[1]]), int(match[2] or 1))


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds since the epoch of a message stamp.

    Raises:
        InputError: nanosec is a second or more.
    """
    if not 0 <= stamp.nanosec < NS_PER_S:
        raise InputError(f"expected a stamp with nanosec below 1e9, found {stamp.nanosec}", "repair the publisher")
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def ns_to_stamp(ns: int) -> Time:
    """The message stamp of a time in nanoseconds since the epoch.

    Raises:
        InputError: the time does not fit a stamp (before 1970, or 2038 and later).
    """
    if not 0 <= ns <= _MAX_STAMP_NS:
        raise InputError(f"expected a time of 0 to 2^31 s since the epoch, found {ns} ns", "check the clocks")
    from builtin_interfaces.msg import Time

    return Time(sec=int(ns // NS_PER_S), nanosec=int(ns % NS_PER_S))


def transform_entries(msg: Any) -> Iterable[tuple[str, str, np.ndarray, int]]:
    """Parent, child, matrix parent <- child and stamp [ns] of each transform in a TFMessage (of rclpy or of rosbags).

    Raises:
        InputError: while it yields, at one that is malformed.
    """
    for one in msg.transforms:
        shift, turn = one.transform.translation, one.transform.rotation
        matrix = to_matrix((shift.x, shift.y, shift.z), (turn.x, turn.y, turn.z, turn.w))
        yield one.header.frame_id, one.child_frame_id, matrix, stamp_to_ns(one.header.stamp)


def payload_view(data: Any) -> np.ndarray:
    """A uint8 view of a message's `uint8[]` field (array.array, bytes or ndarray), without a copy."""
    if isinstance(data, np.ndarray):
        return data.reshape(-1).view(np.uint8)
    if len(data) == 0:
        return np.zeros(0, np.uint8)
    try:
        return np.frombuffer(data, np.uint8)
    except (TypeError, ValueError):
        return np.asarray(data, np.uint8)  # a plain list, as hand-made messages have


def image_view(msg: Image, *, allow_nan: bool = True) -> np.ndarray:
    """The pixels of a plainly encoded image as a view of the message's memory.

    Args:
        msg: `sensor_msgs/Image` in a plain encoding (see `pixel_format`).
        allow_nan: whether float images may hold NaN or infinity (REP-117 uses them for "invalid").

    Returns:
        (height, width) for one channel, else (height, width, channels); strided if rows are padded, in the byte order
        of the message. It shares memory with `msg.data` (a copy is made only where rows start off the element grid).

    Raises:
        InputError: encoding unknown, zero size, step too small, data size other than step * height, NaN.
    """
    form = pixel_format(msg.encoding)
    if form is None:
        raise InputError(
            f"expected a plain image encoding, found '{msg.encoding}'",
            "publish mono8, bgr8, rgb8, 16UC1, 32FC1 or another of sensor_msgs/image_encodings",
        )
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height == 0 or width == 0:
        raise InputError(f"expected a non-empty image, found {width}x{height}", "repair the publisher")
    row_bytes = width * form.pixel_bytes
    if step < row_bytes:
        raise InputError(
            f"expected step >= {row_bytes} ({width} pixels of {msg.encoding}), found {step}",
            "set step to the bytes of one row",
        )
    data = payload_view(msg.data)
    if len(data) != step * height:
        raise InputError(
            f"expected {step * height} bytes of data (step {step} x height {height}), found {len(data)}",
            "fill data with step * height bytes",
        )
    dtype = form.dtype.newbyteorder(">" if msg.is_bigendian else "<")
    if step % form.dtype.itemsize:
        rows = np.ascontiguousarray(data.reshape(height, step)[:, :row_bytes])
        pixels = rows.view(dtype).reshape(height, width, form.channels)
    else:
        pixels = np.ndarray(
            (height, width, form.channels),
            dtype,
            data,
            strides=(step, form.pixel_bytes, form.dtype.itemsize),
        )
    if not allow_nan and form.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"expected finite pixels in a {msg.encoding} image, found NaN or infinity")
    return np.asarray(pixels[:, :, 0] if form.channels == 1 else pixels)


def image_to_array(msg: Any, desired: str | None = None, *, allow_nan: bool = True) -> np.ndarray:
    """The pixels of any image message, in the encoding one asks for.

    This is the one place that decides who decodes: our own views for the plain encodings; for Bayer, YUV and
    CompressedImage `cv_bridge` where ROS provides it, OpenCV elsewhere.

    Args:
        msg: `sensor_msgs/Image` or `sensor_msgs/CompressedImage`.
        desired: None (as it comes; exotic encodings become bgr8, bgr16, mono8 or mono16), "mono8", "bgr8" or "rgb8".
        allow_nan: see `image_view`.

    Returns:
        (height, width) or (height, width, channels). As it comes: a view in the message's byte order; with `desired`:
        native byte order, uint8, perhaps still a view of the message.

    Raises:
        InputError: malformed message, unknown encoding, or no conversion to `desired`.
    """
    if hasattr(msg, "format"):
        pixels, encoding = exotic.decode_compressed(msg)
    elif pixel_format(msg.encoding) is not None:
        pixels, encoding = image_view(msg, allow_nan=allow_nan), msg.encoding
    elif exotic.is_exotic(msg.encoding):
        pixels, encoding = exotic.decode(msg)
    else:
        raise InputError(
            f"expected an encoding of sensor_msgs/image_encodings, found '{msg.encoding}'",
            "publish mono8, bgr8, rgb8, a Bayer, YUV or typed (32FC1) encoding",
        )
    return pixels if desired is None else _convert(pixels, encoding, desired)


_LAYOUT = {"8UC1": "mono8", "8UC": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16", "16UC": "mono16"}


def _convert(pixels: np.ndarray, encoding: str, desired: str) -> np.ndarray:
    """Reorders channels and reduces 16 to 8 bits; `pixels` has the layout of the plain `encoding`."""
    source = _LAYOUT.get(encoding, encoding)
    if desired not in ("mono8", "bgr8", "rgb8") or source not in _NAMED:
        raise InputError(f"expected an image that converts to {desired}, found encoding '{encoding}'")
    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> 8).astype(np.uint8)
    order = source.rstrip("0123456789")
    if order == "mono":
        return pixels if desired == "mono8" else np.repeat(pixels[:, :, None], 3, axis=2)
    if desired == "mono8":
        import cv2

        code = cv2.COLOR_BGR2GRAY if order.startswith("bgr") else cv2.COLOR_RGB2GRAY
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels[:, :, :3]), code))
    if order[:3] == desired[:3]:
        return pixels[:, :, :3]
    return np.ascontiguousarray(pixels[:, :, 2::-1])


def to_image(array: np.ndarray, encoding: str, header: Header | None = None) -> Image:
    """An image message with a copy of an array.

    Args:
        array: (height, width) or (height, width, channels), any strides; its dtype must be that of the encoding.
        encoding: a plain encoding, e.g. "bgr8" or "32FC32".
        header: stamp and frame; shared, not copied.

    Raises:
        InputError: encoding not plain, or shape or dtype does not fit it.
    """
    form = pixel_format(encoding)
    if form is None:
        raise InputError(f"expected a plain image encoding, found '{encoding}'")
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if channels != form.channels or array.size == 0:
        raise InputError(f"expected a non-empty (H, W, {form.channels}) array for {encoding}, found {array.shape}")
    if array.dtype != form.dtype:
        raise InputError(f"expected {form.dtype} pixels for {encoding}, found {array.dtype}")
    from sensor_msgs.msg import Image

    pixels = np.ascontiguousarray(array, dtype=form.dtype)
    msg = Image()
    if header is not None:
        msg.header = header
    msg.height, msg.width = pixels.shape[:2]
    msg.encoding = encoding
    msg.is_bigendian = int(sys.byteorder == "big")
    msg.step = msg.width * form.pixel_bytes
    # frombytes on the existing array.array is one memcpy; assigning an ndarray goes element by element.
    msg.data.frombytes(pixels.reshape(-1).view(np.uint8).data)
    return msg
