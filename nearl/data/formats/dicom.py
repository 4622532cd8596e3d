"""DICOM: single images, films of frames, and series of files that are the slices of one volume (pydicom)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from nearl.data.formats import dicom_guard
from nearl.data.formats.base import File, Format
from nearl.data.formats.dicom_header import Header, Plane, header, syntax_name
from nearl.data.formats.drafts import MAX_SCAN_BYTES, Draft
from nearl.errors import NearlError

PARALLEL = 1e-3  # directions and positions (mm) that differ by less are the same
MAX_DAMAGED = 3  # slices that a series may lack before it is given up
REPEATED = "Some positions occur more than once; only the first image of each is shown."
PIXEL_TAG = b"\xe0\x7f\x10\x00"


class Dicom(Format):
    def sniff(self, head: bytes, name: str) -> bool:
        return dicom_guard.looks_like(head) or dicom_guard.is_enveloped(head)

    def refuse(self, head: bytes, name: str) -> str:
        return "" if dicom_guard.looks_like(head) else f"{name} is encrypted; export it without encryption."

    def read(self, data: bytes, name: str, max_side: int | None = None) -> Draft:
        """An image, a film of frames, or a volume where the frames lie in a row.

        Raises NearlError for what is not an image, too large, cut short, or packed in a way that no decoder here knows.
        """
        dataset = dicom_guard.parse(data, name)
        try:
            head = header(dataset, name)
            grid = arrange(head.planes)
            chunks = frames(dataset, name, [i for row in grid for i in row])
            first = next(chunks)
        except (NearlError, MemoryError):
            raise
        except Exception as error:
            raise NearlError(f"{name} is a DICOM file but its header is damaged; export it again.") from error
        planes = [[head.planes[i] for i in row] for row in grid]
        return _draft(name, planes, head, first.dtype, chain([first], chunks))

    def together(self, files: Sequence[File]) -> list[_Series]:
        """Files that are slices of one volume. Files that are damaged, or lie alone, are in none: read one by one,
        they are shown or say why not."""
        groups: dict[tuple, list[_Slice]] = {}
        for file in files if len(files) > 1 else ():
            try:
                data = file.head if PIXEL_TAG in file.head else file.read()
                head = header(dicom_guard.parse(data, file.name, pixels=False), file.name)
            except Exception:  # named when it is read alone
                continue
            plane = head.planes[0]
            if head.frames == 1 and plane.depth is not None and head.series:
                directions = tuple(np.round([*plane.right, *plane.down], 3) + 0.0)
                key = (head.series, head.rows, head.columns, head.colour, head.meta["whites_low"], directions)
                groups.setdefault(key, []).append(_Slice(file, head, plane))
        found = [sorted(group, key=lambda member: member.header.order) for group in groups.values()]
        return [_Series(group) for group in found if len({round(member.plane.depth, 2) for member in group}) > 1]


def frames(dataset, name: str, order: Iterable[int]) -> Iterator[np.ndarray]:
    """The frames of a dataset in a given order: stored greys [1, 1, H, W], or uint8 RGB [1, 1, H, W, 3].

    Raises NearlError where they are cut short or no installed decoder knows them.
    """
    from pydicom.pixels import apply_color_lut, apply_modality_lut, iter_pixels

    shape = (int(dataset.Rows), int(dataset.Columns))
    palette = str(dataset.PhotometricInterpretation).strip() == "PALETTE COLOR"
    lookup = "ModalityLUTSequence" in dataset and len(dataset.ModalityLUTSequence) > 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for frame in iter_pixels(dataset, indices=list(order)):
                if lookup:
                    frame = apply_modality_lut(frame, dataset)
                if palette:
                    frame = apply_color_lut(frame, dataset)
                if frame.ndim == 3 and frame.dtype != np.uint8:
                    top = 65535 if palette else 2 ** int(dataset.BitsStored) - 1
                    frame = (frame.astype(np.float64) * (255 / top)).round().clip(0, 255).astype(np.uint8)
                if frame.shape[:2] != shape:
                    raise ValueError("the compressed image has another size than the header says")
                if frame.dtype.byteorder == ">":
                    frame = frame.astype(frame.dtype.newbyteorder("<"))
                yield np.ascontiguousarray(frame)[None, None]
    except MemoryError:
        raise
    except Exception as error:  # decoders fed with untrusted bytes can raise anything
        syntax = syntax_name(dataset)
        if isinstance(error, (NotImplementedError, RuntimeError)) and "missing dependencies" in str(error):
            raise NearlError(
                f"{name} is compressed as {syntax}, which no decoder installed here knows; export it uncompressed."
            ) from error
        raise NearlError(
            f"{name} is a DICOM file ({syntax}) whose image is damaged or cut short; export it again."
        ) from error


def arrange(planes: list[Plane]) -> list[list[int]]:
    """Frame numbers as [moment][slice]: ordered by position where the frames lie in a row in space, else as they come.

    Several frames at every position are moments, in the order given.
    """
    depths = [plane.depth for plane in planes]
    if len(planes) < 2 or any(depth is None for depth in depths):
        return [[i] for i in range(len(planes))]
    first = planes[0]
    if any(
        np.abs(plane.right - first.right).max() > PARALLEL or np.abs(plane.down - first.down).max() > PARALLEL
        for plane in planes
    ):
        return [[i] for i in range(len(planes))]
    places: dict[float, list[int]] = {}
    for i in sorted(range(len(planes)), key=lambda i: depths[i]):
        near = next((key for key in list(places)[-1:] if abs(key - depths[i]) < PARALLEL), None)
        places.setdefault(depths[i] if near is None else near, []).append(i)
    counts = {len(members) for members in places.values()}
    if len(places) < 2 or len(counts) != 1:
        return [[i] for i in range(len(planes))]
    columns = [sorted(members) for members in places.values()]
    return [[members[t] for members in columns] for t in range(counts.pop())]


def _draft(name: str, planes: list[list[Plane]], head: Header, dtype: np.dtype, chunks: Iterable[np.ndarray]) -> Draft:
    """A draft of planes [moment][slice]; `chunks` are their pixels, all slices of the first moment first."""
    moments, slices = len(planes), len(planes[0])
    middle, notes, spacing = planes[0][slices // 2], list(head.meta["notes"]), None
    if slices > 1:
        gaps = np.diff([plane.depth for plane in planes[0]])
        spacing = float(np.median(gaps))
        if gaps.max() - gaps.min() > 0.02 * spacing + 0.01:
            notes.append("The slices are not evenly spaced; some may be missing, and the other planes are distorted.")
    axes = None if middle.right is None else np.stack([middle.normal, middle.down, middle.right]).tolist()
    slope = np.array([[plane.slope for plane in row] for row in planes])
    intercept = np.array([[plane.intercept for plane in row] for row in planes])
    facts = {**head.meta["facts"], "slices": slices, "frames": moments}
    meta = {**head.meta, "axes": axes, "spacing": [spacing, *middle.spacing], "notes": notes, "facts": facts}
    if not head.colour:
        meta |= {"windows": middle.windows, "table": head.table}
    shape = (moments, slices, head.rows, head.columns) + ((3,) if head.colour else ())
    return Draft.scan(name, shape, dtype, chunks, slope, intercept, **meta)


@dataclass
class _Slice:
    """One file of a series."""

    file: File
    header: Header
    plane: Plane


class _Series:
    """Files that are slices of one volume, in the order in which they were made."""

    def __init__(self, members: list[_Slice]):
        self.members = members

    @property
    def files(self) -> list[File]:
        return [member.file for member in self.members]

    def drafts(self, container: str) -> Iterator[Draft]:
        """The volume; if it breaks off at a damaged slice, the volume without that slice."""
        members = self.members
        for _ in range(MAX_DAMAGED + 1):
            damaged: list[_Slice] = []
            yield _volume(members, container, damaged)
            if not damaged:
                return
            members = [member for member in members if member is not damaged[0]]


def _volume(members: list[_Slice], container: str, damaged: list[_Slice]) -> Draft:
    """The volume of these slices. While its chunks are read, a slice that cannot be decoded is added to `damaged`."""
    grid = arrange([member.plane for member in members])
    repeated = len(grid[0]) == 1  # not the same number of files at every position
    if repeated:
        first: dict[float, _Slice] = {}
        for member in members:
            first.setdefault(round(member.plane.depth, 2), member)
        members = list(first.values())
        grid = arrange([member.plane for member in members])
    rows = [[members[i] for i in row] for row in grid]
    ordered = [member for row in rows for member in row]
    head = rows[0][len(rows[0]) // 2].header
    if repeated and REPEATED not in head.meta["notes"]:
        head.meta["notes"].append(REPEATED)
    names = {member.file.name for member in members}
    name = container if container not in names else f"{members[0].file.name} and {len(members) - 1} more"
    dtype = np.result_type(*{member.header.dtype for member in ordered})
    if head.rows * head.columns * len(ordered) * dtype.itemsize * (3 if head.colour else 1) > MAX_SCAN_BYTES:
        raise NearlError(f"{name} is a series of {len(ordered)} slices, more than can be held; send a part of it.")
    dtype = np.dtype(np.uint8) if head.colour else dtype
    planes = [[member.plane for member in row] for row in rows]
    return _draft(name, planes, head, dtype, _pixels(ordered, dtype, damaged))


def _pixels(members: list[_Slice], dtype: np.dtype, damaged: list[_Slice]) -> Iterator[np.ndarray]:
    for member in members:
        try:
            dataset = dicom_guard.parse(member.file.read(), member.file.name)
            (pixels,) = frames(dataset, member.file.name, [0])
        except NearlError:
            damaged.append(member)
            raise
        yield pixels.astype(dtype, casting="unsafe", copy=False)
