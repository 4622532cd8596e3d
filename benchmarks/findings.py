"""How well methods tell the findings of synthetic chest radiographs apart, each from its absence.

``PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/findings.py FOLDER`` draws the radiographs (once), teaches every
method with every seed and prints a table; what is there already is kept, so that an interrupted run goes on.

Twelve independent findings and two that are kinds of others, in frontal projections of volumes of 64 voxels to each
side. A seed draws which radiographs teach, from a pool of half as many again, and the training; the test images are
always the same. The interval is Student's over the seeds; zero-shot learns nothing and has that of the images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from nearl.backbones import load_backbone
from nearl.data.phantoms.thorax.sets import write_thorax_folder
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import resolve_splits
from nearl.measure import intervals
from nearl.measure.findings import figures
from nearl.measure.results import Results
from nearl.methods import Frozen, Task, make
from nearl.methods import recipe as recipe_of
from nearl.prompts import PromptSet
from nearl.reading.findings import thresholds

METHODS = "zero-shot,linear-probe,lora,nearl"


def one(name: str, seed: int, task: Task, test: FindingsSet, changes: dict) -> dict:
    """The figures of one method with one seed on the test images; thresholds are chosen on the training images.
    ``changes``: to the method's recipe."""
    method = make(name, task)
    for _ in method.fit(recipe_of(name, seed=seed, **changes)):
        pass
    chosen = thresholds(method.predict(task.support.records), task.support.labels, task.prompt_set)
    return figures(method.predict(test.records)[:, ::2], test.labels, task.prompt_set, chosen)


def table(rows: list[dict], methods: list[str]) -> list[str]:
    """Lines of the means over the seeds, each with its interval."""
    lines = [
        "| method | seeds | macro AUROC | sensitivity | specificity | consistent (shuffled) |",
        "|---|--:|---|--:|--:|---|",
    ]
    for name in methods:
        own = [row["figures"] for row in rows if row["method"] == name]
        if not own:
            continue
        mean, half = intervals.student([found["macro_auroc"] for found in own])
        low, high = (mean - half, mean + half) if half is not None else own[0]["macro_auroc_interval"]
        each = (f"{np.mean([found[f'macro_{key}'] for found in own]):.2f}" for key in ("sensitivity", "specificity"))
        agree, mixed = (np.mean([found[key] for found in own]) for key in ("consistent", "consistent_shuffled"))
        span = f"{mean:.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"| {name} | {len(own)} | {span} | {' | '.join(each)} | {agree:.0%} ({mixed:.0%}) |")
    lines += ["", f"| finding | {' | '.join(methods)} |", f"|---|{'--:|' * len(methods)}"]
    for k, row in enumerate(rows[0]["figures"]["per_finding"]):
        cells = []
        for name in methods:
            own = [r["figures"]["per_finding"][k]["auroc"] for r in rows if r["method"] == name]
            cells.append(f"{np.mean(own):.2f}" if own else "")
        lines.append(f"| {row['finding']} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draw", action="store_true", help="only draw the radiographs")
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--steps", type=int, help="of every method that trains in steps (default: its own)")
    parser.add_argument("--lr", type=float, help="likewise, the learning rate")
    parser.add_argument("--backbone", default="embedded")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, results = args.folder / "images", Results(args.folder / "rows")
    if not images.is_dir():
        partial = args.folder / "partial"
        write_thorax_folder(partial, args.train * 3 // 2, args.test, size=64).rename(images)
    if args.draw:
        return
    pool, test = resolve_splits(images, findings=True)
    prompts, backbone = PromptSet.from_dict(pool.prompts), load_backbone(args.backbone)
    frozen, methods = Frozen(backbone), args.methods.split(",")
    changes = {key: value for key, value in (("steps", args.steps), ("lr", args.lr)) if value is not None}
    how = f"-{args.train}-{args.steps}" + ("" if args.lr is None else f"-{args.lr}")
    for seed in range(args.seeds):
        chosen = np.random.default_rng([seed, 1]).permutation(len(pool))[: args.train]
        task = Task(backbone, prompts, pool.subset(sorted(chosen.tolist())), frozen)
        for name in methods:
            run = f"{name}-{seed}{how}"
            if run in results.finished() or (name == "zero-shot" and seed):
                continue
            with results.claim(run) as mine:
                if mine:
                    found = one(name, seed, task, test, changes)
                    results.append({"run": run, "method": name, "seed": seed, "figures": found})
                    print(f"{run}: {found['macro_auroc']:.3f}", flush=True)
    rows = [row for row in results.rows() if row["run"].endswith(how)]
    print("\n".join(table(rows, methods)))
    (args.folder / "table.json").write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
