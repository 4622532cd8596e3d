"""The images of a folder or zip before they are decoded: where each lies, what it is said to show, and its text.

Class folders, train and test folders and tables are understood as in `nearl.data.sets.labelled`; here none of them is
needed, and an image without a label is as good as any. A table with a column of texts, such as file,text, gives the
images their captions or reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nearl.data.archives import Reader, folder_files, open_zip, path_reader, zip_files
from nearl.data.records import Problem, base_name
from nearl.data.sets.columns import Columns, ColumnsError, choose, key
from nearl.data.sets.layouts import TEST, TRAIN, Entry, Layout, arrange, is_text, split_of, without_masks
from nearl.data.sets.tables import Names, Row, Table, content, is_table, match, read_table, read_tables
from nearl.errors import NearlError

TEXTS = ("text", "caption", "captions", "report", "reports", "sentence", "sentences", "description")
FILES = ("file", "filename", "image", "path", "filepath", "imagepath", "imagename")


class Listed(NamedTuple):
    """One image file."""

    path: str  # from the top of the folder or zip, to show
    read: Reader
    label: str = ""  # the name of its class; "" where nothing says so
    part: str = ""  # TRAIN or TEST, where the layout says so
    group: str = ""  # patient or series
    text: str = ""  # its caption or report


@dataclass
class Listing:
    """All images of a folder or zip; of a zip only while `close` was not called."""

    name: str
    images: list[Listed]
    problems: list[Problem]
    notes: list[str]
    prompts: dict | None = None  # the content of its prompts.json, unchecked
    stack: ExitStack = field(default_factory=ExitStack, repr=False)

    def close(self) -> None:
        """Let go of the zip."""
        self.stack.close()

    def __enter__(self) -> Listing:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def list_images(path: Path | str, captions: Path | str | None = None) -> Listing:
    """The images of a folder or zip, none of them read. ``captions``: a CSV of files and texts; None takes one that
    lies in it.

    Raises NearlError where there is no such folder or zip, it holds no file that could be an image, or ``captions`` is
    no such table.
    """
    path, stack = Path(path), ExitStack()
    name = base_name(str(path.resolve()))
    if path.is_file():
        files, problems = zip_files(stack.enter_context(open_zip(path, name)), name)
    else:
        files, problems = folder_files(path, name)
    files, masks = without_masks(sorted((item for item in files if item[0][-1]), key=lambda item: item[0]))
    images = [item for item in files if not is_table(item[0]) and not is_text(item[0])]
    if not images:
        stack.close()
        raise NearlError(f"{name} holds no files that could be images; choose another folder or zip.")
    layout = arrange(files, [])
    near = [item for item in files if is_table(item[0]) and len(item[0]) <= 3]
    tables, unread = read_tables(near)
    telling, others = _captions(tables, captions)
    known = _labelled(layout) or _tabled(others, images)
    texts, notes = _texts(telling, images)
    found = []
    for parts, read in images:
        label, part, group = known.get(id(read), ("", "", ""))
        where = part or next((word for word in map(split_of, parts[:-1]) if word in (TRAIN, TEST)), "") or ""
        found.append(Listed("/".join(parts), read, label, where, group, texts.get(id(read), "")))
    prompts = [problem for problem in layout.problems if problem.name == "prompts.json"]
    return Listing(name, found, [*problems, *masks, *unread, *prompts], [*layout.notes, *notes], layout.prompts, stack)


def _labelled(layout: Layout) -> dict[int, tuple[str, str, str]]:
    """(label, part, group) of the files in class folders, by their readers."""
    return {
        id(file.read): (label, part or "", file.group)
        for part, classes in layout.splits.items()
        for label, files in classes.items()
        for file in files
    }


def _tabled(tables: Sequence[Table], images: Sequence[Entry]) -> dict[int, tuple[str, str, str]]:
    """The same of the files that tables of labels name."""
    names, found = Names(images), {}
    for table in tables:
        try:
            chosen = choose(table, names.only, split_of, Columns())
        except ColumnsError:
            continue
        parts = chosen.parts or [split_of(table.name.rsplit(".", 1)[0]) or ""] * len(table.rows)
        cells = zip(chosen.files, chosen.labels, chosen.groups, parts, strict=True)
        rows = match(table.name, [Row(*cell) for cell in cells], images)
        each = zip(rows.files, rows.labels, rows.parts, rows.groups, strict=True)
        found |= {id(read): (label, part, group) for (_, read), label, part, group in each}
    return found


def _captions(tables: Sequence[Table], asked: Path | str | None) -> tuple[Table | None, list[Table]]:
    """(the table of texts, the others). NearlError where ``asked`` is no such table."""
    fits = lambda table: {key(name) for name in table.header} & set(TEXTS)  # noqa: E731
    if asked is None:
        found = next((table for table in tables if fits(table)), None)
        return found, [table for table in tables if table is not found]
    path = Path(asked)
    if not path.is_file():
        raise NearlError(f"There is no table of texts at '{asked}'; check the path.")
    given = read_table(content(path_reader(path), path.name), path.name)
    if not fits(given) or not {key(name) for name in given.header} & set(FILES):
        shown = ", ".join(filter(None, given.header[:8]))
        raise NearlError(f"{given.name} needs the columns file and text in its first line, but has “{shown}”.")
    return given, [table for table in tables if table.name != given.name]


def _texts(table: Table | None, images: Sequence[Entry]) -> tuple[dict[int, str], list[str]]:
    """(the texts of images by their readers, what to say of them)."""
    if table is None:
        return {}, []
    keys = [key(name) for name in table.header]
    texts = table.column(next(keys.index(name) for name in TEXTS if name in keys))
    place = next((keys.index(name) for name in FILES if name in keys), 0)
    names, found = Names(images), {}
    for cell, text in zip(table.column(place), texts, strict=True):
        number = names.only(cell)
        if number is not None and text:
            found[id(images[number][1])] = text
    return found, [f"{table.name} gives {len(found)} of {len(images)} images a text."]
