"""``nearl predict``."""

from __future__ import annotations

import argparse
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    adapter_options,
    classifier_of,
    log,
    prompt_options,
    reads_volumes,
    say,
    scan_options,
    there,
    view_of,
)
from nearl.cli.predict_study import beside, given, study_options, together
from nearl.cli.progress import Bar
from nearl.errors import NearlError

if TYPE_CHECKING:
    from pathlib import Path

    from nearl.cli.predict_table import Table
    from nearl.data.images import ImageRecord
    from nearl.methods.studies import Study
    from nearl.reading.classifier import Classifier


AGGREGATES = ("mean", "max", "top-k")
TOP_K = 5
NO_IMAGES = (
    ".csv", ".tsv", ".txt", ".md", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".xls", ".xlsx", ".doc", ".docx", ".htm",
    ".html", ".log", ".py",
)  # fmt: skip  # endings of files that lie beside images
NAMED = 3  # files in one sentence
WHOLE = (
    "This adapter reads a volume as a whole, and so were its thresholds chosen; they say nothing of slices that are "
    "combined. Leave out --aggregate."
)
MANY = 20  # files; from here on progress is shown


class File(NamedTuple):
    """A file to read."""

    argument: str  # of the command line: the file itself, or a folder that it is in
    shown: str  # the argument, or the path from that folder
    path: Path


def run(args: argparse.Namespace) -> Result:
    if args.resume and not args.csv:
        raise NearlError("--resume goes on with a table; give --csv FILE too.")
    if args.csv and not args.resume and os.path.exists(args.csv):
        raise NearlError(f"'{args.csv}' is there already; give --resume to add what it lacks, or another name.")
    if not args.prompts and not args.adapter:  # which is refused; a wrong path is the plainer mistake
        for path in args.images:
            there(path, "file or folder")
    if args.aggregate:
        there(args.adapter, "adapter")
        if reads_volumes(args):
            raise NearlError(WHOLE)
    several = given(args)
    classifier = classifier_of(args)

    from nearl.cli.predict_table import Table

    files, rows, left_out = _listed(args.images)
    say(_left_out(left_out))
    table = Table(args.csv, classifier, args, args.resume) if args.csv else None
    if table is not None and table.lacks:
        say([f"{args.csv} is of an earlier version: {_column(table.lacks)} empty in the rows from before."])
    try:
        for row in rows:
            if table is not None:
                table.add(row.get("name", row["file"]), "", row)
        rows += _read_all(classifier, files, args, table)
    except KeyboardInterrupt:
        if table is not None:
            log(f"nearl: what was read is in {args.csv}; --resume reads the rest.")
        raise
    finally:
        if table is not None:
            table.close()
    if several and len(rows) > 1:
        raise NearlError(
            f"A prior or lateral belongs to one image; {args.images[0]} holds {len(rows)}. Give one of them."
        )
    untaught, unknown, notes = classifier.untaught(), classifier.unknown_words(), classifier.text_notes()
    facts: dict = {"untaught": untaught, "unknown_words": unknown, "prompt_notes": notes, "notice": NOTICE}
    facts |= {"left_out": left_out} if left_out else {}
    lines: list[str] = []
    for row in rows:
        lines += [_failed(row)] if row["error"] else [] if table is not None else _lines(row)
    if table is not None:
        read = sum(row["error"] is None for row in rows)
        facts |= {"csv": args.csv, "kept": table.kept}
        before = f", which has {table.kept} from before" if table.kept else ""
        lines.append(f"{read} images were read into {args.csv}{before}.")
    lines += [f"Never taught: {', '.join(untaught)}."] if untaught else []
    if unknown:
        lines.append(f"The model ignores these words, which it does not know: {', '.join(unknown)}.")
    return {"predictions": rows, **facts}, [*lines, *notes, NOTICE]


def _column(names: Sequence[str]) -> str:
    listed = ", ".join(f"“{name}”" for name in names)
    return f"its new column {listed} is" if len(names) == 1 else f"its new columns {listed} are"


def _listed(arguments: Sequence[str]) -> tuple[list[File], list[dict], list[str]]:
    """(files, rows of what cannot be opened, files in folders that are no images) of the command line."""
    from pathlib import Path

    from nearl.data.archives import folder_files

    files: list[File] = []
    rows: list[dict] = []
    left_out: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if not path.is_dir():
            files.append(File(argument, argument, path))
            continue
        found, problems = folder_files(path, argument)
        read = [("/".join(parts), reader()) for parts, reader in found if parts[-1]]
        inside = sorted((shown, content) for shown, content in read if isinstance(content, Path))
        left_out += [shown for shown, _ in inside if shown.lower().endswith(NO_IMAGES)]
        files += [File(argument, *item) for item in inside if not item[0].lower().endswith(NO_IMAGES)]
        rows += [_error(argument, problem.reason, problem.name) for problem in problems]
        if not problems and (not files or files[-1].argument != argument):
            rows.append(_error(argument, f"{argument} holds no files that could be images; choose another folder."))
    return files, rows, left_out


def _left_out(names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"Left out, since they are no images: {', '.join(names[:NAMED])}{more}."] if names else []


def _error(argument: str, reason: str, name: str | None = None) -> dict:
    """The row of something that could not be read."""
    named = {} if name is None else {"name": name}
    return {"file": argument, **named, "frozen": None, "adapted": None, "error": reason}


def _read_all(
    classifier: Classifier, files: Sequence[File], args: argparse.Namespace, table: Table | None
) -> list[dict]:
    """The rows of all files, for each argument first what was read and then what failed."""
    rows: list[dict] = []
    with Bar() as bar:
        reader = _Reader(classifier, args, table, bar, len(files))
        for argument, group in itertools.groupby(files, lambda file: file.argument):
            found = list(reader.read(list(group)))
            good = [row for row in found if row["error"] is None]
            if table is None and classifier.reads_volumes:
                _named_by_folder(found, [file.shown for file in files if file.argument == argument])
            for number, row in enumerate(good, start=1):
                if len(good) > 1:
                    row["part"] = number
                elif row["name"] == argument:
                    del row["name"]  # one file with one image
            rows += [*good, *(row for row in found if row["error"] is not None)]
    return rows


def _named_by_folder(rows: list[dict], files: Sequence[str]) -> None:
    """Call a study of several files by their folder instead of by its first file, where the folder holds one."""
    from nearl.data.records import base_name
    from nearl.data.sets.studies import is_slice

    inside: dict[str, list[str]] = {}
    for shown in filter(lambda path: is_slice(path.rpartition("/")[2]), files):
        inside.setdefault(shown.rpartition("/")[0], []).append(shown)
    of = {row["name"].split(": ")[0]: row for row in rows if "name" in row}
    for folder, members in inside.items():
        read = [name for name in members if name in of]
        if len(read) == 1 and len(members) > 1 and of[read[0]]["name"] == read[0]:
            of[read[0]]["name"] = folder or base_name(os.path.realpath(of[read[0]]["file"]))


class _Reader:
    """Reads files, hands each row to the table and shows how far it is."""

    def __init__(self, classifier: Classifier, args: argparse.Namespace, table: Table | None, bar: Bar, total: int):
        self.classifier, self.args, self.table, self.bar, self.total = classifier, args, table, bar, total
        self.done = 0  # files
        self.beside = beside(args, classifier)

    def read(self, files: Sequence[File]) -> Iterator[dict]:
        """The rows of one argument's files, as they are decoded. What the table has already is left out."""
        from nearl.data.images import stream

        table, last = self.table, self.done + len(files)
        files = [file for file in files if table is None or table.needs(file.shown)]
        pending: list[tuple[str, dict]] = []  # of one file: (name of the record, row)
        current = -1
        for records, problems in stream((file.shown, file.path) for file in files):
            for number, problem in problems:
                yield self._row(files[number], "", _error(files[number].argument, problem.reason))
            for number, record in records:
                if number != current:
                    yield from self._flush(files, current, pending)
                    current, pending = number, []
                if table is None or not table.has(files[number].shown):
                    pending.append((record.name, self._reading(files[number], record)))
        yield from self._flush(files, current, pending)
        self._advance(last)

    def _reading(self, file: File, record: ImageRecord) -> dict:
        from nearl.reading.claims import NOT_THESE

        try:
            record = view_of(record, self.args)
            if self.args.window is None and self.args.plane is None and self.args.slice is None:
                whole = self.classifier.reads_volumes
                record = record.study() if whole else self.classifier.recognised(record)
            row = _read(self.classifier, record, self.args)
            if self.beside:
                row |= _together(self.classifier, record, self.beside)
        except NearlError as error:
            return _error(file.argument, str(error))
        notes = [*record.notes, *([NOT_THESE] if row.get("measured", "") is None else [])]
        return {"file": file.argument, **row, "notes": notes, "error": None}

    def _flush(self, files: Sequence[File], number: int, pending: list[tuple[str, dict]]) -> Iterator[dict]:
        """The rows of a file that was read; the images of one that holds several are told apart by name."""
        total, seen = Counter(name for name, _ in pending), Counter[str]()
        for name, row in pending:
            seen[name] += 1
            part = name if total[name] == 1 else f"{name} ({seen[name]} of {total[name]})"
            yield self._row(files[number], part if len(pending) > 1 else "", row)
        if pending:
            self._advance(self.done + 1)

    def _row(self, file: File, part: str, row: dict) -> dict:
        """The row with the name of its image, also in the table."""
        if self.table is not None:
            self.table.add(file.shown, part, row)
        inside = file.shown != file.argument
        if row["error"] is None or inside:
            name = part or file.shown
            row = {"file": row["file"], "name": f"{file.shown}: {part}" if part and inside else name, **row}
        return row

    def _advance(self, done: int) -> None:
        for number in range(self.done + 1, done + 1):
            if self.total >= MANY:
                self.bar.move("read", number, self.total)
        self.done = done


def _read(classifier: Classifier, record: ImageRecord, args: argparse.Namespace) -> dict:
    """Probabilities of one image, or with --aggregate of a whole volume and of each of its slices."""
    from nearl.reading.volumes import read_volume

    def named(row) -> dict[str, float] | None:
        return row if row is None else {c: round(float(p), 6) for c, p in zip(classes, row, strict=True)}

    classes = list(classifier.prompt_set.classes)
    moment = {"moment": record.view.frame + 1, "moments": record.moments} if record.moments > 1 else {}
    if args.aggregate is None or record.slices() == 1:
        prediction = classifier.predict([record])
        row: dict = {"frozen": named(prediction.frozen[0])}
        row["adapted"] = None if prediction.adapted is None else named(prediction.adapted[0])
        if prediction.unfamiliar is not None:
            row["unfamiliar"] = prediction.unfamiliar[0]
            row |= {"unfamiliar_caution": classifier.backbone.familiar.caution()} if row["unfamiliar"] else {}
        if prediction.claims is not None:
            (claim,) = prediction.claims
            row |= {"kind": claim.kind, "doubt": claim.doubt, "measured": prediction.measured if claim.fits else None}
        if prediction.trust is not None and prediction.trust["unlike"] is not None:
            row["unlike_taught"] = bool(prediction.trust["unlike"][0])
        place = {"slice": record.slice_number + 1, "of": record.slices()} if record.slices() > 1 else {}
        return row | place | moment | _answers(classifier, prediction.frozen[0], prediction.adapted)
    reading = read_volume(classifier, record, args.every, lambda done, total: log(f"slice {done}/{total}"))
    frozen, adapted = reading.aggregate(args.aggregate, args.top_k)
    said = _answers(classifier, frozen, None if adapted is None else adapted[None])
    each = [
        {
            "slice": number + 1,
            "frozen": named(reading.frozen[i]),
            "adapted": None if reading.adapted is None else named(reading.adapted[i]),
        }
        for i, number in enumerate(reading.numbers)
    ]
    facts = {"aggregate": args.aggregate, "plane": record.view.plane, "of": record.slices(), "slices": each}
    return {"frozen": named(frozen), "adapted": named(adapted), **facts, **moment, **said}


def _together(classifier: Classifier, record: ImageRecord, others: Study) -> dict:
    """The probabilities after teaching, and what follows from them, of the study of an image and these others."""
    import numpy as np

    shares, images = together(classifier, record, others)
    adapted = {c: round(p, 6) for c, p in zip(classifier.prompt_set.classes, shares, strict=True)}
    return {"adapted": adapted, "study": images} | _answers(classifier, None, np.array([shares]))


def _answers(classifier: Classifier, frozen, adapted) -> dict:
    """Of findings what is said of each, after teaching where there is an adapter, and the rules that this breaks."""
    from nearl.prompts import FINDINGS
    from nearl.reading.findings import answers

    if classifier.prompt_set.kind != FINDINGS:
        return {}
    shares, limits = (frozen if adapted is None else adapted[0]), classifier.limits(adapted is not None)
    found, wrong = answers(shares, limits, classifier.prompt_set)
    each = {
        a.finding: {"share": round(a.share, 6), "threshold": round(a.threshold, 6), "present": a.present} for a in found
    }
    return {"findings": each, "contradictions": wrong}


def _failed(row: dict) -> str:
    """The line of something that could not be read."""
    return f"{row['name']}: {row['error']}" if "/" in row.get("name", "") else row["error"]


def _lines(row: dict) -> list[str]:
    """A row for people."""
    about = f", {row['aggregate']} of {len(row['slices'])} slices" if "aggregate" in row else ""
    about = about or (f", slice {row['slice']} of {row['of']}" if "slice" in row else "")
    about += f", read with {len(row['study']) - 1} more of its study" if "study" in row else ""
    about += f", moment {row['moment']} of {row['moments']}" if "moment" in row else ""
    lines = [f"{_title(row)}{about}"]
    if "findings" in row:
        when = "before" if row["adapted"] is None else "after"
        for name, found in row["findings"].items():
            said = "present" if found["present"] else "absent"
            share = f"{found['share']:4.0%}, present from {found['threshold']:.0%}"
            lines.append(f"  {name:32} {said:8} {when} teaching {share}")
        lines += [f"  {words}" for words in row["contradictions"]]
    else:
        for name, share in row["frozen"].items():
            after = "" if row["adapted"] is None else f"   after teaching {row['adapted'][name]:4.0%}"
            lines.append(f"  {name:32} before teaching {share:4.0%}{after}")
    if row["adapted"] is None:
        lines += [f"  {words}" for words in (row.get("doubt"), row.get("measured")) if words]
    if row.get("unfamiliar") and row["adapted"] is None:
        if not row.get("doubt"):
            lines.append("  unlike the model's training images: little more than a guess until you teach it")
        lines.append(f"  {row['unfamiliar_caution']}")
    if row.get("unlike_taught"):
        lines.append("  unlike the images that the adapter was taught with")
    lines += [f"  note: {note}" for note in row["notes"]]
    return lines


def _title(row: dict) -> str:
    """Which image a row is of: a file as it was given, a file of a folder, or a part of a zip or series."""
    if os.path.isdir(row["file"]):
        return row["name"]
    return f"{row['file']}, {row['part']}: {row['name']}" if "part" in row else row["file"]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("images", nargs="+", metavar="IMG", help="an image, DICOM, NIfTI, or a folder or zip of them")
    scan_options(sub)
    sub.add_argument("--aggregate", choices=AGGREGATES, help="read all slices of a volume and combine them this way")
    sub.add_argument("--top-k", type=int, default=TOP_K, metavar="K", help=f"slices of top-k (default: {TOP_K})")
    sub.add_argument("--every", type=int, default=1, metavar="N", help="read only every N-th slice")
    study_options(sub)
    sub.add_argument("--csv", metavar="FILE", help="write a table with a row for each image, as they are read")
    sub.add_argument("--resume", action="store_true", help="read what the table of --csv lacks or what failed in it")
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command("predict", "Probabilities of the prompts' classes for images, before and after teaching.", run, add)
