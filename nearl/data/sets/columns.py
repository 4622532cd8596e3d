"""Which columns of a table hold the file, its label, its patient and its part: by their names or their content."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nearl.data.sets.marks import MARKS, NOTHING, UNCERTAIN, findings_of, mark, only_marks, partly
from nearl.data.sets.tables import Table, listed, same
from nearl.errors import NearlError

FILES = (
    "file", "filename", "filenames", "image", "images", "imagename", "imagefile", "imagefilename", "imageid",
    "imageindex", "imgname", "img", "imgid", "imagepath", "imgpath", "filepath", "path", "isicid", "idcode", "picture",
    "scan", "dicom", "name", "id",
)  # fmt: skip
LABELS = (
    "label", "labels", "class", "classname", "classlabel", "category", "dx", "diagnosis", "diagnostic", "finding",
    "findings", "findinglabels", "findinglabel", "disease", "pathology", "condition", "benignmalignant", "tumortype",
    "target", "outcome", "grade", "level", "severity",
)  # fmt: skip
PATIENTS = (
    "patient", "patientid", "patientnumber", "patientname", "subject", "subjectid", "participant", "participantid",
    "person", "personid", "pid", "case", "caseid", "lesion", "lesionid", "study", "studyid", "studyinstanceuid",
    "group", "groupid",
)  # fmt: skip
FINDINGS = (  # how names of columns end that are findings where they hold marks; of PATIENTS and LABELS too
    "lesion", "case", "study", "group", "finding", "findings", "disease", "pathology", "condition", "grade", "level",
    "severity",
)  # fmt: skip
PARTS = ("split", "subset", "partition", "set", "usage", "phase", "dataset")
LABEL_ENDS = ("label", "class", "diagnosis", "category", "grade", "finding")  # of the only column with such a name
PLAIN = ("label", "labels", "class", "category", "target", "grade", "level", "severity", "diagnosis", "outcome", "y")
SEPARATOR = "|"
_LOOKED_AT, _LOOKED_AT_IN_ALL = 2000, 100_000  # cells of one column and of all, to see which column names files


@dataclass(frozen=True)
class Columns:
    """The columns that a person named; "" leaves a choice to the program."""

    file: str = ""
    label: str = ""


class ColumnsError(NearlError):
    """A table whose columns somebody has to choose."""

    def __init__(self, sentence: str, header: Sequence[str], file: str = ""):
        super().__init__(sentence)
        self.header, self.file = list(header), file  # `file`: the column that names files, if that is known


@dataclass(frozen=True)
class Chosen:
    """What is read of each row, and what to tell about it."""

    files: list[str]
    labels: list[str]  # "" where there is none
    groups: list[str]
    parts: list[str]  # of the column that says train or test; empty without one
    notes: list[str]
    findings: tuple[str, ...] = ()  # where the table marks findings: `labels` are then codes, a mark for each


def choose(
    table: Table,
    fits: Callable[[str], int | None],
    part_of: Callable[[str], str | None],
    columns: Columns,
    findings: bool = False,
) -> Chosen:
    """The columns of a table. ColumnsError where it is not plain which holds the files or the labels.

    `fits`: the number of the file that a cell names, or None; `part_of`: train or test for a cell that says so;
    `findings`: whether columns of marks may mean findings, of which an image has any number. NearlError where such a
    column cannot be used.
    """
    keys = [key(name) for name in table.header]
    file = _named(columns.file, table) if columns.file else _file(table, keys, fits)
    left = [i for i in range(len(keys)) if i != file]
    label = _named(columns.label, table) if columns.label else _label(keys, left)
    if file is None:
        raise _unclear(table)
    part = next((i for i in left if i != label and keys[i] in PARTS and _all_parts(table, i, part_of)), None)
    left = [i for i in left if i not in (label, part)]
    marks = [i for i in range(len(keys)) if findings and i != file and only_marks(table.column(i))]
    either = [i for i in marks if keys[i].endswith(FINDINGS)]
    group = _first(PATIENTS, keys, [i for i in left if i not in either and len(set(table.column(i)) - {""}) > 1])
    left = [i for i in left if i != group]
    guess = label if not columns.label and label in either and any(i in marks for i in left) else None
    named, codes = [], []
    if findings and (label is None or guess is not None):
        named, codes = findings_of(table, sorted([*left, *([] if guess is None else [guess])]))
    if named and guess is not None:
        label, left = None, sorted([*left, guess])
    marked = _marked(table, left) if label is None and not named else []
    if label is None and not marked and not named:
        others = [i for i in left if table.header[i]]
        if len(others) != 1 or len(table.header) != 2:
            raise _unclear(table, table.header[file])
        label = others[0]
    if named:
        marked, labels = [i for i in left if table.header[i] in named], codes
        words = f"findings from the marks in {listed(named)} (1 present, 0 absent, empty unknown)"
    elif label is not None:
        cells = ["" if same(cell) in NOTHING else cell for cell in table.column(label)]
        labels = _binary(cells, table.header[label], keys[label])
        words = f"labels from “{table.header[label]}”"
    else:
        rows = zip(*(table.column(i) for i in marked), strict=True)
        names = [table.header[i] for i in marked]
        labels = [SEPARATOR.join(n for n, cell in zip(names, row, strict=True) if MARKS[mark(cell)]) for row in rows]
        words = f"labels from the marks in {listed(names)}"
    left = [i for i in left if i not in (label, *marked) and table.header[i]]
    words = f"{table.name}: file names are read from “{table.header[file]}”, {words}"
    words += f", images that belong together from “{table.header[group]}”" if group is not None else ""
    words += f", train and test from “{table.header[part]}”" if part is not None else ""
    words += f". Not used: {', '.join(table.header[i] for i in left)}." if left else "."
    usual = {*keys} <= {"file", "label", "patient", "group", ""} and not left
    groups = [""] * len(table.rows) if group is None else table.column(group)
    parts = [] if part is None else [part_of(cell) or "" for cell in table.column(part)]
    several = partly(table, left) if named else _several(table.name, labels)
    notes = [*table.notes, *([] if usual else [words]), *several]
    return Chosen(table.column(file), labels, groups, parts, notes, tuple(named))


def key(text: str) -> str:
    """A column's name without case, spaces and punctuation: "Image Index" and "image_index" are the same."""
    return re.sub(r"[\W_]+", "", text.casefold())


def _named(name: str, table: Table) -> int:
    for wanted in (same, key):
        for place, known in enumerate(table.header):
            if wanted(known) == wanted(name):
                return place
    shown = ", ".join(filter(None, table.header[:12]))
    raise ColumnsError(f"{table.name} has no column “{name}”; it has {shown}.", table.header)


def _first(names: Sequence[str], keys: Sequence[str], places: Sequence[int]) -> int | None:
    return next((place for name in names for place in places if keys[place] == name), None)


def _label(keys: Sequence[str], places: Sequence[int]) -> int | None:
    """The column with a usual name, or the only one whose name ends as such do."""
    ends = [place for place in places if keys[place].endswith(LABEL_ENDS)]
    found = _first(LABELS, keys, places)
    return ends[0] if found is None and len(ends) == 1 else found


def _file(table: Table, keys: Sequence[str], fits: Callable[[str], int | None]) -> int | None:
    """The column whose cells name files: the first with a usual name that does, else the one that names most."""
    known = [place for name in FILES for place in range(len(keys)) if keys[place] == name]
    looked = min(_LOOKED_AT, max(20, _LOOKED_AT_IN_ALL // max(len(keys), 1)))
    found = {i: len({fits(row[i]) for row in table.rows[:looked]} - {None}) for i in range(len(keys))}
    for place in known:
        if found[place]:
            return place
    best = max(found, key=lambda place: found[place])
    return best if found[best] > 1 and keys[best] not in LABELS else next(iter(known), None)


def _marked(table: Table, places: Sequence[int]) -> list[int]:
    """The columns of a table with a column for each class: two or more that hold only 0 and 1 and mark every row."""
    columns = [i for i in places if table.header[i] and all(mark(cell) in MARKS for cell in table.column(i))]
    columns = [i for i in columns if any(map(mark, table.column(i)))]
    rows = zip(*(table.column(i) for i in columns), strict=True)
    return columns if len(columns) > 1 and all(any(MARKS[mark(cell)] for cell in row) for row in rows) else []


def _binary(labels: list[str], name: str, column: str) -> list[str]:
    """Labels with names instead of 1 and 0 where the column is named after a finding, and without ".0"."""
    found = {label for label in labels if label}
    plain = column in PLAIN or column.endswith(LABEL_ENDS)
    if not plain and name and {same(label) for label in found} <= {*MARKS, *UNCERTAIN}:
        return [label and _meant(label, name) for label in labels]
    if all(re.fullmatch(r"\d+(\.0)?", label) for label in found):
        return [label.removesuffix(".0") for label in labels]
    return labels


def _meant(mark: str, name: str) -> str:
    """The label that a mark in the column of a finding stands for; -1 is how chest X-ray sets write "uncertain"."""
    if mark in UNCERTAIN:
        return f"{name} uncertain"
    return name if MARKS[same(mark)] else f"no {name}"


def _several(name: str, labels: list[str]) -> list[str]:
    """The sentence about rows with several labels in one cell."""
    alone = {same(label) for label in labels}

    def parts(label: str) -> int:
        if SEPARATOR in label:
            return len([word for word in label.split(SEPARATOR) if word.strip()])
        words = [same(word).strip("'\"[] ") for word in re.split(r"[;,+/]", label)]
        return len(words) if len(words) > 1 and (all(word in alone for word in words) or label[:1] == "[") else 1

    count = sum(parts(label) > 1 for label in labels)
    if not count:
        return []
    example = next(label for label in labels if parts(label) > 1)
    return [
        f"{count} rows of {name} have several labels in one cell, such as “{example}”. An image has one class here, so "
        "each combination is a class of its own; merge, rename or remove such classes, or bring a table with a column "
        "of 1 and 0 for each of them: then they are findings, of which an image has any number."
    ]


def _all_parts(table: Table, place: int, part_of: Callable[[str], str | None]) -> bool:
    cells = set(table.column(place))
    return len(cells) > 1 and all(part_of(cell) for cell in cells)


def _unclear(table: Table, file: str = "") -> ColumnsError:
    shown = ", ".join(name[:30] for name in filter(None, table.header[:8]))
    more = ", …" if len(table.header) > 8 else ""
    marks = [
        name
        for place, name in enumerate(table.header)
        if name and name != file and {mark(c) for c in table.column(place)} <= {*MARKS, *UNCERTAIN}
    ]
    why = ""
    if file and len(marks) > 1:
        why = (
            f" The columns {listed(marks)} hold only marks, and not every row has one: choose one of them, or teach "
            "all of them as findings, with `nearl finetune` or in Teach."
        )
    return ColumnsError(
        f"{table.name} needs the columns file and label in its first line, but has “{shown}{more}”; rename two of "
        f"them, or say which ones to use.{why}",
        table.header,
        file,
    )
