"""Zero-shot, linear probe and NEARL in one table.

``PYTHONPATH=. python benchmarks/few_shot.py --shots 16 --seeds 0 1 2``

Every labelled set under ``NEARL_DATA`` (else ../shared/data): the support set is drawn from ``train`` by seed, ``test``
is used for the reported number alone. Same backbone, support images and prompts (``assets/prompts/<set>.json``) for all
three. The linear probe is a logistic regression on frozen, normalised features whose L2 strength is chosen inside the
support set. One JSON line per run goes to ``--out``, runs found there are not repeated, and a Markdown table to stdout.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegressionCV

from nearl.backbones import load_backbone
from nearl.data.sets.labelled import LabelledSet, resolve_splits
from nearl.data.splits import draw_support
from nearl.measure.evaluate import evaluate, measure
from nearl.methods.nearl.finetune import Recipe, finetune
from nearl.prompts import PromptSet, ready_sets
from nearl.reading.classifier import Classifier

METRICS = ("balanced_accuracy", "auroc", "ece")
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % quantile of Student's t for this many seeds


def regression(x: np.ndarray, labels: list[int]) -> LogisticRegressionCV:
    """Logistic regression, L2 strength chosen inside the support set."""
    folds = max(2, min(4, int(np.bincount(labels).min())))
    found = LogisticRegressionCV(
        Cs=np.logspace(-1, 5, 7),
        l1_ratios=(0,),
        cv=folds,
        scoring="balanced_accuracy",
        class_weight="balanced",
        max_iter=2000,
        use_legacy_attributes=False,
    )
    return found.fit(x, labels)


def probe(x: np.ndarray, labels: list[int], x_test: np.ndarray, test_labels: list[int]) -> dict:
    """What `evaluate` says of the regression on the test set."""
    return evaluate(regression(x, labels).predict_proba(x_test), np.array(test_labels))


def linear_probe(classifier: Classifier, support: LabelledSet, test: LabelledSet) -> dict:
    x, x_test = (classifier.image_features(data.records, adapted=False).cpu().numpy() for data in (support, test))
    return probe(x, support.labels, x_test, test.labels)


def run(backbone, classifier: Classifier, train: LabelledSet, test: LabelledSet, shots: int, seed: int) -> list[dict]:
    support = train.subset(draw_support(train.labels, shots, seed))
    started = time.monotonic()
    probed = linear_probe(classifier, support, test)
    probe_seconds = time.monotonic() - started
    started = time.monotonic()
    *_, final = finetune(backbone, support, classifier.prompt_set, recipe=Recipe(seed=seed))
    seconds = time.monotonic() - started
    classifier.set_adapter(final.adapter)
    measured = measure(classifier, test)
    classifier.set_adapter(None)
    common = {"shots": shots, "seed": seed, "n": len(test)}
    return [
        {**common, "method": "zero-shot", **{m: measured["frozen"][m] for m in METRICS}, "fit_seconds": 0.0},
        {**common, "method": "linear-probe", **{m: probed[m] for m in METRICS}, "fit_seconds": round(probe_seconds, 1)},
        {**common, "method": "nearl", **{m: measured["adapted"][m] for m in METRICS}, "fit_seconds": round(seconds, 1)},
    ]


def table(rows: list[dict]) -> str:
    lines = ["| set | zero-shot | linear probe | NEARL | NEARL AUROC | NEARL ECE |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(row["set"] for row in rows):

        def cell(method, metric="balanced_accuracy", name=name):
            values = [row[metric] for row in rows if row["set"] == name and row["method"] == method]
            if any(value is None for value in values):
                return "–"
            spread = ""
            if len(values) > 1 and max(values) > min(values):
                spread = f" ± {T_95.get(len(values), 2.6) * statistics.stdev(values) / len(values) ** 0.5:.2f}"
            return f"{statistics.mean(values):.2f}{spread}"

        lines.append(
            f"| {name} | {cell('zero-shot')} | {cell('linear-probe')} | {cell('nearl')} "
            f"| {cell('nearl', 'auroc')} | {cell('nearl', 'ece')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("NEARL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--sets", nargs="*", help="default: every labelled set there")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--out", type=Path, default=Path("runs/few_shot.jsonl"))
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    backbone = load_backbone(args.backbone)
    weights = backbone.identity["weights"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    rows = [row for row in rows if row["weights"] == weights and row["shots"] == args.shots]
    folders = sorted(folder for folder in Path(args.data).iterdir() if (folder / "train").is_dir())
    for folder in folders:
        if args.sets and folder.name not in args.sets:
            continue
        todo = [s for s in args.seeds if not any(r["set"] == folder.name and r["seed"] == s for r in rows)]
        if not todo:
            continue
        train, test = resolve_splits(folder)
        prompt_set = PromptSet.load(ready_sets()[folder.name]).for_classes(train.classes)
        classifier = Classifier(backbone, prompt_set)
        for seed in todo:
            for row in run(backbone, classifier, train, test, args.shots, seed):
                rows.append({"set": folder.name, **row, "weights": weights})
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
