"""What the Find tab shows: what is searched and with what, and the images that were found."""

from __future__ import annotations

from collections.abc import Sequence

from app.context import shown_name
from app.find.actions import Found, Going, Picture
from app.html import render, views
from nearl.data.images import ImageRecord

ASKED = 320  # pixels of the image that is searched with
EMPTY = "Describe what to find, or search with the image that Predict shows. The closest images appear here."


def empty(words: str = EMPTY) -> str:
    return render("find/waiting.html", words=words, busy=False)


def going(now: Going) -> str:
    """How far the index is."""
    words = f"Looking through the images: {now.done} of {now.total}." if now.total else "Looking through the images."
    return render("find/waiting.html", words=words, busy=True)


def gallery(words: str) -> str:
    """Which images are searched; where there are none, how to bring some."""
    return render("find/gallery.html", words=words)


def query(record: ImageRecord | None) -> str:
    """The image of Predict, to search with."""
    shown = None if record is None else views.data_uri(record.image(), ASKED)
    return render("find/query.html", picture=shown, name="" if record is None else record.name)


def found(result: Found) -> str:
    """The images, before and after teaching side by side."""
    columns = [("Before teaching" if result.after is not None else "", "before", _tiles(result.before))]
    if result.after is not None:
        columns.append(("After teaching", "after", _tiles(result.after)))
    return render(
        "find/found.html",
        sentence=result.sentence,
        name="" if result.query is None else result.query.name,
        columns=columns,
        total=result.total,
        all_taught=result.all_taught,
        refused=result.refused,
        notes=result.notes,
        figures=_figures(result),
        held=result.held,
        chance=views.per_cent(result.figures["before"]["chance"]) if result.figures else "",
        taught=result.after is not None,
        count=len(result.before),
    )


def _tiles(pictures: Sequence[Picture]) -> list[dict]:
    return [
        {
            "src": views.data_uri(one.record.image(), views.THUMB_SIDE),
            "label": shown_name(one.label),
            "similarity": f"{round(one.similarity, 2) + 0.0:.2f}".replace("-", "\u2212"),
            "name": one.record.name,
            "taught": one.taught,
        }
        for one in pictures
    ]


def _figures(result: Found) -> list[tuple[str, list[str]]]:
    """Rows of the table: (how many of the nearest, a cell before and one after)."""
    if not result.figures:
        return []
    moments = [when for when in ("before", "after") if result.figures[when] is not None]
    rows = []
    for k in ("1", "5", "10"):
        cells = [result.figures[when]["precision"][k] for when in moments]
        rows.append((k, [_cell(cell) for cell in cells]))
    return rows


def _cell(cell: dict) -> str:
    low, high = cell["interval"]
    return f"{views.per_cent(cell['value'])} ({views.per_cent(low)} to {views.per_cent(high)})"
