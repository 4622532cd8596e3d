"""From files, folders and zips to drafts, in this process: what the worker runs.

Every file goes to the format that recognises it (`nearl.data.formats`). A bad file is named and the rest is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from nearl.data import archives
from nearl.data.formats import FORMATS
from nearl.data.formats.base import File, Series, identify, read_bytes
from nearl.data.formats.drafts import Draft
from nearl.data.records import Problem, base_name
from nearl.errors import NearlError

HEAD_BYTES = 65_536  # holds the header of nearly every DICOM slice


def read(
    sources: Sequence[tuple[str, bytes | Path]], max_side: int | None = None
) -> Iterator[Draft | tuple[int, Problem]]:
    """Drafts and (number of the source, problem), in the order of the sources, which are (name, content).

    A source is a file, a folder or a zip. max_side: still images are shrunk to it here, scans when they are drawn.
    """
    files: list[File] = []
    for number, (name, content) in enumerate(sources):
        try:
            found, problems = _expand(number, base_name(name), content)
        except NearlError as error:
            found, problems = [], [Problem(base_name(name), str(error))]
        files += found
        yield from ((number, problem) for problem in problems)
    series: dict[File, Series] = {}  # by each of its files
    for known in FORMATS.values():
        for group in known.together([file for file in files if file.format is known]):
            series |= dict.fromkeys(group.files, group)
    shown: list[Series] = []
    for file in files:
        try:
            group = series.get(file)
            if group is None:
                draft = file.format.read(file.read(), file.name, max_side)
                draft.source = file.source
                yield draft
            elif group not in shown:
                shown.append(group)
                for draft in group.drafts(base_name(sources[file.source][0])):
                    draft.source = file.source
                    yield draft
        except NearlError as error:
            yield file.source, Problem(file.name, str(error))
        except MemoryError:
            yield file.source, Problem(file.name, too_much(file.name))


def too_much(name: str) -> str:
    return f"{name} needs more memory than is allowed for one file; save a smaller copy."


def _expand(number: int, name: str, content: bytes | Path) -> tuple[list[File], list[Problem]]:
    """The files of a source: itself, or those in a folder or zip. NearlError where it cannot be opened."""
    if isinstance(content, Path) and content.is_dir():
        listed, problems = archives.folder_files(content, name)
    else:
        zipped = archives.is_zip(content) if isinstance(content, Path) else content[:4] == b"PK\x03\x04"
        if not zipped:
            read = partial(read_bytes, content, name) if isinstance(content, Path) else lambda: content
            head = read_bytes(content, name, HEAD_BYTES) if isinstance(content, Path) else content[:HEAD_BYTES]
            return [File(number, name, read, head, identify(head, name))], []
        archive = archives.open_zip(content, name)  # stays open until its entries were read
        listed, problems = archives.zip_files(archive, name)
    files = []
    for parts, reader in sorted((item for item in listed if item[0][-1]), key=lambda item: item[0]):
        label = base_name(parts[-1])
        try:
            head = _content(reader, label, HEAD_BYTES)
            files.append(File(number, label, partial(_content, reader, label), head, identify(head, label)))
        except NearlError as error:
            problems.append(Problem(label, str(error)))
    if not files and not problems:
        problems.append(Problem(name, f"{name} holds no files; choose one with images."))
    return files, problems


def _content(reader: archives.Reader, name: str, size: int | None = None) -> bytes:
    content = reader(size=size)
    return content if isinstance(content, bytes) else read_bytes(content, name, size)
