"""Drawings of the joint space: where each method puts images and prompts, before and after teaching."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from app.html import render
from app.html.charts import LINE, place_labels
from nearl.report.words import per_cent

WIDTH, HEIGHT, EDGE = 232.0, 176.0, 14.0
WHENS = ("before", "after")
MOST_ZOOM = 12
CLOUD = 1.0  # of the distance between images and prompts, for the widest images of a method
SHAPES = 5  # of dots; a sixth class begins with the first again
LONGEST, LINES = 16, 3  # letters of a line of a class's name beside its mark, and lines of it

Point = Sequence[float]


def spaces(lines: Sequence[Mapping], classes: Sequence[str]) -> str:
    """A card for every finished method of `lines` (as of `nearl.runs.scores`) that moves images or prompts, and one
    for all that leave them where they are."""
    found = [line for line in lines if line.get("space")]
    if not found:
        return ""
    view = _View([line["space"][when] for line in found for when in WHENS], classes)
    still = [line for line in found if not _moves(line["space"])]
    cards = [_still(still, view)] if still else []
    cards += [_moved(line, view) for line in found if _moves(line["space"])]
    cut = [name for name, shown in zip(view.names, view.classes, strict=True) if "…" in shown and "…" not in name]
    return render("compare/spaces.html", cards=cards, zoom=view.zoom, width=WIDTH, height=HEIGHT, line=LINE, cut=cut)


def _moves(space: Mapping) -> bool:
    before, after = space["before"], space["after"]
    return bool(after["error"]) or (before["images"], before["classes"]) != (after["images"], after["classes"])


class _View:
    """How all drawings look at the plane: the same scale along both axes, so that everything fits, and the images
    `zoom` times as far from their middle, where they would else be one blot."""

    def __init__(self, found: Sequence[Mapping], classes: Sequence[str]):
        self.names = [" ".join(name.split()) for name in classes]
        self.classes = [_wrapped(name) for name in self.names]
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

    def spread(self, images: Sequence[Point]) -> list[tuple[float, float]]:
        x, y = (sum(p[k] for p in images) / len(images) for k in (0, 1))
        return [(x + self.zoom * (p[0] - x), y + self.zoom * (p[1] - y)) for p in images]

    def place(self, point: Point) -> tuple[float, float]:
        return (point[0] - self.left) * self.scale, HEIGHT - (point[1] - self.bottom) * self.scale


def _wrapped(name: str) -> str:
    """A name in lines that fit beside its mark; what does not fit in the last one is cut."""
    lines = textwrap.wrap(name, LONGEST, max_lines=LINES, placeholder="…", break_on_hyphens=True)
    return "\n".join(lines) or name


def _extent(points: Sequence[Point]) -> float:
    return max(max(p[k] for p in points) - min(p[k] for p in points) for k in (0, 1))


def _still(lines: Sequence[Mapping], view: _View) -> dict:
    """One card for the methods that move nothing: they differ in how much of the answer is of both together."""
    space, names = lines[0]["space"], ", ".join(line["title"] for line in lines)
    asked = [line for line in lines if _reads_prompts(line["method"])]
    shares = ", ".join(f"{line['title']} {per_cent(line['space']['together']['after'])}" for line in asked)
    caption = "before and after alike" if len(lines) > 1 or lines[0]["method"] != "zero-shot" else "as it is"
    return {
        "title": names,
        "plots": _plots(space["before"], space["labels"], view, names, caption),
        "words": f"Images and prompts stay where they are, {space['before']['gap']:.2f} apart."
        + (f" Image and prompts together: {shares}." if shares else ""),
    }


def _reads_prompts(method: str) -> bool:
    """Whether the answer of a method depends on the prompts; else no share of it is of both together."""
    from nearl.methods import METHODS

    return method not in METHODS or METHODS[method].card.reads_prompts


def _moved(line: Mapping, view: _View) -> dict:
    title, space = line["title"], line["space"]
    before, after, together = space["before"], space["after"], space["together"]
    words = after["error"]
    if not words:
        change = after["gap"] - before["gap"]
        how = "closer" if change < 0 else "further"
        how = "as far as before" if abs(change) < 0.02 else f"{how} than before"
        words = f"Images and prompts lie {after['gap']:.2f} apart, {how} ({before['gap']:.2f})."
    share = f"Image and prompts together: {per_cent(together['after'])} ({per_cent(together['before'])} before)."
    plots = [_plots(space[when], space["labels"], view, f"{title}, {when} teaching", when) for when in WHENS]
    return {"title": title, "plots": [*plots[0], *plots[1]], "words": f"{words} {share}"}


def _plots(found: Mapping, labels: Sequence[int], view: _View, words: str, caption: str) -> list[dict]:
    """One drawing, or none where the method has nothing to show."""
    if found["error"]:
        return []
    dots = [
        (_shape(label, *view.place(point), 3.0), "dot" if label % 2 else "dot hollow")
        for point, label in zip(view.spread(found["images"]), labels, strict=True)
    ]
    points = [view.place(point) for point in found["classes"]]
    places = place_labels(points, view.classes, (2.0, 2.0, WIDTH - 2, HEIGHT - 2))
    marks = [
        {"shape": _shape(i, *point, 7.0), "x": x, "y": y, "anchor": anchor, "lines": lines.split("\n"), "name": name}
        for i, (point, lines, name, (x, y, anchor)) in enumerate(
            zip(points, view.classes, view.names, places, strict=True)
        )
    ]
    return [{"dots": dots, "marks": marks, "words": words, "caption": caption}]


def _shape(kind: int, x: float, y: float, r: float) -> dict:
    """Circle, square, triangle, diamond, triangle on its head."""
    kind %= SHAPES
    if kind == 0:
        return {"x": x, "y": y, "r": r}
    corners, turn = {1: (4, 45), 2: (3, -90), 3: (4, 0), 4: (3, 90)}[kind]
    angles = [math.radians(turn + 360 * k / corners) for k in range(corners)]
    return {
        "r": 0, "path": " ".join(f"{x + 1.25 * r * math.cos(a):.1f},{y + 1.25 * r * math.sin(a):.1f}" for a in angles)
    }  # fmt: skip
