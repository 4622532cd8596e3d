"""A task for the tests: two classes of images, and the words for them."""

import numpy as np
from PIL import Image

from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.methods import Task, make
from nearl.prompts import PromptSet, default_prompts

PROMPTS = PromptSet("two", ("one", "two"), (("a scan of one", "one"), ("medical image of the two",)))


def shades(per_class=6, seed=0):
    """Two classes that anything can tell apart."""
    rng = np.random.default_rng(seed)
    records, labels = [], []
    for label, level in enumerate((60, 190)):
        for i in range(per_class):
            pixels = np.clip(level + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            records.append(ImageRecord.from_pixels(f"{label}-{i}.png", pixels))
            labels.append(label)
    return LabelledSet(["one", "two"], records, labels)


def write_set(folder, per_class=4, seed=0):
    """The path of a folder with ``shades`` in train/ and others in test/."""
    for split, count, number in (("train", per_class, seed), ("test", 3, seed + 1)):
        data = shades(count, number)
        for i, (record, label) in enumerate(zip(data.records, data.labels, strict=True)):
            path = folder / split / data.classes[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(record.pixels)).save(path)
    return str(folder)


def task_of(backbone, per_class=4):
    return Task(backbone, PROMPTS, shades(per_class))


def teach(backbone, data, prompts, recipe, **options):
    """NEARL's adapter after a run."""
    method = make("nearl", Task(backbone, prompts, data), **options)
    for _ in method.fit(recipe):
        pass
    return method.adapter()


def started(backbone, recipe, name="nearl", held=None, resume=None, **options):
    """(method, its run, which has not begun) on ``shades()``, with the default prompts of its classes."""
    data = shades()
    method = make(name, Task(backbone, default_prompts(data.classes), data), **options)
    return method, method.fit(recipe, held, resume)


def taught(method, **changes):
    """The method after a short run."""
    for _ in method.fit(method.recipe(**{"steps": 4, "batch_size": 4, "views": 2, "precision": "float32"} | changes)):
        pass
    return method
