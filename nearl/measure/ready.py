"""The ready prompt sets on test images of their own, as answers are given: with calibration and doubts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nearl.backbones import Backbone
from nearl.backbones.measured import class_index
from nearl.data.images import decode_picture
from nearl.measure.evaluate import calibration_error, evaluate
from nearl.prompts import PromptSet, ready_sets
from nearl.reading.classifier import Classifier

BATCH = 32


def table(backbone: Backbone, root: Path, sets: Sequence[str], progress: Callable[[str], None]) -> list[dict]:
    """A row for each of ``sets``, with test images in ``root``/<set>/test/<class>: "set", "n", "balanced_accuracy",
    "chance", "shown" and "withheld" (answers without and with a doubt) and "ece" (without and with calibration)."""
    rows = []
    for name in sets:
        prompts = PromptSet.load(ready_sets()[name])
        files = sorted(p for p in (root / name / "test").glob("*/*") if p.is_file() and not p.name.startswith("."))
        known = [(path, class_index(prompts.classes, path.parent.name)) for path in files]
        known = [(path, label) for path, label in known if label is not None]
        if known:
            progress(f"{name}: {len(known)} images")
            rows.append({"set": name, **_row(Classifier(backbone, prompts), known)})
    return rows


def _row(classifier: Classifier, files: Sequence[tuple[Path, int | None]]) -> dict:
    labels = np.array([label for _, label in files])
    plain, read, doubts = [], [], []
    for start in range(0, len(files), BATCH):
        records = [decode_picture(path) for path, _ in files[start : start + BATCH]]
        found = classifier.predict(records)
        plain.append(classifier.zero_shot.predict(records))
        read.append(found.frozen)
        doubts += [claim.doubt for claim in found.claims] if found.claims is not None else [""] * len(records)
    before, after = np.concatenate(plain), np.concatenate(read)
    figures = evaluate(after, labels, draws=1, classes=classifier.prompt_set.classes)
    withheld = sum(map(bool, doubts))
    return {
        "n": len(labels),
        "balanced_accuracy": figures["balanced_accuracy"],
        "chance": 1 / len(classifier.prompt_set.classes),
        "shown": len(labels) - withheld,
        "withheld": withheld,
        "ece": [calibration_error(before, labels), calibration_error(after, labels)],
    }
