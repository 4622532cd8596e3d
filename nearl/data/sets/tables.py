"""Tables of labels as CSV files: reading them, and matching their rows with files.

Separated by comma, semicolon or tab; UTF-8 with or without a byte order mark, UTF-16, else the national code page in
which the text makes sense; header names in any case.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearl.data.archives import Folder, Parts, Reader
from nearl.data.charsets import encoding_of
from nearl.data.records import Problem, base_name
from nearl.errors import NearlError

MAX_TABLE_BYTES = 20_000_000
MAX_ROWS = 150_000
MAX_COLUMNS = 2_000
MAX_CELLS = 4_000_000  # of one table, also those that its lines leave out (our choice)
MAX_ALL_BYTES = 2 * MAX_TABLE_BYTES  # of all tables of a set (our choice)
ENDINGS = (".csv", ".tsv")
NAMED = 3  # files named in one sentence
ONE_BY_ONE = 20  # rows or files without their counterpart that are named one by one
CODE_PAGES = {
    "gbk": "GBK (Chinese)", "cp932": "Shift-JIS (Japanese)", "big5": "Big5 (Chinese)", "cp949": "EUC-KR (Korean)",
    "cp1251": "Windows-1251 (Cyrillic)", "cp1252": "Windows-1252 (Western European)",
    "latin-1": "Windows-1252 (Western European)",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    file: str  # a path with forward slashes
    label: str  # "" where it is empty
    group: str = ""  # patient or group
    part: str = ""  # train or test, where the table says so


@dataclass(frozen=True)
class Table:
    """The content of a CSV file."""

    name: str
    header: list[str]  # as tidy names
    rows: list[list[str]]  # of tidy cells, each as many as the header has
    lines: list[int]  # of the file, from 1, in which the rows end
    notes: tuple[str, ...] = ()  # how it was read, in sentences

    def column(self, place: int) -> list[str]:
        return [row[place] for row in self.rows]


@dataclass
class Matched:
    """Files with their labels, in the order of the table, and what could not be matched."""

    files: list[tuple[str, Reader]] = field(default_factory=list)  # (path, what reads it)
    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def tidy(text: str) -> str:
    """A name in composed characters (NFC), with single spaces and without unprintable characters."""
    text = unicodedata.normalize("NFC", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def same(text: str) -> str:
    """The key under which spellings of one class are the same: `tidy`, in any case."""
    return tidy(text).casefold()


def listed(names: Sequence[str]) -> str:
    """The first names and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def read_table(data: bytes, name: str) -> Table:
    """The table in a CSV file. NearlError, naming it, where it is empty, too large or not text."""
    name = base_name(name)
    if len(data) > MAX_TABLE_BYTES:
        raise NearlError(f"{name} is larger than {MAX_TABLE_BYTES // 10**6} MB; use a table of these files only.")
    text, notes = _text(data, name)
    lines = list(io.StringIO(text, newline=""))  # with their ends, which a cell in quotes may hold
    above = int(bool(lines) and lines[0].lower().startswith("sep="))  # written by spreadsheet programs
    lines = lines[above:]
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise NearlError(f"{name} is empty; it needs a first line “file,label” and a line for each image.")
    delimiter = max(",;\t", key=lines[first].count)
    if lines[first].count(delimiter) > MAX_COLUMNS:
        raise NearlError(f"{name} has more than {MAX_COLUMNS} columns; leave the columns file and label.")
    if len(lines) - first - 1 > MAX_ROWS:
        raise NearlError(f"{name} has {len(lines) - first - 1} rows; at most {MAX_ROWS} are allowed.")
    header: list[str] = []
    rows: list[list[str]] = []
    places: list[int] = []
    reader = csv.reader(lines[first:], delimiter=delimiter, strict=True)
    try:
        for line in reader:
            if not header:
                header = [tidy(cell) for cell in line[: MAX_COLUMNS + 1]]
                if len(header) * (len(lines) - first - 1) > MAX_CELLS:
                    most = MAX_CELLS // 10**6
                    raise NearlError(f"{name} has more than {most} million cells; leave the columns file and label.")
            elif any(cell.strip() for cell in line):
                cells = [cell if cell.isalnum() and cell.isascii() else tidy(cell) for cell in line[: len(header)]]
                rows.append(cells + [""] * (len(header) - len(cells)))
                places.append(above + first + reader.line_num)
    except csv.Error:
        raise NearlError(f"{name} is damaged or not a CSV table; save it as CSV again.") from None
    if not rows:
        raise NearlError(f"{name} has no rows; it needs a line for each image below “file,label”.")
    return Table(name, header, rows, places, notes)


def is_table(parts: Parts) -> bool:
    return parts[-1].lower().endswith(ENDINGS)


def read_tables(files: Iterable[tuple[Parts, Reader]]) -> tuple[list[Table], list[Problem]]:
    """(the tables among files, why others cannot be read)."""
    found: list[Table] = []
    problems: list[Problem] = []
    left = MAX_ALL_BYTES
    for parts, reader in files:
        if is_table(parts):
            try:
                if left <= 0:
                    raise NearlError(f"{base_name(parts[-1])} was left out: the tables are too large; bring fewer.")
                data = content(reader, parts[-1])
                left -= len(data)
                found.append(read_table(data, parts[-1]))
            except NearlError as error:
                problems.append(Problem(base_name(parts[-1]), str(error)))
    return found, problems


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


class Names:
    """The names of files, to find which one a cell means: by the path from the top, from a folder below it, or by the
    name alone; else the same in another case, without the ending, and as a number. A slice means its study."""

    def __init__(self, files: Sequence[tuple[Parts, Reader]]):
        self._tops: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        self._folded: dict[str, list[int]] = {}
        self._bare: dict[str, list[int]] = {}
        self._numbered: dict[str, list[int]] = {}
        for number, (parts, reader) in enumerate(files):
            path = slashed("/".join(parts)).split("/")
            self._add(path, number)
            for name, _ in reader.files if isinstance(reader, Folder) else ():
                self._add([*path, slashed(name)], number)

    def _add(self, path: list[str], number: int) -> None:
        keys = [(self._tops, "/".join(path))]
        for start in range(len(path)):
            end = "/".join(path[start:])
            keys += [(self._ends, end), (self._folded, _folded(end)), (self._bare, without_ending(_folded(end)))]
        if (last := without_ending(_folded(path[-1]))).isdecimal():
            keys.append((self._numbered, _as_number(last)))
        for index, key in keys:
            found = index.setdefault(key, [])
            if not found or found[-1] != number:
                found.append(number)

    def find(self, cell: str) -> list[int]:
        """The numbers of the files that a cell may mean."""
        cell = slashed(cell)
        if not cell:
            return []
        if cell in self._tops:
            return self._tops[cell]
        last, folded = cell.rsplit("/", 1)[-1], _folded(cell)
        for index, path, name in (
            (self._ends, cell, last),
            (self._folded, folded, _folded(last)),
            (self._bare, folded, _folded(last)),
        ):
            if found := index.get(path) or index.get(name):
                return found
        return self._numbered.get(_as_number(cell), [])  # a spreadsheet program makes 12 or 12.0 of 0012

    def only(self, cell: str) -> int | None:
        """The number of the only file that a cell can mean, or None."""
        found = self.find(cell)
        return found[0] if len(found) == 1 else None


def match(name: str, rows: Sequence[Row], files: Sequence[tuple[Parts, Reader]]) -> Matched:
    """Match rows of the table `name` with files.

    Rows without a file or label, rows that match several files, files with several labels and files without a row are
    named as problems.
    """
    names, result, missing = Names(files), Matched(), []
    unlabelled: set[int] = set()
    found_rows: dict[int, list[Row]] = {}
    for row in rows:
        shown = base_name(row.file) if row.file else "A row"
        found = names.find(row.file)
        if not row.file:
            reason = f"A row of {name} has no file name and was left out."
        elif not row.label:
            reason = f"{shown} has no label in {name} and was left out."
            unlabelled.update(found)
        elif not found:
            missing.append(shown)
            continue
        elif len(found) > 1:
            reason = f"{shown} of {name} could be one of {len(found)} files; write its folder too."
        else:
            found_rows.setdefault(found[0], []).append(row)
            continue
        result.problems.append(Problem(shown, reason))
    result.problems += _each(
        missing, f"is in {name} but is not among the files.", f"rows of {name} name files that are not here"
    )
    spelt: dict[str, str] = {}
    named = {problem.name for problem in result.problems}
    unused: list[str] = []
    for number in (*found_rows, *(number for number in range(len(files)) if number not in found_rows)):
        parts, reader = files[number]
        shown = base_name(parts[-1])
        labels = list(dict.fromkeys(same(row.label) for row in found_rows.get(number, ())))
        if len(labels) > 1:
            reason = f"{shown} has {len(labels)} different labels in {name} and was left out."
            result.problems.append(Problem(shown, reason))
        elif labels:
            row = found_rows[number][0]
            result.files.append(("/".join(parts), reader))
            result.labels.append(spelt.setdefault(labels[0], row.label))
            result.groups.append(row.group)
            result.parts.append(row.part)
        elif shown not in named and number not in unlabelled:
            unused.append(shown)
    result.problems += _each(
        unused, f"has no row in {name} and was left out.", f"files have no row in {name} and were left out"
    )
    return result


def _each(names: list[str], one: str, many: str) -> list[Problem]:
    """A problem for each name, or one for all where they are very many."""
    if len(names) <= ONE_BY_ONE:
        return [Problem(name, f"{name} {one}") for name in names]
    return [Problem(names[0], f"{len(names)} {many}: {listed(names)}.")]


def slashed(text: str) -> str:
    """A path in composed characters with forward slashes and no empty parts."""
    parts = unicodedata.normalize("NFC", text.strip()).replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _folded(path: str) -> str:
    """A path in lower case, with one spelling of each ending."""
    path = path.casefold()
    for long, short in ((".jpeg", ".jpg"), (".tiff", ".tif"), (".dicom", ".dcm")):
        if path.endswith(long):
            return path.removesuffix(long) + short
    return path


def _as_number(text: str) -> str:
    """A whole number as spreadsheet programs write it; other text as it is."""
    plain = text.removesuffix(".0")
    return plain.lstrip("0") or "0" if plain.isdecimal() else text


def without_ending(path: str) -> str:
    """A path without the ending of its file name: "a/1.2.nii.gz" -> "a/1.2"."""
    folder, slash, last = path.removesuffix(".gz").rpartition("/")
    first, _, ending = last.rpartition(".")
    known = first and 2 <= len(ending) <= 5 and ending.isalnum() and not ending[0].isdigit()
    return f"{folder}{slash}{first}" if known else path


def _text(data: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """(the text, what to say about its encoding). NearlError where it is none."""
    head = data[:400]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        codec = "utf-16"
    elif head.count(0) > len(head) // 4:
        codec = "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
    elif data.startswith(b"\xef\xbb\xbf"):
        codec = "utf-8-sig"
    else:
        codec = encoding_of(data)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        text = "\0" if codec.startswith("utf-16") else data.decode("latin-1")
    if "\0" in text:
        raise NearlError(f"{name} is not a text file; save the table as CSV (UTF-8).")
    read_as = CODE_PAGES.get(codec)
    said = f"{name} is not in UTF-8 and was read as {read_as}; if names look wrong, save it as CSV (UTF-8)."
    return text, (said,) if read_as else ()
