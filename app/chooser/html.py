"""What the chooser shows: the models that are offered."""

from __future__ import annotations

from collections.abc import Sequence

from app.html import render
from app.models.memory import gigabytes


def progress(name: str, done: int, total: int, arrived: bool) -> str:
    """How far a download is. `done`, `total`: bytes; a total of 0 is not known yet."""
    words = f"Loading “{name}”." if arrived else f"Downloading “{name}”."
    more = f"{gigabytes(done)} of {gigabytes(total)}" if total else ""
    return render("models/progress.html", words=words, more=more, share=done / total if total else 0)


def offers(found: Sequence, aside: str = "") -> str:
    """The models, each with what is known of it and what can be done with it; the buttons carry its place. `aside`: the
    name of the adapter that can be put back, with its model."""
    return render("models/offers.html", offers=found, aside=aside)
