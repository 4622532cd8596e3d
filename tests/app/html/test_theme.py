"""The colours of the page."""

from __future__ import annotations

import pytest

from app.theme import PALETTE


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground", "least"),
    [
        *((ink, ground, 4.5) for ink in ("text", "muted", "accent", "alarm") for ground in ("page", "surface")),
        ("muted", "sunken", 4.5), ("text", "accent_soft", 4.5), ("alarm", "alarm_soft", 4.5),
        ("on_accent", "accent", 4.5), ("on_accent", "accent_hover", 4.5), ("line_strong", "surface", 3),
    ],
)  # fmt: skip
def test_text_can_be_read_in_both_modes(ink, ground, least, mode):
    light, dark = sorted((_luminance(PALETTE[ink][mode]), _luminance(PALETTE[ground][mode])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least
