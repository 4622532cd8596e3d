"""What an earlier version wrote (``tests/fixtures/before``, made by ``tests/fixtures/make.py``): adapters and runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.prompts import PromptSet

BEFORE = Path(__file__).parents[1] / "fixtures" / "before"
EXPECTED = json.loads((BEFORE / "expected.json").read_text(encoding="utf-8"))
ADAPTERS = [name for name in EXPECTED if not name.startswith("runs/")]
RUNS = ("done", "cancelled", "interrupted", "comparison")
PROMPTS = PromptSet("two", ("one", "two"), (("a scan of one", "one"), ("medical image of the two",)))
NARROW = {"width": 16, "heads": 2, "rank": 4, "queries": 4, "support_tokens": 2, "blocks": 1}  # NEARL, for small files
OPTIONS = {"alta": {"rank": 4}, "nearl": NARROW, "nearl:no-anchor": NARROW, "nearl:image-context": NARROW}
RECIPE = {"steps": 10, "batch_size": 4, "lr": 1e-2, "precision": "float32", "partner": False}
NOW = {"alta": "alta-vision"}  # methods that have another name since
EDITED = PromptSet("edited", ("two", "three", "one"), (("the two",), ("chest x ray",), ("lung",)))


def adapter_folder(name: str) -> Path:
    """The folder of the adapter of a method or ablation."""
    return BEFORE / "adapters" / name.replace(":", "-")


def run_folder(kind: str, checkpoint: Path, out: Path) -> Path:
    """A copy of a run at ``out``, whose backbone is the portable checkpoint in ``checkpoint``."""
    shutil.copytree(BEFORE / "runs" / kind, out)
    job = out / "job.json"
    job.write_text(job.read_text(encoding="utf-8").replace("CHECKPOINT", str(checkpoint)), encoding="utf-8")
    return out


def shades(per_class: int, seed: int) -> LabelledSet:
    """Two classes of images; ``shades(2, 9)`` are those of the expected probabilities."""
    noise, records, labels = np.random.RandomState(seed), [], []
    for label, level in enumerate((190, 60)):
        for i in range(per_class):
            pixels = np.clip(level + 25 * noise.standard_normal((32, 32, 3)), 0, 255).astype(np.uint8)
            records.append(ImageRecord.from_pixels(f"{label}-{i}.png", pixels))
            labels.append(label)
    return LabelledSet(["one", "two"], records, labels)
