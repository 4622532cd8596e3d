"""Mosaics of Siemens and United Imaging: slices of a volume side by side in one large image, and how to cut them out.

How many there are and which way they follow one another is in the makers' private fields alone; without the first a
mosaic is shown as it is and called one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from nearl.data.formats.volume import MIN_SIDE

UNITED = (0x0065, "Image Private Header", 0x50)  # how many slices, of an image that does not call itself a mosaic
COUNT, CSA = (0x0019, "SIEMENS MR HEADER", 0x0A), (0x0029, "SIEMENS CSA HEADER", 0x10)  # group, creator, element
TOGETHER = "This image is a mosaic: many slices side by side. The file does not say how many, so it is shown as it is."
APART = "The file is a mosaic of slices side by side, which was taken apart."


@dataclass(frozen=True)
class Tiles:
    """How a mosaic is laid out, row by row."""

    count: int
    across: int  # tiles in a row
    height: int
    width: int
    normal: np.ndarray | None  # unit direction of growing slice number; None where it is unknown

    def cut(self, image: np.ndarray, numbers: Iterable[int]) -> Iterator[np.ndarray]:
        """Tiles [1, 1, h, w] of a mosaic [1, 1, H, W], by number."""
        for number in numbers:
            down, right = divmod(number, self.across)
            top, left = down * self.height, right * self.width
            yield np.ascontiguousarray(image[:, :, top : top + self.height, left : left + self.width])


def is_mosaic(dataset) -> bool:
    """Whether a file says that it is a mosaic."""
    if _united(dataset) > 1:
        return True
    kind = dataset.get("ImageType") or ()
    return "MOSAIC" in ((kind,) if isinstance(kind, str) else tuple(map(str, kind)))


def tiles(dataset) -> Tiles | None:
    """How a mosaic is laid out; None where it does not say how many slices it has, or they do not fit into it."""
    csa = _csa(dataset)
    count = _number(_private(dataset, *COUNT)) or _united(dataset)
    count = count or _number(_value(csa, "NumberOfImagesInMosaic"))
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not count or not 1 < count <= 1024:
        return None
    across = math.ceil(math.sqrt(count))
    height, width = rows // across, columns // across
    if rows % across or columns % across or min(height, width) < MIN_SIDE:
        return None
    return Tiles(count, across, height, width, _normal(csa))


def _united(dataset) -> int:
    """How many slices United Imaging says; 0 where it says nothing."""
    value = _private(dataset, *UNITED)
    return _number(value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else value)


def _csa(dataset) -> dict:
    """Siemens's private header; empty where there is none or it cannot be read."""
    found = _private(dataset, *CSA)
    if not isinstance(found, bytes):
        return {}
    from nibabel.nicom import csareader

    try:
        return csareader.read(found)["tags"]
    except Exception:  # a parser fed with untrusted bytes can raise anything
        return {}


def _private(dataset, group: int, creator: str, element: int):
    """The value of a private field; None where it is not there."""
    try:
        return dataset.private_block(group, creator)[element].value
    except KeyError:
        return None


def _value(csa: dict, name: str):
    items = csa.get(name, {}).get("items") or [None]
    return items[0]


def _number(value) -> int:
    if isinstance(value, bytes):  # implicit VR leaves private fields as bytes
        value = int.from_bytes(value[:2], "little")
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _normal(csa: dict) -> np.ndarray | None:
    try:
        normal = np.array([float(v) for v in csa["SliceNormalVector"]["items"][:3]])
    except (KeyError, TypeError, ValueError):
        return None
    return normal if normal.shape == (3,) and abs(np.linalg.norm(normal) - 1) < 0.05 else None
