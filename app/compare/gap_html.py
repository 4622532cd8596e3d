"""Small pictures of the joint space: where a method puts images and words, before and after teaching."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from app.html.views import esc, per_cent
from app.teach.html import quiet

WIDTH, HEIGHT, EDGE = 232.0, 176.0, 14.0
WHENS = ("before", "after")
MOST_ZOOM = 12
CLOUD = 1.0  # of the distance between images and words, for the widest images of a method
SHAPES = 5  # of dots; further classes begin anew
LONGEST = 14  # letters of a class beside its mark
INTRO = (
    "A dot is an image kept aside and has the shape of its class; a large mark is where the words of a class lie. All "
    "pictures look at the same plane, in which the model's images and words spread most before teaching. An image is "
    "read as the class whose words lie in the most similar direction: it helps if dots of one shape gather and lean "
    "to their own mark."
)
TOGETHER = (
    "“Image and words together” is the share of what moves the answer that neither brings alone: at 0 % every image "
    "would rank the classes alike."
)


def spaces(lines: Sequence[Mapping], classes: Sequence[str]) -> str:
    """A card for every finished method of `lines` (as `nearl.runs.scores` tells them) that moves images or words, and
    one for all that leave them where they are."""
    found = [line for line in lines if line.get("space")]
    if not found:
        return ""
    view = _View([line["space"][when] for line in found for when in WHENS])
    still, moved = [], []
    for line in found:
        (moved if _moves(line["space"]) else still).append(line)
    cards = _still(still, classes, view) if still else ""
    cards += "".join(_moved(line, classes, view) for line in moved)
    spread = f" The spread of the images is drawn {view.zoom} times enlarged." if view.zoom > 1 else ""
    return (
        f'<section class="spaces"><h3>Where images and words lie</h3>{quiet(INTRO + spread)}{quiet(TOGETHER)}'
        f'<div class="space-cards">{cards}</div></section>'
    )


def _moves(space: Mapping) -> bool:
    before, after = space["before"], space["after"]
    return bool(after["error"]) or (before["images"], before["classes"]) != (after["images"], after["classes"])


class _View:
    """How all pictures look at the plane: the same scale along both axes, so that everything fits, and the images drawn
    `zoom` times as far from their middle, where they would else be one blot."""

    def __init__(self, found: Sequence[Mapping]):
        found = [one for one in found if not one["error"]]
        images = [point for one in found for point in one["images"]]
        extent = _extent([*images, *(point for one in found for point in one["classes"])])
        cloud = max(_extent(one["images"]) for one in found)
        self.zoom = max(1, min(MOST_ZOOM, round(CLOUD * extent / max(cloud, 1e-9))))
        points = [point for one in found for point in (*self.spread(one["images"]), *one["classes"])]
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        wide, high = max(max(xs) - min(xs), 1e-6), max(max(ys) - min(ys), 1e-6)
        self.scale = min((WIDTH - 2 * EDGE) / wide, (HEIGHT - 2 * EDGE) / high)
        self.left = (min(xs) + max(xs) - WIDTH / self.scale) / 2
        self.bottom = (min(ys) + max(ys) - HEIGHT / self.scale) / 2

    def spread(self, images: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        x, y = (sum(p[k] for p in images) / len(images) for k in (0, 1))
        return [(x + self.zoom * (p[0] - x), y + self.zoom * (p[1] - y)) for p in images]

    def place(self, point: Sequence[float]) -> tuple[float, float]:
        return (point[0] - self.left) * self.scale, HEIGHT - (point[1] - self.bottom) * self.scale


def _extent(points: Sequence[Sequence[float]]) -> float:
    return max(max(p[k] for p in points) - min(p[k] for p in points) for k in (0, 1))


def _still(lines: Sequence[Mapping], classes: Sequence[str], view: _View) -> str:
    """One card for the methods that move nothing: what differs is how much of the answer is of both together."""
    space = lines[0]["space"]
    names = ", ".join(line["title"] for line in lines)
    shares = ", ".join(f"{esc(line['title'])} {per_cent(line['space']['together']['after'])}" for line in lines)
    word = "before and after alike" if len(lines) > 1 or lines[0]["method"] != "zero-shot" else "as it is"
    return (
        f'<article class="space"><h4>{esc(names)}</h4><div class="plots">'
        f"{_plot(space['before'], space['labels'], classes, view, names, word)}</div>"
        f'<p class="quiet">Images and words stay where they are, {space["before"]["gap"]:.2f} apart. '
        f"Image and words together: {shares}.</p></article>"
    )


def _moved(line: Mapping, classes: Sequence[str], view: _View) -> str:
    title, space = line["title"], line["space"]
    before, after, together = space["before"], space["after"], space["together"]
    drawn = "".join(_plot(space[w], space["labels"], classes, view, f"{title}, {w} teaching", w) for w in WHENS)
    words = esc(after["error"])
    if not after["error"]:
        change = after["gap"] - before["gap"]
        how = (
            "as far as before" if abs(change) < 0.02 else "closer than before" if change < 0 else "further than before"
        )
        words = f"Images and words lie {after['gap']:.2f} apart, {how} ({before['gap']:.2f})."
    share = f"Image and words together: {per_cent(together['after'])} ({per_cent(together['before'])} before)."
    return (
        f'<article class="space"><h4>{esc(title)}</h4><div class="plots">{drawn}</div>'
        f'<p class="quiet">{words} {share}</p></article>'
    )


def _plot(found: Mapping, labels: Sequence[int], classes: Sequence[str], view: _View, words: str, caption: str) -> str:
    if found["error"]:
        return ""
    place = view.place
    dots = "".join(
        _shape(label, *place(point), 3.0, "dot" if label % 2 else "dot hollow")
        for point, label in zip(view.spread(found["images"]), labels, strict=True)
    )
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
