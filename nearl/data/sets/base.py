"""Images with labels, however they were read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from nearl.data.records import SYNTHETIC, ImageRecord, Problem


@dataclass
class LabelledSet:
    """Images with labels."""

    classes: list[str]  # C names
    records: list[ImageRecord]
    labels: list[int]  # of each image, an index into classes
    problems: list[Problem] = field(default_factory=list)  # what was left out, and why
    name: str = "images"
    prompts: dict | None = None  # the content of the prompts.json that came with the images, unchecked
    groups: list[str] | None = None  # the patient or series of each image, "" for a group of its own; None: unknown
    synthetic: bool = False  # drawn by this project: shows no patient
    ours: bool = False  # comes with this project: its name may be written anywhere, and another set may replace it
    notes: list[str] = field(default_factory=list)  # how the files were understood, in sentences
    reports: list[str] | None = (
        None  # the report of each image, for methods that learn from texts; None: there are none
    )

    def __len__(self) -> int:
        return len(self.records)

    def counts(self) -> dict[str, int]:
        """How many images every class has."""
        return {name: self.labels.count(index) for index, name in enumerate(self.classes)}

    def subset(self, indices: Iterable[int]) -> LabelledSet:
        """The images at `indices`, in that order, with the same classes and no problems or notes."""
        chosen = list(indices)
        return replace(
            self,
            classes=list(self.classes),
            records=[self.records[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
            problems=[],
            notes=[],
            groups=None if self.groups is None else [self.groups[i] for i in chosen],
            reports=None if self.reports is None else [self.reports[i] for i in chosen],
        )

    def said(self) -> list[str]:
        """What to know of the images besides the problems: `notes` and `image_notes`."""
        return [*self.notes, *self.image_notes()]

    def image_notes(self) -> list[str]:
        """What decoding noted, and of how many images; without the names of files."""
        kinds: dict[str, list[str]] = {}  # by the note without its numbers, which differ from image to image
        for record in self.records:
            for note in dict.fromkeys(record.notes):
                if note != SYNTHETIC:
                    kinds.setdefault(re.sub(r"\d[\d.,]*\d|\d", "#", note), []).append(note)
        whose = lambda n: "1 image" if n == 1 else "All images" if n == len(self) else f"{n} images"  # noqa: E731
        differ = lambda notes: " (The numbers differ.)" if len(set(notes)) > 1 else ""  # noqa: E731
        found = sorted(kinds.values(), key=len, reverse=True)
        return [f"{whose(len(notes))}: {notes[0]}{differ(notes)}" for notes in found]
