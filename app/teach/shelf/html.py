"""What the Teach tab shows of the shelf: the adapters, and two of them on the same image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from app.html import render

MOST_CLASSES = 6  # named on the card of an adapter
NUMBER = re.compile(r" \(\d+\)$")  # after a name that was taken


def shelf(items: Sequence, notes: Sequence[str] = (), homes: Mapping[str, Any] = {}) -> str:
    """The adapters, newest first. An item has id, name, classes, created, figures, method and in_use; the buttons
    carry its id. `notes`: what of the shelf could not be read; `homes`: by id the model that an adapter
    belongs to and where that is, where there are several."""
    rows = [(item, _about(item, homes.get(item.id)), homes.get(item.id)) for item in items]
    return render("teach/shelf.html", items=rows, notes=notes)


def _about(item: Any, home: Any = None) -> str:
    """The line under an adapter's name: its classes unless they are its name, when it was made, by which method, and on
    which model where there are several."""
    from nearl.methods import title

    classes, rest = ", ".join(item.names[:MOST_CLASSES]), len(item.names) - MOST_CLASSES
    classes += f" and {rest} more" if rest > 0 else ""
    if NUMBER.sub("", item.name) == classes:
        classes = ""
    classes = f"Findings: {classes}" if item.several and classes else "Findings" if item.several else classes
    created = f"{item.created[:16].replace('T', ' ')} UTC" if item.created else ""
    return " · ".join(part for part in (classes, created, title(item.method), home and home.model) if part)


def comparison(
    picture: str, name: str, columns: Iterable[tuple[str, Sequence[str], Sequence[float], Sequence[str] | None]]
) -> str:
    """Adapters side by side on one image: (adapter's name, classes or findings, probabilities after teaching, the
    findings that are said to be present or, for classes, None)."""
    columns = [(title, classes, np.asarray(shares).tolist(), present) for title, classes, shares, present in columns]
    return render("teach/comparison.html", picture=picture, name=name, columns=columns)
