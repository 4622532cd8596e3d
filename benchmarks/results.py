"""RESULTS.md and its figures from the rows of `nearl compare`: NEARL among its peers, and without its parts, on the
real sets.

The rows: ``PYTHONPATH=. python benchmarks/comparison.py``, which passes over what is there already and can be stopped
at any time. The tables and figures: ``PYTHONPATH=. python benchmarks/results.py``
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from comparison import KEPT_OUT, LEARNED

from nearl.measure.compare_report import curves, markdown, ranks
from nearl.measure.intervals import student
from nearl.measure.results import Results
from nearl.methods import names

HERE = Path(__file__).parent
FIGURES = {"few_shot.png": curves, "ranks.png": ranks}
FIGURE_LINES = (
    "![Balanced accuracy against labelled images per class](few_shot.png)\n",
    "![Average ranks over sets and shots](ranks.png)\n",
)
OURS = "nearl"
GROUPS = {
    "all sets": (*LEARNED, *KEPT_OUT),
    "six sets the backbone was pretrained on": LEARNED,
    "sets it has never seen": KEPT_OUT,
}


def groups(rows: Sequence[dict]) -> dict[str, list[str]]:
    """By title, the sets of each group that every method has been run on, once where two groups have the same ones."""
    ran = {(row["set"], row["method"]) for row in rows}
    methods = {method for _, method in ran}
    found: dict[str, list[str]] = {}
    for title, sets in GROUPS.items():
        there = [name for name in sets if all((name, method) in ran for method in methods)]
        found = {title: sets for title, sets in found.items() if sets != there}
        if there:
            found[title if len(there) == len(sets) else f"{title} ({len(there)} of {len(sets)} so far)"] = there
    return found


def cells(rows: Sequence[dict]) -> dict[tuple[str, int], dict[str, dict[int, float]]]:
    """(method, shots) -> set -> seed -> balanced accuracy. Zero-shot's one run stands for every seed and shots."""
    found: dict = defaultdict(lambda: defaultdict(dict))
    drawn = {(row["shots"], row["seed"]) for row in rows}
    for row in rows:
        value = row["metrics"]["balanced_accuracy"]
        for shots, seed in drawn if row["method"] == "zero-shot" else [(row["shots"], row["seed"])]:
            found[row["method"], shots][row["set"]][seed] = value
    return found


def common(found: dict, shots: Sequence[int], sets: Sequence[str]) -> dict[int, list[str]]:
    """By number of shots, the sets that all methods have that were run with so many on any of them."""
    by_shots = {}
    for count in shots:
        ran = [set(of) & set(sets) for (_, many), of in found.items() if many == count and set(of) & set(sets)]
        by_shots[count] = [name for name in sets if ran and all(name in names for names in ran)]
    return by_shots


def head(first: str, title: str, there: dict[int, list[str]], sets: Sequence[str]) -> list[str]:
    columns = [f"{s} shots" + (f" ({len(t)} sets)" if len(t) < len(sets) else "") for s, t in there.items()]
    return [f"### {title}\n", f"| {first} | {' | '.join(columns)} |", "|---|" + "---|" * len(there)]


def mean_table(found: dict, methods: list[str], shots: list[int], title: str, sets: Sequence[str]) -> str:
    there = common(found, shots, sets)
    lines = head("method", title, there, sets)
    for method in methods:
        row = []
        for count in shots:
            of = found.get((method, count), {})
            each = [set(of.get(name, {})) for name in there[count]]
            seeds = set.intersection(*each) if each else set()
            values = [statistics.fmean(of[name][seed] for name in there[count]) for seed in sorted(seeds)]
            if not values:
                row.append("–")
                continue
            mean, half = student(values if method != "zero-shot" else values[:1])
            row.append(f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}") + f" ({len(values)})")
        lines.append(f"| {method} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def difference_table(found: dict, methods: list[str], shots: list[int], title: str, sets: Sequence[str]) -> str:
    there = common(found, shots, sets)
    lines = head(f"{OURS} minus", title, there, sets)
    for method in methods:
        row = []
        for count in shots:
            ours, theirs = found.get((OURS, count), {}), found.get((method, count), {})
            each = []
            for name in there[count]:
                seeds = set(ours.get(name, {})) & set(theirs.get(name, {}))
                if seeds:
                    each.append(statistics.fmean(100 * (ours[name][s] - theirs[name][s]) for s in seeds))
            if len(each) < max(2, len(there[count])):
                row.append("–")
                continue
            mean, half = student(each)
            row.append(f"{mean:+.1f} ± {half:.1f}")
        lines.append(f"| {method} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def report(rows: Sequence[dict]) -> str:
    """The whole of RESULTS.md."""
    found = cells(rows)
    there = {row["method"] for row in rows}
    methods = [name for name in names() if name in there]
    shots = sorted({row["shots"] for row in rows})
    others = [name for name in methods if name != OURS]
    counts = ", ".join(f"{sum(row['shots'] == s for row in rows)} at {s} shots" for s in shots)
    tables = groups(rows)
    parts = [
        "# NEARL among its peers\n\nMade by `PYTHONPATH=. python benchmarks/results.py` from "
        f"{len(rows)} runs ({counts}) in `benchmarks/runs`; the command that makes the runs, and goes on with them, is "
        "at the head of that script. Sets that some method was not run on are left out. Embedded backbone, balanced "
        "accuracy on the `test` splits, support sets drawn "
        "from `train` by seed; every method has the same support images, prompts and augmentation, and its own default "
        "recipe, chosen without a look at any test image. For teaching and research. Not for diagnosis.\n",
        *(FIGURE_LINES if len(shots) > 1 else ()),
        "## Balanced accuracy, mean over sets\n\n± half of the 95 % interval over seeds, the sets taken as fixed; in "
        "brackets how many seeds there are for every set. With two seeds an interval is very wide; – means not run.\n",
        *(mean_table(found, methods, shots, title, sets) for title, sets in tables.items()),
        "## NEARL minus each other method, in points\n\nOn the same support sets; ± half of the 95 % interval over "
        "sets, seeds averaged. A row of a NEARL ablation says what the part that it lacks contributes.\n",
        *(difference_table(found, others, shots, title, sets) for title, sets in tables.items()),
        markdown(sorted(rows, key=lambda row: methods.index(row["method"]))).replace(
            "# Comparison", "## Everything", 1
        ),
    ]
    return "\n".join(parts)


def main() -> None:
    rows = Results(HERE / "runs").rows()
    whole = {name for sets in groups(rows).values() for name in sets}
    rows = [row for row in rows if row["set"] in whole]
    (HERE / "RESULTS.md").write_text(report(rows), encoding="utf-8")
    if len({row["shots"] for row in rows}) > 1:
        found = cells(rows)
        full = set.intersection(*map(set, common(found, sorted({shots for _, shots in found}), sorted(whole)).values()))
        own = [row for row in rows if ":" not in row["method"] and row["set"] in full]
        own.sort(key=lambda row: names().index(row["method"]))
        for name, draw in FIGURES.items():
            draw(own).savefig(HERE / name, dpi=110)
    print(f"{len(rows)} runs, benchmarks/RESULTS.md")


if __name__ == "__main__":
    main()
