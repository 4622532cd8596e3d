"""What a TIFF says of its numbers, for a sentence about a variety that Pillow does not read. Nothing is decoded."""

from __future__ import annotations

import struct

BITS, COMPRESSION, SAMPLES, PLANAR, FORMAT = 258, 259, 277, 284, 339  # tags
SIZES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # types of whole numbers
KINDS = {1: "whole numbers", 2: "signed whole numbers", 3: "floating-point numbers", 5: "complex numbers",
         6: "complex numbers"}  # fmt: skip
PACKED = {34887: "LERC", 34892: "lossy DNG JPEG", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
          33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 22610: "JPEG XR", 34934: "JPEG XR"}  # fmt: skip
MAX_FIELDS, MAX_VALUES = 500, 16


def fields(data: bytes) -> dict[int, tuple[int, ...]]:
    """The whole numbers of a TIFF's first directory, by tag; empty where it cannot be read."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        found, at, length = {}, start + (8 if big else 2), 20 if big else 12
        for _ in range(min(count, MAX_FIELDS)):
            tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
            if kind in SIZES and 0 < number <= MAX_VALUES:
                layout, value = f"{order}{number}{SIZES[kind]}", at + (12 if big else 8)
                if struct.calcsize(layout) > (8 if big else 4):
                    (value,) = struct.unpack_from(order + ("Q" if big else "I"), data, value)
                found[tag] = struct.unpack_from(layout, data, value)
            at += length
    except struct.error:
        return {}
    return found


def misread(data: bytes) -> bool:
    """Whether Pillow would open the file but take its numbers for others: signed ones of 8 bits, and deep colours,
    plane by plane, not packed."""
    found = fields(data)
    return _is_signed_byte(found) or _in_planes(found)


def _is_signed_byte(found: dict[int, tuple[int, ...]]) -> bool:
    return found.get(FORMAT, (1,))[0] == 2 and max(found.get(BITS, (1,))) == 8


def _in_planes(found: dict[int, tuple[int, ...]]) -> bool:
    return (
        found.get(PLANAR) == (2,) and max(found.get(BITS, (8,))) > 8
        and found.get(COMPRESSION, (1,)) == (1,) and found.get(SAMPLES, (1,))[0] > 1
    )  # fmt: skip


def refusal(data: bytes, name: str) -> str:
    """What a TIFF is that is not read, and what to save instead; "" where it says nothing unusual."""
    found = fields(data)
    bits, kind = found.get(BITS, (1,)), found.get(FORMAT, (1,))[0]
    packed = PACKED.get(found.get(COMPRESSION, (1,))[0], "")
    samples = found.get(SAMPLES, (1,))[0]
    usual = max(bits) == 32 if kind == 3 else kind in (1, 2) and max(bits) in (1, 2, 4, 8, 16, 32)
    if not found or (usual and not packed and samples in (1, 3, 4) and not misread(data)):
        return ""
    words = f"{max(bits)}-bit {KINDS.get(kind, 'numbers of an unknown kind')}"
    words += f" in {samples} channels" if samples not in (1, 3) else ""
    words += ", plane by plane" if _in_planes(found) else ""
    words += f", packed as {packed}" if packed else ""
    return (
        f"{name} is a TIFF of {words}, which is not read here; save it as 32-bit floating-point or 16-bit grey, or as "
        "8-bit colour."
    )
