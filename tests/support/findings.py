"""Images with two findings that anything can tell: brightness, and red."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from nearl.data.images import ImageRecord
from nearl.data.sets.findings import FindingsSet
from nearl.methods import Task, make
from nearl.prompts import PromptSet, default_findings
from tests.support.methods_data import taught

FINDINGS = ("one", "two")
PROMPTS = default_findings(FINDINGS)
CHEST = default_findings(["nodule", "pneumothorax", "cardiomegaly"])
RULED = PromptSet.from_dict({**PROMPTS.to_dict(), "rules": ["if one then not two"]})


def drawn(count=16, seed=0, unknown=True):
    """(records, marks): each mark is "1", "0" or, for some images, ""."""
    rng = np.random.default_rng(seed)
    records, marks = [], []
    for i in range(count):
        one, two = i % 2 == 0, i // 2 % 2 == 0
        pixels = rng.normal(60, 20, (32, 32, 3))
        pixels += 90 * one
        pixels[:, :, 0] += 90 * two
        records.append(ImageRecord.from_pixels(f"{seed}-{i}.png", np.clip(pixels, 0, 255).astype(np.uint8)))
        marks.append([str(int(one)), "" if unknown and i % 5 == 4 else str(int(two))])
    return records, marks


def halves(count=16, seed=0, unknown=True):
    """The same as a labelled set."""
    records, marks = drawn(count, seed, unknown)
    labels = [tuple(2 * k + (mark == "0") for k, mark in enumerate(row) if mark) for row in marks]
    return FindingsSet(list(PROMPTS.classes), records, labels)


def studies(count=12, slices=5, seed=0, prompts=PROMPTS):
    """Studies of which one slice has the findings: bright, red. Further findings have these too."""
    records, marks = drawn(count, seed, unknown=False)
    rng = np.random.default_rng(seed + 100)
    made = []
    for i, record in enumerate(records):
        others = [rng.normal(60, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8) for _ in range(slices + i % 2 - 1)]
        parts = [ImageRecord.from_pixels("slice", pixels) for pixels in others]
        parts.insert(int(rng.integers(len(parts) + 1)), record)
        made.append(ImageRecord.of_slices(f"study {seed} {i}", parts))
    labels = [tuple(2 * k + (row[k % 2] == "0") for k in range(len(prompts.findings))) for row in marks]
    return FindingsSet(list(prompts.classes), made, labels)


def bridge_adapter(backbone, prompts=CHEST, **options):
    """The adapter of a bridge that was taught with a few studies for a few steps."""
    return taught(make("bridge", Task(backbone, prompts, studies(8, prompts=prompts)), **options)).adapter()


def write_findings(folder, train=16, test=8):
    """A folder with the same as files and labels.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", *FINDINGS])
        for split, count, seed in (("train", train, 0), ("test", test, 1)):
            for record, row in zip(*drawn(count, seed), strict=True):
                Image.fromarray(np.asarray(record.pixels)).save(folder / record.name)
                table.writerow([record.name, split, *row])
    return folder
