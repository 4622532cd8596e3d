"""From files, folders and zips to drafts, in this process: what the worker runs.

Every file goes to the format that recognises it (`nearl.data.formats`). A bad file is named and the rest is read.
Everything is listed, recognised and counted before anything is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from nearl.data import archives
from nearl.data.formats import FORMATS
from nearl.data.formats.base import File, Series, identify, read_bytes
from nearl.data.formats.drafts import Draft
from nearl.data.records import Problem, base_name
from nearl.data.sandbox.messages import Key, Source
from nearl.errors import NearlError

HEAD_BYTES = 65_536  # holds the header of nearly every DICOM slice

Begin = Callable[[Key, str], None]  # is told which file is worked on from now on, and its name


class Fault(NamedTuple):
    """A file that cannot be read."""

    source: int
    name: str
    reason: str


class Count(NamedTuple):
    """What there is to decode."""

    files: int
    images: int = 0  # films and volumes count as one; 0 while this is not known


class Done(NamedTuple):
    """Files of which nothing more will come."""

    files: Sequence[Key]


class _Watched(File):
    """A file that says so when it is worked on."""

    def __init__(self, key: Key, name: str, folder: str, read: Callable[[], bytes], head: bytes, begin: Begin):
        """`folder`: where it lies, if others in its folder or zip have its name; else ""."""
        self.key, self.folder, self._begin = key, folder, partial(begin, key, name)
        super().__init__(key[0], name, partial(self._read, read), head, identify(head, name))

    @property
    def head(self) -> bytes:
        self._begin()
        return self._head

    @head.setter
    def head(self, value: bytes) -> None:
        self._head = value

    def _read(self, read: Callable[[], bytes]) -> bytes:
        self._begin()
        return read()


def read(
    sources: Sequence[Source], max_side: int | None = None, skip: Collection[Key] = (), begin: Begin = lambda *_: None
) -> Iterator[Fault | Count | Draft | Done]:
    """First faults of what cannot be opened, then two Counts, then drafts and faults in the order of the sources.

    A source is a file, a folder or a zip. max_side: still images are shrunk to it here, scans when they are drawn.
    skip: files to leave out as if they were not there; the numbers of the others stay.
    """
    files: list[_Watched] = []
    for number, (name, content) in enumerate(sources):
        if (number, -1) not in skip:
            for found in _expand(number, base_name(name), content, skip, begin):
                if isinstance(found, _Watched):
                    files.append(found)
                else:
                    yield found
    yield Count(len(files))
    series: dict[File, Series] = {}  # by each of its files
    for known in FORMATS.values():
        for group in known.together([file for file in files if file.format is known]):
            series |= dict.fromkeys(group.files, group)
    keys = {file: file.key for file in files}
    groups = {id(group): group for group in series.values()}.values()
    yield Count(len(files), len(keys.keys() - series.keys()) + sum(group.images for group in groups))
    shown: list[Series] = []
    for file in files:
        group = series.get(file)
        if group in shown:
            continue
        members = [file.key] if group is None else [keys[member] for member in group.files if member in keys]
        begin(file.key, file.name)
        try:
            if group is None:
                draft = file.format.read(file.read(), file.name, max_side)
                draft.name += f" ({file.folder})" if file.folder else ""
                drafts = iter([draft])
            else:
                shown.append(group)
                drafts = group.drafts(base_name(sources[file.source][0]))
            for draft in drafts:
                draft.source = file.source
                yield draft
        except NearlError as error:
            yield Fault(file.source, file.name, str(error))
        except MemoryError:
            yield Fault(file.source, file.name, too_much(file.name))
        yield Done(members)


def too_much(name: str) -> str:
    return f"{name} needs more memory than is allowed for one file; save a smaller copy."


def _expand(
    number: int, name: str, content: bytes | Path, skip: Collection[Key], begin: Begin
) -> Iterator[Fault | Done | _Watched]:
    """The files of a source, itself or those in a folder or zip, and faults of what cannot be opened."""
    begin((number, -1), name)
    empty = True
    try:
        for key, label, folder, reader in _listed(number, name, content):
            empty = False
            if isinstance(reader, Problem):
                yield Fault(number, *reader)
            elif key not in skip:
                begin(key, label)
                try:
                    head = _content(reader, label, HEAD_BYTES)
                    yield _Watched(key, label, folder, partial(_content, reader, label), head, begin)
                except NearlError as error:
                    yield Fault(number, label, str(error))
                    yield Done([key])
        if empty:
            yield Fault(number, name, f"{name} holds no files; choose one with images.")
    except NearlError as error:
        yield Fault(number, name, str(error))


def _listed(number: int, name: str, content: bytes | Path) -> Iterator[tuple[Key, str, str, archives.Reader | Problem]]:
    """(key, name, folder that tells it from others of its name, reader) of each file of a source.

    NearlError where it cannot be opened.
    """
    if isinstance(content, Path) and content.is_dir():
        listed, problems = archives.folder_files(content, name)
    elif archives.is_zip(content):
        listed, problems = archives.zip_files(archives.open_zip(content, name), name)  # open until it was read
    else:
        yield (
            (number, 0),
            name,
            "",
            lambda size=None: content if size is None or isinstance(content, Path) else content[:size],
        )
        return
    yield from (((number, -1), problem.name, "", problem) for problem in problems)
    found = sorted((item for item in listed if item[0][-1]), key=lambda item: item[0])
    folders = _folders([parts for parts, _ in found])
    for place, (parts, reader) in enumerate(found):
        yield (number, place), base_name(parts[-1]), folders[place], reader


def _folders(files: Sequence[Sequence[str]]) -> list[str]:
    """The folder of each file whose name others have too, with those above where folders of one name hold such files;
    "" for the rest. A file is the names of its folders and its own."""
    names, near = Counter(parts[-1] for parts in files), Counter(tuple(parts[-2:]) for parts in files)
    shown = [parts[:-1] if near[tuple(parts[-2:])] > 1 else parts[-2:-1] for parts in files]
    return [", ".join(above) if names[parts[-1]] > 1 else "" for parts, above in zip(files, shown, strict=True)]


def _content(reader: archives.Reader, name: str, size: int | None = None) -> bytes:
    content = reader(size=size)
    return content if isinstance(content, bytes) else read_bytes(content, name, size)
