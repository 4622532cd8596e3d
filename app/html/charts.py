"""The scatter chart of Compare: seconds to teach, on a log axis, against balanced accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.html import render

TICKS = [(0.1, "≤ 0.1 s"), (1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h")]
LEAST = 0.1  # seconds; what takes less lies at the left edge
NARROW, WIDE = frozenset("fijlrtI.,;:'|!()-/ "), frozenset("mwMW%@…")  # letters of names
HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 280.0, 44.0, 16.0, 12.0, 28.0
LINE = 14.0  # from one line of a name to the next
Box = tuple[float, float, float, float]  # left, top, right, bottom


def scatter(lines: Sequence[Mapping]) -> str:
    """The chart of the methods that are finished, for a wide and for a narrow screen; "" for fewer than two."""
    found = [line for line in lines if line["balanced_accuracy"] is not None]
    if len(found) < 2:
        return ""
    words = "; ".join(f"{p['title']}: {p['fit_seconds']:.1f} s, {100 * p['balanced_accuracy']:.0f} %" for p in found)
    plots = [("wide", _plot(found, 560.0)), ("narrow", _plot(found, 320.0))]
    return render("compare/scatter.html", plots=plots, words=words)


def _plot(lines: Sequence[Mapping], width: float) -> dict:
    most = max(max(p["fit_seconds"] for p in lines) * 1.5, 2.0)
    low = max(0.0, math.floor(10 * min(p["balanced_accuracy"] for p in lines) - 0.5) / 10)

    def x(seconds: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * math.log(max(seconds, LEAST) / LEAST) / math.log(most / LEAST)

    def y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (share - low) / (1 - low))

    places = [(x(p["fit_seconds"]), y(p["balanced_accuracy"])) for p in lines]
    names = [p["title"] for p in lines]
    tenths = range(round(10 * low), 11, 1 if low >= 0.6 else 2)
    return {
        "width": width, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM,
        "across": [(x(seconds), label) for seconds, label in TICKS if seconds <= most],
        "up": [(y(tenth / 10), f"{10 * tenth}\u202f%") for tenth in tenths],
        "marks": [
            ("before" if p["method"] == "zero-shot" else "after", *place)
            for p, place in zip(lines, places, strict=True)
        ],
        "names": list(zip(names, place_labels(places, names, (LEFT, TOP, width - 2, HEIGHT - BOTTOM)), strict=True)),
    }  # fmt: skip


def place_labels(
    points: Sequence[tuple[float, float]], names: Sequence[str], box: Box
) -> list[tuple[float, float, str]]:
    """Where to write each name, (x, y of its first baseline, anchor): beside its point, where it covers as few other
    names and points as it can; inside the box in any case, as far as it is no wider. A name may have several lines."""
    taken = [(a - 8, b - 8, a + 8, b + 8) for a, b in points]
    found = []
    for (a, b), name in zip(points, names, strict=True):
        wide, more = width_of(name), LINE * name.count("\n")
        tries = []
        for dy in (4, -10, 18, -24, 32, -38, 46, -52, 60, -66, 74):
            y = b + dy - more / 2
            tries.append((a + 11, y, "start", (a + 11, y - 11, a + 11 + wide, y + more + 3)))
            tries.append((a - 11, y, "end", (a - 11 - wide, y - 11, a - 11, y + more + 3)))
        inside = [t for t in tries if _inside(t[3], box)]
        tries = inside or [_shifted(wide, more, tries[0][1], tries[0][3][0], box)]
        best = min(tries, key=lambda t: sum(overlap(t[3], other) for other in taken))
        taken.append(best[3])
        found.append(best[:3])
    return found


def width_of(name: str) -> float:
    """The width of a name in bold letters of 12 pixels, in the widest of the usual system fonts, roughly; of several
    lines that of the longest."""
    return max(map(_width, name.split("\n")))


def _width(line: str) -> float:
    return sum(
        5.0 if letter in NARROW else 12.6 if letter in WIDE else 9.2 if letter.isupper() else 8.2 for letter in line
    )


def _shifted(wide: float, more: float, y: float, left: float, box: Box) -> tuple[float, float, str, Box]:
    """The place nearest to this one that is inside the box. `more`: the height of the lines after the first."""
    left, y = max(min(left, box[2] - wide), box[0]), max(min(y, box[3] - 3 - more), box[1] + 11)
    return left, y, "start", (left, y - 11, left + wide, y + more + 3)


def _inside(r: Box, box: Box) -> bool:
    return r[0] >= box[0] and r[1] >= box[1] and r[2] <= box[2] and r[3] <= box[3]


def overlap(r: Box, s: Box) -> bool:
    """Whether two boxes cover each other in part."""
    return r[0] < s[2] and s[0] < r[2] and r[1] < s[3] and s[1] < r[3]
