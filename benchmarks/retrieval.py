"""How well a gallery is searched before and after teaching, and what indexing it and asking it cost.

``NEARL_DATA=DIR PYTHONPATH=. python benchmarks/retrieval.py [--sets A,B] [--seeds 3] [--steps N] --out FILE``, and
for the costs ``... --costs [--images 2000] --out FILE``. A second call goes on where the first was stopped.

Figures: on each set, NEARL is taught with 16 images of each class of ``train``. Test images then find ``train`` images
and the ready prompts find test images. On ``medpix_captions``, with an adapter for CT or MR, captions find the images
of the test part and images their captions. Also the share of test images, and of images of the other sets, that are
refused as unlike all of ``train``. Costs: ratios measured in one run, the median over rounds that take turns.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nearl.backbones import Backbone, load_backbone
from nearl.data.images import decode_picture
from nearl.data.sets.labelled import resolve_splits
from nearl.data.sets.listing import list_images
from nearl.data.splits import draw_support
from nearl.measure.intervals import student
from nearl.measure.retrieval import AT, study
from nearl.methods import Frozen, Task, make, recipe
from nearl.prompts import PromptSet, default_prompts, ready_sets
from nearl.reading.gallery import Gallery, Seer, index_images, nearest
from nearl.reading.index import Index

SETS = "malaria_cells_gray,colon_histology,breast_ultrasound"
PAIRS = "medpix_captions"
SHOTS, IMAGES, PART, ROUNDS = 16, 2000, 50, 5


def taught(backbone: Backbone, folder: Path, seed: int, steps: int | None) -> tuple[Seer, PromptSet]:
    """What encodes with an adapter taught on a set, and its prompts."""
    train, _ = resolve_splits(folder)
    ready = ready_sets().get(folder.name)
    prompts = default_prompts(train.classes) if ready is None else PromptSet.load(ready)
    prompts, frozen = prompts.for_classes(train.classes), Frozen(backbone)
    task = Task(backbone, prompts, train.subset(draw_support(train.labels, SHOTS, seed)), frozen)
    method = make("nearl", task)
    for _ in method.fit(recipe("nearl", seed=seed, **({} if steps is None else {"steps": steps}))):
        pass
    return Seer(make("zero-shot", task), method.eval()), prompts


def indexed(seer: Seer, folder: Path, captions: Path | None = None, kept: Index | None = None) -> Gallery:
    """The gallery of a folder."""
    with list_images(folder, captions) as listing:
        return index_images(seer, listing, kept)


def of_set(backbone: Backbone, folder: Path, others: list[Path], seed: int, steps: int | None) -> dict:
    """The figures of one seed, and which images are refused."""
    seer, prompts = taught(backbone, folder, seed, steps)
    if folder.name == PAIRS:
        return {"figures": study(seer, indexed(seer, folder / "test", folder / "captions.csv")), "refused": None}
    gallery = indexed(seer, folder)
    return {"figures": study(seer, gallery, prompts), "refused": refusals(seer, gallery, others)}


def refusals(seer: Seer, gallery: Gallery, others: list[Path]) -> dict:
    """Of test images of the set and of images of other sets, how many are unlike all images of ``train``."""
    test = [i for i, entry in enumerate(gallery.entries) if entry.part == "test"]
    train = gallery.subset([i for i, entry in enumerate(gallery.entries) if entry.part != "test"])
    strange = [sorted(folder.glob("test/*/*"))[::5][:40] for folder in others]
    places = seer.images([decode_picture(path) for paths in strange for path in paths])
    said = lambda places: [bool(train.unlike(places[[row]])) for row in range(len(places))]  # noqa: E731
    own, foreign = said(gallery.places[test]), said(places)
    return {"test": [sum(own), len(own)], "other_sets": [sum(foreign), len(foreign)]}


def costs(backbone: Backbone, root: Path, images: int) -> dict:
    """Indexing and asking in terms of encoding the same images, and one sentence. Parts of the images take turns, each
    in a folder of its own; all go into one index."""
    every = sorted(root.glob("*/*/*/*.jpg"))
    files = every[:: max(1, len(every) // images)][:images]
    task = Task(backbone, default_prompts(["one", "two"]))
    plain = Seer(make("zero-shot", task))
    both = Seer(plain.zero_shot, make("nearl", task).eval())
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: Index(Path(folder) / f"{name}.sqlite") for name in ("index", "both")}
        spent = dict.fromkeys(("encode", "index", "both", "again"), 0.0)
        for number, start in enumerate(range(0, len(files), PART)):
            part = Path(folder) / str(number)
            part.mkdir()
            for place, path in enumerate(files[start : start + PART]):
                (part / f"{place}.jpg").write_bytes(path.read_bytes())
            records = [decode_picture(path) for path in files[start : start + PART]]
            works: dict[str, Callable[[], object]] = {
                "encode": lambda: [plain.images(records[i : i + 16]) for i in range(0, len(records), 16)],  # noqa: B023
                "index": lambda: indexed(plain, part, kept=kept["index"]),  # noqa: B023
                "both": lambda: indexed(both, part, kept=kept["both"]),  # noqa: B023
                "again": lambda: indexed(both, part, kept=kept["both"]),  # noqa: B023
            }
            for name, work in works.items():
                began = time.perf_counter()
                work()
                if number:  # the first part warms up
                    spent[name] += time.perf_counter() - began
        gallery = indexed(both, Path(folder), kept=kept["both"])
        asked = _asked(backbone, plain, both, gallery)
    return {
        "images": len(files) - PART,
        "encode_seconds": round(spent["encode"], 1),
        "index_over_encoding": round(spent["index"] / spent["encode"], 2),
        "index_before_and_after_over_encoding": round(spent["both"] / spent["encode"], 2),
        "index_again_over_encoding": round(spent["again"] / spent["encode"], 3),
        **asked,
    }


def _asked(backbone: Backbone, plain: Seer, both: Seer, gallery: Gallery) -> dict:
    numbers = iter(range(10**6))
    text = lambda: f"a chest X-ray of a child with pneumonia, number {next(numbers)}"  # noqa: E731

    def ask(seer: Seer) -> None:
        query = seer.sentence(text())
        for when, place in query.moments.items():
            nearest(place, gallery.places.moments[when], 10)

    def encode(seer: Seer) -> None:
        for method in filter(None, (seer.zero_shot, seer.method)):
            method.encode_prompts(backbone.tokenize([text()]))

    import torch

    works = {
        "one": lambda: encode(plain),
        "query": lambda: ask(plain),
        "two": lambda: encode(both),
        "ask": lambda: ask(both),
    }
    spent: dict[str, list[float]] = {name: [] for name in works}
    with torch.no_grad():
        for _ in range(20 * ROUNDS):
            for name, work in works.items():
                began = time.perf_counter()
                work()
                spent[name].append(time.perf_counter() - began)
    t = {name: statistics.median(values) for name, values in spent.items()}
    return {
        "query_over_sentence": round(t["query"] / t["one"], 2),
        "query_before_and_after": round(t["ask"] / t["two"], 2),
    }


def table(results: dict) -> str:
    """The figures as Markdown: means over seeds, with half of Student's interval where there are several."""
    titles = {
        "images": "image to images of its class", "sentences": "prompt to images of its class",
        "pairs_to_images": "caption to its images", "pairs_to_texts": "image to its caption",
    }  # fmt: skip
    heads = [f"{what} {k}" for what in ("P@", "R@") for k in AT]
    lines = [
        "| set | asked | moment | " + " | ".join(heads) + " | chance |",
        "|---|---|---|" + "---|" * (len(heads) + 1),
    ]
    for name, result in results.items():
        for key, title in titles.items():
            for when in ("before", "after"):
                rows = [seed["figures"][key][when] for seed in result.values() if key in seed["figures"]]
                if rows:
                    cells = [_cell([r[what][str(k)] for r in rows]) for what in ("precision", "recall") for k in AT]
                    lines.append(f"| `{name}` | {title} | {when} | {' | '.join(cells)} | {rows[0]['chance']:.2f} |")
    return "\n".join(lines)


def _cell(cells: list[dict]) -> str:
    values = [cell["value"] for cell in cells]
    if np.ptp(values) < 1e-9:
        low, high = cells[0]["interval"]
        return f"{values[0]:.2f} ({low:.2f}–{high:.2f})"
    mean, half = student(values)
    return f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default=f"{SETS},{PAIRS}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of teaching (default: the method's own)")
    parser.add_argument("--costs", action="store_true", help="measure the costs alone")
    parser.add_argument("--images", type=int, default=IMAGES, help="to index, for the costs")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    root, backbone = Path(os.environ.get("NEARL_DATA", "../shared/data")), load_backbone()
    out = Path(args.out)
    kept = json.loads(out.read_text()) if out.is_file() else {"sets": {}}
    if args.costs:
        kept["costs"] = costs(backbone, root, args.images + PART)
        print(json.dumps(kept["costs"]))
    else:
        for seed in range(args.seeds):
            for name in args.sets.split(","):
                others = [root / other for other in SETS.split(",") if other != name]
                rows = kept["sets"].setdefault(name, {})
                if str(seed) not in rows:
                    rows[str(seed)] = of_set(backbone, root / name, others, seed, args.steps)
                    out.write_text(json.dumps(kept))
                    print(name, "seed", seed, flush=True)
        print(table(kept["sets"]))
    out.write_text(json.dumps(kept))
