"""All methods and NEARL's ablations on real sets, the most telling runs first; stop it and continue at any time.

``PYTHONPATH=. python benchmarks/comparison.py [--minutes 60]``

Every run that ends adds a row to ``--out`` (as ``python -m nearl compare`` does, which shares the folder), and a run
that has one is not repeated. The order: at 16 images per class and with the first draw NEARL and its closest rivals on
the kept-out sets, then on six sets of the pretraining; then with one image per class; then the other draws; then the
remaining methods and the ablations. ``--summary`` prints what the rows there are say, without running anything;
``--plan`` prints how many runs each stage has, and how many are left. RESULTS.md: ``benchmarks/results.py``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from nearl.backbones import load_backbone
from nearl.measure.compare import Run, perform
from nearl.measure.intervals import student
from nearl.measure.results import Results
from nearl.methods import card, names

HERE = Path(__file__).parent
DATA = Path(os.environ.get("NEARL_DATA", HERE.parents[1] / "shared" / "data"))
KEPT_OUT = (
    "malaria_cells", "leukocytes_aml", "colon_histology", "osteosarcoma_histology", "prostate_histology",
    "breast_histology", "mammography_mias", "malaria_cells_gray", "dermoscopy_melanoma", "skin_lesion_clinical",
    "medpix_captions",
)  # fmt: skip
LEARNED = (
    "breast_ultrasound", "brain_mri_tumor", "chest_xray_pneumonia", "thyroid_ultrasound", "knee_xray_oa",
    "blood_cells_pbc",
)  # fmt: skip
OURS, UNTAUGHT = "nearl", "zero-shot"
FIRST = (UNTAUGHT, OURS, "linear-probe", "prolip", "alta-vision")
ABLATIONS = tuple(name for name in names() if card(name).ablates == OURS)
OTHERS = tuple(name for name in names() if name not in (*FIRST, *ABLATIONS))
SHOTS, SEEDS, CHECKED = (16, 1, 4), (0, 1, 2), 16
GOALS = {"mean": 0.76, "behind": 0.01, "harmed": 0.05}


def stages() -> Iterator[tuple[str, list[tuple[str, str, int, int]]]]:
    """Title and runs (set, method, shots, seed) of each stage, every run once."""
    seen: set[tuple[str, str, int, int]] = set()

    def runs(sets: Sequence[str], methods: Sequence[str], shots: Sequence[int], seeds: Sequence[int]) -> list:
        """Set after set, since features are kept for one set at a time."""
        made = [(s, m, k, seed) for s in sets for seed in seeds for k in shots for m in methods]
        new = [run for run in made if run not in seen and (run[1] != UNTAUGHT or run[2:] == (CHECKED, 0))]
        seen.update(new)
        return new

    both, most = (*KEPT_OUT, *LEARNED), [name for name in ABLATIONS if name != "nearl:image-context"]
    yield "16 shots, first draw, kept-out sets", runs(KEPT_OUT, FIRST, (16,), (0,))
    yield "16 shots, first draw, pretraining sets", runs(LEARNED, FIRST, (16,), (0,))
    yield "1 shot, first draw", runs(both, FIRST, (1,), (0,))
    yield "the other draws, and 4 shots", runs(both, FIRST, SHOTS, SEEDS)
    yield "the other methods", runs(both, OTHERS, SHOTS, SEEDS)
    yield "ablations, 16 shots", runs(both, most, (16,), SEEDS)
    yield "ablations, 1 and 4 shots", runs(both, most, (1, 4), SEEDS)
    yield "a text pass for each image", runs(both, ("nearl:image-context",), (16,), SEEDS)


def summary(rows: Sequence[dict]) -> str:
    """What the rows say of the goals, over the cells (set, seed) that both methods of a pair have."""
    cells: dict = defaultdict(dict)
    for row in rows:
        drawn = [(k, s) for k in SHOTS for s in SEEDS] if row["method"] == UNTAUGHT else [(row["shots"], row["seed"])]
        for shots, seed in drawn:
            cells[row["method"], shots][row["set"], seed] = row["metrics"]["balanced_accuracy"]
    lines = []
    for shots in SHOTS:
        ours = {cell: value for cell, value in cells[OURS, shots].items() if cell[0] in KEPT_OUT}
        if not ours:
            continue
        sets = sorted({name for name, _ in ours})
        lines.append(f"{shots} shots, kept-out sets: NEARL {over_sets(ours):.3f} ({len(sets)} sets, {len(ours)} runs)")
        for method in names():
            common = {cell: ours[cell] - value for cell, value in cells[method, shots].items() if cell in ours}
            if method == OURS or not common:
                continue
            each = [statistics.fmean(v for (s, _), v in common.items() if s == name) for name in {s for s, _ in common}]
            mean, half = student([100 * value for value in each])
            wide = "" if half is None else f" ± {half:.1f}"
            lines.append(f"    NEARL less {method}: {mean:+.1f}{wide} points ({len(each)} sets, {len(common)} runs)")
    return "\n".join([*lines, *harm(rows), *verdict(cells)])


def over_sets(cells: dict[tuple[str, int], float]) -> float:
    """The mean over sets of the mean over draws."""
    sets = {name for name, _ in cells}
    return statistics.fmean(statistics.fmean(v for (s, _), v in cells.items() if s == name) for name in sets)


def harm(rows: Sequence[dict]) -> list[str]:
    """How often each method is clearly below the untaught model: the paired interval of its gain ends below zero."""
    found = defaultdict(list)
    for row in rows:
        if row["method"] != UNTAUGHT and row.get("gain"):
            found[row["method"]].append(row)
    lines = []
    for method in (name for name in names() if name in found):
        bad = [row for row in found[method] if row["gain"]["interval"][1] < 0]
        which = ", ".join(f"{row['set']} {row['shots']} shots draw {row['seed']}" for row in bad[:6])
        lines.append(f"clearly below before-teaching: {method} {len(bad)} of {len(found[method])} runs. {which}")
    return lines


def verdict(cells: dict) -> list[str]:
    """The goals, met or not, as far as there are runs."""

    def say(what: str, value: float, met: bool) -> str:
        return f"{'met' if met else 'NOT MET'}: {what}: {value:.3f}"

    def kept(method: str, shots: int) -> dict:
        return {cell: value for cell, value in cells[method, shots].items() if cell[0] in KEPT_OUT}

    lines, full = [], kept(OURS, CHECKED)
    if full:
        lines.append(
            say(f"NEARL at {CHECKED} shots, mean over kept-out sets", over_sets(full), over_sets(full) >= GOALS["mean"])
        )
    for shots, slack in ((CHECKED, 0.0), (1, GOALS["behind"])):
        ours, leads = kept(OURS, shots), {}
        for method in (name for name in names() if name != OURS and card(name).ablates != OURS):
            common = {cell: ours[cell] - value for cell, value in kept(method, shots).items() if cell in ours}
            if common:
                leads[method] = over_sets(common)
        if leads:
            rival = min(leads, key=leads.get)
            lines.append(
                say(f"NEARL less the best other ({rival}) at {shots} shots", leads[rival], leads[rival] >= -slack)
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(HERE / "runs"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many minutes")
    parser.add_argument("--summary", action="store_true")
    parser.add_argument("--plan", action="store_true")
    args = parser.parse_args()
    results, until = Results(args.out), time.monotonic() + 60 * args.minutes
    weights = load_backbone(args.backbone).identity["weights"]
    there = lambda: [row for row in results.rows() if row["backbone"]["weights"] == weights]  # noqa: E731
    have = {(r["set"], r["method"], r["shots"], r["seed"]) for r in there()}
    for title, each in stages():
        if args.plan:
            print(f"{title}: {len(each)} runs, {sum(run not in have for run in each)} left")
        if args.plan or args.summary:
            continue
        print(f"== {title}: {len(each)} runs", flush=True)
        runs = [Run(str(args.data / name), method, shots, seed, args.backbone) for name, method, shots, seed in each]
        for row in perform(runs, args.out, lambda line: print(line, flush=True)):
            print(f"    {row['metrics']['balanced_accuracy']:.3f}", flush=True)
            if time.monotonic() > until:
                break
        if time.monotonic() > until:
            break
    print(summary(there()))


if __name__ == "__main__":
    main()
