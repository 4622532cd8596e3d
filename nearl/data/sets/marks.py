"""Columns of a table that mark findings: 1 present, 0 absent, empty (or -1, as some sets write) unknown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nearl.data.sets.tables import Table, listed, same
from nearl.errors import NearlError
from nearl.prompts import MAX_FINDINGS, class_key, default_findings

MARKS = {"": 0, "0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
UNCERTAIN = ("-1", "-1.0")
NOTHING = ("nan", "na", "n/a", "#n/a", "<na>", "null")  # cells that programs write where there is no value
PRESENT, ABSENT, UNKNOWN = "1", "0", "-"  # in the code of a row, a mark for each finding
ENOUGH = 2 / 3  # of the filled cells of a column are marks: then the others are mistakes (our choice)


def mark(cell: str) -> str:
    """A cell as it is looked up in `MARKS` and `UNCERTAIN`: "" where it says that there is no value, 1 for 1.00."""
    text = same(cell)
    return "" if text in NOTHING else re.sub(r"^(-?[01])\.0*$", r"\1", text)


def only_marks(cells: Sequence[str]) -> bool:
    """Whether a column holds marks and nothing else, and at least one."""
    found = {mark(cell) for cell in cells} - {""}
    return bool(found) and found <= {*MARKS, *UNCERTAIN}


def partly(table: Table, places: Sequence[int]) -> list[str]:
    """A sentence for each of these columns, none of which is read, that holds marks and also words."""
    said = []
    for i in places:
        filled = [cell for cell in table.column(i) if mark(cell)]
        other = [cell for cell in filled if mark(cell) not in MARKS and mark(cell) not in UNCERTAIN]
        words = [cell for cell in other if not re.fullmatch(r"[-+.,\d\s]+", cell)]
        if words and len(other) < len(filled):
            said.append(
                f"{table.name}: “{table.header[i]}” is not read as a finding, because {len(other)} of its "
                f"{len(filled)} filled cells are no marks, such as “{words[0][:40]}”."
            )
    return said


def findings_of(table: Table, places: Sequence[int]) -> tuple[list[str], list[str]]:
    """(findings, the code of each row) of the columns at ``places`` that mark findings; ([], []) where there are none,
    and where every row marks exactly one of several as present: those are classes, if the other cells are all 0 (one
    may be empty) or all empty.

    A row in which nothing is known has the code "". NearlError for a cell that is no mark, a finding that has two
    columns, or a name that no prompt set can have, or of which nothing is known, and too many findings.
    """
    columns = {i: [mark(cell) for cell in table.column(i)] for i in places if table.header[i]}
    marked = [i for i, cells in columns.items() if _marks(cells)]
    if not marked:
        return [], []
    blank = [i for i, cells in columns.items() if not any(cells)]
    rows = list(zip(*(columns[i] for i in marked), strict=True))
    if len(marked) > 1 and _exclusive(rows):
        return [], []
    names = [table.header[i] for i in marked]
    seen: dict[str, str] = {}
    for name in names:
        if class_key(name) in seen:
            raise NearlError(f"{table.name} has two columns for “{name}”; remove or rename one of them.")
        seen[class_key(name)] = name
    if blank:
        what = listed([f"“{table.header[i]}”" for i in blank])
        raise NearlError(f"{table.name} says of no image whether it has {what}; fill in 1 and 0, or remove the column.")
    for i in marked:
        for number, cell in enumerate(columns[i]):
            if cell not in MARKS and cell not in UNCERTAIN:
                shown, line = table.rows[number][i][:40], table.lines[number]
                raise NearlError(
                    f"{table.name} has “{shown}” for “{table.header[i]}” in line {line}; write 1 for present, 0 "
                    "for absent, or nothing where it is not known."
                )
        if all(cell in ("", *UNCERTAIN) for cell in columns[i]):
            raise NearlError(
                f"{table.name} says of no image whether it has “{table.header[i]}”; fill in 1 and 0, or remove the "
                "column."
            )
    if len(names) > MAX_FINDINGS:
        raise NearlError(f"{table.name} marks {len(names)} findings; at most {MAX_FINDINGS} can be taught at once.")
    try:
        default_findings(names)
    except NearlError as error:  # names that no prompt set can have
        raise NearlError(f"{table.name}: {error}") from None
    codes = ["".join(_code(cell) for cell in row) for row in rows]
    return names, ["" if set(code) == {UNKNOWN} else code for code in codes]


def _marks(cells: Sequence[str]) -> bool:
    """Whether a column marks a finding: most of what it holds are marks."""
    filled = [cell for cell in cells if cell]
    good = sum(cell in MARKS or cell in UNCERTAIN for cell in filled)
    return bool(filled) and good >= ENOUGH * len(filled)


def _exclusive(rows: Sequence[Sequence[str]]) -> bool:
    """Whether every row says present once, and what is empty cannot mean that something is unknown."""
    if any(sum(MARKS.get(cell, 2) for cell in row) != 1 for row in rows):
        return False
    rest = [cell for row in rows for cell in row if not MARKS[cell]]
    return rest.count("") <= 1 or not any(rest)


def _code(cell: str) -> str:
    return UNKNOWN if cell == "" or cell in UNCERTAIN else PRESENT if MARKS[cell] else ABSENT
