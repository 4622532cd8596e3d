"""Rows of a comparison as tables and figures: means over sets with intervals over seeds, and the costs beside them."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.isotonic import isotonic_regression

from nearl import NOTICE
from nearl.measure.intervals import student

METRICS = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "ece": "ECE"}
COSTS = {"parameters": "parameters", "fit_seconds": "fit s", "peak_mb": "peak MiB",
         "predict_ms": "predict ms / image"}  # fmt: skip
MARKS = "osD^vP*Xh<>d"
SLATE, TEAL = "#64748b", "#0f766e"
COLORS = "#64748b", "#b45309", "#1d4ed8", "#be123c", "#6d28d9", "#0284c7", "#854d0e"


def write(rows: Sequence[dict], folder: str | Path) -> list[Path]:
    """table.md, table.csv and, where there is anything to draw, curves.png and ranks.png in the folder."""
    folder, written = Path(folder), []
    for name, text in (("table.md", markdown(rows)), ("table.csv", as_csv(rows))):
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    for name, draw in (("curves.png", curves), ("ranks.png", ranks)):
        figure = draw(rows)
        if figure is not None:
            figure.savefig(folder / name, dpi=150)
            written.append(folder / name)
    return written


def summary(rows: Sequence[dict], metric: str, method: str, shots: int, sets: Sequence[str]) -> list[float]:
    """The metric's mean over ``sets`` for each seed; seeds that lack one of the sets are left out.

    The sets are fixed and the seeds are drawn, so an interval over these values is for other support images.
    """
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["method"] == method and row["shots"] == shots and row["metrics"][metric] is not None:
            found.setdefault(row["seed"], {})[row["set"]] = row["metrics"][metric]
    return [statistics.fmean(of[name] for name in sets) for _, of in sorted(found.items()) if set(sets) <= set(of)]


def markdown(rows: Sequence[dict]) -> str:
    """Balanced accuracy by method and shots, over all sets and for each; AUROC and ECE; costs. Markdown."""
    methods, _, sets = _axes(rows)
    parts = [f"# Comparison\n\n{len(rows)} runs, {len(sets)} sets, seeds {_seeds(rows)}. Mean ± half of the 95 % "
             f"interval over seeds, the sets taken as fixed. {NOTICE}\n"]  # fmt: skip
    if known := sorted({row["set"] for row in rows if row.get("pretrained")}):
        parts.append(f"The model was pretrained with images of the kind of {', '.join(known)}, perhaps with these very "
                     "ones: figures of zero-shot may flatter it.\n")  # fmt: skip
    for metric, title in METRICS.items():
        parts.append(_grid(rows, f"{title.capitalize() if title.islower() else title}, mean over sets", metric, sets))
    lines = [f"## Cost (median over runs)\n\n| method | {' | '.join(COSTS.values())} |", "|---|" + "---|" * len(COSTS)]
    for method in methods:
        cells = [_median(rows, method, key) for key in COSTS]
        lines.append(f"| {method} | {' | '.join(_number(cell) for cell in cells)} |")
    parts.append("\n".join(lines) + "\n")
    if len(sets) > 1:
        parts += [_grid(rows, name, "balanced_accuracy", [name]) for name in sets]
    parts += [_elsewhere([row for row in rows if row["set"] == name and "there" in row]) for name in sets]
    return "\n".join(parts)


def _elsewhere(rows: Sequence[dict]) -> str:
    """Balanced accuracy here and on the other source, and the drop, each a mean over seeds; "" where there is none."""
    if not rows:
        return ""
    methods, shots, _ = _axes(rows)
    first = rows[0]
    lines = [
        f"## Taught on {first['set']}, read on {first['test_on']}\n",
        f"Balanced accuracy on {first['metrics']['n']} images of the one and {first['there']['n']} of the other, of "
        "the classes that both have. The prompts are the only bridge.\n",
        "| method | shots | here | there | drop |",
        "|---|---|---|---|---|",
    ]
    for method in methods:
        for count in shots:
            some = [row for row in rows if (row["method"], row["shots"]) == (method, count)]
            if some:
                here = [row["metrics"]["balanced_accuracy"] for row in some]
                there = [row["there"]["balanced_accuracy"] for row in some]
                cells = [_spread(values) for values in (here, there)]
                gap = [row["there"]["drop"] for row in some]
                apart = {tuple(each["interval"]) for each in gap}
                told = _spread([each["value"] for each in gap])
                if len(apart) == 1:  # one seed, or a method without randomness: the interval over images
                    low, high = next(iter(apart))
                    told = f"{gap[0]['value']:.3f} ({low:.3f} to {high:.3f})"
                lines.append(f"| {method} | {count} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    mean, half = student(values)
    return f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}")


def as_csv(rows: Sequence[dict]) -> str:
    """One line per set, method and number of shots ("all" is the mean over sets), with every figure and cost."""
    methods, shots, sets = _axes(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = [f"{metric}{end}" for metric in METRICS for end in ("", "_half_interval")]
    writer.writerow(["set", "method", "shots", "seeds", *figures, *COSTS])
    for name in ["all", *sets] if len(sets) > 1 else sets:
        own = rows if name == "all" else [row for row in rows if row["set"] == name]
        for method in methods:
            for count in shots:
                values = {m: summary(own, m, method, count, sets if name == "all" else [name]) for m in METRICS}
                if not values["balanced_accuracy"]:
                    continue
                cells = [cell for v in values.values() for cell in (student(v) if v else (None, None))]
                costs = [_median([r for r in own if r["shots"] == count], method, key) for key in COSTS]
                shown = ["" if cell is None else f"{cell:.6g}" for cell in (*cells, *costs)]
                writer.writerow([name, method, count, len(values["balanced_accuracy"]), *shown])
    return out.getvalue()


def curves(rows: Sequence[dict]):
    """Balanced accuracy against shots, mean over sets with intervals, every line named at its end. None without.

    The lines are offset a little at every number of shots to keep their intervals apart. An interval far wider than the
    range of the means (two seeds) is clipped.
    """
    from matplotlib.figure import Figure

    methods, shots, sets = _axes(rows)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes, ends, means = figure.subplots(), [], []
    for number, method in enumerate(methods):
        ours, aside = method == "nearl", (number - (len(methods) - 1) / 2) * 0.4 / len(methods)
        points = [
            (i + aside, *student(v))
            for i, s in enumerate(shots)
            if (v := summary(rows, "balanced_accuracy", method, s, sets))
        ]
        if not points:
            continue
        x, mean, half = zip(*points, strict=True)
        color = TEAL if ours else COLORS[number % len(COLORS)]
        _, _, bars = axes.errorbar(
            x, mean, [h or 0 for h in half], color=color, marker=MARKS[number % len(MARKS)], elinewidth=1,
            linewidth=3 if ours else 1.2, markersize=8 if ours else 5, zorder=3 if ours else 2,
        )  # fmt: skip
        bars[0].set_alpha(0.45)
        ends.append((mean[-1], x[-1], method, color))
        means += mean
    if not ends:
        return None
    margin = max(max(means) - min(means), 0.05) * 0.25
    axes.set_ylim(max(min(means) - margin, 0), min(max(means) + margin, 1))
    _label(axes, sorted(ends), len(shots))
    axes.set_xticks(range(len(shots)), [str(s) for s in shots])
    axes.set_xlim(-0.3, len(shots) - 1 + 0.3 * len(shots))
    axes.set_xlabel(f"labelled images per class\n{NOTICE}")
    axes.set_ylabel("balanced accuracy")
    axes.set_title(f"Mean over {len(sets)} set{'s' * (len(sets) > 1)}, 95 % intervals over seeds", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def ranks(rows: Sequence[dict]):
    """Average ranks over sets and shots (1 is best), methods that do not differ by Nemenyi's test joined by a bar.

    A block is one set at one number of shots, its seeds averaged. Blocks of one set are not independent, so the
    distance uses the number of sets for N, which is conservative (our choice). None with fewer than two methods, or
    fewer than two sets that all of them have.
    """
    from matplotlib.figure import Figure

    methods, shots, sets = _axes(rows)
    table = [
        [statistics.fmean(v) if (v := summary(rows, "balanced_accuracy", m, s, [name])) else None for m in methods]
        for name in sets
        for s in shots
    ]
    table = [block for block in table if None not in block]
    if len(methods) < 2 or len(sets) < 2 or not table:
        return None
    mean = np.mean([stats.rankdata([-v for v in block]) for block in table], axis=0)
    distance = critical_distance(len(methods), len(sets))
    order = np.argsort(mean)
    figure = Figure(figsize=(9, 0.32 * len(methods) + 1.8), layout="constrained")
    axes = figure.subplots()
    for place, i in enumerate(order):
        ours = methods[i] == "nearl"
        axes.plot(mean[i], place, marker="o", color=TEAL if ours else SLATE, markersize=8 if ours else 6)
        axes.annotate(
            f"{methods[i]}  {mean[i]:.1f}", (mean[i], place), (8, 0), textcoords="offset points", va="center",
            color=TEAL if ours else "black", weight="bold" if ours else "normal",
        )  # fmt: skip
    for start, end in alike(mean[order], distance):
        axes.plot([mean[order][start]] * 2, [start, end], color=SLATE, linewidth=3, alpha=0.4, solid_capstyle="round")
    axes.set_ylim(len(methods) - 0.5, -0.7)
    axes.set_xlim(0.7, len(methods) + 1.5)
    axes.set_yticks([])
    axes.set_xlabel(
        f"average rank of {len(table)} sets × shots (1 is best); a bar joins methods within {distance:.1f}\n{NOTICE}"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def critical_distance(methods: int, blocks: int) -> float:
    """Nemenyi's critical difference of average ranks at 5 % (Demsar, JMLR 7, 2006): q sqrt(k (k + 1) / 6 N)."""
    q = stats.studentized_range.ppf(0.95, methods, np.inf) / 2**0.5
    return float(q * (methods * (methods + 1) / (6 * blocks)) ** 0.5)


def alike(ordered: np.ndarray, distance: float) -> list[tuple[int, int]]:
    """(first, last) of every longest run of ordered average ranks that lie within the distance."""
    runs = [(i, int(np.searchsorted(ordered, mean + distance, side="right")) - 1) for i, mean in enumerate(ordered)]
    return [run for n, run in enumerate(runs) if run[1] > run[0] and not any(other[1] >= run[1] for other in runs[:n])]


def _axes(rows: Sequence[dict]) -> tuple[list[str], list[int], list[str]]:
    """Methods as they came, shots in order, sets in order."""
    return (
        list(dict.fromkeys(row["method"] for row in rows)),
        sorted({row["shots"] for row in rows}),
        sorted({row["set"] for row in rows}),
    )


def _seeds(rows: Sequence[dict]) -> str:
    return ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))


def _grid(rows: Sequence[dict], title: str, metric: str, sets: list[str]) -> str:
    methods, shots, _ = _axes(rows)
    lines = [f"## {title}\n", f"| method | {' | '.join(f'{s} shots' for s in shots)} |", "|---|" + "---|" * len(shots)]
    for method in methods:
        cells = []
        for count in shots:
            values = summary(rows, metric, method, count, sets)
            cells.append(_spread(values) if values else "–")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _median(rows: Sequence[dict], method: str, key: str) -> float | None:
    values = [row[key] for row in rows if row["method"] == method and row[key] is not None]
    return statistics.median(values) if values else None


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def _label(axes, ends: list[tuple], count: int) -> None:
    """Names at the right of the last points, lowest first, moved just far enough not to overlap."""
    low, high = axes.get_ylim()
    apart = np.arange(len(ends)) * 0.036 * (high - low)
    heights = isotonic_regression(np.array([value for value, *_ in ends]) - apart) + apart
    for (value, x, method, color), y in zip(ends, heights, strict=True):
        axes.annotate(
            method, (x, value), (count - 1 + 0.5, y), va="center", color=color, fontsize=10,
            weight="bold" if method == "nearl" else "normal",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 4},
        )  # fmt: skip
