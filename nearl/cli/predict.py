"""``nearl predict``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    adapter_options,
    classifier_of,
    log,
    prompt_options,
    scan_options,
    view_of,
)
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.data.images import ImageRecord
    from nearl.reading.classifier import Classifier


AGGREGATES = ("mean", "max", "top-k")
TOP_K = 5


def run(args: argparse.Namespace) -> Result:
    classifier = classifier_of(args)

    from nearl.data.images import decode_many

    rows, lines = [], []
    for file in args.images:
        records, problems = decode_many([file])
        errors = [problem.reason for problem in problems]
        for number, record in enumerate(records, start=1):
            part = {"part": number, "name": record.name} if len(records) > 1 else {}
            try:
                row = _read(classifier, view_of(record, args), args)
            except NearlError as error:
                errors.append(str(error))
                continue
            rows.append({"file": file, **part, **row, "notes": list(record.notes), "error": None})
            lines += _lines(rows[-1])
        rows += [{"file": file, "frozen": None, "adapted": None, "error": error} for error in errors]
        lines += errors
    untaught, unknown, notes = classifier.untaught(), classifier.unknown_words(), classifier.text_notes()
    lines += [f"Never taught: {', '.join(untaught)}."] if untaught else []
    if unknown:
        lines.append(f"The model ignores these words, which it does not know: {', '.join(unknown)}.")
    facts = {"untaught": untaught, "unknown_words": unknown, "prompt_notes": notes, "notice": NOTICE}
    return {"predictions": rows, **facts}, [*lines, *notes, NOTICE]


def _read(classifier: Classifier, record: ImageRecord, args: argparse.Namespace) -> dict:
    """Probabilities of one image, or with --aggregate of a whole volume and of each of its slices."""
    from nearl.reading.volumes import read_volume

    def named(row) -> dict[str, float] | None:
        return row if row is None else {c: round(float(p), 6) for c, p in zip(classes, row, strict=True)}

    classes = list(classifier.prompt_set.classes)
    if args.aggregate is None or record.slices() == 1:
        prediction = classifier.predict([record])
        row: dict = {"frozen": named(prediction.frozen[0])}
        row["adapted"] = None if prediction.adapted is None else named(prediction.adapted[0])
        if prediction.unfamiliar is not None:
            row["unfamiliar"] = prediction.unfamiliar[0]
            row |= {"unfamiliar_caution": classifier.backbone.familiar.caution()} if row["unfamiliar"] else {}
        return row | ({"slice": record.slice_number + 1, "of": record.slices()} if record.slices() > 1 else {})
    reading = read_volume(classifier, record, args.every, lambda done, total: log(f"slice {done}/{total}"))
    frozen, adapted = reading.aggregate(args.aggregate, args.top_k)
    each = [
        {
            "slice": number + 1,
            "frozen": named(reading.frozen[i]),
            "adapted": None if reading.adapted is None else named(reading.adapted[i]),
        }
        for i, number in enumerate(reading.numbers)
    ]
    facts = {"aggregate": args.aggregate, "plane": record.view.plane, "of": record.slices(), "slices": each}
    return {"frozen": named(frozen), "adapted": named(adapted), **facts}


def _lines(row: dict) -> list[str]:
    """A row for people."""
    about = f", {row['aggregate']} of {len(row['slices'])} slices" if "aggregate" in row else ""
    about = about or (f", slice {row['slice']} of {row['of']}" if "slice" in row else "")
    named = f", {row['part']}: {row['name']}" if "part" in row else ""
    lines = [f"{row['file']}{named}{about}"]
    for name, share in row["frozen"].items():
        after = "" if row["adapted"] is None else f"   after teaching {row['adapted'][name]:4.0%}"
        lines.append(f"  {name:32} before teaching {share:4.0%}{after}")
    if row.get("unfamiliar") and row["adapted"] is None:
        lines.append("  unlike the model's training images: little more than a guess until you teach it")
        lines.append(f"  {row['unfamiliar_caution']}")
    lines += [f"  note: {note}" for note in row["notes"]]
    return lines


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("images", nargs="+", metavar="IMG", help="an image, DICOM, NIfTI, or a folder or zip of them")
    scan_options(sub)
    sub.add_argument("--aggregate", choices=AGGREGATES, help="read all slices of a volume and combine them this way")
    sub.add_argument("--top-k", type=int, default=TOP_K, metavar="K", help=f"slices of top-k (default: {TOP_K})")
    sub.add_argument("--every", type=int, default=1, metavar="N", help="read only every N-th slice")
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command("predict", "Probabilities of the prompts' classes for images, before and after teaching.", run, add)
