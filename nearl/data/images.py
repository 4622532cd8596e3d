"""The decoding entry point: files, folders and zips become records with checked pixels.

The type is detected from the content, never from the extension: every format in `nearl.data.formats`, and folders or
zips of them. Untrusted files are decoded in a process of their own (`nearl.data.sandbox.client`); only
`decode_picture` decodes in this one, for the project's own still images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from nearl.data.formats.base import read_bytes
from nearl.data.formats.pictures import decode_pixels
from nearl.data.records import ImageRecord, Problem, base_name
from nearl.data.sandbox.client import SHARED, Sandbox
from nearl.data.sandbox.messages import Source
from nearl.data.sandbox.request import TooMany
from nearl.errors import NearlError

__all__ = [
    "ImageRecord",
    "Problem",
    "base_name",
    "decode",
    "decode_many",
    "decode_one",
    "decode_picture",
    "stream",
    "told_apart",
]

MOST_BESIDE = 8  # files beside the only image of a zip, which may all be damaged


def decode(
    source: bytes | Path | str, name: str | None = None, max_side: int | None = None, sandbox: Sandbox = SHARED
) -> list[ImageRecord]:
    """Everything in one file, folder or zip: a record for every image, film and volume.

    name: shown instead of the path's base name. max_side: the longest side of what is shown, in pixels. Raises
    NearlError, one sentence, if nothing can be read; unreadable files beside readable ones are left out (`decode_many`
    names them).
    """
    return _decoded(_named(source, name), max_side, None, sandbox)


def _decoded(source: Source, max_side: int | None, images: int | None, sandbox: Sandbox) -> list[ImageRecord]:
    records, problems = decode_many([source], max_side, images, sandbox)
    if not records:
        raise NearlError(problems[0].reason)
    return records


def decode_one(
    source: bytes | Path | str, name: str | None = None, max_side: int | None = None, sandbox: Sandbox = SHARED
) -> ImageRecord:
    """The only image of a file: a still image or a volume. NearlError if there are several or none."""
    label, content = _named(source, name)
    if isinstance(content, Path) and content.is_dir():
        raise NearlError(f"{base_name(label)} is a folder, not an image; choose the image files in it.")
    try:
        records = _decoded((label, content), max_side, MOST_BESIDE, sandbox)
    except TooMany as error:
        raise NearlError(f"{base_name(label)} holds {error.count} images; choose one of them.") from None
    if len(records) > 1:
        raise NearlError(f"{base_name(label)} holds {len(records)} images; choose one of them.")
    return records[0]


def decode_many(
    sources: Iterable[Path | str | tuple[str, bytes | Path]],
    max_side: int | None = None,
    images: int | None = None,
    sandbox: Sandbox = SHARED,
) -> tuple[list[ImageRecord], list[Problem]]:
    """(records, problems) of all sources, each a path or (name, content), in order; a bad file becomes a Problem.

    DICOM files of one series become one volume, wherever they are among the sources. images: raises TooMany, before
    anything is decoded, where there are more.
    """
    named: list[Source] = [_named(*reversed(s)) if isinstance(s, tuple) else _named(s, None) for s in sources]
    if not named:
        return [], []
    records, problems = sandbox.read(named, max_side, images)
    found = told_apart([record for _, record in records])
    return [_shrunk(record, max_side) for record in found], [problem for _, problem in problems]


def stream(
    sources: Iterable[tuple[str, bytes | Path]], sandbox: Sandbox = SHARED
) -> Iterator[tuple[list[tuple[int, ImageRecord]], list[tuple[int, Problem]]]]:
    """(records, problems) of all sources in portions, as they are decoded, each with the index of its source; for more
    images than fit in memory. DICOM files of one series become one volume, which has the index of its first file."""
    yield from sandbox.stream([_named(content, name) for name, content in sources])


def told_apart(records: list[ImageRecord]) -> list[ImageRecord]:
    """The records, those of the same name with a number in it: "study.zip (2 of 3)"."""
    total, seen, found = Counter(record.name for record in records), Counter(), []
    for record in records:
        name = record.name
        seen[name] += 1
        found.append(record if total[name] == 1 else replace(record, name=f"{name} ({seen[name]} of {total[name]})"))
    return found


def decode_picture(source: bytes | Path | str, name: str | None = None, max_side: int | None = None) -> ImageRecord:
    """One still image decoded in this process, for the project's own files; otherwise as `decode_one`."""
    label = base_name(name if name is not None else ("image" if isinstance(source, bytes) else str(source)))
    data = source if isinstance(source, bytes) else read_bytes(Path(source), label)
    return ImageRecord.from_pixels(label, *decode_pixels(data, label, max_side))


def _named(source: bytes | Path | str, name: str | None) -> Source:
    if isinstance(source, bytes):
        return name or "image", source
    return name or base_name(str(source)), Path(source).absolute()


def _shrunk(record: ImageRecord, max_side: int | None) -> ImageRecord:
    if record.scan is None or max_side is None:
        return record
    if max(record.size) <= max_side:
        return replace(record, max_side=max_side)
    return ImageRecord.from_scan(record.name, record.scan, record.view, max_side)
