"""What a compressed image says of itself, which is believed over the DICOM header around it.

Only the first markers are read, nothing is decoded: JPEG and JPEG-LS (ISO 10918-1, 14495-1) up to the frame header,
JPEG 2000 (ISO 15444-1) up to the coding style.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB, YBR = "RGB", "YBR"
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of a frame header; F7 is that of JPEG-LS
LOSSLESS, LS = 0xC3, 0xF7
BARE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


@dataclass(frozen=True)
class Codestream:
    """The frame header of a compressed image."""

    process: int  # the second byte of JPEG's frame marker; 0 for JPEG 2000
    rows: int
    columns: int
    samples: int
    bits: int  # of a sample
    colour: str = ""  # RGB or YBR where its own markers say so; "" where they do not

    @property
    def family(self) -> str:
        """ "JPEG" (lossy), "JPEG Lossless", "JPEG-LS" or "JPEG 2000"."""
        return {0: "JPEG 2000", LOSSLESS: "JPEG Lossless", LS: "JPEG-LS"}.get(self.process, "JPEG")

    @property
    def baseline(self) -> bool:
        """Whether it is a lossy JPEG of 8 bits, which every JPEG decoder reads."""
        return self.process in (0xC0, 0xC1, 0xC2) and self.bits == 8

    @property
    def deep(self) -> bool:
        """Whether it is a lossy JPEG of grey in 12 bits."""
        return self.process in (0xC1, 0xC2) and self.bits == 12 and self.samples == 1


def look(data: bytes) -> Codestream | None:
    """What a codestream says of itself; None where it is not JPEG, JPEG-LS or JPEG 2000, or is cut short before."""
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    at = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # bare, or in the boxes of a JP2 file
    return _jpeg2000(data[at:]) if at >= 0 else None


def _jpeg(data: bytes) -> Codestream | None:
    at, jfif, adobe = 2, False, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker in BARE:
            at += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + size]
        if marker == 0xE0 and body[:5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif marker in FRAMES:
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                return None
            parts = body[6 : 6 + 3 * body[5] : 3]
            return Codestream(
                marker,
                int.from_bytes(body[1:3], "big"),
                int.from_bytes(body[3:5], "big"),
                body[5],
                body[0],
                _colour(jfif, adobe, parts, marker) if len(parts) == 3 else "",
            )
        elif marker in (0xDA, 0xD9):
            return None
        at += 2 + max(size, 2)
    return None


def _colour(jfif: bool, adobe: int | None, parts: bytes, process: int) -> str:
    """The colour space by the rules of libjpeg: JFIF, then Adobe's marker, then the names of the components."""
    if process == LS:  # has no colour spaces
        return ""
    if jfif:
        return YBR
    if adobe is not None:
        return RGB if adobe == 0 else YBR
    if parts == b"RGB":
        return RGB
    return "" if process == LOSSLESS else YBR


def _jpeg2000(data: bytes) -> Codestream | None:
    if len(data) < 43:
        return None
    right, bottom, left, top = (int.from_bytes(data[8 + 4 * i : 12 + 4 * i], "big") for i in range(4))
    samples = int.from_bytes(data[40:42], "big")
    at, colour = 4 + int.from_bytes(data[4:6], "big"), ""
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0x90, 0x93, 0xD9):
        if data[at + 1] == 0x52 and len(data) > at + 8 and samples == 3 and data[at + 8]:
            colour = RGB  # the decoder undoes the transform of the colours
            break
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
    return Codestream(0, bottom - top, right - left, samples, (data[42] & 0x7F) + 1, colour)
