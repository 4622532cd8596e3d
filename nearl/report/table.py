"""The table of images: one row each, safe to open in a spreadsheet."""

from __future__ import annotations

import csv as writer
import io
from collections.abc import Sequence

from nearl import NOTICE
from nearl.report.words import printable

FORMULAS = "=+-@|%＝＋－＠"  # what a spreadsheet takes for the beginning of a formula


def csv(rows: Sequence[dict], names: bool = False) -> str:
    """Rows of `nearl.measure.evaluate.rows` as comma-separated values with a heading line; encode it as "utf-8-sig", by
    which spreadsheets recognise UTF-8.

    A row: image, truth, the likeliest class and its share before and after, then the share of every class before and
    after. Of findings (`nearl.measure.findings.rows`) the truth of each (1, 0 or empty), its share and what is said of
    it before and after. ``names``: file names instead of "image 1", "image 2", ...

    Every cell is quoted, and one that a spreadsheet would take for a formula gets a leading apostrophe. The last column
    is the notice.
    """
    if rows and "shares_before" not in rows[0]:
        return _written(_of_findings(rows, names))
    classes = list(rows[0]["shares_before"]) if rows else []
    times = [when for when in ("before", "after") if rows and rows[0][when] is not None]
    heading = ["image", "truth"]
    for when in times:
        heading += [when, f"{when} share"]
    heading += [f"{when}: {name}" for when in times for name in classes]
    lines = [heading]
    for row in rows:
        cells = [_image(row, names), row["truth"]]
        for when in times:
            cells += [row[when], f"{row[f'{when}_share']:.4f}"]
        cells += [f"{row[f'shares_{when}'][name]:.4f}" for when in times for name in classes]
        lines.append(cells)
    return _written(lines)


def _of_findings(rows: Sequence[dict], names: bool) -> list[list[str]]:
    times = [when for when in ("before", "after") if rows[0][when] is not None]
    heading, findings = ["image"], list(rows[0]["truth"])
    for name in findings:
        heading += [name, *(f"{name}: {what}" for when in times for what in (f"{when} share", when))]
    lines = [heading]
    for row in rows:
        cells = [_image(row, names)]
        for name in findings:
            truth = row["truth"][name]
            cells.append("" if truth is None else str(truth))
            for when in times:
                said = (row.get(f"said_{when}") or {}).get(name)  # not in runs of earlier versions
                cells += [f"{row[when][name]:.4f}", {True: "present", False: "absent"}.get(said, "")]
        lines.append(cells)
    return lines


def _image(row: dict, names: bool) -> str:
    return row["file"] if names else f"image {row['index'] + 1}"


def _written(lines: Sequence[Sequence[str]]) -> str:
    """The lines as text, with the notice at the end of each."""
    page = io.StringIO()
    out = writer.writer(page, quoting=writer.QUOTE_ALL, lineterminator="\r\n")
    for number, cells in enumerate(lines):
        last = NOTICE if number or len(lines) == 1 else "notice"
        out.writerow([safe(cell) for cell in (*cells, last)])
    return page.getvalue()


def safe(cell: str) -> str:
    """The text of a cell that no spreadsheet runs as a formula; line breaks and other control characters are spaces."""
    text = printable(cell)
    return f"'{text}" if text.lstrip().startswith(tuple(FORMULAS)) else text
