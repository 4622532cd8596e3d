"""What the header of a DICOM file says of its pixels, checked before any of them is decoded.

The dataset stays in the worker: what leaves are numbers and a fixed list of technical facts, never a name, number,
date, place or free text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nearl.data.formats.drafts import MAX_SCAN_BYTES
from nearl.data.formats.volume import LETTERS, MIN_SIDE
from nearl.data.formats.windows import Table, Window
from nearl.errors import NearlError

MAX_SIDE = 16_384  # pixels (our choice; a mammogram has about 6,000)

MODALITIES = (
    "CR", "CT", "DX", "ES", "GM", "IO", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OPT", "OT", "PT", "PX", "RF", "RG",
    "RTIMAGE", "SC", "SM", "TG", "US", "XA", "XC",
)  # fmt: skip
GREYS = ("MONOCHROME1", "MONOCHROME2")
COLOURS = (
    "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
)  # fmt: skip
OFTEN_LABELLED = ("US", "IVUS", "ES", "XC", "SC", "OT", "RF", "OP", "GM")  # text is often burned into these


@dataclass
class Plane:
    """Where one frame lies and how its numbers are meant."""

    position: np.ndarray | None  # of the first pixel in the patient, in mm
    right: np.ndarray | None  # unit direction of growing column numbers
    down: np.ndarray | None  # unit direction of growing row numbers
    spacing: tuple[float | None, float | None]  # mm between rows and between columns
    slope: float = 1.0
    intercept: float = 0.0
    windows: tuple[Window, ...] = ()

    @property
    def normal(self) -> np.ndarray | None:
        return None if self.right is None else np.cross(self.right, self.down)

    @property
    def depth(self) -> float | None:
        """The position along the normal, in mm."""
        return None if self.position is None or self.right is None else float(self.position @ self.normal)


@dataclass
class Header:
    """What is needed of one file's header to place and decode it. `series` and `order` never leave the worker."""

    rows: int
    columns: int
    frames: int
    colour: bool
    planes: list[Plane]  # of each frame
    series: str
    dtype: np.dtype  # of the stored numbers
    order: tuple[float, float, float]  # acquisition, trigger time and number: in which order files were made
    table: Table | None
    meta: dict  # fields of Scan as plain JSON


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
    padding = dataset.get("PixelPaddingValue")
    meta = {
        "modality": modality,
        "aspect": aspect,
        "sides": _sides(dataset.get("PatientOrientation")),
        "whites_low": photometric == "MONOCHROME1" or str(dataset.get("PresentationLUTShape", "")) == "INVERSE",
        "padding": int(padding) if isinstance(padding, int) else None,
        "full_range": float(2**stored - 1) if stored <= 8 and not colour and not signed and modality != "CT" else None,
        "facts": {
            "format": "DICOM",
            "modality": modality,
            "photometric": photometric,
            "bits": stored,
            "signed": signed,
            "compression": syntax_name(dataset),
        },
        "notes": _warnings(dataset, modality, photometric),
    }
    return Header(
        rows, columns, count, colour,
        planes=_planes(dataset, count, spacing),
        series=f"{dataset.get('SeriesInstanceUID', '')}",
        dtype=np.dtype(f"{'i' if signed else 'u'}{bits // 8}"),
        order=tuple(_number(dataset.get(tag)) for tag in ("AcquisitionNumber", "TriggerTime", "InstanceNumber")),
        table=_table(dataset, signed),
        meta=meta,
    )  # fmt: skip


def syntax_name(dataset) -> str:
    """How the pixels are packed, in words."""
    uid = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    return uid.name.split(",")[0] if uid is not None and uid.name != str(uid) else "unknown compression"


def _number(value, default: float = 0.0) -> float:
    try:
        value = float(value)
    except (TypeError, ValueError):
        return default
    return value if np.isfinite(value) else default


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
        return [_number(v, np.nan) for v in values]

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
    items = dataset.get("VOILUTSequence")
    if not items:
        return None
    descriptor = [int(v) for v in items[0].LUTDescriptor]
    count, first, bits = descriptor[0] or 65536, descriptor[1], descriptor[2]
    data = items[0].LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "<u2" if len(data) >= 2 * count else "|u1")
    entries = np.asarray(data, np.float64)[:count]
    if signed and first > 32767:
        first -= 65536
    return Table(first, entries, 2**bits - 1) if len(entries) and 0 < bits <= 16 else None


def _planes(dataset, count: int, spacing: tuple[float | None, float | None]) -> list[Plane]:
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
        scale = group(i, "PixelValueTransformationSequence")
        planes.append(
            Plane(
                _vector(group(i, "PlanePositionSequence").get("ImagePositionPatient"), 3),
                right,
                down,
                _pair(group(i, "PixelMeasuresSequence").get("PixelSpacing")) or spacing,
                1.0 if lookup else _number(scale.get("RescaleSlope"), 1.0),
                0.0 if lookup else _number(scale.get("RescaleIntercept"), 0.0),
                _windows(group(i, "FrameVOILUTSequence")),
            )
        )
    if not each and count > 1:  # a film: nothing says where a frame lies
        planes = [replace(planes[0], position=None)] * count
    return planes


def _warnings(dataset, modality: str, photometric: str) -> list[str]:
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
    return notes
