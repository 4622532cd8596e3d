"""Images with two findings that anything can tell: brightness, and red."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from nearl.data.images import ImageRecord
from nearl.data.sets.findings import FindingsSet
from nearl.prompts import PromptSet, default_findings

FINDINGS = ("one", "two")
PROMPTS = default_findings(FINDINGS)
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
