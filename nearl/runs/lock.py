"""A file that one process holds for as long as it lives: the system releases it however the process ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nearl.errors import NearlError


@contextlib.contextmanager
def hold(path: Path, seconds: float = 3.0) -> Iterator[None]:
    """Hold the file. Tries for ``seconds``, since another process may just be looking (`held`), then raises
    NearlError."""
    lock = FileLock(path, timeout=seconds, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise NearlError(f"The run in '{path.parent.name}' is being taught by another process.") from None
    try:
        yield
    finally:
        lock.release()


def held(path: Path) -> bool:
    """Whether a living process holds the file."""
    if not path.exists():
        return False
    try:
        with FileLock(path, blocking=False, thread_local=False):
            return False
    except Timeout:
        return True
