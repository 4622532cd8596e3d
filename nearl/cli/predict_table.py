"""The table that ``nearl predict --csv`` writes: a row for each image, added as soon as it is read."""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nearl import NOTICE
from nearl.adapters.store import public_name
from nearl.cli.options import out_folder
from nearl.errors import NearlError
from nearl.report.table import safe

if TYPE_CHECKING:
    from nearl.reading.classifier import Classifier

ABOUT = ("file", "part", "slice", "answer", "guess")  # before the probabilities
AFTER = ("flags", "notes", "error", "made with", "notice")
SINCE = ("guess",)  # columns that tables of earlier versions lack


class Table:
    """The table in ``path``, safe to open in a spreadsheet.

    ``resume``: keep the rows of a table that is there already, except those of files that failed, which are to be tried
    again; in one of an earlier version what it lacks stays empty, and ``lacks`` names it. NearlError if that table was
    made with another model or other classes, and where it cannot be written.
    """

    def __init__(self, path: str, classifier: Classifier, args: argparse.Namespace, resume: bool = False):
        self.path = Path(path)
        self.classes = list(classifier.prompt_set.classes)
        self.times = ["before"] if classifier.method is None else ["before", "after"]
        self.made_with = _made_with(classifier, args)
        shares = [f"{when}: {name}" for when in self.times for name in self.classes]
        self.heading = [safe(cell) for cell in (*ABOUT, *shares, *AFTER)]
        self.lacks: list[str] = []
        rows = self._earlier() if resume and self.path.exists() else []
        self.kept = len(rows)
        self._read = {row[0]: bool(row[2]) for row in rows}  # by file, whether it is of several slices
        try:
            out_folder(self.path.parent)
            partial = self.path.with_name(f".{self.path.name}.partial")
            with partial.open("w", encoding="utf-8-sig", newline="") as file:
                _writer(file).writerows([self.heading, *rows])
            os.replace(partial, self.path)
            self._file = self.path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise NearlError(f"The table '{path}' cannot be written: {error.strerror}.") from error

    def has(self, file: str) -> bool:
        """Whether the table has rows of this file."""
        return safe(file) in self._read

    def needs(self, file: str) -> bool:
        """Whether the file has to be looked at: it has no row, or it may be one of several that form a volume."""
        return self._read.get(safe(file), True)

    def add(self, file: str, part: str, row: dict) -> None:
        """Write the row of an image, as `nearl.cli.predict` prints it."""
        cells = [file, part, _slice(row), "", "yes" if _guess(row) else ""]
        sides = [row["frozen"], row["adapted"]][: len(self.times)]
        if row["error"] is None:
            found = row.get("findings")
            said = [name for name, answer in (found or {}).items() if answer["present"]]
            cells[3] = max(sides[-1], key=sides[-1].get) if found is None else "; ".join(said) or "none"
        for side in sides:
            cells += ["" if side is None else f"{side[name]:.6f}" for name in self.classes]
        cells += [" ".join(flags(row)), " ".join(row.get("notes", ())), row["error"] or "", self.made_with, NOTICE]
        try:
            _writer(self._file).writerow([safe(cell) for cell in cells])
            self._file.flush()
        except OSError as error:
            raise NearlError(f"The table '{self.path}' cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        self._file.close()

    def _earlier(self) -> list[list[str]]:
        """The rows of the table that is there, without those of files that failed and without a half-written one."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                heading, *rows = list(csv.reader(file)) or [[]]
        except (OSError, ValueError, csv.Error) as error:
            raise NearlError(f"'{self.path}' is not a table that can be resumed; choose another file.") from error
        rows = [row for row in rows if len(row) == len(heading)]
        lacks = [name for name in SINCE if name not in heading]
        for name in lacks:
            place = self.heading.index(name)
            heading.insert(place, name)
            for row in rows:
                row.insert(place, "")
        if heading != self.heading or any(row[-2] != safe(self.made_with) for row in rows):
            raise NearlError(
                f"'{self.path}' was made with another model, adapter, prompts or options; choose another file, or use "
                "the same again."
            )
        failed = {row[0] for row in rows if row[-3]}
        kept = [row for row in rows if row[0] not in failed]
        self.lacks = lacks if kept else []
        return kept


def flags(row: dict) -> list[str]:
    """What to be careful about in a row, in sentences."""
    found = ["Unlike the images that the model was trained on."] if row.get("unfamiliar") else []
    found += [row["doubt"]] if row.get("doubt") and row["adapted"] is None else []
    return found + (["Unlike the images that the adapter was taught with."] if row.get("unlike_taught") else [])


def _guess(row: dict) -> bool:
    """Whether the answer of a row is no more than a guess: of an adapter where the image is unlike those that it was
    taught with, else as the model's own doubts say."""
    if row["adapted"] is not None:
        return bool(row.get("unlike_taught"))
    return bool(row.get("unfamiliar") or row.get("doubt"))


def _slice(row: dict) -> str:
    """Which part of a volume or film was read; "" of a still image."""
    moment = f", moment {row['moment']} of {row['moments']}" if "moment" in row else ""
    if "aggregate" in row:
        return f"{row['aggregate']} of {len(row['slices'])}{moment}"
    return f"{row['slice']} of {row['of']}{moment}" if "slice" in row else ""


def _made_with(classifier: Classifier, args: argparse.Namespace) -> str:
    """The model, prompts, adapter and options that decide the numbers."""
    backbone, method = classifier.backbone, classifier.method
    about = [f"{public_name(backbone.name)} {backbone.identity['weights'][:8]}"]
    about.append(f"prompts {classifier.prompt_set.digest[:8]}")
    if method is not None and method.source is not None:
        about.append(f"adapter {method.source.version[:8]}")
    asked = {name: getattr(args, name) for name in ("plane", "slice", "window", "aggregate")}
    if args.aggregate is not None:
        asked |= {"top-k": args.top_k, "every": args.every}
    return ", ".join([*about, *(f"{name} {value}" for name, value in asked.items() if value is not None)])


def _writer(file):
    return csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
