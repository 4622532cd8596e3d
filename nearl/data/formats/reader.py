"""From files of every kind to drafts, in this process: what the worker runs.

DICOM files of one series become one volume, sorted by position. One bad file is named and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from nearl.data.formats import dicom, dicom_guard, nifti, pictures
from nearl.data.records import Problem, base_name
from nearl.data.sets import archives
from nearl.data.sets.drafts import MAX_SCAN_BYTES, PICTURE, SCAN, Draft, scan_meta, stored_dtype
from nearl.errors import NearlError

HEAD_BYTES = 65_536  # holds the header of nearly every DICOM slice
MAX_DAMAGED = 3  # slices that a series may lack before it is given up
PIXEL_TAG = b"\xe0\x7f\x10\x00"
READABLE = f"{pictures.READABLE}, DICOM, NIfTI or a zip of them"


@dataclass
class _File:
    """One file to read: which source it came from, its name, and its content when it is needed."""

    source: int
    name: str
    read: Callable[[], bytes]
    head: bytes
    kind: str = ""


@dataclass
class _Member:
    file: _File
    header: dicom.Header


def read(
    sources: Sequence[tuple[str, bytes | Path]], max_side: int | None = None
) -> Iterator[Draft | tuple[int, Problem]]:
    """Drafts and (number of the source, problem), in the order of the sources, which are (name, content).

    A source is a file, a folder or a zip. max_side: pictures are shrunk to it here, scans when they are drawn.
    """
    files: list[_File] = []
    for number, (name, content) in enumerate(sources):
        try:
            found, problems = _expand(number, base_name(name), content)
        except NearlError as error:
            found, problems = [], [Problem(base_name(name), str(error))]
        files += found
        yield from ((number, problem) for problem in problems)
    scans = [file for file in files if file.kind == "DICOM"]
    series: dict[int, list[_Member]] = {}  # by the first member's place in `files`
    taken: set[int] = set()
    if len(scans) > 1:
        for group in _series(scans):
            places = [files.index(member.file) for member in group]
            series[min(places)] = group
            taken |= set(places)
    for place, file in enumerate(files):
        try:
            if place in series:
                yield from _volumes(series[place], base_name(sources[file.source][0]))
            elif place not in taken:
                yield _single(file, max_side)
        except NearlError as error:
            yield file.source, Problem(file.name, str(error))
        except MemoryError:
            yield file.source, Problem(file.name, too_much(file.name))


def too_much(name: str) -> str:
    return f"{name} needs more memory than is allowed for one file; save a smaller copy."


def _expand(number: int, name: str, content: bytes | Path) -> tuple[list[_File], list[Problem]]:
    """The files of a source: itself, or those in a folder or zip. NearlError where it cannot be opened."""
    if isinstance(content, Path) and content.is_dir():
        listed, problems, _ = archives.folder_files(content)
        return _listed(number, listed, problems, name)
    read = (lambda: content) if isinstance(content, bytes) else partial(pictures.read_bytes, content, name)
    zipped = isinstance(content, Path) and archives.is_zip(content)
    head = b"PK\x03\x04" if zipped else content[:HEAD_BYTES] if isinstance(content, bytes) else None
    if head is None:
        head = pictures.read_bytes(content, name, HEAD_BYTES)
    if head[:4] != b"PK\x03\x04":
        return [_File(number, name, read, head, _kind(head, name))], []
    archive = archives.open_zip(content, name)  # stays open until its entries were read
    limits = archives.MAX_ENTRIES, archives.MAX_UNPACKED, archives.MAX_RATIO
    listed, problems, _ = archives.zip_files(archive, name, *limits)
    return _listed(number, listed, problems, name)


def _listed(number: int, listed: list, problems: list[Problem], name: str) -> tuple[list[_File], list[Problem]]:
    files, problems = [], list(problems)
    for parts, reader in sorted(listed, key=lambda item: item[0]):
        if not parts[-1]:
            continue
        label = base_name(parts[-1])
        try:
            head = reader(size=HEAD_BYTES)
            if isinstance(head, Path):
                head = pictures.read_bytes(head, label, HEAD_BYTES)
            files.append(_File(number, label, partial(_content, reader, label), head, _kind(head, label)))
        except NearlError as error:
            problems.append(Problem(label, str(error)))
    if not files and not problems:
        problems.append(Problem(name, f"{name} holds no files; choose one with images."))
    return files, problems


def _content(reader: archives.Reader, label: str) -> bytes:
    content = reader()
    return content if isinstance(content, bytes) else pictures.read_bytes(content, label)


def _kind(head: bytes, name: str) -> str:
    """What a file is by its first bytes. NearlError where it is nothing that is read here."""
    if not head:
        raise NearlError(f"{name} is empty (0 bytes); export or download it again.")
    if dicom_guard.looks_like(head):  # first of all: the 128 bytes before its mark may pose as a TIFF file
        return "DICOM"
    if kind := pictures.looks_like(head):
        return kind
    if nifti.looks_like(head):
        return "NIfTI"
    if dicom_guard.is_enveloped(head):
        raise NearlError(f"{name} is encrypted; export it without encryption.")
    if head.startswith(b"%PDF"):
        raise NearlError(f"{name} is a PDF document, not an image; export its pictures as PNG.")
    raise NearlError(f"{name} is not an image that can be read here; use {READABLE}.")


def _single(file: _File, max_side: int | None) -> Draft:
    data = file.read()
    if file.kind == "DICOM":
        return dicom.read_file(data, file.name, file.source)
    if file.kind == "NIfTI":
        return nifti.read_file(data, file.name, file.source)
    pages = pictures.decode_pages(data, file.name, max_side) if file.kind in ("TIFF", "GIF", "PNG", "WebP") else None
    if pages is not None:
        ones = np.ones((len(pages), 1))
        full = 255.0 if pages.dtype == np.uint8 and pages.ndim == 4 else None
        facts = {"format": file.kind, "frames": len(pages)}
        meta = scan_meta(ones, ones - 1, (), None, full_range=full, facts=facts, notes=[])
        return Draft(file.source, file.name, SCAN, meta, pages.shape, stored_dtype(pages.dtype), [pages])
    record = pictures.decode_picture(data, file.name, max_side)
    meta = {"notes": list(record.notes)}
    return Draft(file.source, file.name, PICTURE, meta, record.pixels.shape, "|u1", [record.pixels])


# --- series ----------------------------------------------------------------------------------------------------------


def _series(files: list[_File]) -> list[list[_Member]]:
    """Groups of files that are slices of one volume, each in the order in which they were made.

    Files that are damaged, or lie alone, are in none: reading them one by one says why, or shows them.
    """
    groups: dict[tuple, list[_Member]] = {}
    for file in files:
        try:
            data = file.head if PIXEL_TAG in file.head else file.read()
            head = dicom.header(dicom_guard.parse(data, file.name, pixels=False), file.name)
        except Exception:  # named when it is read for itself
            continue
        plane = head.planes[0]
        if head.frames == 1 and plane.depth is not None and head.series:
            directions = tuple(np.round([*plane.right, *plane.down], 3) + 0.0)
            key = (head.series, head.rows, head.columns, head.colour, head.meta["whites_low"], directions)
            groups.setdefault(key, []).append(_Member(file, head))
    found = [sorted(group, key=lambda m: m.header.order) for group in groups.values()]
    return [group for group in found if len({round(m.header.planes[0].depth, 2) for m in group}) > 1]


def _volumes(group: list[_Member], container: str) -> Iterator[Draft]:
    """The volume of a group; if that breaks off at a damaged slice, the volume without it."""
    for _ in range(MAX_DAMAGED + 1):
        damaged: list[_Member] = []
        yield _volume(group, container, damaged)
        if not damaged:
            return
        group = [member for member in group if member is not damaged[0]]


def _volume(group: list[_Member], container: str, damaged: list[_Member]) -> Draft:
    grid = dicom.arrange([member.header.planes[0] for member in group])
    note = ""
    if len(grid[0]) == 1:  # not the same number of files at every place
        first: dict[float, _Member] = {}
        for member in group:
            first.setdefault(round(member.header.planes[0].depth, 2), member)
        group = list(first.values())
        grid = dicom.arrange([member.header.planes[0] for member in group])
        note = "Some places were there more than once; only the first picture of each is shown."
    ordered = [group[i] for row in grid for i in row]
    head = ordered[len(grid[0]) // 2].header
    if note:
        head.meta["notes"] = [*head.meta["notes"], note]
    names = {member.file.name for member in group}
    name = container if container not in names else f"{group[0].file.name} and {len(group) - 1} more"
    dtype = np.result_type(*{member.header.dtype for member in ordered})
    if head.rows * head.columns * len(ordered) * dtype.itemsize * (3 if head.colour else 1) > MAX_SCAN_BYTES:
        raise NearlError(f"{name} is a series of {len(ordered)} slices, more than can be held; send a part of it.")
    planes = [member.header.planes[0] for member in ordered]
    dtype = np.dtype(np.uint8) if head.colour else dtype
    return dicom.draft(ordered[0].file.source, name, planes, len(grid), head, dtype, _slices(ordered, dtype, damaged))


def _slices(members: list[_Member], dtype: np.dtype, damaged: list[_Member]) -> Iterator[np.ndarray]:
    for member in members:
        try:
            dataset = dicom_guard.parse(member.file.read(), member.file.name)
            (picture,) = dicom.frames(dataset, member.file.name, [0])
        except NearlError:
            damaged.append(member)
            raise
        yield picture.astype(dtype, casting="unsafe", copy=False)
