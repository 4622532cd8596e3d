"""Still images with very many nearly empty parts, found by walking the parts before a decoder does.

Decoders spend microseconds on each part, or copy all earlier ones again, so that a small file of them takes minutes.
All limits are our choice, far beyond what programs write. A file that is cut short is left to its decoder.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

MOST_PARTS = 20_000  # chunks of less than TINY bytes, frames, extensions, directories
TINY = 64
MOST_MARKERS = 2_000  # of a JPEG, before its image
MOST_SCANS = 200
MOST_COMMENT = 1_000_000  # bytes of extensions of a GIF


def is_crowded(kind: str, data: bytes) -> bool:
    """Whether a file of this kind, a key of `pictures.PICTURES`, has far more parts than an image needs."""
    walk = _WALKS.get(kind)
    try:
        return walk is not None and walk(data)
    except (IndexError, struct.error):
        return False


def _png(data: bytes) -> bool:
    at, tiny = 8, 0
    while at < len(data) and tiny <= MOST_PARTS and data[at + 4 : at + 8] != b"IEND":
        (size,) = struct.unpack_from(">I", data, at)
        at, tiny = at + 12 + size, tiny + (size < TINY)
    return tiny > MOST_PARTS


def _jpeg(data: bytes) -> bool:
    at, markers = 2, 0
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        padded = data[at + 1] == 0xFF
        at, markers = at + 1 if padded else at + 2 + struct.unpack_from(">H", data, at + 2)[0], markers + 1
        if markers > MOST_MARKERS:
            return True
    return data.count(b"\xff\xda", at, data.find(b"\xff\xd9", at)) > MOST_SCANS


def _gif(data: bytes) -> bool:
    at, parts, comment = 13 + _palette(data[10]), 0, 0
    while data[at] != 0x3B:
        parts += 1
        image = data[at] == 0x2C
        at += 11 + _palette(data[at + 9]) if image else 2
        begin = at
        while size := data[at]:
            at += 1 + size
        at += 1
        comment += 0 if image else at - begin
        if parts > MOST_PARTS or comment > MOST_COMMENT:
            return True
    return False


def _palette(flags: int) -> int:
    """Bytes of the palette that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _tiff(data: bytes) -> bool:
    order, large = "<" if data[:1] == b"I" else ">", 43 in data[2:4]
    count, offset, entry = ("Q", "Q", 20) if large else ("H", "I", 12)
    (at,) = struct.unpack_from(order + offset, data, 8 if large else 4)
    for _ in range(MOST_PARTS):
        if not at:
            return False
        (entries,) = struct.unpack_from(order + count, data, at)
        (at,) = struct.unpack_from(order + offset, data, at + struct.calcsize(count) + entry * entries)
    return True


_WALKS: dict[str, Callable[[bytes], bool]] = {"PNG": _png, "JPEG": _jpeg, "GIF": _gif, "TIFF": _tiff}
