"""What priors and laterals teach about a single frontal radiograph, and who can answer sentences of change.

``PYTHONPATH=. OMP_NUM_THREADS=1 nice -n 15 python benchmarks/studies.py FOLDER`` draws synthetic chest studies of four
images (current and prior, each frontal and lateral; once), teaches `alta` on each kind of study with every seed, writes
one JSON file for each, and prints a table; what is there already is kept, so that an interrupted run goes on.

Of each study six findings are asked: is each present in the current images, and is it larger than before or smaller,
which is known where it is either? Six other findings are drawn and not asked. In the phantom a finding's present size
does not depend on what it was before, so that nobody can tell a change from the current images. A seed draws which
studies teach (from a pool of half as many again) and the training. The test studies are always the same. Intervals:
95 % of draws of seeds and of test studies with replacement, both together; differences are of the same seeds and
studies.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch

from nearl.backbones import load_backbone
from nearl.data.phantoms.thorax.findings import FINDINGS
from nearl.data.phantoms.thorax.study import VIEWS, make_study
from nearl.data.records import SYNTHETIC, ImageRecord
from nearl.data.sets.findings import FindingsSet
from nearl.methods import Frozen, Task, make
from nearl.methods import recipe as recipe_of
from nearl.methods.studies import ALONE, Place, Study
from nearl.prompts import FINDINGS as KIND
from nearl.prompts import PromptSet

CHANGING = (
    "mass", "right effusion", "left effusion", "pneumothorax", "lower lobe consolidation", "cardiomegaly",
)  # fmt: skip
RATES = dict.fromkeys(CHANGING, 0.5)  # of the other findings 0.3
CHANGES = ("larger", "smaller")
WORDS = ("enlarged", "reduced")  # how the prompts say so: the embedded model was never trained on "larger" or "before"
KINDS = {  # the images of each study that teaches; of others' priors, those of the next patient
    "zero-shot": "nothing taught",
    "frontal": "current frontal alone",
    "laterals": "and current lateral",
    "studies": "and prior frontal and lateral",
    "shuffled": "the same, priors of other patients",
    "pairs": "current and prior frontal, always both, twice the steps",
}
RECIPE = {"batch_size": 12, "keep": 0.3, "augment": "none", "prompts_per_class": 1}
DRAWS = 2000


def prompts() -> PromptSet:
    """A question for each finding, and one of change."""
    entries = []
    for name in CHANGING:
        noun = FINDINGS[name].noun
        there = [f"a chest X-ray with {noun}", f"there is {noun}"]
        entries.append({"name": name, "prompts": there, "absent": [f"a chest X-ray without {noun}", f"no {noun}"]})
    for name in CHANGING:
        each = [[f"the {FINDINGS[name].noun} is {word}"] for word in WORDS]
        entries.append({"name": f"{name} larger", "prompts": each[0], "absent": each[1]})
    return PromptSet.from_dict({"name": "studies", "kind": KIND, "synthetic": True, "classes": entries})


def drawn(folder: Path, count: int, first: int) -> tuple[list[Study], list[tuple[int, ...]]]:
    """Studies and their labels, which are drawn once and kept in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    studies, labels = [], []
    for number in range(first, first + count):
        path = folder / f"{number}.npz"
        if not path.is_file():
            study = make_study(number, size=64, rates=RATES)
            images = [scan.project(view) for scan in (study.current, study.prior) for view in VIEWS]
            known = [2 * k + (not study.findings[name]) for k, name in enumerate(CHANGING)]
            known += [
                2 * (len(CHANGING) + k) + CHANGES.index(study.changes[name])
                for k, name in enumerate(CHANGING)
                if study.changes[name] in CHANGES
            ]
            partial = folder / f".{os.getpid()}.npz"
            np.savez_compressed(partial, images=np.stack(images), label=np.array(known))
            partial.replace(path)
        with np.load(path) as kept:
            images = [np.repeat(image[:, :, None], 3, axis=2) for image in kept["images"]]
            labels.append(tuple(kept["label"].tolist()))
        records = [ImageRecord.from_pixels(f"{number}-{k}.png", image, (SYNTHETIC,)) for k, image in enumerate(images)]
        studies.append({Place(k // 2, k % 2): record for k, record in enumerate(records)})
    return studies, labels


def only(studies: list[Study], *places: Place) -> list[Study]:
    """The studies with these images alone."""
    return [{place: study[place] for place in places} for study in studies]


def given(kind: str, studies: list[Study]) -> list[Study]:
    """What a study that teaches has, by kind."""
    if kind == "frontal":
        return only(studies, ALONE)
    if kind == "laterals":
        return only(studies, ALONE, Place(0, 1))
    if kind == "pairs":
        return only(studies, ALONE, Place(1, 0))
    if kind == "studies":
        return studies
    others = [*studies[1:], *studies[:1]]
    return [
        {place: (other if place.time else own)[place] for place in own}
        for own, other in zip(studies, others, strict=True)
    ]


def one(kind: str, seed: int, task: Task, studies: list[Study], test: list[Study], steps: int) -> dict:
    """Probabilities of the first answers [N, questions] on the test studies' current frontal images ("alone"), and on
    the whole studies ("whole"), which for "pairs" are two images."""
    method = make("alta", task, studies=1)
    if kind != "zero-shot":
        pairs = kind == "pairs"
        method.teach_studies(given(kind, studies), alone=0.0 if pairs else 0.5)
        for _ in method.fit(recipe_of("alta", seed=seed, steps=(1 + pairs) * steps, **RECIPE)):
            pass
    read = {"alone": only(test, ALONE), "whole": given(kind, test) if kind == "pairs" else test}
    return {name: method.read_studies(some)[:, ::2].round(5).tolist() for name, some in read.items()}


def aurocs(found: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean AUROC [DRAWS, 2] of the findings, and of the questions of change, with each study counted so many times as
    ``weights`` [DRAWS, N] say; ``truth`` [N, questions] is 1, 0 or -1 (unknown)."""
    each = []
    for p, own in zip(found.T, truth.T, strict=True):
        yes, no = np.flatnonzero(own == 1), np.flatnonzero(own == 0)
        wins = (p[yes, None] > p[None, no]) + 0.5 * (p[yes, None] == p[None, no])
        some, rest = weights[:, yes], weights[:, no]
        each.append(((some @ wins) * rest).sum(1) / (some.sum(1) * rest.sum(1)))
    first, change = each[: len(CHANGING)], each[len(CHANGING) :]
    return np.stack([np.nanmean(first, axis=0), np.nanmean(change, axis=0)], axis=1)


def figures(cells: dict[str, dict[int, dict]], truth: np.ndarray) -> dict[str, np.ndarray]:
    """Of each kind of teaching the mean over the seeds of (findings alone, change alone, findings whole, change whole),
    first as it is, then in draws of seeds and test studies, which are the same for all: [1 + DRAWS, 4]."""
    rng, count, number = np.random.default_rng(0), max(map(len, cells.values())), len(truth)
    weights = np.vstack([np.ones(number), rng.multinomial(number, np.full(number, 1 / number), DRAWS)])
    seeds = np.vstack([np.ones(count), rng.multinomial(count, np.full(count, 1 / count), DRAWS)]) / count
    result = {}
    for kind, found in cells.items():
        each = [
            np.hstack([aurocs(np.array(cell[name]), truth, weights) for name in ("alone", "whole")])
            for cell in found.values()
        ]
        share = seeds if len(each) == count else np.ones((1 + DRAWS, 1))
        result[kind] = np.einsum("ds,sdk->dk", share, np.stack(each))
    return result


def table(found: dict[str, np.ndarray]) -> list[str]:
    """Lines of the figures with their intervals, and of the differences that answer the questions."""
    said = lambda x: f"{x[0]:.3f} ({np.quantile(x[1:], 0.025):.3f} to {np.quantile(x[1:], 0.975):.3f})"  # noqa: E731
    lines = [
        "| taught with | findings, one frontal | change, one frontal | findings, whole study | change, whole study |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {KINDS[kind]} | {' | '.join(said(x) for x in values.T)} |" for kind, values in found.items()]
    lines += ["", "| difference, findings read from one frontal | |", "|---|---|"]
    for first, second in (
        ("studies", "frontal"),
        ("laterals", "frontal"),
        ("shuffled", "frontal"),
        ("studies", "shuffled"),
    ):
        if {first, second} <= found.keys():
            lines.append(f"| {first} - {second} | {said(found[first][:, 0] - found[second][:, 0])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--draw", action="store_true", help="only draw the studies")
    parser.add_argument("--train", type=int, default=140)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--backbone", default="embedded")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pool, labels = drawn(args.folder / "drawn", args.train * 3 // 2, 0)
    test, answers = drawn(args.folder / "drawn", args.test, 1_000_000)
    if args.draw:
        return
    asked, backbone = prompts(), load_backbone(args.backbone)
    frozen, cells = Frozen(backbone), {}
    for seed in range(args.seeds):
        mine = sorted(np.random.default_rng([seed, 1]).permutation(len(pool))[: args.train].tolist())
        studies = [pool[i] for i in mine]
        records = [study[ALONE] for study in studies]
        task = Task(backbone, asked, FindingsSet(list(asked.classes), records, [labels[i] for i in mine]), frozen)
        for kind in args.kinds.split(","):
            path = args.folder / f"{kind}-{seed}-{args.train}-{args.test}-{args.steps}.json"
            if kind == "zero-shot" and seed:
                continue
            if not path.is_file():
                found = one(kind, seed, task, studies, test, args.steps)
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(found), encoding="utf-8")
                partial.replace(path)
                print(path.name, flush=True)
            cells.setdefault(kind, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    truth = np.full((len(test), len(asked.questions)), -1)
    for row, label in zip(truth, answers, strict=True):
        for answer in label:
            row[answer // 2] = 1 - answer % 2
    print("\n".join(table(figures(cells, truth))))


if __name__ == "__main__":
    main()
