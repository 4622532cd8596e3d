"""A visitor's latest run and latest comparison."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal, Protocol

from app.visitor.state import StateFile

Kind = Literal["run", "comparison"]


class Work(Protocol):
    """Long work as it is kept here: a view of `app.work`."""

    @property
    def finished(self) -> bool: ...


class Runs:
    """The latest work of either kind, in memory, and its id, on disk. `hold` is called when there is some in memory."""

    def __init__(self, lock: threading.RLock, state: StateFile, hold: Callable[[], None]):
        self._lock, self._state, self._hold = lock, state, hold
        self._latest: dict[Kind, Work] = {}
        self.request: object = None
        """On a ZeroGPU Space the visitor's latest request, which says whose GPU time a run uses; in memory alone."""

    def latest(self, kind: Kind) -> Work | None:
        return self._latest.get(kind)

    def key(self, kind: Kind) -> str:
        """The id of the latest work, also of one that an earlier server began; "" if there is none."""
        return getattr(self._state.read(), kind)

    def keep(self, kind: Kind, work: Work, key: str | None = None) -> None:
        """Make this the latest. `key`: its id, where it is new."""
        with self._lock:
            if key is not None:
                self._state.change(**{kind: key})
            self._latest[kind] = work
            self._hold()

    def forget(self) -> None:
        """Forget what is in memory, as a new server has."""
        with self._lock:
            self._latest.clear()

    @property
    def empty(self) -> bool:
        return not self._latest

    @property
    def busy(self) -> bool:
        return any(not _finished(work) for work in list(self._latest.values()))


def _finished(work: Work) -> bool:
    """Whether it has ended; work whose files are gone or cannot be read has."""
    try:
        return work.finished
    except OSError:
        return True
