"""What the command line does with scans: which plane, slice and window is meant, and readings of whole volumes."""

from __future__ import annotations

import argparse
import sys

from nearl.data.formats.volume import PLANES
from nearl.data.formats.windows import PRESETS, THREE_CT
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.reading.volumes import METHODS, TOP_K, read_volume


def scan_options(sub: argparse.ArgumentParser) -> None:
    """--plane, --slice and --window."""
    sub.add_argument("--plane", choices=list(PLANES), help="of a volume (default: the one it was made in)")
    sub.add_argument("--slice", type=int, metavar="N", help="slice or frame, from 1 (default: the middle slice)")
    windows = [*PRESETS, "auto", "three"]
    sub.add_argument(
        "--window", choices=windows, help="of a scan (default: its own); three: lung, mediastinum and bone at once"
    )


def volume_options(sub: argparse.ArgumentParser) -> None:
    """--aggregate, --top-k and --every."""
    sub.add_argument("--aggregate", choices=METHODS, help="read all slices of a volume, and put them together so")
    sub.add_argument("--top-k", type=int, default=TOP_K, metavar="K", help=f"slices of top-k (default: {TOP_K})")
    sub.add_argument("--every", type=int, default=1, metavar="N", help="read only every N-th slice")


def seen(record: ImageRecord, args) -> ImageRecord:
    """The record in the plane, slice and window that the arguments name, where it is a scan."""
    if record.scan is None:
        return record
    changes = {}
    if args.window is not None and not record.scan.colour:
        automatic = record.scan.auto() if args.window == "auto" else THREE_CT
        changes["window"] = PRESETS.get(args.window, automatic)
    if args.plane is not None:
        if args.plane not in record.scan.planes:
            raise NearlError(f"{record.name} can be shown in these planes: {', '.join(record.scan.planes)}.")
        changes |= {"plane": args.plane, "index": record.scan.slices(args.plane) // 2}
    record = record.at(**changes) if changes else record
    number = args.slice
    if number is not None and not 1 <= number <= record.slices():
        raise NearlError(f"{record.name} has the slices 1 to {record.slices()}; there is no slice {number}.")
    return record if number is None else record.slice_at(number - 1)


def read_part(classifier, record: ImageRecord, args) -> dict:
    """Shares of one picture, or with --aggregate of a whole volume and of each of its slices."""

    def named(row) -> dict[str, float] | None:
        return row if row is None else {c: round(float(p), 6) for c, p in zip(classes, row, strict=True)}

    classes = list(classifier.prompt_set.classes)
    if args.aggregate is None or record.slices() == 1:
        prediction = classifier.predict([record])
        row = {"frozen": named(prediction.frozen[0])}
        row["adapted"] = None if prediction.adapted is None else named(prediction.adapted[0])
        if prediction.unfamiliar is not None:
            row["unfamiliar"] = prediction.unfamiliar[0]
        return row | ({"slice": record.slice_number + 1, "of": record.slices()} if record.slices() > 1 else {})
    show = lambda done, total: print(f"slice {done}/{total}", file=sys.stderr, flush=True)  # noqa: E731
    reading = read_volume(classifier, record, args.every, show)
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


def prediction_lines(row: dict) -> list[str]:
    """A row of `read_part`, with its file, for people."""
    about = f", {row['aggregate']} of {len(row['slices'])} slices" if "aggregate" in row else ""
    about = about or (f", slice {row['slice']} of {row['of']}" if "slice" in row else "")
    lines = [f"{row['file']}{about}"]
    for name, share in row["frozen"].items():
        after = "" if row["adapted"] is None else f"   after teaching {row['adapted'][name]:4.0%}"
        lines.append(f"  {name:32} before teaching {share:4.0%}{after}")
    if row.get("unfamiliar") and row["adapted"] is None:
        lines.append(
            "  unlike the pictures that the model has learned from: little more than a guess until it is taught"
        )
    return lines
