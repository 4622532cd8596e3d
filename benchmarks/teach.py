"""Where the time of one teaching run goes.

``PYTHONPATH=. python benchmarks/teach.py``

Three classes of 16 images (``brain_mri_tumor`` of ``NEARL_DATA``, else of ../shared/data, else drawn phantoms, which
have two classes), the balanced preset, a quarter of every class held out: the road of a visitor's run, from files to
measured adapter, in this process. ``decode`` reads and shrinks the files, once; ``forward`` embeds the augmented views
and passes them and the prompts through the adapted model; ``evaluate`` is the learning curve, the figures and the
features of the frozen model, each computed once. What is left over is drawing batches, events and the like.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

from nearl.backbones import Backbone, load_backbone
from nearl.data.phantoms.kinds import write_phantom_folder
from nearl.data.sets.labelled import LabelledSet, from_files
from nearl.data.splits import draw_support, plan
from nearl.methods import Frozen
from nearl.prompts import PromptSet, default_prompts, ready_sets
from nearl.runs import make_job, perform

NAME = "brain_mri_tumor"
SHARED = Path(__file__).parents[2] / "shared" / "data"


def class_files(folder: Path, per_class: int) -> dict[str, list[Path]]:
    """So many files of every class, drawn with a fixed seed."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    listed = [(path.name, sorted(path.iterdir())) for path in classes]
    return {name: [files[i] for i in draw_support([0] * len(files), per_class, seed=0)] for name, files in listed}


def images(folder: Path, per_class: int) -> tuple[LabelledSet, float]:
    """The set, and the seconds that reading it took."""
    began = time.perf_counter()
    data = from_files(class_files(folder, per_class), NAME)
    return data, time.perf_counter() - began


def measure(backbone: Backbone, data: LabelledSet, reading: float, preset: str) -> dict:
    """One run: its wall time and the seconds of each phase."""
    prompt_set = default_prompts(data.classes)
    if set(data.classes) == set(PromptSet.load(ready_sets()[NAME]).classes):
        prompt_set = PromptSet.load(ready_sets()[NAME])
    passes = Counter()
    see = Frozen.see
    Frozen.see = lambda self, x: passes.update(frozen=len(x)) or see(self, x)
    began = time.perf_counter()
    job = make_job(backbone, data, None, prompt_set, plan(data.labels), preset=preset)
    *_, end = perform(job, backbone=backbone)
    wall = reading + time.perf_counter() - began
    Frozen.see = see
    seconds = end.row["seconds"] | {"decode": end.row["seconds"]["decode"] + reading}
    figures = {when: end.results[when]["balanced_accuracy"] for when in ("frozen", "adapted")}
    return {
        "images": len(data),
        "classes": len(data.classes),
        "held_out": end.results["n"],
        "steps": end.row["settings"]["recipe"]["steps"],
        "threads": torch.get_num_threads(),
        "wall_seconds": round(wall, 2),
        "seconds": {phase: round(value, 2) for phase, value in seconds.items()},
        "share": {phase: round(value / wall, 4) for phase, value in seconds.items()},
        "frozen_image_passes": passes["frozen"],
        "balanced_accuracy": figures,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--per-class", type=int, default=16)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    backbone = load_backbone(args.backbone)
    folder = Path(os.environ.get("NEARL_DATA", SHARED)) / NAME / "train"
    with tempfile.TemporaryDirectory() as drawn:
        if not folder.is_dir():
            write_phantom_folder(Path(drawn), "head_mri", train=args.per_class, test=1, seed=0)
            folder = Path(drawn) / "train"
        data, reading = images(folder, args.per_class)
    result = measure(backbone, data, reading, args.preset)
    print(json.dumps(result))
    print("| phase | seconds | share |\n|---|---|---|")
    for phase in ("decode", "forward", "backward", "optimiser", "evaluate"):
        print(f"| {phase} | {result['seconds'][phase]:.2f} | {result['share'][phase]:.0%} |")
    print(f"| all | {result['wall_seconds']:.1f} | 100% |")


if __name__ == "__main__":
    main()
