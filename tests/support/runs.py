"""Small runs for the tests: two classes that anything can tell apart, and few steps."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import numpy as np

from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import plan
from nearl.prompts import default_prompts
from nearl.runs import Finished, Step, make_job

CLASSES = ["one", "two"]
PATIENCE = 240  # seconds to wait for a process on a busy machine
QUICK = {"steps": 20, "batch_size": 8, "augment": "none", "precision": "float32"}


def shades(per_class=6, seed=0, side=32):
    """Two classes that anything can tell apart."""
    rng = np.random.default_rng(seed)
    levels = [60] * per_class + [190] * per_class
    noise = rng.normal(0, 25, (len(levels), side, side, 3))
    pixels = [np.clip(level + n, 0, 255).astype(np.uint8) for level, n in zip(levels, noise, strict=True)]
    records = [ImageRecord.from_pixels(f"{i}.png", image) for i, image in enumerate(pixels)]
    return LabelledSet(list(CLASSES), records, [0] * per_class + [1] * per_class)


def made(
    backbone, data=None, test=None, split=None, methods=("nearl",), seeds=(0,), compared=False, shots=0, **changes
):  # fmt: skip
    """A job on `shades`; ``changes`` to a quick recipe."""
    data = data or shades()
    split = split or plan(data.labels, fraction=0.4, given=len(test) if test else 0)
    how = {"methods": list(methods), "seeds": list(seeds), "compared": compared, "shots": shots}
    return make_job(backbone, data, test, default_prompts(CLASSES), split, **how, recipe=QUICK | changes)


def finish(events):
    """The steps of a run but the first of each method, and what it ended with."""
    events = list(events)
    assert isinstance(events[-1], Finished)
    return [event for event in events if isinstance(event, Step) and event.step], events[-1]


def until(condition):
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes(words: str) -> list[int]:
    """The ids of the other processes that hold a file open whose path has these words in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # it has ended
            if any(words in os.readlink(file) for file in path.iterdir()):
                found.append(int(path.parent.name))
    return [number for number in found if number != os.getpid()]
