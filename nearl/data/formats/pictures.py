"""Still images and films of them: PNG, JPEG, TIFF, BMP, WebP and GIF (Pillow).

The header is read and the dimensions are checked before any pixel is decoded, so that a small file cannot grow to
gigabytes.
"""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from nearl.data.formats import tiff
from nearl.data.formats.base import MAX_BYTES, Format
from nearl.data.formats.crowds import is_crowded
from nearl.data.formats.drafts import Draft
from nearl.data.formats.volume import MIN_SIDE
from nearl.errors import NearlError

MAX_PIXELS = 50_000_000  # 150 MB as RGB (our choice)
MAX_PAGES = 300
MAX_FILM_BYTES = 300_000_000  # all pages together, as numbers (our choice)
PNG_HEADER = slice(16, 29)  # width, height, depth, kind of colour and three more
_ORIENTATION, _PHOTOMETRIC, _PALETTE = 0x0112, 262, 320  # EXIF and TIFF tags
_DARK = 16  # of 255; an image without a brighter value is called nearly black (our choice)
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}  # to read the low byte of 16 bits

T = TypeVar("T")


class Picture(Format):
    """One kind of still image. signatures: what its files begin with. pages: whether a file may hold several images."""

    def __init__(self, kind: str, *signatures: bytes, pages: bool = False):
        self.kind, self.signatures, self.pages = kind, signatures, pages

    def sniff(self, head: bytes, name: str) -> bool:
        return head.startswith(self.signatures)

    def read(self, data: bytes, name: str, max_side: int | None = None) -> Draft:
        """A film where the file holds several pages or frames of one size and kind, else a still image."""
        film = _opened(data, name, self.kind, lambda image: _pages(image, max_side)) if self.pages else None
        if film is None:
            return Draft.picture(name, *decode_pixels(data, name, max_side))
        meta = {"facts": {"format": self.kind, "frames": len(film)}, "notes": []}
        if film.dtype == np.uint8 and film.ndim == 4:
            meta["full_range"] = 255.0
        return Draft.scan(name, film.shape, film.dtype, [film], **meta)


class _WebP(Picture):
    def sniff(self, head: bytes, name: str) -> bool:
        return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


PICTURES: dict[str, Picture] = {
    picture.kind: picture
    for picture in (
        Picture("PNG", b"\x89PNG\r\n\x1a\n", pages=True),
        Picture("JPEG", b"\xff\xd8\xff"),
        Picture("TIFF", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+", pages=True),
        Picture("BMP", b"BM"),
        _WebP("WebP", pages=True),
        Picture("GIF", b"GIF87a", b"GIF89a", pages=True),
    )
}
READABLE = "PNG, JPEG, TIFF, BMP, WebP and GIF"


def decode_pixels(data: bytes, name: str, max_side: int | None = None) -> tuple[np.ndarray, list[str]]:
    """(uint8 [H, W, 3], notes) of one PNG, JPEG, TIFF, BMP, WebP or GIF file, of several pages the first.

    max_side: images with a longer side are shrunk, in pixels. Transparent parts become black, the background of most
    medical images; 16-bit, 32-bit and float grey is stretched from its own 0.5 to 99.5 percentile (both our choice).

    Raises NearlError, one sentence naming the file, for anything that is not such an image, is cut short, or is smaller
    than 16 pixels a side or larger than 50 megapixels.
    """
    if not data:
        raise NearlError(f"{name} is empty (0 bytes); export or download it again.")
    if len(data) > MAX_BYTES:
        raise NearlError(f"{name} is larger than {MAX_BYTES // 10**6} MB; save a smaller copy.")
    kind = next((picture.kind for picture in PICTURES.values() if picture.sniff(data[:16], name)), None)
    if kind is None:
        raise NearlError(f"{name} is not an image that can be read here; use {READABLE}.")
    notes: list[str] = []
    return _opened(data, name, kind, lambda image: _pixels(image, notes, max_side)), notes


def _opened(data: bytes, name: str, kind: str, take: Callable[[Image.Image], T]) -> T:
    """What `take` makes of the opened file. NearlError, naming it, for whatever Pillow cannot digest."""
    why = tiff.refusal(data, name) if kind == "TIFF" else ""
    try:
        if why and tiff.misread(data):
            raise NearlError(why)
        if is_crowded(kind, data):
            raise NearlError(f"{name} is made of far more parts than an image needs; export it again.")
        image = Image.open(io.BytesIO(data), formats=[kind.upper() for kind in PICTURES])
        _check_size(image, name)
        _mend_palette(image)
        return take(image)
    except (NearlError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit, met before ours
        limit = MAX_PIXELS // 10**6
        raise NearlError(f"{name} says it has far more than {limit} megapixels; save a smaller copy.") from None
    except Exception as error:  # a decoder fed with untrusted bytes can raise anything
        damaged = f"{name} looks like a {kind} file but is damaged, cut short or of a rare variety; export it again."
        raise NearlError(why or damaged) from error


def _pages(image: Image.Image, max_side: int | None) -> np.ndarray | None:
    """All pages or frames: grey numbers [T, 1, H, W] or uint8 [T, 1, H, W, 3].

    None where there is only one, or where they differ in size or kind or are too many to be one film.
    """
    count = getattr(image, "n_frames", 1)
    size, mode = image.size, image.mode
    if not 1 < count <= MAX_PAGES or count * size[0] * size[1] * 4 > MAX_FILM_BYTES:
        return None
    grey = mode in ("L", "I", "F") or mode.startswith("I;16")
    if image.format == "TIFF" and (image.tag_v2.get(_PHOTOMETRIC) == 0 or _is_turned(image)):
        return None
    pages = []
    for page in ImageSequence.Iterator(image):
        if page.size != size or (grey and page.mode != mode):
            return None
        if not grey:
            _mend_palette(page)
            page = _on_black(page.convert("RGBA"))
            if max_side is not None and max(size) > max_side:
                page.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        pages.append(np.array(page))
    return np.stack(pages)[:, None]


def _on_black(image: Image.Image) -> Image.Image:
    """An RGBA image on a black background, as RGB."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise NearlError(
            f"{name} says it is {width} x {height} pixels, more than the {MAX_PIXELS // 10**6} megapixels allowed; "
            "save a smaller copy."
        )
    if min(width, height) < MIN_SIDE:
        raise NearlError(f"{name} is only {width} x {height} pixels; use an image of at least {MIN_SIDE} x {MIN_SIDE}.")


def _pixels(image: Image.Image, notes: list[str], max_side: int | None) -> np.ndarray:
    """Decode to uint8 [H, W, 3], upright, and say in `notes` what was changed on the way."""
    low, grey = _low_bytes(image), _grey_beside_alpha(image)  # before anything that loads it, such as its EXIF block
    turned = _is_turned(image)
    inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
    if getattr(image, "is_animated", False):
        notes.append("Only the first of several frames or pages is used.")
        image.seek(0)
    image.load()
    if low is not None:
        _brighten(image, low, notes)
    if grey is not None:
        alpha = image.getchannel("A")
        seen = np.asarray(alpha) > 0
        shown = _stretch(grey, notes, grey[seen] if seen.any() else grey)
        image.paste(Image.merge("LA", (shown, alpha)).convert(image.mode))
    if turned:
        image = ImageOps.exif_transpose(image)
        notes.append("Turned upright as its EXIF orientation says.")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _stretch(_numbers(image), notes, inverted=inverted)
    elif image.mode == "CMYK":
        notes.append("Print colours (CMYK) were converted to RGB.")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("Transparent parts are shown on black.")
        image = _on_black(image)
    image = image.convert("RGB")
    if max_side is not None and max(image.size) > max_side:
        notes.append(f"Shrunk from {image.width} x {image.height} pixels.")
        scale = max_side / max(image.size)
        size = (max(MIN_SIDE, round(image.width * scale)), max(MIN_SIDE, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    pixels = np.array(image)
    if 0 < (most := int(pixels.max())) < _DARK:
        notes.append(f"The image is nearly black: its brightest value is {most} of 255. Is it a mask?")
    return pixels


def _mend_palette(image: Image.Image) -> None:
    """Take the colour table of a TIFF for 8 bits where none of its entries needs more, as other readers do, in place:
    of the 16 bits that it should have, Pillow takes the upper ones, and all would be black."""
    entries = image.tag_v2.get(_PALETTE, ()) if image.format == "TIFF" and image.mode == "P" else ()
    if 0 < max(entries, default=0) < 256:
        count = len(entries) // 3
        image.putpalette(bytes(entries[c * count + i] for i in range(count) for c in range(3)))


def _low_bytes(image: Image.Image) -> np.ndarray | None:
    """The lower halves of colours of 16 bits, uint8 [H, W, 3 or 4], which Pillow leaves out; None for other images.

    The file is read once more as if its numbers began with their other byte.
    """
    tiles = list(image.tile)
    modes = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in tiles if tile[3]}
    mode = modes.pop() if len(modes) == 1 else ""
    if image.mode not in ("RGB", "RGBA") or mode[:-1] != f"{image.mode};16" or not hasattr(image.fp, "getvalue"):
        return None
    swapped = mode[:-1] + _SWAPPED[mode[-1]]
    with Image.open(io.BytesIO(image.fp.getvalue()), formats=[image.format]) as other:
        for number, tile in enumerate(tiles):
            args = swapped if isinstance(tile[3], str) else (swapped, *tile[3][1:])
            other.tile[number] = tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)
        other.load()
        return np.array(other)


def _brighten(image: Image.Image, low: np.ndarray, notes: list[str]) -> None:
    """Colours of 16 bits that use 15 or fewer, in place: the largest number of as many bits becomes white."""
    values = np.asarray(image).astype(np.uint16) << 8 | low
    most = int(values[..., :3].max())
    if not 0 < most < 2**15:
        return
    values = values.astype(np.float64)
    values[..., :3] *= 255 / max(2 ** most.bit_length() - 1, 255)
    values[..., 3:] /= 257
    image.paste(Image.fromarray(np.clip(values.round(), 0, 255).astype(np.uint8)))
    notes.append(
        f"The colours use {max(most.bit_length(), 8)} of 16 bits (up to {most}); they were stretched to white."
    )


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # a broken EXIF block does not spoil the image
        return False


def _grey_beside_alpha(image: Image.Image) -> np.ndarray | None:
    """The greys of a PNG of 16-bit grey and alpha, uint16 [H, W], of which Pillow keeps 8 bits; None for other images.

    The file is read once more as one of 8-bit RGBA, whose pixels have as many bytes.
    """
    depth, kind = PNG_HEADER.start + 8, PNG_HEADER.start + 9
    data = image.fp.getvalue() if image.format == "PNG" and hasattr(image.fp, "getvalue") else b""
    if data[depth : kind + 1] != b"\x10\x04" or data[PNG_HEADER.start - 4 : PNG_HEADER.start] != b"IHDR":
        return None
    other = bytearray(data)
    other[depth : kind + 1] = b"\x08\x06"
    other[PNG_HEADER.stop : PNG_HEADER.stop + 4] = zlib.crc32(b"IHDR" + other[PNG_HEADER]).to_bytes(4, "big")
    with Image.open(io.BytesIO(bytes(other)), formats=["PNG"]) as twin:
        halves = np.asarray(twin.convert("RGBA"))
    return halves[..., 0].astype(np.uint16) << 8 | halves[..., 1]


def _numbers(image: Image.Image) -> np.ndarray:
    """The numbers of deep grey."""
    values = np.asarray(image)
    if image.format == "TIFF" and image.mode == "I" and image.tag_v2.get(tiff.FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)  # Pillow takes the upper half of 32 bits for negative numbers
    return values


def _stretch(
    values: np.ndarray, notes: list[str], seen: np.ndarray | None = None, inverted: bool = False
) -> Image.Image:
    """Grey deeper than 8 bits -> mode L, by the range of what is seen of it (all, if None); Pillow alone would clip
    nearly all of it to white."""
    values = values.astype(np.float32)
    finite = np.isfinite(values)
    judged = values[finite] if seen is None else seen.astype(np.float32)
    low, high = np.percentile(judged, (0.5, 99.5)) if judged.size else (0.0, 0.0)
    if high <= low and judged.size:  # a few bright pixels on a flat ground
        low, high = judged.min(), judged.max()
    values = np.clip((np.where(finite, values, low) - low) / (high - low or 1), 0, 1)
    if inverted:  # Pillow turns "white is zero" TIFFs round for 8 bits only
        values = 1 - values
    notes.append(f"More than 8 bits of grey: values {low:g} to {high:g} were stretched to black to white.")
    return Image.fromarray(np.round(values * 255).astype(np.uint8))
