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
    after. ``names``: file names instead of "image 1", "image 2", ...

    Every cell is quoted, and one that a spreadsheet would take for a formula gets a leading apostrophe. The last column
    is the notice.
    """
    page = io.StringIO()
    out = writer.writer(page, quoting=writer.QUOTE_ALL, lineterminator="\r\n")
    classes = list(rows[0]["shares_before"]) if rows else []
    times = [when for when in ("before", "after") if rows and rows[0][when] is not None]
    heading = ["image", "truth"]
    for when in times:
        heading += [when, f"{when} share"]
    heading += [f"{when}: {name}" for when in times for name in classes]
    out.writerow([safe(cell) for cell in (*heading, "notice" if rows else NOTICE)])
    for row in rows:
        cells = [row["file"] if names else f"image {row['index'] + 1}", row["truth"]]
        for when in times:
            cells += [row[when], f"{row[f'{when}_share']:.4f}"]
        cells += [f"{row[f'shares_{when}'][name]:.4f}" for when in times for name in classes]
        out.writerow([safe(cell) for cell in (*cells, NOTICE)])
    return page.getvalue()


def safe(cell: str) -> str:
    """The text of a cell that no spreadsheet runs as a formula; line breaks and other control characters are spaces."""
    text = printable(cell)
    return f"'{text}" if text.lstrip().startswith(tuple(FORMULAS)) else text
