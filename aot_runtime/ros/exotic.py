# SPDX-License-Identifier: Apache-2.0
"""Decodes the image encodings that need more than a view: Bayer mosaics, YUV and compressed images.

`cv_bridge` does the work where ROS provides it (a robot has it as an exec_depend), OpenCV elsewhere. Messages are
checked here first, so neither sees data that is too short for its size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aot_runtime.errors import InputError

# OpenCV names a mosaic after the second row's second and third pixel, ROS after the first row's first two.
_BAYER = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}
# Packed 4:2:2: 2 bytes a pixel. Values are OpenCV's names.
_YUV422 = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUY2", "yuyv": "YUY2"}
# Semi-planar 4:2:0: height * 3 / 2 rows of one byte a pixel.
_YUV420 = {"nv12": "NV12", "nv21": "NV21"}
_CV_BRIDGE_KNOWS = ("bayer_", "yuv422")  # in every distro; uyvy and yuyv only since Jazzy


def is_exotic(encoding: str) -> bool:
    """Whether `decode` knows the encoding."""
    return _bayer(encoding) is not None or encoding in _YUV422 or encoding in _YUV420


def _bayer(encoding: str) -> tuple[str, int] | None:
    """(OpenCV's pattern, bytes per element) of "bayer_rggb8" and its kin."""
    for pattern, name in _BAYER.items():
        if encoding == f"bayer_{pattern}8":
            return name, 1
        if encoding == f"bayer_{pattern}16":
            return name, 2
    return None


def _bridge() -> Any | None:
    try:
        from cv_bridge import CvBridge
    except (ImportError, AttributeError):  # AttributeError: a cv_bridge built for another numpy
        return None
    return CvBridge()


def _rows(msg: Any, rows: int, row_bytes: int) -> np.ndarray:
    """The first `row_bytes` of each of `rows` rows, (rows, row_bytes) uint8; checks the sizes."""
    if msg.width == 0 or msg.height == 0:
        raise InputError(f"expected a non-empty image, found {msg.width}x{msg.height}", "repair the publisher")
    if msg.step < row_bytes:
        raise InputError(f"expected step >= {row_bytes} ({msg.width} pixels of {msg.encoding}), found {msg.step}")
    data = np.frombuffer(msg.data, np.uint8)
    if len(data) != msg.step * rows:
        raise InputError(f"expected {msg.step * rows} bytes of data for {msg.encoding}, found {len(data)}")
    return data.reshape(rows, msg.step)[:, :row_bytes]


def decode(msg: Any) -> tuple[np.ndarray, str]:
    """Pixels (height, width, 3) of a Bayer or YUV image, and their plain encoding ("bgr8", or "bgr16" for 16 bits).

    Raises:
        InputError: malformed message, odd size, or neither cv_bridge nor OpenCV is installed.
    """
    encoding, height, width = msg.encoding, int(msg.height), int(msg.width)
    if width % 2 or height % 2:
        raise InputError(f"expected even width and height for {encoding}, found {width}x{height}")
    bayer = _bayer(encoding)
    if bayer is not None:
        rows = _rows(msg, height, width * bayer[1])
    elif encoding in _YUV422:
        rows = _rows(msg, height, width * 2)
    else:
        rows = _rows(msg, height * 3 // 2, width)
    target = "bgr16" if bayer is not None and bayer[1] == 2 else "bgr8"
    bridge = _bridge() if encoding.startswith(_CV_BRIDGE_KNOWS) else None
    if bridge is not None:
        try:
            return np.asarray(bridge.imgmsg_to_cv2(msg, target)), target
        except Exception as error:  # cv_bridge raises its own type, OpenCV's, and plain ValueErrors
            raise InputError(f"cv_bridge could not decode a {width}x{height} {encoding} image: {error}") from error
    cv2 = _opencv()
    if bayer is not None:
        order = ">" if msg.is_bigendian else "<"
        mosaic = np.ascontiguousarray(rows).view(np.dtype(f"{order}u{bayer[1]}")).astype(f"u{bayer[1]}", copy=False)
        return cv2.cvtColor(mosaic, getattr(cv2, f"COLOR_Bayer{bayer[0]}2BGR")), target
    if encoding in _YUV422:
        pairs = np.ascontiguousarray(rows).reshape(height, width, 2)
        return cv2.cvtColor(pairs, getattr(cv2, f"COLOR_YUV2BGR_{_YUV422[encoding]}")), target
    return cv2.cvtColor(np.ascontiguousarray(rows), getattr(cv2, f"COLOR_YUV2BGR_{_YUV420[encoding]}")), target


def decode_compressed(msg: Any) -> tuple[np.ndarray, str]:
    """Pixels of a `sensor_msgs/CompressedImage` (jpeg, png, ...) and their plain encoding.

    Raises:
        InputError: the data is empty or is no image OpenCV reads, or OpenCV is not installed.
    """
    if len(msg.data) == 0:
        raise InputError("expected a compressed image, found no data", "repair the publisher")
    cv2 = _opencv()
    try:
        pixels = cv2.imdecode(np.frombuffer(msg.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"expected a compressed image, found data that OpenCV refuses: {error}") from error
    if pixels is None:
        raise InputError(f"expected a compressed image ('{msg.format}'), found {len(msg.data)} undecodable bytes")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    names = {(1, 1): "mono8", (3, 1): "bgr8", (4, 1): "bgra8", (1, 2): "mono16", (3, 2): "bgr16", (4, 2): "bgra16"}
    name = names.get((channels, pixels.dtype.itemsize)) if pixels.dtype.kind == "u" else None
    if name is None:
        raise InputError(f"expected 8 or 16 bits and 1, 3 or 4 channels, found {pixels.dtype} with {channels}")
    return pixels, name


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            "expected OpenCV for Bayer, YUV and compressed images, found no module cv2",
            "install python3-opencv or cv_bridge",
        ) from error
    return cv2
