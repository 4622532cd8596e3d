"""Fair turns at a few workers: whoever has used little so far goes first, and nobody starves.

Start-time fair queueing: a turn's rank is the CPU time that its asker had used, but never less than the rank of the
turn granted last, so that a newcomer goes before those who have brought a lot, and not before everybody for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Turn(Generic[T]):
    """A granted turn. Set `cost` to the seconds of CPU time that it took before it ends."""

    worker: T
    cost: float = 0.0


class Turns(Generic[T]):
    """Workers that are lent one turn at a time. Thread-safe."""

    def __init__(self, workers: Sequence[T]):
        self.workers = tuple(workers)
        self._free = list(workers)
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, T | None]] = []  # (rank, number, wanted worker) of each
        self._used: dict[str, float] = {}  # by asker, on the scale of the ranks
        self._rank = 0.0  # of the turn granted last
        self._numbers = count()

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return len(self._waiting)

    @contextmanager
    def turn(self, asker: str, wanted: T | None = None) -> Iterator[Turn[T]]:
        """Wait for a turn and hold it. wanted: the only worker that will do."""
        with self._changed:
            rank, number = max(self._rank, self._used.get(asker, 0.0)), next(self._numbers)
            self._waiting.append((rank, number, wanted))
            try:
                self._changed.wait_for(lambda: self._assigned(number) is not None)
                worker = self._assigned(number)
                self._free.remove(worker)
                self._rank = max(self._rank, rank)
            finally:
                self._waiting = [place for place in self._waiting if place[1] != number]
                self._changed.notify_all()
        turn = Turn(worker)
        try:
            yield turn
        finally:
            with self._changed:
                self._used[asker] = max(rank, self._used.get(asker, 0.0)) + max(turn.cost, 1e-3)
                self._used = {name: used for name, used in self._used.items() if used > self._rank}
                self._free.insert(0, worker)  # warm, so the first to be used again
                self._changed.notify_all()

    def _assigned(self, number: int) -> T | None:
        """The worker that this place gets when every place before it has got one."""
        free = list(self._free)
        for _, other, wanted in sorted(self._waiting, key=lambda place: place[:2]):
            choice = wanted if wanted in free else free[0] if free and wanted is None else None
            if other == number:
                return choice
            if choice is not None:
                free.remove(choice)
        return None

    @contextmanager
    def all(self) -> Iterator[tuple[T, ...]]:
        """Wait until nobody holds a turn, and hold all workers."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) == len(self.workers))
            self._free.clear()
        try:
            yield self.workers
        finally:
            with self._changed:
                self._free[:] = self.workers
                self._changed.notify_all()
