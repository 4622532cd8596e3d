"""Reads a volume or a film slice by slice and combines the slices into one answer; nothing is trained.

An encoder of whole volumes would take `Scan.ras` instead: float32 voxels in a known orientation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.prompts import FINDINGS

if TYPE_CHECKING:
    from nearl.reading.classifier import Classifier

BATCH = 16  # slices between two progress reports
TOP_K = 5  # slices (our choice)
METHODS = ("mean", "max", "top-k")


@dataclass(frozen=True)
class VolumeReading:
    """Probabilities of the slices that have been read."""

    classes: list[str]
    numbers: list[int]
    """S numbers of slices."""
    total: int
    """Number of slices that will be read."""
    frozen: np.ndarray
    """Of the frozen model, float32 [S, C]; rows sum to one."""
    adapted: np.ndarray | None
    """Of the taught method, likewise; None without one."""
    findings: bool = False
    """Whether the classes are present and absent of each finding."""

    def aggregate(self, method: str = "top-k", k: int = TOP_K) -> tuple[np.ndarray, np.ndarray | None]:
        """(frozen [C], adapted [C] or None) for the whole volume, by `aggregate`."""
        combine = aggregate_findings if self.findings else aggregate
        return combine(self.frozen, method, k), None if self.adapted is None else combine(self.adapted, method, k)


def aggregate(shares: np.ndarray, method: str = "top-k", k: int = TOP_K) -> np.ndarray:
    """Probabilities [C] of a volume, which sum to one, from those of its slices [S, C].

    mean: over all slices. max: each class's best slice. top-k: the mean of each class's k best slices, so that a
    finding in a few slices is not lost and one odd slice does not decide. The last two are divided by their sum over
    the classes (our choice). Raises NearlError for another method, and without a slice.
    """
    if method not in METHODS or k < 1 or not len(shares):
        raise NearlError(f"Slices can be combined by {', '.join(METHODS)}, with at least one slice.")
    if method == "mean":
        return shares.mean(axis=0)
    best = np.sort(shares, axis=0)[-(1 if method == "max" else k) :].mean(axis=0)
    return best / best.sum()


def aggregate_findings(shares: np.ndarray, method: str = "top-k", k: int = TOP_K) -> np.ndarray:
    """The same of findings: each is as present in a volume as in the slices where it is most so."""
    if method not in METHODS or k < 1 or not len(shares):
        return aggregate(shares, method, k)  # which says what is wrong
    there = np.sort(shares[:, ::2], axis=0)
    there = there[{"mean": 0, "max": -1, "top-k": max(-k, -len(there))}[method] :].mean(axis=0)
    return np.stack([there, 1 - there], axis=1).reshape(-1)


def iter_volume(classifier: Classifier, record: ImageRecord, every: int = 1) -> Iterator[VolumeReading]:
    """Read every ``every``-th slice, in the plane and window of the record.

    Yields the reading so far after each batch; the last one is complete.
    """
    every = max(every, 1)
    numbers = list(range((record.slices() - 1) % every // 2, record.slices(), every))
    frozen, adapted = [], []
    for start in range(0, len(numbers), BATCH):
        prediction = classifier.predict([record.slice_at(n) for n in numbers[start : start + BATCH]])
        frozen.append(prediction.frozen)
        if prediction.adapted is not None:
            adapted.append(prediction.adapted)
        joined = np.concatenate(adapted) if adapted else None
        done = numbers[: start + BATCH]
        findings = classifier.prompt_set.kind == FINDINGS
        yield VolumeReading(prediction.classes, done, len(numbers), np.concatenate(frozen), joined, findings)


def read_volume(
    classifier: Classifier,
    record: ImageRecord,
    every: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VolumeReading:
    """The complete reading of `iter_volume`. ``progress`` is called with (slices read, slices in all) after each batch;
    an exception that it raises ends the reading."""
    for reading in iter_volume(classifier, record, every):
        if progress is not None:
            progress(len(reading.numbers), reading.total)
    return reading
