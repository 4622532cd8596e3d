"""Which images teach and which are held back: by seed alone, the same on every machine.

The draws use the raw output of PCG64, a stream numpy promises never to change, and one stream per class: a class keeps
its draw when another class is added, and 8 shots are always among the 16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nearl.errors import NearlError


def draw_support(labels: Sequence[int], shots: int, seed: int) -> list[int]:
    """Sorted indices of up to `shots` images of every class (all of a smaller class). NearlError if shots < 1."""
    if shots < 1:
        raise NearlError(f"The number of images per class must be at least 1, not {shots}.")
    return sorted(int(i) for members in _shuffled(labels, seed) for i in members[:shots])


def hold_out(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(support, held) sorted indices: about `fraction` of every class is held, to measure with.

    Of a class with two images or more at least one is held if fraction > 0; at least one always stays in support
    (our choice). NearlError unless 0 <= fraction < 1.
    """
    if not 0 <= fraction < 1:
        raise NearlError(f"The held-out share must be at least 0 and below 1, not {fraction}.")
    support: list[int] = []
    held: list[int] = []
    for members in _shuffled(labels, seed):
        wanted = max(1, int(fraction * len(members) + 0.5)) if fraction > 0 else 0
        kept = max(1, len(members) - wanted)
        support += [int(i) for i in members[:kept]]
        held += [int(i) for i in members[kept:]]
    return sorted(support), sorted(held)


def _shuffled(labels: Sequence[int], seed: int) -> list[np.ndarray]:
    """Indices of every class that occurs, in a seeded order. NearlError for a negative seed."""
    if seed < 0:
        raise NearlError(f"The seed must be 0 or more, not {seed}.")
    array = np.asarray(labels, dtype=np.int64)
    order = []
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        draws = np.random.PCG64([seed, int(label)]).random_raw(len(members))
        order.append(members[np.argsort(draws, kind="stable")])
    return order
