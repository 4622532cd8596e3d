"""Small files that keep a decoder busy for long, made byte by byte: what a format lets be repeated, repeated."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, RLELossless

from tests.support.hostile import saved
from tests.support.scans import dataset, nifti, written

SIDE = 20
GREY = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 200


def _chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_empty_chunks(count: int = 1_500_000) -> bytes:
    plain = saved(Image.fromarray(GREY), "PNG")
    return plain[:33] + _chunk(b"abCd") * count + plain[33:]


def png_late_chunks(count: int = 1_500_000) -> bytes:
    """The same, between the image and the end."""
    plain = saved(Image.fromarray(GREY), "PNG")
    return plain[:-12] + _chunk(b"abCd") * count + plain[-12:]


def png_text_chunks(count: int = 60) -> bytes:
    """Texts that unpack to a megabyte each."""
    plain = saved(Image.fromarray(GREY), "PNG")
    packed = zlib.compress(bytes(1_000_000), 9)
    return plain[:33] + b"".join(_chunk(b"zTXt", b"k%d\0\0" % i + packed) for i in range(count)) + plain[33:]


def _gif() -> tuple[bytes, bytes]:
    """(header and palette, one image) of a GIF."""
    plain = saved(Image.fromarray(GREY), "GIF")
    start = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:start], plain[start:-1]


def gif_comments(size: int = 6_000_000) -> bytes:
    header, image = _gif()
    comment = b"\x21\xfe" + (b"\xff" + b"c" * 255) * (size // 256) + b"\0"
    return header + comment + image + b"\x3b"


def gif_frames(count: int = 500_000) -> bytes:
    """Very many images of one pixel, on a larger screen."""
    header, _ = _gif()
    return header + (b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x08\x02\x00\x01\x00") * count + b"\x3b"


def jpeg_empty_markers(count: int = 1_500_000) -> bytes:
    plain = saved(Image.fromarray(GREY), "JPEG")
    return plain[:2] + b"\xff\xe5\x00\x02" * count + plain[2:]


def jpeg_scans(count: int = 2000, side: int = 2000) -> bytes:
    """A progressive image whose first scan is there again and again."""
    plain = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    first = plain.index(b"\xff\xda")
    second = plain.index(b"\xff\xc4", first)
    return plain[:first] + plain[first:second] * count + plain[second:]


def tiff_directories(count: int = 400_000) -> bytes:
    """A chain of directories that all describe the same small image."""
    plain = saved(Image.fromarray(GREY), "TIFF")
    (at,) = struct.unpack_from("<I", plain, 4)
    (entries,) = struct.unpack_from("<H", plain, at)
    directory = plain[at : at + 2 + 12 * entries]
    out = bytearray(plain + b"\0" * (len(plain) % 2))
    struct.pack_into("<I", out, at + 2 + 12 * entries, len(out))
    size = len(directory) + 4
    for number in range(count):
        out += directory + struct.pack("<I", len(out) + size if number + 1 < count else 0)
    return bytes(out)


def bmp_runs(side: int = 1700) -> bytes:
    """Run-length coded, every pixel a run of its own."""
    body = (b"\x01\x07" * side + b"\0\0") * side + b"\0\1"
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(body), 0, 0, 54 + 1024) + header + palette + body


def _before_pixels(extra: bytes, syntax: str | None = None) -> bytes:
    """A sound DICOM file with more elements before its pixels."""
    plain = written(dataset(GREY))
    at = plain.index(b"\xe0\x7f\x10\x00")
    data = plain[:at] + extra + plain[at:]
    if syntax is None:
        return data
    begin = data.index(b"\x08\x00\x16\x00")
    ds = dataset(GREY)
    meta = written(ds, "1.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(data[begin:]) + packer.flush()
    return meta[: 132 + 12 + struct.unpack_from("<I", meta, 140)[0]] + packed


ITEM, ITEM_END, SEQUENCE_END = (bytes.fromhex(h) for h in ("feff00e0ffffffff", "feff0de000000000", "feffdde000000000"))
SEQUENCE = b"\x09\x70\x01\x00SQ\0\0\xff\xff\xff\xff"


def dicom_items(count: int = 200_000) -> bytes:
    return _before_pixels(SEQUENCE + (ITEM + ITEM_END) * count + SEQUENCE_END)


def dicom_deep(depth: int = 100_000) -> bytes:
    return _before_pixels((SEQUENCE + ITEM) * depth + (ITEM_END + SEQUENCE_END) * depth)


def dicom_elements(count: int = 600_000) -> bytes:
    elements = b"".join(struct.pack("<HH2sH", 0x7101 + 2 * (i >> 15), i & 0x7FFF, b"CS", 0) for i in range(count))
    return _before_pixels(elements)


def dicom_deflated(count: int = 200_000) -> bytes:
    return _before_pixels(SEQUENCE + (ITEM + ITEM_END) * count + SEQUENCE_END, "deflated")


def dicom_frames(count: int = 100_000) -> bytes:
    """Very many frames, each packed alone."""
    ds = dataset(GREY)
    ds.compress(RLELossless)
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds = dataset(GREY[None], NumberOfFrames=count)
    ds.PixelData = encapsulate([frame] * count, has_bot=False)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = RLELossless
    return written(ds)


def dicom_jpeg2000(side: int = 1500) -> bytes:
    """JPEG 2000 in very small tiles."""
    picture = np.zeros((side, side), np.uint8)
    code = saved(Image.fromarray(picture), "JPEG2000", irreversible=False, no_jp2=True, tile_size=(8, 8))
    ds = dataset(picture)
    ds.PixelData = encapsulate([code])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90")
    return written(ds)


def nifti_members(count: int = 400_000) -> bytes:
    """Packed in members of which nearly all are empty."""
    volume = nifti(np.zeros((SIDE, SIDE, 4), np.int16), np.eye(4))
    empty = gzip.compress(b"", mtime=0)
    return gzip.compress(volume[:400], mtime=0) + empty * count + gzip.compress(volume[400:], mtime=0)


def webp_frames(count: int = 3000) -> bytes:
    frames = [Image.new("RGB", (SIDE, SIDE), (i % 200, 0, 0)) for i in range(2)]
    return saved(frames[0], "WEBP", save_all=True, append_images=[frames[i % 2] for i in range(1, count)])


def _named(*made: Callable[[], bytes]) -> dict[str, Callable[[], bytes]]:
    return {function.__name__.replace("_", " "): function for function in made}


SLOW = _named(bmp_runs, dicom_items, dicom_elements, dicom_deflated, dicom_frames, dicom_jpeg2000, nifti_members)
CROWDED = _named(  # would be, but are recognised by their many parts
    png_empty_chunks, png_late_chunks, gif_comments, gif_frames, jpeg_empty_markers, jpeg_scans, tiff_directories
)
QUICK = _named(png_text_chunks, webp_frames, dicom_deep)  # look alike, but are not slow
