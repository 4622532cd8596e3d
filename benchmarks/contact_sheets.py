"""Contact sheets to look at: some random test images of every set with the untaught model's answer and its map.

``PYTHONPATH=. python benchmarks/contact_sheets.py FOLDER``

One PNG for each set: above the image, below it with the map of the answer; green words are right, red ones wrong.
Real images, some of which may not be passed on: keep FOLDER outside the repository.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from backbone_sets import KEPT_OUT, LEARNED, prompts_of
from PIL import Image, ImageDraw

from nearl.backbones import load_backbone
from nearl.data.sets.labelled import resolve_splits
from nearl.explain import MapRequest, Scorer, Trace, draw, overlay
from nearl.prompts import ready_sets
from nearl.reading.classifier import Classifier

SIDE, LINE = 176, 15


def sheet(classifier: Classifier, records: list, truth: list[str], key: str) -> Image.Image:
    """All images in a row, each with its map, the true class and the answer."""
    page = Image.new("RGB", (len(records) * (SIDE + 4), 2 * SIDE + 2 * LINE + 8), "white")
    pen, classes = ImageDraw.Draw(page), classifier.prompt_set.classes
    shares = classifier.predict(records).frozen
    for i, record in enumerate(records):
        said = int(shares[i].argmax())
        heatmap = draw(Trace(Scorer(classifier, False), [record]), MapRequest(key, said))[0]
        for row, picture in enumerate((record.image(), overlay(record.image(), heatmap))):
            page.paste(picture.convert("RGB").resize((SIDE, SIDE)), (i * (SIDE + 4), row * (SIDE + 2)))
        right = classes[said] == truth[i]
        words = (truth[i][:28], f"{classes[said][:22]} {shares[i, said]:.0%}")
        for row, text in enumerate(words):
            colour = "black" if row == 0 else "darkgreen" if right else "red"
            pen.text((i * (SIDE + 4), 2 * SIDE + 4 + row * LINE), text, fill=colour)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default=os.environ.get("NEARL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--map", default="gradcam", help="key of a map")
    parser.add_argument("--sets", nargs="*", default=[n for n in (*LEARNED, *KEPT_OUT) if n in ready_sets()])
    args = parser.parse_args()
    backbone = load_backbone(args.backbone)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        _, test = resolve_splits(Path(args.data) / name, fewest=1)
        prompts, numbers = prompts_of(name, test.classes)
        chosen = np.random.default_rng(args.seed).permutation(len(test))[: args.images]
        truth = [prompts.classes[numbers[test.labels[i]]] for i in chosen]
        page = sheet(Classifier(backbone, prompts), [test.records[i] for i in chosen], truth, args.map)
        page.save(args.folder / f"{name}.png")
        print(name, flush=True)


if __name__ == "__main__":
    main()
