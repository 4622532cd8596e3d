"""Labelled sets in which an image may have several findings: what a table marks as present, absent or unknown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from nearl.data.sets.base import LabelledSet
from nearl.data.sets.marks import ABSENT, PRESENT
from nearl.prompts import ABSENT as WITHOUT
from nearl.prompts import class_key


@dataclass
class FindingsSet(LabelledSet):
    """Images in each of which every finding is present, absent or unknown.

    ``classes``: present and absent of each of F findings in turn, 2 F names. ``labels``: of each image a tuple of
    indices into them, at most one of each finding; a finding without one is unknown.
    """

    @property
    def findings(self) -> list[str]:
        return self.classes[::2]

    def counts(self) -> dict[str, int]:
        """How many images every class has: in which each finding is present, and in which it is absent."""
        return {name: sum(i in label for label in self.labels) for i, name in enumerate(self.classes)}

    def by_answer(self, number: int) -> tuple[list[int], list[int], list[int]]:
        """Indices of the images in which a finding, by its number, is present, absent and not known."""
        found: tuple[list[int], list[int], list[int]] = ([], [], [])
        for i, label in enumerate(self.labels):
            found[next((c % 2 for c in label if c // 2 == number), 2)].append(i)
        return found

    def as_classes(self) -> LabelledSet:
        """Two classes, with and without the finding, where there is one alone and it is known of every image; else the
        set itself."""
        if len(self.findings) != 1 or not all(self.labels):
            return self
        (name,) = self.findings
        return LabelledSet(
            [name, f"no {name}"], self.records, [label[0] for label in self.labels], self.problems, self.name,
            self.prompts, self.groups, self.synthetic, self.ours, self.notes,
        )  # fmt: skip

    @classmethod
    def of(cls, data: LabelledSet, findings: Sequence[str]) -> FindingsSet:
        """The set that `nearl.data.sets.labelled` read, whose classes are codes: one mark for each finding."""
        codes = [tuple(_class(k, mark) for k, mark in enumerate(code) if mark in _MEANT) for code in data.classes]
        labels = [codes[i] for i in data.labels]
        return cls(
            _both(findings), data.records, labels,
            [problem for problem in data.problems if problem.name not in data.classes], data.name, data.prompts,
            data.groups, data.synthetic, data.ours, data.notes,
        )  # fmt: skip

    def aligned(self, findings: Sequence[str]) -> FindingsSet:
        """The same images with these findings in this order; what is not known of one stays unknown."""
        place = {class_key(name): k for k, name in enumerate(findings)}
        own = [class_key(name) for name in self.findings for _ in range(2)]
        kept = {i: 2 * place[name] + i % 2 for i, name in enumerate(own) if name in place}
        labels = [tuple(sorted(kept[i] for i in label if i in kept)) for label in self.labels]
        return replace(self, classes=_both(findings), labels=labels)

    def renamed(self, findings: Sequence[str]) -> FindingsSet:
        """The same with these names for the findings."""
        return replace(self, classes=_both(findings))

    def marked(self, images: Collection[int], number: int, answer: int | None) -> FindingsSet:
        """The same with this finding, by its number, present (0), absent (1) or not known (None) in some images."""
        new = () if answer is None else (2 * number + answer,)
        labels = [
            tuple(sorted({*new, *(c for c in label if c // 2 != number)})) if i in images else label
            for i, label in enumerate(self.labels)
        ]
        return replace(self, labels=labels)


def _both(findings: Sequence[str]) -> list[str]:
    return [name for finding in findings for name in (finding, WITHOUT + finding)]


_MEANT = {PRESENT: 0, ABSENT: 1}


def _class(number: int, mark: str) -> int:
    return 2 * number + _MEANT[mark]
