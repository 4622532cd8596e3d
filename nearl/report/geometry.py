"""Where the marks of the HTML charts lie, in the units of their SVG; templates/charts.html draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nearl.report.words import FIGURES

WHENS = (("before", "frozen"), ("after", "adapted"))  # name on the page -> key in the results
NAME = FIGURES["balanced_accuracy"][0]
POINTS = 200  # of a curve
CURVE = (480.0, 96.0)  # width, height
SIDE, COLUMN = 240.0, 36.0  # reliability diagram: side of the square, height of the columns below it

Points = Sequence[tuple[int, float]]


def curve(points: Points, steps: int, top: float, every: bool) -> dict:
    """A curve of (step, value 0..`top`): its path, and its marks at every point or only at the last."""
    width, height = CURVE
    if len(points) > POINTS:
        points = [*points[:: len(points) // POINTS], points[-1]]
    places = [(width * s / max(steps, 1), height - height * min(max(v, 0), top) / top) for s, v in points]
    return {
        "path": " ".join(f"{x:.1f},{y:.1f}" for x, y in places),
        "marks": "".join(f"M{x:.1f} {y:.1f}h0" for x, y in (places if every else places[-1:])),
        "width": f"{width:.0f}",
        "height": f"{height:.0f}",
    }


def curves(losses: Points, held: Points, steps: int, before: float | None = None) -> dict | None:
    """The loss over the steps and, where it was measured, the balanced accuracy on the held-out images.

    ``before``: the latter before the first step, where it is known.
    """
    losses, held = list(losses), list(held)
    if held and before is not None:
        held.insert(0, (0, before))
    if len(losses) < 2:
        return None
    top = max(max(v for _, v in losses), 1e-6)
    ends = {"name": NAME, "first": held[0][1] if before is not None else None, "last": held[-1][1]} if held else {}
    return {
        "loss": {**curve(losses, steps, top, False), "first": losses[0][1], "last": losses[-1][1]},
        "held": {**curve(held, steps, 1.0, True), **ends} if held else None,
    }


def reliability(results: Mapping) -> dict | None:
    """The bins of the reliability diagram before and after: points with whiskers, columns of how many images, rows of
    the table. None where no image was measured."""
    found = [(when, b) for when, key in WHENS if results.get(key) for b in results[key]["reliability"] if b["n"]]
    if not found:
        return None
    most = max(b["n"] for _, b in found)
    rows = []
    for when, b in found:
        middle, tall = (b["low"] + b["high"]) / 2, max(COLUMN * b["n"] / most, 1)
        x = SIDE * (middle if b.get("confidence") is None else b["confidence"])
        right, interval = b.get("right"), b.get("interval")
        rows.append(
            {
                "when": when, "low": b["low"], "high": b["high"], "n": b["n"], "right": right, "x": x,
                "y": None if right is None else SIDE * (1 - right),
                "whisker": [SIDE * (1 - end) for end in interval] if interval else None,
                "column": (SIDE * middle - (8 if when == "before" else 0), COLUMN - COLUMN * b["n"] / most, tall),
            }
        )  # fmt: skip
    return {"side": SIDE, "bottom": COLUMN, "rows": rows}


def confusions(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """(images, true class, class it was read as) of every confusion, the commonest first."""
    wrong = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j]
    return sorted(wrong, key=lambda entry: (-entry[0], entry[1], entry[2]))
