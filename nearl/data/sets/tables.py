"""Tables of labels: a CSV with the columns file and label, and optionally patient or group.

Separated by comma, semicolon or tab; UTF-8 with or without a byte order mark, UTF-16, else Latin-1; header names in any
case.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearl.data.archives import Parts, Reader
from nearl.data.records import Problem, base_name
from nearl.errors import NearlError

MAX_TABLE_BYTES = 5_000_000
MAX_ROWS = 20_000
ENDINGS = (".csv", ".tsv")
_GROUPS = ("patient", "group")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    file: str  # a path with forward slashes
    label: str  # "" where it is empty
    group: str  # patient or group, or ""


@dataclass(frozen=True)
class Table:
    """A table of labels."""

    name: str
    rows: list[Row]


@dataclass
class Matched:
    """Files with their labels, in the order of the table, and what could not be matched."""

    files: list[tuple[str, Reader]] = field(default_factory=list)  # (path, what reads it)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def tidy(text: str) -> str:
    """A name in composed characters (NFC), with single spaces and without unprintable characters."""
    text = unicodedata.normalize("NFC", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def same(text: str) -> str:
    """The key under which spellings of one class are the same: `tidy`, in any case."""
    return tidy(text).casefold()


def read_table(data: bytes, name: str) -> Table:
    """The table in a CSV file. NearlError, naming it, where it is empty, too large, not text or lacks a column."""
    name = base_name(name)
    if len(data) > MAX_TABLE_BYTES:
        raise NearlError(f"{name} is larger than {MAX_TABLE_BYTES // 10**6} MB; use a table of these files only.")
    lines = _text(data, name).splitlines()
    if lines and lines[0].lower().startswith("sep="):  # written by spreadsheet programs
        lines = lines[1:]
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise NearlError(f"{name} is empty; it needs a first line “file,label” and a line for each image.")
    delimiter = max(",;\t", key=lines[first].count)
    try:
        cells = list(csv.reader(lines[first:], delimiter=delimiter, strict=True))
    except csv.Error:
        raise NearlError(f"{name} is damaged or not a CSV table; save it as CSV again.") from None
    header = [same(cell) for cell in cells[0]]
    if "file" not in header or "label" not in header:
        shown = ", ".join(tidy(cell)[:30] for cell in cells[0][:6])
        raise NearlError(f"{name} needs the columns file and label in its first line, but has “{shown}”.")
    if len(cells) - 1 > MAX_ROWS:
        raise NearlError(f"{name} has {len(cells) - 1} rows; at most {MAX_ROWS} are allowed.")
    group = next((header.index(word) for word in _GROUPS if word in header), None)
    rows = []
    for line in cells[1:]:
        line += [""] * (len(header) - len(line))
        file = _path(line[header.index("file")])
        if any(cell.strip() for cell in line):
            rows.append(Row(file, tidy(line[header.index("label")]), "" if group is None else tidy(line[group])))
    if not rows:
        raise NearlError(f"{name} has no rows; it needs a line for each image below “file,label”.")
    return Table(name, rows)


def is_table(parts: Parts) -> bool:
    return parts[-1].lower().endswith(ENDINGS)


def find_table(files: Sequence[tuple[Parts, Reader]], where: str) -> tuple[Table | None, list[Problem]]:
    """(the table of labels among files or None, why other tables are not one). NearlError for more than one."""
    found: list[Table] = []
    problems: list[Problem] = []
    for parts, reader in files:
        if is_table(parts):
            try:
                found.append(read_table(content(reader, parts[-1]), parts[-1]))
            except NearlError as error:
                problems.append(Problem(base_name(parts[-1]), str(error)))
    if len(found) > 1:
        raise NearlError(f"{where} holds {len(found)} tables ({found[0].name}, {found[1].name}); leave one of them.")
    return (found[0] if found else None), problems


def content(reader: Reader, name: str) -> bytes:
    """The content of a small file, cut off one byte above MAX_TABLE_BYTES. NearlError where it cannot be read."""
    source = reader(size=MAX_TABLE_BYTES + 1)
    if isinstance(source, bytes):
        return source
    try:
        with Path(source).open("rb") as file:
            return file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise NearlError(f"{base_name(name)} cannot be read ({error.strerror or error}); check the file.") from None


def match(table: Table, files: Sequence[tuple[Parts, Reader]]) -> Matched:
    """Match rows with files: by the path from the top, from a folder below it, or by the name alone.

    Rows without a file or label, rows that match several files, files with several labels and files without a row are
    named as problems.
    """
    paths: dict[str, list[int]] = {}
    ends: dict[str, list[int]] = {}
    for number, (parts, _) in enumerate(files):
        path = _path("/".join(parts)).split("/")
        paths.setdefault("/".join(path), []).append(number)
        for start in range(len(path)):
            ends.setdefault("/".join(path[start:]), []).append(number)
    result = Matched()
    rows: dict[int, list[Row]] = {}
    for row in table.rows:
        shown = base_name(row.file) if row.file else "A row"
        found = paths.get(row.file) or ends.get(row.file) or ends.get(row.file.rsplit("/", 1)[-1], [])
        if not row.file:
            reason = f"A row of {table.name} has no file name and was left out."
        elif not row.label:
            reason = f"{shown} has no label in {table.name} and was left out."
        elif not found:
            reason = f"{shown} is in {table.name} but is not among the files."
        elif len(found) > 1:
            reason = f"{shown} of {table.name} could be one of {len(found)} files; write its folder too."
        else:
            rows.setdefault(found[0], []).append(row)
            continue
        result.problems.append(Problem(shown, reason))
    spelt: dict[str, str] = {}
    named = {problem.name for problem in result.problems}
    for number in (*rows, *(number for number in range(len(files)) if number not in rows)):
        parts, reader = files[number]
        shown = base_name(parts[-1])
        labels = list(dict.fromkeys(same(row.label) for row in rows.get(number, ())))
        if len(labels) > 1:
            reason = f"{shown} has {len(labels)} different labels in {table.name} and was left out."
            result.problems.append(Problem(shown, reason))
        elif labels:
            row = rows[number][0]
            result.files.append(("/".join(parts), reader))
            result.labels.append(spelt.setdefault(labels[0], row.label))
            result.groups.append(row.group)
        elif shown not in named:
            result.problems.append(Problem(shown, f"{shown} has no row in {table.name} and was left out."))
    return result


def _path(text: str) -> str:
    parts = unicodedata.normalize("NFC", text.strip()).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _text(data: bytes, name: str) -> str:
    head = data[:400]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        order = ("utf-16",)
    elif head.count(0) > len(head) // 4:
        order = ("utf-16-le" if head[1:2] == b"\0" else "utf-16-be",)
    else:
        order = ("utf-8-sig", "latin-1")
    for encoding in order:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise NearlError(f"{name} is not a text file; save the table as CSV (UTF-8).")
