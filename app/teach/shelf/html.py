"""What the Teach tab shows of the shelf: the adapters, and two of them on the same image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from app.html import render

MOST_CLASSES = 6  # named on the card of an adapter


def shelf(items: Sequence) -> str:
    """The adapters, newest first. An item has id, name, classes, created, figures, method and in_use; the buttons
    carry its place in this list."""
    return render("teach/shelf.html", items=items, most=MOST_CLASSES)


def comparison(picture: str, name: str, columns: Iterable[tuple[str, Sequence[str], Sequence[float]]]) -> str:
    """Adapters side by side on one image: (adapter's name, classes, probabilities after teaching)."""
    columns = [(title, classes, np.asarray(shares).tolist()) for title, classes, shares in columns]
    return render("teach/comparison.html", picture=picture, name=name, columns=columns)
