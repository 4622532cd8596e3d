"""DICOM: single images, films of frames, and series of files whose frames are the slices of volumes (pydicom)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np

from nearl.data.formats import dicom_guard
from nearl.data.formats.base import File, Format
from nearl.data.formats.dicom_believe import believe, complete
from nearl.data.formats.dicom_header import Header, header
from nearl.data.formats.dicom_mosaic import TOGETHER
from nearl.data.formats.dicom_pixels import frames
from nearl.data.formats.drafts import MAX_SCAN_BYTES, Draft
from nearl.data.formats.shifted import canvas
from nearl.data.formats.stacks import NUMBER, Plane, Slice, Stack, by_places, shifts, stacks
from nearl.data.formats.unplaced import BY, ORDERED, SLICED, put_in_order
from nearl.errors import NearlError

MAX_DAMAGED = 3  # slices that a volume may lack before it is given up
UNEVEN = "The slices are not evenly spaced; some may be missing, and the other planes are distorted."
OWN_WINDOWS = "The slices have windows of their own that have nothing in common, so none of them is used."
PIXEL_TAG = b"\xe0\x7f\x10\x00"


@dataclass(eq=False)
class _Source:
    """A file whose frames are slices."""

    file: File
    header: Header

    @property
    def slices(self) -> list[Slice]:
        return [Slice(self, number, plane) for number, plane in enumerate(self.header.planes)]

    @property
    def placed(self) -> bool:
        """Whether all its slices have a position."""
        return all(plane.depth is not None for plane in self.header.planes)


class Dicom(Format):
    def sniff(self, head: bytes, name: str) -> bool:
        return dicom_guard.looks_like(head) or dicom_guard.is_enveloped(head)

    def refuse(self, head: bytes, name: str) -> str:
        return "" if dicom_guard.looks_like(head) else f"{name} is encrypted; export it without encryption."

    def read(self, data: bytes, name: str, max_side: int | None = None) -> Draft:
        """An image, a film of frames, or a volume where the frames lie in a row; of several volumes the largest.

        Raises NearlError for what is not an image, too large, cut short, or packed in a way that no decoder here knows.
        """
        dataset = dicom_guard.parse(data, name)
        try:
            head = header(dataset, name)
            slices = [Slice(None, number, plane) for number, plane in enumerate(head.planes)]
            stack = next(iter(_volumes(slices)), Stack([[member] for member in slices]))
            chunks = _images(dataset, name, head, [member.number for member in stack.members])
            first = next(chunks)
        except (NearlError, MemoryError):
            raise
        except Exception as error:
            raise NearlError(f"{name} is a DICOM file but its header is damaged; export it again.") from error
        return _draft(name, stack, head, first.dtype, chain([first], chunks))

    def together(self, files: Sequence[File]) -> list[_Series]:
        """Files that are slices of volumes, and files of several volumes. Those that are damaged, or lie alone, are in
        none: read one by one, they are shown or say why not."""
        groups: dict[tuple, list[_Source]] = {}
        for file in files:
            source = _source(file)
            if source is not None and (len(files) > 1 or source.header.frames > 1):
                groups.setdefault((source.placed, *source.header.kind), []).append(source)
        found = []
        for (placed, *_), group in groups.items():
            sources, copies = _distinct(group)
            sources, resent = _sent_again(sources)
            copies += resent
            if not placed and not put_in_order([source.header.planes[0] for source in sources]):
                continue
            if len(sources) == 1 and not sources[0].header.planes[1:]:
                continue
            whole = _volumes([member for source in sources for member in source.slices])
            of_one = {id(m.owner) for stack in whole for m in stack.members} if len(whole) == 1 else set()
            whole = [stack for stack in whole if len(stack.members) > 1 or stack.members[0].owner.header.frames > 1]
            if whole and not (len(of_one) == 1 and not copies):  # one file that is one image is read alone
                found.append(_Series(whole, copies))
        return found


def _volumes(slices: list[Slice]) -> list[Stack]:
    """The volumes of slices whose place is known; none where nothing says how the frames of a single file lie."""
    if len(slices) < 2 or any(member.plane.depth is None for member in slices):
        return []
    found = stacks(slices)
    alone = len({id(member.owner) for member in slices}) == 1
    if alone and (not all(stack.sure for stack in found) or all(len(stack.members) == 1 for stack in found)):
        return []
    return found


def _source(file: File) -> _Source | None:
    """A file of a series whose slices all have a place, or that is one slice; None for others and damaged ones, which
    are named when read."""
    try:
        dataset = dicom_guard.parse(file.head if PIXEL_TAG in file.head else file.read(), file.name, pixels=False)
        if complete(dataset):
            believe(dataset)
        else:
            dataset = dicom_guard.parse(file.read(), file.name)
        head = header(dataset, file.name)
    except Exception:
        return None
    source = _Source(file, head)
    sliced = head.frames == 1 and head.meta["modality"] in SLICED and TOGETHER not in head.meta["notes"]
    return source if head.series and (source.placed or sliced) else None


def _distinct(sources: list[_Source]) -> tuple[list[_Source], list[_Source]]:
    """(sources, those that are byte for byte the same as an earlier one). Reads a file once, and only where another one
    begins in the same way."""
    first, copies = [], []
    begun: dict[bytes, _Source] = {}  # the first file with this head
    whole: dict[bytes, set[bytes]] = {}  # by head, digests of all that begin so
    for source in sources:
        head = hashlib.sha256(source.file.head).digest()
        if head not in begun:
            begun[head] = source
        else:
            seen = whole.setdefault(head, set())
            if not seen:
                seen.add(hashlib.sha256(begun[head].file.read()).digest())
            content = hashlib.sha256(source.file.read()).digest()
            if content in seen:
                copies.append(source)
                continue
            seen.add(content)
        first.append(source)
    return first, copies


def _sent_again(sources: list[_Source]) -> tuple[list[_Source], list[_Source]]:
    """(sources, those with the pixels of an earlier one at their place), where all that share a place are such: a study
    that was sent twice under other numbers. Otherwise they are moments."""
    places: dict[tuple, list[_Source]] = {}
    for source in sources:
        plane = source.header.planes[0]
        if len(source.header.planes) > 1 or plane.position is None or plane.right is None:
            return sources, []
        places.setdefault(tuple(np.round([*plane.position, *plane.right, *plane.down], 3)), []).append(source)
    again = [other for same in places.values() for other in same[1:]]
    for same in places.values():
        first, *others = same
        if others and any(_made(first) != _made(other) or _stored(first) != _stored(other) for other in others):
            return sources, []
    return [source for source in sources if source not in again], again


def _made(source: _Source) -> tuple:
    """When and how a slice was made, and the scale of its numbers."""
    plane = source.header.planes[0]
    keys = {name: value for name, value in plane.keys.items() if name not in (NUMBER, "content")}
    return plane.slope, plane.intercept, keys, plane.traits


def _stored(source: _Source) -> bytes:
    """The bytes from a file's pixels on."""
    data = source.file.read()
    return data[data.rfind(PIXEL_TAG) :]


def _images(dataset, name: str, head: Header, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames of a file, or tiles of its mosaic, in a given order."""
    if head.tiles is None:
        yield from frames(dataset, name, numbers)
    else:
        (whole,) = frames(dataset, name, [0])
        yield from head.tiles.cut(whole, numbers)


def _draft(name: str, stack: Stack, head: Header, dtype: np.dtype, chunks: Iterable[np.ndarray]) -> Draft:
    """A draft of a stack; `chunks` are its pixels, all slices of the first moment first."""
    planes = [[member.plane for member in row] for row in stack.rows]
    moments, slices = len(planes), len(planes[0])
    middle, spacing = planes[0][slices // 2], None
    notes = [*head.meta["notes"], *stack.notes]
    rows, columns = head.rows, head.columns
    if middle.order is not None:
        notes.append(ORDERED.format(BY[middle.ordered_by]))
    if slices > 1:
        gaps = np.diff([plane.depth for plane in planes[0]])
        spacing = float(np.median(gaps))
        if gaps.max() - gaps.min() > 0.02 * spacing + 0.01:
            notes.append(UNEVEN)
        spacing = None if middle.order is not None else spacing
        frame, words = canvas(shifts(stack), rows, columns)
        notes += [words] if words else []
        if frame is not None:
            rows, columns, outside = frame.rows, frame.columns, (head.meta["padding"] or [None])[0]
            low = head.meta["whites_low"]
            chunks = (frame.place(chunk, number, outside, low) for number, chunk in enumerate(chunks))
    shape = (moments, slices, rows, columns) + ((3,) if head.colour else ())
    if rows * columns * moments * slices * np.dtype(dtype).itemsize * (3 if head.colour else 1) > MAX_SCAN_BYTES:
        raise NearlError(f"{name} is a series of {moments * slices} slices, more than can be held; send a part of it.")
    axes = None if middle.right is None else np.stack([middle.normal, middle.down, middle.right]).tolist()
    slope = np.array([[plane.slope for plane in row] for row in planes])
    intercept = np.array([[plane.intercept for plane in row] for row in planes])
    facts = {**head.meta["facts"], "slices": slices, "frames": moments}
    meta = {**head.meta, "axes": axes, "spacing": [spacing, *middle.spacing], "notes": notes, "facts": facts}
    if not head.colour:
        apart = _windows_apart(middle, chain.from_iterable(planes))
        meta |= {"windows": () if apart else middle.windows, "table": head.table}
        notes += [OWN_WINDOWS] if apart else []
    return Draft.scan(name, shape, dtype, chunks, slope, intercept, **meta)


def _windows_apart(middle: Plane, planes: Iterable[Plane]) -> bool:
    """Whether some plane has a window without a value in common with that of the middle one."""
    low, high = _ends(middle)
    return any(end <= low or high <= start for start, end in map(_ends, planes))


def _ends(plane: Plane) -> tuple[float, float]:
    """The values that a plane's first window shows black and white; any value where it has none."""
    if not plane.windows:
        return -np.inf, np.inf
    window = plane.windows[0]
    return window.center - window.width / 2, window.center + window.width / 2


class _Series:
    """Files whose frames form volumes."""

    def __init__(self, whole: list[Stack], copies: list[_Source]):
        self.whole, self.copies = whole, copies

    @property
    def files(self) -> list[File]:
        owners = dict.fromkeys(member.owner for stack in self.whole for member in stack.members)
        return [source.file for source in (*owners, *self.copies)]

    @property
    def images(self) -> int:
        return len(self.whole)

    def drafts(self, container: str) -> Iterator[Draft]:
        """The volumes; one that breaks off at a damaged slice is followed by the same without that slice.

        Raises NearlError at the end if one is too large.
        """
        names = {file.name for file in self.files}
        if container in names:
            container = f"{self.files[0].name} and {len(names) - 1} more" if len(names) > 1 else container
        refused = None
        for stack in self.whole:
            left, given_up = [stack], 0
            while left:
                stack, damaged = left.pop(0), []
                try:
                    yield self._draft(container, stack, damaged)
                except NearlError as error:
                    refused = error
                given_up += len(damaged)
                if damaged and given_up <= MAX_DAMAGED:
                    rows = [[member for member in row if member is not damaged[0]] for row in stack.rows]
                    left = [Stack(part, stack.notes, stack.sure) for part in by_places(rows)] + left
        if refused is not None:
            raise refused

    def _draft(self, name: str, stack: Stack, damaged: list[Slice]) -> Draft:
        """One volume. While its chunks are read, a slice that cannot be decoded is added to `damaged`."""
        row = stack.rows[0]
        head = row[len(row) // 2].owner.header
        dtype = np.result_type(*{member.owner.header.dtype for member in stack.members})
        dtype = np.dtype(np.uint8) if head.colour else dtype
        if self.copies:
            count = len(self.copies)
            what = "are copies of others and were" if count > 1 else "is a copy of another and was"
            words = f"{count} of the files {what} left out."
            stack = Stack(stack.rows, [*stack.notes, words])
        return _draft(name, stack, head, dtype, _pixels(stack.members, dtype, damaged))


def _pixels(members: list[Slice], dtype: np.dtype, damaged: list[Slice]) -> Iterator[np.ndarray]:
    """The pixels of slices, file by file."""
    for source, part in groupby(members, key=lambda member: member.owner):
        group, done = list(part), 0
        file, head = source.file, source.header
        try:
            dataset = dicom_guard.parse(file.read(), file.name)
            for pixels in _images(dataset, file.name, head, [member.number for member in group]):
                colours = 3 if head.colour else 1
                if pixels.size != head.rows * head.columns * colours:
                    raise NearlError(
                        f"{file.name} holds an image of another size than its header says; export it again."
                    )
                yield pixels.astype(dtype, casting="unsafe", copy=False)
                done += 1
        except NearlError:
            damaged.append(group[min(done, len(group) - 1)])
            raise
