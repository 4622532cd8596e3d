"""What a step costs with more classes, and what features cost with more images.

``PYTHONPATH=. python benchmarks/scaling.py [--backbone NAME --weights random]``

Classes: a step of NEARL through both towers and one of its warm start, of the recipe's batch, with two prompts for each
of 2 to 200 classes: processor time and what autograd keeps of it; and a reading of one image. The slope is that of a
straight line through the figures. (A prompt set may have 64 classes; that limit is lifted here.) Images: 10 to 10,000
images' worth of embedded patches, random numbers of their size, put into the cache of frozen features and read back:
seconds, bytes in memory and on disk, and how much the process grew.
"""

from __future__ import annotations

import argparse
import json
import logging
import time

import numpy as np
import torch
from speed import spent

import nearl.prompts
from nearl.backbones import Backbone, load_backbone
from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.measure.cost import PeakMemory
from nearl.methods import Frozen, Task, make, recipe
from nearl.prompts import PromptSet
from nearl.reading.classifier import Classifier

CLASSES, IMAGES = (2, 10, 50, 200), (10, 100, 1_000, 10_000)


def task_of(backbone: Backbone, count: int) -> Task:
    """One noisy image and two prompts for each of ``count`` classes."""
    rng = np.random.default_rng(0)
    names = tuple(f"finding {i}" for i in range(count))
    pixels = rng.integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
    records = [ImageRecord.from_pixels(f"{i}.png", image) for i, image in enumerate(pixels)]
    prompts = tuple((f"a scan with finding {i}", f"finding number {i} in an image") for i in range(count))
    return Task(backbone, PromptSet("many", names, prompts), LabelledSet(list(names), records, list(range(count))))


def classes(backbone: Backbone, rounds: int) -> list[dict]:
    """A row for each number of classes, measured in turns."""
    tasks, rows = {}, [{"classes": count} for count in CLASSES]
    weights = sum(tensor.nbytes for tensor in backbone.model.state_dict().values())
    for row in rows:
        task = task_of(backbone, row["classes"])
        for name, warm in (("step", 0.0), ("warm_step", 0.9)):
            run = make("nearl", task).fit(recipe("nearl", steps=10**6, warm_start=warm, augment="none"))
            run.phases = run.phases[:1]
            row[f"{name}_mb"] = round((run.memory() - weights) / 1e6, 1)
            tasks[name, row["classes"]] = lambda run=run: next(run)
        method = make("nearl", task)
        reader, record = Classifier(backbone, task.prompt_set, method), task.support.records[:1]

        def read(reader=reader, record=record) -> None:
            reader.frozen.forget(record)
            reader.predict(record)

        tasks["read", row["classes"]] = read
    for (name, count), seconds in spent(tasks, rounds, time.process_time).items():
        rows[CLASSES.index(count)][f"{name}_ms"] = round(1000 * float(np.median(seconds)), 1)
    return rows


def slopes(rows: list[dict]) -> dict:
    """For each figure (its increase for a class, its value for two classes, the largest deviation from that line)."""
    counts, found = np.array([row["classes"] for row in rows]), {}
    for key in (key for key in rows[0] if key != "classes"):
        values = np.array([row[key] for row in rows])
        slope, start = np.polyfit(counts, values, 1)
        off = abs(values - start - slope * counts).max()
        found[key] = {"per_class": round(slope, 3), "at_two": values[0], "off_the_line": round(float(off), 1)}
    return found


def images(backbone: Backbone) -> list[dict]:
    """A row for each number of images."""
    vision, rows = backbone.vision, []
    tokens = vision.grid[0] * vision.grid[1] + vision.prefix_tokens
    for count in IMAGES:
        frozen, peak, began = Frozen(backbone), PeakMemory(torch.device("cpu")), time.perf_counter()
        for i in range(count):
            frozen.get(("patches", i), lambda: torch.randn(tokens, vision.width))
        for i in range(count):
            frozen.get(("patches", i), lambda: torch.empty(0))
        held, size = frozen._kept.held, 4 * tokens * vision.width * count
        rows.append(
            {
                "images": count,
                "seconds": round(time.perf_counter() - began, 2),
                "memory_mb": round(held / 1e6, 1),
                "disk_mb": round((size - held) / 1e6, 1),
                "grown_mib": round(peak.so_far() or 0.0, 1),
            }
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--weights", default="pretrained", choices=["pretrained", "random"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    nearl.prompts.MAX_CLASSES = max(CLASSES)
    backbone = load_backbone(args.backbone, weights=args.weights)
    found = classes(backbone, args.rounds)
    result = {"backbone": args.backbone, "threads": torch.get_num_threads(), "classes": found, "slopes": slopes(found)}
    print(json.dumps(result | {"images": images(backbone)}, indent=1, default=float))
