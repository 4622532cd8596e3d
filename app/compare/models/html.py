"""What is shown of one image in several models."""

from __future__ import annotations

from collections.abc import Sequence

from app.html import render


def columns(picture: str, name: str, classes: Sequence[str], found: Sequence, agreement: str) -> str:
    """The image, and what each model says of it. `agreement`: how far they say the same, in a sentence."""
    return render(
        "compare/models.html", picture=picture, name=name, classes=classes, columns=found, agreement=agreement
    )  # fmt: skip
