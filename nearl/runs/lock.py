"""A file that one process holds for as long as it lives: the system lets go of it however the process ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nearl.errors import NearlError

try:
    import fcntl

    def _take(file: IO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _take(file: IO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


@contextlib.contextmanager
def hold(path: Path, seconds: float = 3.0) -> Iterator[None]:
    """Hold the file. Tries for a few seconds, as somebody may just be looking (`held`), then raises NearlError."""
    with path.open("a+b") as file:
        until = time.monotonic() + seconds
        while True:
            try:
                _take(file)
                break
            except OSError:
                if time.monotonic() > until:
                    raise NearlError(f"The run in '{path.parent.name}' is being taught by another process.") from None
                time.sleep(0.05)
        yield


def held(path: Path) -> bool:
    """Whether a living process holds the file."""
    if not path.exists():
        return False
    with path.open("a+b") as file:
        try:
            _take(file)
        except OSError:
            return True
    return False
