"""Bytes in, one checked RGB picture out: every image the project looks at comes through `decode`.

The content decides what a file is, never its extension. The header is read and the dimensions are checked before a
single pixel is decoded, so that a small file cannot grow to gigabytes.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from nearl.errors import NearlError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
READABLE = "PNG, JPEG, TIFF, BMP, WebP and GIF"
MIN_SIDE = 16  # pixels; below this there is nothing to look at (our choice)
MAX_PIXELS = 50_000_000  # 150 MB as RGB (our choice)
MAX_BYTES = 200_000_000  # of the file as it lies on disk (our choice)

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_ORIENTATION, _PHOTOMETRIC = 0x0112, 262  # EXIF and TIFF tags


class Problem(NamedTuple):
    """One thing that was left out: the file, entry or class, and the whole sentence to show (it repeats the name)."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One decoded picture.

    name: base name of the file, for display. pixels: uint8 [H, W, 3] RGB, read-only. digest: SHA-256 (hex) of shape
    and pixels, so equal pictures share cached features. notes: what decoding had to change, in short sentences.
    """

    name: str
    pixels: np.ndarray = field(repr=False)
    digest: str
    notes: tuple[str, ...] = ()

    @classmethod
    def from_pixels(cls, name: str, pixels: np.ndarray, notes: Iterable[str] = ()) -> ImageRecord:
        """Wrap uint8 [H, W, 3] pixels; they are copied only where they are not contiguous."""
        pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
        pixels.setflags(write=False)
        digest = hashlib.sha256(repr(pixels.shape).encode())
        digest.update(pixels)
        return cls(name, pixels, digest.hexdigest(), tuple(notes))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def image(self) -> Image.Image:
        """A PIL image of mode RGB."""
        return Image.fromarray(self.pixels)


def decode(source: bytes | Path | str, name: str | None = None, max_side: int | None = None) -> ImageRecord:
    """Decode one PNG, JPEG, TIFF, BMP, WebP or GIF file.

    source: the file's bytes or its path. name: shown instead of the path (its base name). max_side: shrink pictures
    whose longer side is larger, in pixels. Transparent parts become black, the background of most medical pictures;
    16-bit, 32-bit and float grey is stretched from its own 0.5 to 99.5 percentile (both our choice).

    Raises NearlError, one sentence naming the file, for anything that is not such a picture, is cut short, or is
    smaller than 16 pixels a side or larger than 50 megapixels.
    """
    label = base_name(name if name is not None else ("image" if isinstance(source, bytes) else str(source)))
    data = source if isinstance(source, bytes) else _read(Path(source), label)
    kind = _identify(data, label)
    notes: list[str] = []
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(picture, label)
        pixels = _pixels(picture, notes, max_side)
    except NearlError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit, met before ours
        limit = MAX_PIXELS // 10**6
        raise NearlError(f"{label} says it has far more than {limit} megapixels; save a smaller copy.") from None
    except Exception as error:  # a decoder fed with untrusted bytes can raise anything
        raise NearlError(
            f"{label} looks like a {kind} file but is damaged, cut short or of a rare variety; export it again."
        ) from error
    return ImageRecord.from_pixels(label, pixels, notes)


def decode_many(
    sources: Iterable[Path | str | tuple[str, bytes]], max_side: int | None = None
) -> tuple[list[ImageRecord], list[Problem]]:
    """Decode every source, a path or (name, bytes), in order; one bad file becomes a Problem and the rest goes on."""
    records, problems = [], []
    for source in sources:
        name, content = source if isinstance(source, tuple) else (str(source), source)
        try:
            records.append(decode(content, name, max_side))
        except NearlError as error:
            problems.append(Problem(base_name(name), str(error)))
    return records, problems


def base_name(name: str) -> str:
    """The last part of a path of either system, without control characters and at most 120 characters long."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return "".join(c for c in last if c.isprintable())[-120:] or "image"


def _read(path: Path, label: str) -> bytes:
    try:
        if path.is_dir():
            raise NearlError(f"{label} is a folder, not an image; choose the image files in it.")
        if path.stat().st_size > MAX_BYTES:
            raise NearlError(f"{label} is larger than {MAX_BYTES // 10**6} MB; save a smaller copy.")
        return path.read_bytes()
    except FileNotFoundError:
        raise NearlError(f"{label} does not exist; check the path.") from None
    except OSError as error:
        raise NearlError(f"{label} cannot be read ({error.strerror or error}); check its permissions.") from None


def _identify(data: bytes, label: str) -> str:
    """The format's name by its first bytes; NearlError where this version does not read it."""
    if not data:
        raise NearlError(f"{label} is empty (0 bytes); export or download it again.")
    if len(data) > MAX_BYTES:
        raise NearlError(f"{label} is larger than {MAX_BYTES // 10**6} MB; save a smaller copy.")
    dicom = data[128:132] == b"DICM"  # first of all: the 128 bytes before it may pose as a TIFF file
    if not dicom and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for signature, kind in _SIGNATURES:
        if not dicom and data.startswith(signature):
            return kind
    head = data[:352]
    if data[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(data[:4096], 352)
        except zlib.error:
            head = b""
    if dicom or data[:4] in (b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x02\x00\x00\x00"):
        medical = "DICOM"
    elif head[344:348] in (b"n+1\0", b"ni1\0") or head[4:7] in (b"n+2", b"ni2"):
        medical = "NIfTI"
    else:
        raise NearlError(f"{label} is not an image that can be read here; use {READABLE}.")
    raise NearlError(f"{label} is a {medical} file, which this version does not read yet; export it as PNG or JPEG.")


def _check_size(picture: Image.Image, label: str) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise NearlError(
            f"{label} says it is {width} x {height} pixels, more than the {MAX_PIXELS // 10**6} megapixels allowed; "
            "save a smaller copy."
        )
    if min(width, height) < MIN_SIDE:
        raise NearlError(
            f"{label} is only {width} x {height} pixels; use a picture of at least {MIN_SIDE} x {MIN_SIDE}."
        )


def _pixels(picture: Image.Image, notes: list[str], max_side: int | None) -> np.ndarray:
    """Decode to uint8 [H, W, 3], upright, and say in `notes` what was changed on the way."""
    turned = _is_turned(picture)
    inverted = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0
    if getattr(picture, "is_animated", False):
        notes.append("Only the first of several frames or pages is used.")
        picture.seek(0)
    picture.load()
    if turned:
        picture = ImageOps.exif_transpose(picture)
        notes.append("Turned upright as its EXIF orientation says.")
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _stretch(picture, inverted, notes)
    elif picture.mode == "CMYK":
        notes.append("Print colours (CMYK) were converted to RGB.")
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            notes.append("Transparent parts are shown on black.")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    picture = picture.convert("RGB")
    if max_side is not None and max(picture.size) > max_side:
        notes.append(f"Shrunk from {picture.width} x {picture.height} pixels.")
        scale = max_side / max(picture.size)
        size = (max(MIN_SIDE, round(picture.width * scale)), max(MIN_SIDE, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.array(picture)


def _is_turned(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # a broken EXIF block does not spoil the picture
        return False


def _stretch(picture: Image.Image, inverted: bool, notes: list[str]) -> Image.Image:
    """Grey deeper than 8 bits -> mode L, by its own range; Pillow alone would clip nearly all of it to white."""
    values = np.asarray(picture).astype(np.float32)
    finite = np.isfinite(values)
    low, high = np.percentile(values[finite], (0.5, 99.5)) if finite.any() else (0.0, 0.0)
    if high <= low and finite.any():  # a few bright pixels on a flat ground
        low, high = values[finite].min(), values[finite].max()
    values = np.clip((np.where(finite, values, low) - low) / max(high - low, 1e-12), 0, 1)
    if inverted:  # Pillow turns "white is zero" TIFFs round for 8 bits only
        values = 1 - values
    notes.append(f"More than 8 bits of grey: values {low:g} to {high:g} were stretched to black to white.")
    return Image.fromarray(np.round(values * 255).astype(np.uint8))
