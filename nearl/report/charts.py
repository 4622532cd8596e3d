"""The charts of the printed page: before teaching is a slate outline, after is filled teal, every interval is drawn.
Outline, shape and labels tell them apart, so they can be read in greyscale. (Web pages: templates/charts.html.)

Each chart draws into a box (left, bottom, width, height) of a figure, in inches from the lower left. pyplot is not
used: only matplotlib's settings are global, and `drawing` holds them under a lock.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nearl.report.words import shortened

SLATE, TEAL, INK, MUTED, LINE, TRACK = "#5c6b7d", "#0f766e", "#16202c", "#4d5b6c", "#7b8a9d", "#e6eaf0"
RAMPS = {
    "before": LinearSegmentedColormap.from_list("before", ["#ffffff", SLATE]),
    "after": LinearSegmentedColormap.from_list("after", ["#ffffff", TEAL]),
}
NUMBERED = 12  # classes up to which the cells of a confusion matrix hold their counts
SETTINGS: dict = {
    "font.family": ["DejaVu Sans"],
    "font.size": 7.5,
    "text.parse_math": False,  # a class may be called "$x"
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}
Box = tuple[float, float, float, float]
_lock = threading.Lock()


@contextmanager
def drawing() -> Iterator[None]:
    """A context in which charts have the report's look; one thread at a time, as matplotlib's settings are global."""
    with _lock, matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def axes(figure: Figure, box: Box) -> Axes:
    """Axes in a box given in inches."""
    width, height = figure.get_size_inches()
    left, bottom, wide, high = box
    return figure.add_axes((left / width, bottom / height, wide / width, high / height))


def pairs(figure: Figure, box: Box, lines: Sequence[tuple[str, dict, dict | None]], names: float, words: float) -> None:
    """Bars 0..1, before above after, with the interval as a whisker. ``lines``: (name, before, after) as of
    `Report.figures`; a value of None leaves the bar out and the interval standing. ``names`` and ``words``: inches of
    the box for the names at the left and the figures in words at the right (0: none)."""
    left, bottom, width, height = box
    ax = axes(figure, (left + names, bottom, width - names - words, height))
    for row, (name, before, after) in enumerate(lines):
        each = [("before", before, row - 0.19), ("after", after, row + 0.19)] if after else [("before", before, row)]
        for when, said, y in each:
            _bar(ax, when, said, y, 0.3)
            if words:
                ax.annotate(
                    said["words"], (1, y), (5, 0), textcoords="offset points", xycoords=("axes fraction", "data"),
                    va="center", fontsize=6.5, color=INK if when == "after" or not after else MUTED,
                )  # fmt: skip
        ax.annotate(
            name, (0, row), (-6, 0), textcoords="offset points", xycoords=("axes fraction", "data"), va="center",
            ha="right", fontsize=7,
        )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(len(lines) - 0.5, -0.5), xticks=[0, 0.5, 1], yticks=[])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "50 %", "", "100 %"], fontsize=6.5)
    ax.spines["left"].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="x", color=TRACK, linewidth=0.6)


def methods(figure: Figure, box: Box, lines: Sequence[tuple[str, str, dict]]) -> None:
    """A bar 0..1 for each (title, method, figure as of `pairs`); few images make a pale bar."""
    left, bottom, width, height = box
    ax = axes(figure, (left + 1.9, bottom, width - 3.6, height))
    for row, (title, method, said) in enumerate(lines):
        _bar(ax, "before" if method == "zero-shot" else "after", said, row, 0.5)
        if said["few"] and method != "zero-shot" and said["value"] is not None:
            ax.patches[-1].set(alpha=0.45)
        for text, x, shift, side in ((title, 0, -6, "right"), (said["words"], 1, 6, "left")):
            ax.annotate(
                text, (x, row), (shift, 0), textcoords="offset points", xycoords=("axes fraction", "data"),
                va="center", ha=side, fontsize=7,
            )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(len(lines) - 0.5, -0.5), yticks=[])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "50 %", "", "100 %"], fontsize=6.5)
    ax.spines["left"].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="x", color=TRACK, linewidth=0.6)


def _bar(ax: Axes, when: str, said: dict, y: float, height: float) -> None:
    look = {"facecolor": TEAL} if when == "after" else {"facecolor": "white", "edgecolor": SLATE, "linewidth": 1.1}
    if said["value"] is not None:
        ax.add_patch(Rectangle((0, y - height / 2), said["value"], height, zorder=2, **look))
    if said["interval"]:
        (low, high), cap = said["interval"], height / 4
        if when == "after" and said["value"] is not None:  # dark on teal needs a light edge
            ax.plot(
                [low, min(high, said["value"])], [y, y], color="white", linewidth=2.2, zorder=3, solid_capstyle="butt"
            )
        x, ends = [low, high, None, low, low, None, high, high], [y, y, None, y - cap, y + cap, None, y - cap, y + cap]
        ax.plot(x, ends, color=INK, linewidth=0.9, zorder=3, solid_capstyle="butt", clip_on=False)


def confusion(figure: Figure, box: Box, counts: Sequence[Sequence[int]], when: str, names: Sequence[str]) -> None:
    """Counts, rows the truth; the shade is the share of the row. ``names``: of the rows, "" for none; columns and rows
    are numbered in the same order."""
    ax = axes(figure, box)
    size = len(counts)
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    cells = [(i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n]
    colours = [RAMPS[when](shares[i][j]) for i, j in cells]
    squares = [Rectangle((j, i), 1, 1) for i, j in cells]
    ax.add_collection(PatchCollection(squares, facecolors=colours, edgecolors="white", linewidths=0.8))
    frames = [Rectangle((i, i), 1, 1) for i in range(size)]
    ax.add_collection(PatchCollection(frames, facecolors="none", edgecolors=INK, linewidths=0.9, zorder=3))
    if size <= NUMBERED:
        for i, j in ((i, j) for i in range(size) for j in range(size)):
            ink = "white" if shares[i][j] > 0.55 else INK
            weight = "bold" if i == j else "normal"
            ax.text(
                j + 0.5, i + 0.52, str(counts[i][j]), ha="center", va="center", color=ink, fontsize=7, fontweight=weight
            )
    step = 1 if size <= 20 else 5
    ticks = [i for i in range(size) if (i + 1) % step == 0 or step == 1]
    ax.set(xlim=(0, size), ylim=(size, 0), aspect="equal")
    ax.set_xticks([i + 0.5 for i in ticks], [str(i + 1) for i in ticks], fontsize=6.5)
    labels = [f"{i + 1}  {shortened(names[i], 15)}" if names else str(i + 1) for i in ticks]
    ax.set_yticks([i + 0.5 for i in ticks], labels, fontsize=6.5)
    ax.tick_params(length=0, pad=2)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("read as", fontsize=6.5, labelpad=1)
    ax.set_title(f"{when} teaching", fontsize=7, color=MUTED, pad=4)


def reliability(figure: Figure, box: Box, bins: dict[str, Sequence[dict]]) -> None:
    """Accuracy against the highest probability, by bins, with Wilson intervals and, below, the images in each bin.
    ``bins``: "before" and, where there is one, "after", as `nearl.measure.evaluate.evaluate` gives them."""
    left, bottom, width, height = box
    below, lead = 0.16 * len(bins) + 0.34, 0.62
    ax = axes(figure, (left + lead, bottom + below, width - lead, height - below))
    ax.plot([0, 1], [0, 1], color=LINE, linewidth=0.8, linestyle=(0, (4, 3)))
    looks: dict[str, dict] = {
        "before": {"marker": "o", "color": SLATE, "markerfacecolor": "white", "markeredgewidth": 1.2},
        "after": {"marker": "D", "color": TEAL},
    }
    for place, (when, each) in enumerate(bins.items()):
        shift = (place - (len(bins) - 1) / 2) * 0.016
        for b in each:
            if b["n"]:
                x = b["confidence"] + shift
                ax.plot([x, x], b["interval"], color=looks[when]["color"], linewidth=0.9, zorder=2)
                ax.plot(x, b["right"], markersize=4.2, zorder=3, clip_on=False, **looks[when])
            middle = (b["low"] + b["high"]) / 2
            ax.annotate(
                str(b["n"]), (middle, 0), (0, -26 - 11.5 * place), textcoords="offset points", ha="center", va="center",
                xycoords=("data", "axes fraction"), fontsize=6.5, color=INK if b["n"] else LINE,
            )  # fmt: skip
        ax.annotate(
            f"n, {when}", (0, 0), (-5, -26 - 11.5 * place), textcoords="offset points", xycoords="axes fraction",
            ha="right", va="center", fontsize=6.5, color=MUTED,
        )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    ax.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "20 %", "40 %", "60 %", "80 %", "100 %"], fontsize=6.5)
    ax.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=6.5, color=MUTED)
    ax.set_ylabel("share that is correct", fontsize=6.5, labelpad=2)


def learning(figure: Figure, box: Box, losses: Sequence[tuple[int, float]], held: Sequence[tuple[int, float]]) -> None:
    """The loss over the steps and, above it where it was measured, the balanced accuracy on the held-out images."""
    left, bottom, width, height = box
    lead, foot = 0.5, 0.32
    tall, part = height - foot, 0.0
    last = max(step for step, _ in losses)
    if held:
        part = 0.36 * tall
        top = axes(figure, (left + lead, bottom + foot + tall - part, width - lead, part))
        top.plot(*zip(*held, strict=True), color=TEAL, linewidth=1.2, marker="D", markersize=2.6)
        top.set(xlim=(0, last), ylim=(0, 1.04), xticks=[])
        top.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=6.5, color=MUTED)
        top.set_title("balanced accuracy on the images kept aside", fontsize=6.5, color=MUTED, loc="left", pad=2)
        part += 0.26
    ax = axes(figure, (left + lead, bottom + foot, width - lead, tall - part))
    ax.plot(*zip(*losses, strict=True), color=MUTED, linewidth=0.9)
    ax.set(xlim=(0, last), ylim=(0, None))
    ax.tick_params(labelsize=6.5, labelcolor=MUTED)
    ax.locator_params(axis="y", nbins=4)
    ax.set_xlabel("step", fontsize=6.5, labelpad=1)
    if held:
        ax.set_title("error on the images taught with", fontsize=6.5, color=MUTED, loc="left", pad=2)
    else:
        ax.set_ylabel("error", fontsize=6.5, labelpad=2)
