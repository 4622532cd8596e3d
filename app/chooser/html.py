"""What the chooser shows: the models that are offered."""

from __future__ import annotations

from collections.abc import Sequence

from app.html import render


def offers(found: Sequence) -> str:
    """The models, each with what is known of it and what can be done with it; the buttons carry its place."""
    return render("models/offers.html", offers=found)
