"""Still pictures: bytes in, one checked RGB picture out, in this process.

The content decides what a file is, never its extension. The header is read and the dimensions are checked before a
single pixel is decoded, so that a small file cannot grow to gigabytes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from nearl.data.formats.volume import MIN_SIDE
from nearl.data.records import ImageRecord, base_name
from nearl.errors import NearlError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
READABLE = "PNG, JPEG, TIFF, BMP, WebP and GIF"
MAX_PIXELS = 50_000_000  # 150 MB as RGB (our choice)
MAX_PAGES = 300
MAX_FILM_BYTES = 300_000_000  # all pages together, as numbers (our choice)
MAX_BYTES = 300_000_000  # of the file as it lies on disk (our choice)

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


def decode_picture(source: bytes | Path | str, name: str | None = None, max_side: int | None = None) -> ImageRecord:
    """Decode one PNG, JPEG, TIFF, BMP, WebP or GIF file.

    source: the file's bytes or its path. name: shown instead of the path (its base name). max_side: shrink pictures
    whose longer side is larger, in pixels. Transparent parts become black, the background of most medical pictures;
    16-bit, 32-bit and float grey is stretched from its own 0.5 to 99.5 percentile (both our choice).

    Raises NearlError, one sentence naming the file, for anything that is not such a picture, is cut short, or is
    smaller than 16 pixels a side or larger than 50 megapixels.
    """
    label = base_name(name if name is not None else ("image" if isinstance(source, bytes) else str(source)))
    data = source if isinstance(source, bytes) else read_bytes(Path(source), label)
    kind = _identify(data, label)
    notes: list[str] = []
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(picture, label)
        pixels = _pixels(picture, notes, max_side)
    except (NearlError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit, met before ours
        limit = MAX_PIXELS // 10**6
        raise NearlError(f"{label} says it has far more than {limit} megapixels; save a smaller copy.") from None
    except Exception as error:  # a decoder fed with untrusted bytes can raise anything
        raise NearlError(
            f"{label} looks like a {kind} file but is damaged, cut short or of a rare variety; export it again."
        ) from error
    return ImageRecord.from_pixels(label, pixels, notes)


def decode_pages(data: bytes, name: str, max_side: int | None = None) -> np.ndarray | None:
    """All pages or frames of a TIFF, GIF, WebP or PNG of several: grey numbers [T, 1, H, W] or uint8 [T, 1, H, W, 3].

    None where there is only one, or where they are not alike in size and kind or too many to be one film; then only
    the first is meant. Raises NearlError as decode_picture does.
    """
    kind = _identify(data, name)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(picture, name)
        count = getattr(picture, "n_frames", 1)
        size, mode, shape = picture.size, picture.mode, (picture.height, picture.width)
        if not 1 < count <= MAX_PAGES or count * shape[0] * shape[1] * 4 > MAX_FILM_BYTES:
            return None
        grey = mode in ("L", "I", "F") or mode.startswith("I;16")
        if picture.format == "TIFF" and (picture.tag_v2.get(_PHOTOMETRIC) == 0 or _is_turned(picture)):
            return None
        pages = []
        for page in ImageSequence.Iterator(picture):
            if page.size != size or (grey and page.mode != mode):
                return None
            if not grey:
                page = page.convert("RGBA")
                page = Image.alpha_composite(Image.new("RGBA", page.size, "black"), page).convert("RGB")
            if max_side is not None and max(size) > max_side and not grey:
                page.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            pages.append(np.array(page))
        return np.stack(pages)[:, None]
    except (NearlError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = MAX_PIXELS // 10**6
        raise NearlError(f"{name} says it has far more than {limit} megapixels; save a smaller copy.") from None
    except Exception as error:
        raise NearlError(
            f"{name} looks like a {kind} file but is damaged, cut short or of a rare variety; export it again."
        ) from error


def read_bytes(path: Path, label: str, size: int | None = None) -> bytes:
    """A file's bytes, or its first ``size``. NearlError where it is a folder, missing, too large or locked."""
    try:
        if path.is_dir():
            raise NearlError(f"{label} is a folder, not an image; choose the image files in it.")
        if path.stat().st_size > MAX_BYTES:
            raise NearlError(f"{label} is larger than {MAX_BYTES // 10**6} MB; save a smaller copy.")
        with path.open("rb") as file:
            return file.read() if size is None else file.read(size)
    except FileNotFoundError:
        raise NearlError(f"{label} does not exist; check the path.") from None
    except OSError as error:
        raise NearlError(f"{label} cannot be read ({error.strerror or error}); check its permissions.") from None


def looks_like(head: bytes) -> str:
    """The format's name by a file's first bytes, "" where it is none of these."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), "")


def _identify(data: bytes, label: str) -> str:
    if not data:
        raise NearlError(f"{label} is empty (0 bytes); export or download it again.")
    if len(data) > MAX_BYTES:
        raise NearlError(f"{label} is larger than {MAX_BYTES // 10**6} MB; save a smaller copy.")
    kind = looks_like(data)
    if not kind:
        raise NearlError(f"{label} is not an image that can be read here; use {READABLE}.")
    return kind


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
