# SPDX-License-Identifier: Apache-2.0
"""Event encodings: one decoder per encoding, and encoders for replay, conversion and tests.

evt3, evt2 and evt21 are Prophesee's; libcaer and libcaer_cmp come from libcaer_driver; mono is deprecated.
"""

from __future__ import annotations

from aot_runtime.errors import InputError
from f3_ros.events.codecs.base import DecodeCounters, Decoder, EventBuffer, Triggers
from f3_ros.events.codecs.encoders import (
    Evt3Encoder,
    encode_evt2,
    encode_evt3,
    encode_evt21,
    encode_libcaer,
    encode_mono,
)
from f3_ros.events.codecs.evt2 import Evt2Decoder
from f3_ros.events.codecs.evt3 import Evt3Decoder
from f3_ros.events.codecs.evt21 import Evt21Decoder
from f3_ros.events.codecs.libcaer import LibcaerDecoder
from f3_ros.events.codecs.libcaer_cmp import LibcaerCmpDecoder
from f3_ros.events.codecs.mono import MonoDecoder

DECODERS: dict[str, type[Decoder]] = {
    decoder.encoding: decoder
    for decoder in (Evt3Decoder, Evt2Decoder, Evt21Decoder, LibcaerDecoder, LibcaerCmpDecoder, MonoDecoder)
}
ENCODINGS = tuple(DECODERS)


def make_decoder(
    encoding: str, width: int, height: int, *, max_events: int | None = None, order: str = "auto"
) -> Decoder:
    """A new decoder for one stream.

    Args:
        encoding: one of `ENCODINGS`.
        width, height: sensor size in pixels.
        max_events: see `Decoder`.
        order: word order of evt21, see `evt21.py`; the other encodings have only one.
    Raises:
        InputError: unknown encoding.
    """
    if encoding not in DECODERS:
        raise InputError(
            f"expected an event encoding out of {', '.join(ENCODINGS)}, found {encoding!r}",
            "set the camera driver to one of these",
        )
    if encoding == "evt21":
        return Evt21Decoder(width, height, max_events=max_events, order=order)
    return DECODERS[encoding](width, height, max_events=max_events)


__all__ = [
    "DECODERS",
    "ENCODINGS",
    "DecodeCounters",
    "Decoder",
    "EventBuffer",
    "Evt2Decoder",
    "Evt3Decoder",
    "Evt3Encoder",
    "Evt21Decoder",
    "LibcaerCmpDecoder",
    "LibcaerDecoder",
    "MonoDecoder",
    "Triggers",
    "encode_evt2",
    "encode_evt3",
    "encode_evt21",
    "encode_libcaer",
    "encode_mono",
    "make_decoder",
]
