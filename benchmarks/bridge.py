"""What a bank of atoms that both modalities share does for volumes and reports, with controls (`nearl.methods.bridge`).

``PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/bridge.py FOLDER`` draws synthetic chest volumes and encodes their
slices (once), teaches every variant with every seed and prints two tables; what is there already is kept, so that an
interrupted run goes on. ``--encode`` only does the first, ``--costs`` only measures what reading and teaching cost.

Each volume has a report, or its summary, and nothing else to learn from, except where a row says labels. Three findings
are rare in the volumes to teach with, one volume of a hundred; among those to measure on each is as frequent as the
others, so that its AUROC can be measured. A seed draws the training. A finding's score is the similarity to "There is
X." alone. Intervals are Student's over the seeds: the volumes are always the same.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor

from nearl.backbones import Backbone, load_backbone
from nearl.data.images import ImageRecord
from nearl.data.phantoms.thorax.findings import NAMES
from nearl.data.phantoms.thorax.report import CHANGES, write
from nearl.data.phantoms.thorax.sets import volume_prompts, volume_record
from nearl.data.phantoms.thorax.study import drawn, make_scan
from nearl.data.sets.findings import FindingsSet
from nearl.measure.intervals import student
from nearl.methods import Frozen, Task, make, recipe

RARE = ("mass", "pneumothorax", "rib lesion")
ONE_OF = 100  # volumes to teach with that have a rare finding
SLICES, SIZE, CHUNK = 24, 64, 10  # of a volume; voxels to each side; volumes of a file
VARIANTS = {  # name: options of the method
    "contrastive, report": {"atoms": 0, "summary": 0},
    "contrastive, summary": {"atoms": 0, "summary": 1},
    "bridge, report": {"summary": 0},
    "bridge, summary": {"summary": 1},
    "bridge, summary, one atom": {"atoms": 1},
    "bridge, summary, frozen bank": {"learned_bank": 0},
    "bridge, summary and labels": {"answers": 1},
}
PLAIN = ("untaught", "linear probe, labels")  # without a seed: the mean of the slices' embeddings
CENTRED = "contrastive, summary, means subtracted"  # at reading; nothing is taught again


def study_of(number: int, train: bool) -> tuple[ImageRecord, list[str], str]:
    """(the slices of a volume, its findings, its report with changes since a prior study)."""
    seed = number + (0 if train else 500_000)
    found = set(drawn(seed))
    if train:
        found -= set(RARE)
        found |= {name for k, name in enumerate(RARE) if number % ONE_OF == 17 + 31 * k}
    rng, present = np.random.default_rng([20, seed]), [name for name in NAMES if name in found]
    scan = make_scan(seed, present, SIZE)
    gone = lambda: "resolved" if rng.random() < 0.12 else ""  # noqa: E731
    changes = {name: CHANGES[int(rng.integers(4))] if name in found else gone() for name in NAMES}
    report = write(seed, scan.words, {name: name in found for name in NAMES}, changes, prior=True)
    return volume_record(scan).study(SLICES), present, report.text


def encode(folder: Path, backbone: Backbone, train: int, test: int) -> None:
    """Write the frozen embeddings of all slices, CHUNK volumes a file, with their findings and reports beside."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [("train", k) for k in range(0, train, CHUNK)] + [("test", k) for k in range(0, test, CHUNK)]
    for part, first in sorted(jobs, key=lambda job: job[1] / (train if job[0] == "train" else test)):
        path = folder / f"{part}-{first:05d}.safetensors"
        if path.exists():
            continue
        frozen, rows, began = Frozen(backbone), [], time.perf_counter()
        studies = [study_of(number, part == "train") for number in range(first, first + CHUNK)]
        with torch.no_grad():
            rows = [frozen.embed(frozen.slices(record)) for record, _, _ in studies]
        about = [{"findings": found, "report": report} for _, found, report in studies]
        path.with_suffix(".json").write_text(json.dumps(about), encoding="utf-8")
        save_file({"slices": torch.stack(rows)}, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
        print(f"{path.stem}: {time.perf_counter() - began:.0f} s", flush=True)


class Encoded(Frozen):
    """Slices that are encoded already, by the name of their study."""

    def __init__(self, backbone: Backbone):
        super().__init__(backbone)
        self.known: dict[str, Tensor] = {}

    def slices(self, record: ImageRecord) -> Tensor:
        return self.known[record.name]

    def embed(self, pooled: Tensor) -> Tensor:
        return F.normalize(pooled, dim=-1)


def load(folder: Path, frozen: Encoded, part: str, count: int) -> FindingsSet:
    """The first volumes of a part as far as they are encoded."""
    records, labels, reports = [], [], []
    for path in sorted(folder.glob(f"{part}-*.safetensors"))[: -(-count // CHUNK)]:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        for k, (one, slices) in enumerate(zip(about, load_file(path)["slices"], strict=True)):
            name = f"{path.stem}-{k}"
            frozen.known[name] = slices
            dot = ImageRecord.from_pixels(name, np.zeros((1, 1, 3), np.uint8))
            records.append(ImageRecord.of_slices(name, [dot, dot]))
            labels.append(tuple(2 * j + (f not in one["findings"]) for j, f in enumerate(NAMES)))
            reports.append(one["report"])
    return FindingsSet(list(volume_prompts().classes), records[:count], labels[:count], reports=reports[:count])


def one(task: Task, test: FindingsSet, options: dict, seed: int, steps: int) -> dict[str, dict]:
    """{"": the figures of one training}; of the contrastive one on summaries also those with the means subtracted."""
    method = make("bridge", task, **{"answers": 0, **options})
    began, progress = time.perf_counter(), None
    for progress in method.fit(recipe("bridge", seed=seed, steps=steps, batch_size=64)):  # noqa: B007
        pass
    method.eval()
    seconds, tokens = time.perf_counter() - began, task.backbone.tokenize([p[0] for p in task.prompt_set.prompts[::2]])
    with torch.no_grad():
        v, t, pairs = method.images(test.records), method.encode_prompts(tokens), method.mapped(method.texts(test))
        scores = method.similarity(v, t)
        if options.get("answers"):  # both answers of a finding were taught
            scores = torch.from_numpy(method.predict(test.records)[:, ::2])
        results = {"": figures(scores, test) | {"gap": gap(v, pairs), "seconds": seconds}}
        if len(method.bank):
            rebuilt, texts = (F.normalize(method.rebuilt(x), dim=-1) for x in (v, pairs))
            results[""] |= {
                "gap": gap(rebuilt, texts),
                "gap_before": gap(v, pairs),
                "alone": figures(rebuilt @ t.T, test)["macro"],
                "entropy": entropy(method.weights(v)),
            }
        if options == VARIANTS["contrastive, summary"]:
            known = method.images(task.support.records), method.mapped(method.texts(task.support))
            mean, text_mean = (x.mean(0) for x in known)
            v, t, pairs = (F.normalize(x - m, dim=-1) for x, m in ((v, mean), (t, text_mean), (pairs, text_mean)))
            results[CENTRED] = figures(v @ t.T, test) | {"gap": gap(v, pairs)}
    return results


def plain(task: Task, test: FindingsSet, name: str) -> dict:
    """The figures of what needs no seed."""
    method = make("bridge" if name == PLAIN[0] else "linear-probe", task, **({"atoms": 0} if name == PLAIN[0] else {}))
    if name != PLAIN[0]:
        for _ in method.fit():
            pass
        return figures(torch.from_numpy(method.predict(test.records)[:, ::2]), test)
    method.start(recipe("bridge"))
    tokens = task.backbone.tokenize([p[0] for p in task.prompt_set.prompts[::2]])
    with torch.no_grad():
        v, t, pairs = method.images(test.records), method.encode_prompts(tokens), method.mapped(method.texts(test))
        return figures(method.similarity(v, t), test) | {"gap": gap(v, pairs)}


def figures(scores: Tensor, test: FindingsSet) -> dict:
    """AUROC of each finding, and the means of all, of the rare and of the other findings."""
    there = np.array([[2 * k in label for k in range(len(NAMES))] for label in test.labels])
    each = {n: float(roc_auc_score(there[:, k], scores[:, k].numpy())) for k, n in enumerate(NAMES)}
    mean = lambda names: float(np.mean([each[name] for name in names]))  # noqa: E731
    rest = [name for name in NAMES if name not in RARE]
    return {"auroc": each, "macro": mean(NAMES), "rare": mean(RARE), "common": mean(rest)}


def gap(v: Tensor, t: Tensor) -> float:
    """The distance between the means of unit embeddings of images and of their texts."""
    return float((v.mean(0) - t.mean(0)).norm())


def entropy(weights: Tensor) -> float:
    """The mean entropy of weights [B, A] relative to that of uniform ones: 1 is uniform, 0 a single atom."""
    if weights.shape[1] == 1:
        return 0.0
    return float(-(weights * weights.clamp_min(1e-12).log()).sum(-1).mean() / np.log(weights.shape[1]))


def table(rows: list[dict]) -> list[str]:
    """Lines of the means over the seeds, AUROC with its interval."""

    def mean(own: list[dict], key: str, span: bool = False) -> str:
        values = [row[key] for row in own if key in row]
        if not values:
            return "-"
        middle, half = student(values)
        return (
            f"{middle:.3f} ({middle - half:.3f} to {middle + half:.3f})"
            if span and half is not None
            else f"{middle:.2f}"
        )

    keys = ("gap_before", "gap", "alone", "entropy")
    lines = ["| taught with | seeds | macro AUROC | rare | common | gap of v, t | gap scored | v^ alone | entropy |"]
    lines += ["|---|--:|---|---|---|--:|--:|--:|--:|"]
    for name in [*PLAIN, *VARIANTS, CENTRED]:
        own = [row["figures"] for row in rows if row["variant"] == name]
        own = [({"gap_before": found["gap"]} if "gap" in found else {}) | found for found in own]
        if own:
            aurocs = " | ".join(mean(own, key, True) for key in ("macro", "rare", "common"))
            lines.append(f"| {name} | {len(own)} | {aurocs} | {' | '.join(mean(own, key) for key in keys)} |")
    shown = [name for name in [*PLAIN, *VARIANTS, CENTRED] if any(row["variant"] == name for row in rows)]
    lines += ["", f"| finding | {' | '.join(shown)} |", f"|---|{'--:|' * len(shown)}"]
    for finding in NAMES:
        each = [[row["figures"]["auroc"][finding] for row in rows if row["variant"] == name] for name in shown]
        lines.append(f"| {finding}{' (rare)' * (finding in RARE)} | {' | '.join(f'{np.mean(x):.2f}' for x in each)} |")
    return lines


def costs(backbone: Backbone, folder: Path, data: tuple[Task, FindingsSet]) -> dict:
    """What reading a volume of 300 slices costs beside encoding them, and seconds of teaching with 64 volumes,
    once their slices are encoded: both in processor time."""
    rng, (task, _) = np.random.default_rng(0), data
    noise = rng.integers(0, 256, (300, 64, 64, 3), dtype=np.uint8)
    record = ImageRecord.of_slices("volume", [ImageRecord.from_pixels(str(k), one) for k, one in enumerate(noise)])
    times: dict[str, list[float]] = {"encode": [], "read": []}
    for _ in range(2):  # taking turns, so that both see the same machine
        for what, spent in times.items():
            method = make("bridge", Task(backbone, task.prompt_set))
            method.start(recipe("bridge"))
            method.warm()
            began = time.process_time()
            if what == "read":
                method.predict([record])
            else:
                method.task.frozen.slices(record)
            spent.append(time.process_time() - began)
    rare = {2 * NAMES.index(name) for name in RARE}
    order = sorted(
        range(len(task.support)), key=lambda i: not rare & set(task.support.labels[i])
    )  # those with one first
    few = Task(backbone, task.prompt_set, task.support.subset(order[:64]), task.frozen)
    method, began = make("bridge", few), time.process_time()
    for _ in method.fit(recipe("bridge")):
        pass
    read, encode = (float(np.median(times[key])) for key in ("read", "encode"))
    found = {
        "encode_300_s": encode,
        "read_300_s": read,
        "ratio": read / encode,
        "teach_64_s": time.process_time() - began,
    }
    (folder / "costs.json").write_text(json.dumps(found), encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--encode", action="store_true", help="only draw and encode the volumes")
    parser.add_argument("--costs", action="store_true", help="only measure what reading and teaching cost")
    args = parser.parse_args()
    torch.set_num_threads(1)
    backbone, cells = load_backbone("embedded"), args.folder / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    encode(args.folder / "slices", backbone, args.train, args.test)
    if args.encode:
        return
    frozen = Encoded(backbone)
    support, test = (
        load(args.folder / "slices", frozen, p, n) for p, n in (("train", args.train), ("test", args.test))
    )
    task = Task(backbone, volume_prompts(), support, frozen)
    if args.costs:
        print(json.dumps(costs(backbone, args.folder, (task, test))))
        return
    for name in PLAIN:
        path = cells / f"{name.replace(', ', '-').replace(' ', '-')}-0-{args.train}-{args.steps}.json"
        if not path.exists():
            rows = [{"variant": name, "seed": 0, "figures": plain(task, test, name)}]
            path.write_text(json.dumps(rows), encoding="utf-8")
    for seed in range(args.seeds):
        for name, options in VARIANTS.items():
            path = cells / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}-{args.train}-{args.steps}.json"
            if not path.exists():
                rows = [
                    {"variant": extra or name, "seed": seed, "figures": found}
                    for extra, found in one(task, test, options, seed, args.steps).items()
                ]
                path.write_text(json.dumps(rows), encoding="utf-8")
                print(f"{path.stem}: {rows[0]['figures']['macro']:.3f}", flush=True)
    found = [
        row for path in sorted(cells.glob(f"*-{args.train}-{args.steps}.json")) for row in json.loads(path.read_text())
    ]
    counts = {name: (support.counts()[name], test.counts()[name]) for name in NAMES}
    print("\n".join([*table(found), "", f"With each finding, of {len(support)} and {len(test)} volumes: {counts}"]))


if __name__ == "__main__":
    main()
