"""A volume or film through the classifier, slice by slice, and one answer from all of them (no training needed).

An encoder of whole volumes, as for 3-D adaptation, takes `Scan.ras` instead: float32 voxels in a known orientation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nearl.data.images import ImageRecord
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.reading.classifier import Classifier

BATCH = 16  # slices between two reports of progress
TOP_K = 5  # slices (our choice)
METHODS = ("mean", "max", "top-k")


@dataclass(frozen=True)
class VolumeReading:
    """Probabilities of the slices that were read: ``frozen`` and ``adapted`` (or None) are float32 [S, C], rows sum to
    one; ``numbers`` [S] say which slices they are, ``total`` how many there will be."""

    classes: list[str]
    numbers: list[int]
    total: int
    frozen: np.ndarray
    adapted: np.ndarray | None

    def aggregate(self, method: str = "top-k", k: int = TOP_K) -> tuple[np.ndarray, np.ndarray | None]:
        """(frozen [C], adapted [C] or None) for the whole volume, by `aggregate`."""
        return aggregate(self.frozen, method, k), None if self.adapted is None else aggregate(self.adapted, method, k)


def aggregate(shares: np.ndarray, method: str = "top-k", k: int = TOP_K) -> np.ndarray:
    """Shares of slices [S, C] -> shares of the volume [C], which sum to one.

    mean: over all slices. max: of every class its best slice. top-k: of every class the mean of its k best slices,
    so that a finding in few slices is not lost and one odd slice does not decide. The last two are divided by their
    sum over the classes (our choice). Raises NearlError for another method or no slice.
    """
    if method not in METHODS or k < 1 or not len(shares):
        raise NearlError(f"Slices can be put together by {', '.join(METHODS)}, with at least one slice.")
    if method == "mean":
        return shares.mean(axis=0)
    best = np.sort(shares, axis=0)[-(1 if method == "max" else k) :].mean(axis=0)
    return best / best.sum()


def iter_volume(classifier: Classifier, record: ImageRecord, every: int = 1) -> Iterator[VolumeReading]:
    """Read every ``every``-th slice of the plane, through the window, that the record shows.

    Yields what was read so far after each batch; the last reading is whole.
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
        yield VolumeReading(prediction.classes, done, len(numbers), np.concatenate(frozen), joined)


def read_volume(
    classifier: Classifier,
    record: ImageRecord,
    every: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VolumeReading:
    """The whole reading of `iter_volume`. progress: called with (slices read, slices in all) after each batch; what
    it raises ends the reading."""
    for reading in iter_volume(classifier, record, every):
        if progress is not None:
            progress(len(reading.numbers), reading.total)
    return reading
