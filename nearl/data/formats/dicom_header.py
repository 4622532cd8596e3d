"""What the header of a DICOM file says of its pixels, checked before any of them is decoded.

The dataset stays in the worker: what leaves are numbers and a fixed list of technical facts, never a name, number,
date, place or free text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from nearl.data.formats import dicom_mosaic
from nearl.data.formats.dicom_believe import COLOURS, GREYS
from nearl.data.formats.dicom_keys import keys, number, series_of, traits
from nearl.data.formats.dicom_mosaic import Tiles
from nearl.data.formats.dicom_pixels import syntax_name
from nearl.data.formats.drafts import MAX_SCAN_BYTES
from nearl.data.formats.stacks import Plane
from nearl.data.formats.volume import LETTERS, MIN_SIDE
from nearl.data.formats.windows import Table, Window
from nearl.errors import NearlError

MAX_SIDE = 16_384  # pixels (our choice; a mammogram has about 6,000)

MODALITIES = (
    "CR", "CT", "DX", "ES", "GM", "IO", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OPT", "OT", "PT", "PX", "RF", "RG",
    "RTIMAGE", "SC", "SM", "TG", "US", "XA", "XC",
)  # fmt: skip
NO_WINDOW = "The window that the file gives is not a valid one and is not used."
OFTEN_LABELLED = ("US", "IVUS", "ES", "XC", "SC", "OT", "RF", "OP", "GM")  # text is often burned into these


@dataclass
class Header:
    """What is needed of one file's header to place and decode it; `series` and the planes' keys stay in the worker."""

    rows: int
    columns: int
    frames: int
    colour: bool
    planes: list[Plane]  # of each frame
    series: str
    dtype: np.dtype  # of the stored numbers
    table: Table | None
    tiles: Tiles | None  # how a mosaic is laid out whose tiles are the frames
    meta: dict  # fields of Scan as plain JSON

    @property
    def kind(self) -> tuple:
        """What files of one volume have in common, exactly."""
        return self.series, self.rows, self.columns, self.colour, self.meta["whites_low"]


def header(dataset, name: str) -> Header:
    """The checked header of a dataset. NearlError, naming the file, where its pixels cannot be read."""
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    count = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    bits, stored = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip()
    if max(rows, columns) > MAX_SIDE or rows * columns * count * samples * max(bits, 8) // 8 > MAX_SCAN_BYTES:
        raise NearlError(
            f"{name} says it is {columns} x {rows} pixels in {count} frames, more than can be held; "
            "export a smaller part of it."
        )
    if min(rows, columns) < MIN_SIDE or count < 1:
        raise NearlError(f"{name} is only {columns} x {rows} pixels; use an image of at least {MIN_SIDE} x {MIN_SIDE}.")
    if bits == 1:
        raise NearlError(f"{name} holds a black-and-white mask of 1 bit, not an image; choose the images it covers.")
    known = photometric in (GREYS if samples == 1 else ()) or photometric in COLOURS
    if bits not in (8, 16, 32, 64) or not 0 < stored <= bits or samples not in (1, 3) or not known:
        raise NearlError(
            f"{name} stores its pixels in a way that is not read here ({samples} samples of {bits} bits); "
            "export it as PNG or as uncompressed DICOM."
        )
    modality = str(dataset.get("Modality", ""))
    modality = modality if modality in MODALITIES else ""
    colour = photometric not in GREYS
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    spacing, aspect = _spacing(dataset)
    mosaic = dicom_mosaic.is_mosaic(dataset) and count == 1
    tiles = dicom_mosaic.tiles(dataset) if mosaic else None
    planes = _planes(dataset, count, spacing, tiles)
    notes = _warnings(dataset, modality, planes)
    if mosaic:
        notes.append(dicom_mosaic.TOGETHER if tiles is None else dicom_mosaic.APART)
        if tiles is None:  # where the slices lie in it is unknown
            planes = [replace(planes[0], position=None, right=None, down=None)]
        else:
            rows, columns, count = tiles.height, tiles.width, tiles.count
    meta = {
        "modality": modality,
        "aspect": aspect,
        "sides": _sides(dataset.get("PatientOrientation")),
        "whites_low": photometric == "MONOCHROME1" or str(dataset.get("PresentationLUTShape", "")) == "INVERSE",
        "padding": _padding(dataset, signed, bits),
        "full_range": float(2**stored - 1) if stored <= 8 and not colour and not signed and modality != "CT" else None,
        "facts": {
            "format": "DICOM",
            "modality": modality,
            "photometric": photometric,
            "bits": stored,
            "signed": signed,
            "compression": syntax_name(dataset),
        },
        "notes": notes,
    }
    return Header(
        rows, columns, count, colour,
        planes=planes,
        series=series_of(dataset),
        dtype=_dtype(dataset, signed, bits),
        table=_table(dataset, signed),
        tiles=tiles,
        meta=meta,
    )  # fmt: skip


def _dtype(dataset, signed: bool, bits: int) -> np.dtype:
    """Of the numbers of a frame, after a table of physical values where there is one."""
    if dataset.get("ModalityLUTSequence"):
        return np.dtype("u2")
    floats = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}
    return np.dtype(
        next((kind for name, kind in floats.items() if name in dataset), f"{'i' if signed else 'u'}{bits // 8}")
    )


def _padding(dataset, signed: bool, bits: int) -> list[int] | None:
    """The stored values at both ends of the padding; signed ones are often written as unsigned."""
    value = dataset.get("PixelPaddingValue")
    limit = dataset.get("PixelPaddingRangeLimit", value)
    if not isinstance(value, int) or bits > 32:
        return None
    ends = [value, limit if isinstance(limit, int) else value]
    low = -(2 ** (bits - 1)) if signed else 0
    return sorted((end - low) % 2**bits + low for end in ends)


def _vector(value, length: int) -> np.ndarray | None:
    try:
        vector = np.array([float(v) for v in value], np.float64)
    except (TypeError, ValueError):
        return None
    return vector if vector.shape == (length,) and np.isfinite(vector).all() else None


def _pair(value) -> tuple[float, float] | None:
    pair = _vector(value, 2)
    return None if pair is None or not (pair > 0).all() else (float(pair[0]), float(pair[1]))


def _spacing(dataset) -> tuple[tuple[float | None, float | None], float]:
    """((mm between rows, mm between columns), height of a pixel in widths)."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if pair := _pair(dataset.get(name)):
            return pair, pair[0] / pair[1]
    ratio = _pair(dataset.get("PixelAspectRatio"))
    return (None, None), (ratio[0] / ratio[1] if ratio else 1.0)


def _sides(value) -> list[str] | None:
    """PatientOrientation, the letters that rows and columns point to, where both are known."""
    try:
        sides = [str(v).strip().upper() for v in value]
    except TypeError:
        return None
    good = len(sides) == 2 and all(side and not set(side) - set("".join(LETTERS)) for side in sides)
    return sides if good else None


def _windows(dataset) -> tuple[Window, ...]:
    def numbers(value) -> list[float]:
        values = value if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
        return [np.nan if (found := number(v)) is None else found for v in values]

    function = str(dataset.get("VOILUTFunction", "") or "LINEAR").strip()
    function = function if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else "LINEAR"
    found = []
    pairs = zip(numbers(dataset.get("WindowCenter")), numbers(dataset.get("WindowWidth")), strict=False)
    for center, width in pairs:
        if np.isfinite([center, width]).all() and width >= (1 if function == "LINEAR" else 1e-9):
            name = "From the file" if not found else f"From the file, {len(found) + 1}"
            window = Window(name, center, width, function)
            if not any((w.center, w.width) == (center, width) for w in found):
                found.append(window)
    return tuple(found[:6])


def _table(dataset, signed: bool) -> Table | None:
    """The display table of a file, as what its entries use rather than what its descriptor says."""
    items = dataset.get("VOILUTSequence")
    if not items:
        return None
    count, first, bits = (int(v) for v in items[0].LUTDescriptor)
    count, data = count or 65536, items[0].LUTData
    if isinstance(data, bytes):
        entries = (
            np.frombuffer(data[: len(data) // 2 * 2], "<u2") if len(data) >= 2 * count else np.frombuffer(data, "u1")
        )
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64))
        if bits <= 8 and len(entries) == (count + 1) // 2 and count > 1:  # two entries in a word, the first one low
            entries = np.stack([entries & 255, entries >> 8], axis=-1).reshape(-1)
    entries = entries[:count].astype(np.float64)
    if not len(entries):
        return None
    most = 2 ** int(dataset.BitsStored) * (number(dataset.get("RescaleSlope")) or 1.0)
    if first > 32767 and (signed or first > most + (number(dataset.get("RescaleIntercept")) or 0.0)):
        first -= 65536
    return Table(first, entries, _top(int(entries.max()), bits))


def _top(most: int, bits: int) -> int:
    """The entry that is white: the largest of `bits` bits, or of those in use where they are more or fewer."""
    if 0 < bits <= 16 and 2 ** (bits - 1) <= most < 2**bits:
        return 2**bits - 1
    return max(2 ** most.bit_length() - 1, 1)


def _planes(dataset, count: int, spacing: tuple[float | None, float | None], tiles: Tiles | None = None) -> list[Plane]:
    shared = dataset.get("SharedFunctionalGroupsSequence") or [None]
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []

    def group(i: int, name: str):
        for place in ([each[i]] if i < len(each) else []) + [shared[0]]:
            if place is not None and place.get(name):
                return place.get(name)[0]
        return dataset

    planes = []
    lookup = bool(dataset.get("ModalityLUTSequence"))
    for i in range(count if each else 1):
        orientation = _vector(group(i, "PlaneOrientationSequence").get("ImageOrientationPatient"), 6)
        right, down = (None, None) if orientation is None else (orientation[:3], orientation[3:])
        if right is not None and (
            abs(np.linalg.norm(right) - 1) > 0.05 or abs(np.linalg.norm(down) - 1) > 0.05 or abs(right @ down) > 0.05
        ):
            right = down = None
        scale, in_frame = group(i, "PixelValueTransformationSequence"), partial(group, i)
        slope, intercept = number(scale.get("RescaleSlope")), number(scale.get("RescaleIntercept"))
        planes.append(
            Plane(
                _vector(group(i, "PlanePositionSequence").get("ImagePositionPatient"), 3),
                right,
                down,
                _pair(group(i, "PixelMeasuresSequence").get("PixelSpacing")) or spacing,
                1.0 if lookup else slope or 1.0,  # a slope of zero would leave one value
                0.0 if lookup else intercept or 0.0,
                _windows(group(i, "FrameVOILUTSequence")),
                keys(dataset, in_frame, i),
                traits(dataset, in_frame),
            )
        )
    if tiles is not None:
        return _tile_planes(dataset, planes[0], tiles)
    if not each and count > 1:  # a film: nothing says where a frame lies
        planes = [replace(planes[0], position=None)] * count
    return planes


def _tile_planes(dataset, whole: Plane, tiles: Tiles) -> list[Plane]:
    """The plane of every slice of a mosaic; without positions where the way they follow one another is unknown.

    The position of a mosaic is that of its corner, as if its middle lay at the middle of the first slice.
    """
    gap = number(dataset.get("SpacingBetweenSlices")) or number(dataset.get("SliceThickness"))
    known = whole.position is not None and whole.right is not None and all(whole.spacing)
    if not known or gap is None or tiles.normal is None or abs(tiles.normal @ whole.normal) < 0.9:
        return [replace(whole, position=None)] * tiles.count
    rows, columns = int(dataset.Rows) - tiles.height, int(dataset.Columns) - tiles.width
    first = whole.position + whole.down * rows / 2 * whole.spacing[0] + whole.right * columns / 2 * whole.spacing[1]
    return [replace(whole, position=first + tiles.normal * abs(gap) * i) for i in range(tiles.count)]


def _warnings(dataset, modality: str, planes: list[Plane]) -> list[str]:
    """What a person should check, and what is not shown."""
    notes = []
    burned = str(dataset.get("BurnedInAnnotation", "")).strip().upper()
    if burned == "YES":
        notes.append("The file says that text is burned into the image: check it for names and dates.")
    elif modality in OFTEN_LABELLED and burned != "NO":
        notes.append("Images of this kind often have text burned in: check it for names and dates.")
    if dataset.get("SequenceOfUltrasoundRegions"):
        notes.append("The image is larger than the ultrasound region: there may be text and marks around it.")
    if str(dataset.get("RecognizableVisualFeatures", "")).strip().upper() == "YES":
        notes.append("The file says that the person can be recognised in the image.")
    if any((0x6000 + 2 * i, 0x3000) in dataset for i in range(16)):
        notes.append("Drawings stored beside the image (overlays) are not shown.")
    if dataset.get("WindowWidth") not in (None, "") and not any(plane.windows for plane in planes):
        notes.append(NO_WINDOW)
    return notes
