"""The two charts of the Compare tab: bars with intervals, and what was paid for them in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.html.views import bar, esc, per_cent

TICKS = [(0.1, "≤ 0.1 s"), (1, "1 s"), (10, "10 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h")]
LEAST = 0.1  # seconds; what takes less stands at the left edge
LETTER = 6.4  # width of its letters, roughly


def bars(lines: Sequence[Mapping], chance: float) -> str:
    """Balanced accuracy of every method that is finished; the frozen model as an outline, what was taught filled."""
    out = ""
    for line in lines:
        kind = "before" if line["method"] == "zero-shot" else "after"
        if line["balanced_accuracy"] is None:
            out += (
                f'<div class="bar-line {kind}"><dt>{esc(line["title"])}</dt><dd class="none">too few to say</dd></div>'
            )
            continue
        interval = None if line["interval"] is None else tuple(line["interval"])
        out += bar(kind, esc(line["title"]), line["balanced_accuracy"], interval)
    guess = f"The thin upright line is guessing, {per_cent(chance)}." if chance else ""
    return (
        f'<figure class="chart"><figcaption><h3>Right on images it had not seen</h3><p class="term">balanced accuracy: '
        f'every class counts the same. {guess}</p></figcaption><dl class="bars by-method" '
        f'style="--chance:{100 * chance:.1f}%">{out}</dl></figure>'
    )


def scatter(lines: Sequence[Mapping]) -> str:
    """Seconds to teach, on a log axis, against balanced accuracy; once for a wide screen and once for a narrow one."""
    points = [line for line in lines if line["balanced_accuracy"] is not None]
    if len(points) < 2:
        return ""
    words = "; ".join(f"{p['title']}: {p['fit_seconds']:.1f} s, {100 * p['balanced_accuracy']:.0f} %" for p in points)
    drawn = "".join(_plot(points, width, kind, words) for width, kind in ((560.0, "wide"), (320.0, "narrow")))
    return (
        '<figure class="chart"><figcaption><h3>What it cost to teach</h3><p class="term">seconds to teach against '
        f"balanced accuracy; further up and further left is better</p></figcaption>{drawn}</figure>"
    )


def _plot(points: Sequence[Mapping], width: float, kind: str, words: str) -> str:
    height, left, right, top, bottom = 280.0, 44.0, 16.0, 12.0, 28.0
    most = max(max(p["fit_seconds"] for p in points) * 1.5, 2.0)
    low = max(0.0, math.floor(10 * min(p["balanced_accuracy"] for p in points) - 0.5) / 10)
    x = lambda s: left + (width - left - right) * math.log(max(s, LEAST) / LEAST) / math.log(most / LEAST)  # noqa: E731
    y = lambda v: top + (height - top - bottom) * (1 - (v - low) / (1 - low))  # noqa: E731
    grid = ""
    for seconds, label in TICKS:
        if seconds <= most:
            grid += f'<line x1="{x(seconds):.1f}" y1="{top}" x2="{x(seconds):.1f}" y2="{height - bottom}"/>'
            grid += f'<text class="x" x="{x(seconds):.1f}" y="{height - 8}">{label}</text>'
    for tenth in range(round(10 * low), 11, 1 if low >= 0.6 else 2):
        grid += f'<line x1="{left}" y1="{y(tenth / 10):.1f}" x2="{width - right}" y2="{y(tenth / 10):.1f}"/>'
        grid += f'<text class="y" x="{left - 8}" y="{y(tenth / 10) + 4:.1f}">{10 * tenth}\u202f%</text>'
    places = [(x(p["fit_seconds"]), y(p["balanced_accuracy"])) for p in points]
    marks = "".join(
        f'<circle class="{"before" if p["method"] == "zero-shot" else "after"}" cx="{a:.1f}" cy="{b:.1f}" r="6"/>'
        for p, (a, b) in zip(points, places, strict=True)
    )
    names = ""
    labels = place_labels(places, [p["title"] for p in points], (left, top, width - 2, height - bottom))
    for p, (a, b, end) in zip(points, labels, strict=True):
        names += f'<text class="name" x="{a:.1f}" y="{b:.1f}" text-anchor="{end}">{esc(p["title"])}</text>'
    return (
        f'<svg class="scatter {kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{esc(words)}">'
        f'<g class="grid">{grid}</g>{marks}{names}</svg>'
    )


def place_labels(
    points: Sequence[tuple[float, float]], names: Sequence[str], box: tuple[float, float, float, float]
) -> list[tuple[float, float, str]]:
    """Where to write each name, (x, y of its baseline, anchor): beside its point, where it covers neither another name
    nor a point nor the edge of the box (left, top, right, bottom); the first place tried where there is none."""
    taken = [(a - 8, b - 8, a + 8, b + 8) for a, b in points]
    found = []
    for (a, b), name in zip(points, names, strict=True):
        wide = LETTER * len(name)
        tries = []
        for dy in (4, -10, 18, -24, 32, -38, 46, -52, 60, -66, 74):
            tries.append((a + 11, b + dy, "start", (a + 11, b + dy - 11, a + 11 + wide, b + dy + 3)))
            tries.append((a - 11, b + dy, "end", (a - 11 - wide, b + dy - 11, a - 11, b + dy + 3)))
        free = [t for t in tries if _inside(t[3], box) and not any(_meet(t[3], other) for other in taken)]
        inside = [t for t in tries if _inside(t[3], box)]
        best = (free or inside or tries)[0]
        taken.append(best[3])
        found.append(best[:3])
    return found


def _inside(r: tuple, box: tuple) -> bool:
    return r[0] >= box[0] and r[1] >= box[1] and r[2] <= box[2] and r[3] <= box[3]


def _meet(r: tuple, s: tuple) -> bool:
    return r[0] < s[2] and s[0] < r[2] and r[1] < s[3] and s[1] < r[3]
