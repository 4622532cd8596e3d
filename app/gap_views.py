"""Small pictures of the joint space: where a method puts images and words, before and after teaching."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from app.teach_views import quiet
from app.views import esc, per_cent

WIDTH, HEIGHT, EDGE = 232.0, 176.0, 14.0
SHAPES = 5  # of dots; further classes begin anew
LONGEST = 14  # letters of a class beside its mark
INTRO = (
    "A dot is an image kept aside, its shape says which class it is of; a large mark is the place of a class's words. "
    "Every picture looks at the same plane, the one in which the model's own images and words spread most before "
    "teaching. An image is read as the class whose words lie in the most similar direction, so what helps is that dots "
    "of one shape gather and lean to their own mark."
)
TOGETHER = (
    "“Image and words together” is the share of what moves the answer that neither brings alone: at 0 % every image "
    "would rank the classes alike."
)


def spaces(lines: Sequence[Mapping], classes: Sequence[str]) -> str:
    """A card for every finished method of `lines`, as `nearl.runs.scores` tells them."""
    found = [line for line in lines if line.get("space")]
    if not found:
        return ""
    box = _box(_points(line["space"] for line in found))
    cards = "".join(_card(line["title"], line["space"], line["method"], classes, box) for line in found)
    return (
        f'<section class="spaces"><h3>Where images and words lie</h3>{quiet(INTRO)}{quiet(TOGETHER)}'
        f'<div class="space-cards">{cards}</div></section>'
    )


def _points(found: Iterable[Mapping]) -> list[Sequence[float]]:
    return [
        point
        for space in found
        for when in ("before", "after")
        if not space[when]["error"]
        for point in (*space[when]["images"], *space[when]["classes"])
    ]


def _box(points: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """(left, bottom, pixels for a unit), the same along both axes, so that all points fit."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    scale = min((WIDTH - 2 * EDGE) / max(max(xs) - min(xs), 1e-6), (HEIGHT - 2 * EDGE) / max(max(ys) - min(ys), 1e-6))
    middle_x, middle_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    return middle_x - WIDTH / 2 / scale, middle_y - HEIGHT / 2 / scale, scale


def _card(title: str, space: Mapping, method: str, classes: Sequence[str], box: tuple) -> str:
    untaught = method == "zero-shot"
    whens = [("before", "as it is")] if untaught else [("before", "before"), ("after", "after")]
    drawn = "".join(_plot(space[when], space["labels"], classes, box, f"{title}, {word}", word) for when, word in whens)
    return (
        f'<article class="space"><h4>{esc(title)}</h4><div class="plots">{drawn}</div>'
        f"{_words(space, untaught)}</article>"
    )


def _words(space: Mapping, untaught: bool) -> str:
    before, after = space["before"], space["after"]
    share = per_cent(space["together"]["before" if untaught else "after"])
    was = "" if untaught else f" ({per_cent(space['together']['before'])} before)"
    if untaught:
        apart = f"Images and words lie {before['gap']:.2f} apart."
    elif after["error"]:
        apart = esc(after["error"])
    else:
        change = after["gap"] - before["gap"]
        how = "no change" if abs(change) < 0.01 else "closer" if change < 0 else "further apart"
        apart = f"Images and words lie {after['gap']:.2f} apart ({before['gap']:.2f} before): {how}."
    return f'<p class="quiet">{apart} Image and words together: {share}{was}.</p>'


def _plot(found: Mapping, labels: Sequence[int], classes: Sequence[str], box: tuple, words: str, caption: str) -> str:
    if found["error"]:
        return ""
    left, bottom, scale = box
    place = lambda p: ((p[0] - left) * scale, HEIGHT - (p[1] - bottom) * scale)  # noqa: E731
    dots = "".join(_shape(label, *place(p), 3.0, "dot") for p, label in zip(found["images"], labels, strict=True))
    marks = ""
    for i, point in enumerate(found["classes"]):
        x, y = place(point)
        end = "end" if x > WIDTH / 2 else "start"
        name = classes[i] if len(classes[i]) <= LONGEST else classes[i][: LONGEST - 1] + "…"
        marks += _shape(i, x, y, 7.0, "mark")
        beside = x - 11 if end == "end" else x + 11
        marks += f'<text x="{beside:.1f}" y="{y + 4:.1f}" text-anchor="{end}">{esc(name)}</text>'
    return (
        f'<figure><svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{esc(words)}: images and words">'
        f"{dots}{marks}</svg><figcaption>{esc(caption)}</figcaption></figure>"
    )


def _shape(kind: int, x: float, y: float, r: float, look: str) -> str:
    """Circle, square, triangle, diamond, triangle on its head."""
    kind %= SHAPES
    if kind == 0:
        return f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    corners, turn = {1: (4, 45), 2: (3, -90), 3: (4, 0), 4: (3, 90)}[kind]
    angles = [math.radians(turn + 360 * k / corners) for k in range(corners)]
    path = " ".join(f"{x + 1.25 * r * math.cos(a):.1f},{y + 1.25 * r * math.sin(a):.1f}" for a in angles)
    return f'<polygon class="{look}" points="{path}"/>'
