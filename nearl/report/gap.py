"""A study of the modality gap as a figure: one panel for each method, all in the frozen model's plane."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nearl import NOTICE
from nearl.report.charts import INK, LINE, MUTED, SLATE, TEAL, axes
from nearl.report.words import shortened

MARKS = "osD^vP*Xh<>d"
NOTE = f"Two directions of the frozen model's joint space; a line joins the mean image and the mean class. {NOTICE}"
COLUMNS, PANEL, NAMES, HEAD, FOOT = 3, 2.2, 1.2, 0.55, 0.5  # panels in a row; inches


def lines(rows: Sequence[dict]) -> list[str]:
    """A table for people."""
    table = [f"{'method':22} {'gap':>6} {'own':>6} {'other':>6} {'together':>9} {'InterSHAP':>10}"]
    for row in rows:
        figures = [None] * 5
        if not row["error"]:
            together = row["interaction"]
            figures = [row["gap"], row["own"], row["other"], together["score"], together["intershap"]]
        cells = ["–" if value is None else f"{value:.3f}" for value in figures]
        table.append("{:22} {:>6} {:>6} {:>6} {:>9} {:>10}".format(row["name"], *cells))
    return table


def draw(rows: Sequence[dict], classes: Sequence[str], labels: Sequence[int]) -> Figure:
    """Draw rows of `nearl.measure.gap.study`, each with the "interaction" of `nearl.measure.interaction.interaction`,
    on images of the classes ``labels``. Images are slate outlines and classes filled teal, of the same shape; a line
    joins their means."""
    rows = [row for row in rows if not row["error"]]
    columns = min(COLUMNS, len(rows)) or 1
    wide, high = PANEL + NAMES, HEAD + PANEL
    figure = Figure(figsize=(0.3 + columns * wide, FOOT + ceil(len(rows) / columns) * high))
    points = np.concatenate([np.asarray(row[part]) for row in rows for part in ("images", "classes")] or [np.eye(2)])
    middle = (points.max(0) + points.min(0)) / 2
    reach = 0.55 * float((points.max(0) - points.min(0)).max()) or 1.0
    for place, row in enumerate(rows):
        line, column = divmod(place, columns)
        bottom = FOOT + (ceil(len(rows) / columns) - 1 - line) * high
        ax = axes(figure, (0.3 + column * wide, bottom, PANEL, PANEL))
        ax.set(xlim=middle[0] + np.array([-reach, reach]), ylim=middle[1] + np.array([-reach, reach]))
        _panel(ax, row, classes, np.asarray(labels))
    wide, high = figure.get_size_inches()
    figure.text(0.3 / wide, 0.1 / high, textwrap.fill(NOTE, int(17 * wide)), fontsize=6.5, color=MUTED)
    return figure


def _panel(ax: Axes, row: dict, classes: Sequence[str], labels: np.ndarray) -> None:
    images, words = np.asarray(row["images"]), np.asarray(row["classes"])
    for number in range(len(classes)):
        mark = MARKS[number % len(MARKS)]
        own = images[labels == number]
        ax.plot(own[:, 0], own[:, 1], mark, markersize=3, color=SLATE, markerfacecolor="none", markeredgewidth=0.6)
        ax.plot(*words[number], mark, markersize=6, color=TEAL, zorder=4)
    ax.plot(*np.stack([images.mean(0), words.mean(0)]).T, color=INK, linewidth=1.2, marker="|", markersize=6, zorder=3)
    low, high = ax.get_ylim()
    y, gap = -np.inf, 0.075 * (high - low)
    for number in words[:, 1].argsort():
        y = max(words[number, 1], y + gap)
        ax.annotate(
            shortened(classes[number], 16), words[number], (ax.get_xlim()[1] + gap / 2, y), va="center", fontsize=6.5,
            annotation_clip=False, arrowprops={"arrowstyle": "-", "color": LINE, "linewidth": 0.5},
        )  # fmt: skip
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    together = f"{100 * row['interaction']['score']:.0f} % from image and words together"
    ax.set_title(f"{row['name']}\ngap {row['gap']:.2f}, {together}", loc="left", fontsize=7.5, pad=5)
