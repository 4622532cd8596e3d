"""Columns of a table that mark findings: 1 present, 0 absent, empty (or -1, as some sets write) unknown."""

from __future__ import annotations

from collections.abc import Sequence

from nearl.data.sets.tables import Table, listed, same
from nearl.errors import NearlError
from nearl.prompts import MAX_FINDINGS, class_key

MARKS = {"": 0, "0": 0, "0.0": 0, "false": 0, "no": 0, "1": 1, "1.0": 1, "true": 1, "yes": 1}
UNCERTAIN = ("-1", "-1.0")
PRESENT, ABSENT, UNKNOWN = "1", "0", "-"  # in the code of a row, a mark for each finding
ENOUGH = 2 / 3  # of the filled cells of a column are marks: then the others are mistakes (our choice)


def findings_of(table: Table, places: Sequence[int]) -> tuple[list[str], list[str]]:
    """(findings, the code of each row) of the columns at ``places`` that mark findings; ([], []) where there are none,
    and where every row marks exactly one of several: those are classes.

    A row in which nothing is known has the code "". NearlError for a cell that is no mark, a finding that has two
    columns or of which nothing is known, and too many findings.
    """
    columns = {i: [same(cell) for cell in table.column(i)] for i in places if table.header[i]}
    marked = [i for i, cells in columns.items() if _marks(cells)]
    if not marked:
        return [], []
    blank = [i for i, cells in columns.items() if not any(cells)]
    rows = list(zip(*(columns[i] for i in marked), strict=True))
    if len(marked) > 1 and all("" not in row and sum(MARKS.get(cell, 2) for cell in row) == 1 for row in rows):
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
                shown = table.rows[number][i][:40]
                raise NearlError(
                    f"{table.name} has “{shown}” for “{table.header[i]}” in line {number + 2}; write 1 for present, 0 "
                    "for absent, or nothing where it is not known."
                )
        if all(cell in ("", *UNCERTAIN) for cell in columns[i]):
            raise NearlError(
                f"{table.name} says of no image whether it has “{table.header[i]}”; fill in 1 and 0, or remove the "
                "column."
            )
    if len(names) > MAX_FINDINGS:
        raise NearlError(f"{table.name} marks {len(names)} findings; at most {MAX_FINDINGS} can be taught at once.")
    codes = ["".join(_code(cell) for cell in row) for row in rows]
    return names, ["" if set(code) == {UNKNOWN} else code for code in codes]


def _marks(cells: Sequence[str]) -> bool:
    """Whether a column marks a finding: most of what it holds are marks."""
    filled = [cell for cell in cells if cell]
    good = sum(cell in MARKS or cell in UNCERTAIN for cell in filled)
    return bool(filled) and good >= ENOUGH * len(filled)


def _code(cell: str) -> str:
    return UNKNOWN if cell == "" or cell in UNCERTAIN else PRESENT if MARKS[cell] else ABSENT
