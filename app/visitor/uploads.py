"""Uploaded files. Gradio keeps them on disk under their own names; the app deletes them as soon as they are read.

They are counted by sender while they arrive and until they are read. A sender is an address: an upload says nothing
else about who sends it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from app.visitor.limits import MIN_FREE
from nearl.data.images import base_name
from nearl.errors import NearlError

ALL_BYTES = 8 * 2**30  # of all uploads that are not read yet
EACH_BYTES = 2**30  # of one sender's
EACH_FILES = 5000
STEP = 2**20  # bytes between two looks at what there is
SMALL = 32 * 2**20  # an upload of no more than so many bytes
SMALL_BYTES = 2**28  # has so many beyond EACH_BYTES and beyond ALL_BYTES: a large one does not keep it out
TOO_MUCH = "Too many uploads of yours are waiting to be read; send fewer or smaller files at a time."
TOO_MANY = "Too many uploads are waiting to be read; try again in a few minutes."
NO_SPACE = "The server's disk is nearly full; try again tomorrow, or tell whoever runs it."


def root() -> Path:
    """Gradio's folder for uploads and downloads."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()


def forget(paths: Iterable[str | Path]) -> None:
    """Delete those of the files that are in Gradio's folder for uploads; examples and files elsewhere stay."""
    for path in map(Path, paths):
        with contextlib.suppress(OSError):
            if path.resolve().is_relative_to(root()):
                COUNTED.gone(path)
                path.unlink()
                path.parent.rmdir()


def neutral(paths: Iterable[str | Path], word: str = "image") -> list[tuple[str, Path]]:
    """Numbers in place of names, for answers that are not for the visitor's own screen: [("image 1", path), ...]."""
    return [(f"{word} {number}", Path(path)) for number, path in enumerate(paths, start=1)]


def without_names(text: str, paths: Iterable[str | Path], word: str = "file") -> str:
    """The text with numbers in place of the names of uploaded files."""
    for name, path in neutral(paths, word):
        text = text.replace(base_name(path.name), name)
    return text


@dataclass
class Arrival:
    """One request with uploads."""

    sender: str
    size: int = 0  # bytes so far
    partial: list[str] = field(default_factory=list)  # Gradio's files with what has arrived
    refused: str = ""  # the sentence with which it was broken off


class Counted:
    """The uploads that arrive or wait to be read, in bytes by sender. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arriving: list[Arrival] = []
        self._waiting: dict[str, tuple[str, int]] = {}  # by path: (sender, bytes)

    def begin(self, sender: str) -> Arrival:
        """A request that has begun. NearlError where there is no room for any upload of this sender."""
        arrival = Arrival(sender)
        with self._lock:
            self._arriving.append(arrival)
        try:
            self.more(arrival, 0)
        except NearlError:
            self.end(arrival, [])
            raise
        return arrival

    def more(self, arrival: Arrival, size: int) -> None:
        """So many bytes more of it have arrived. NearlError if they are too many."""
        with self._lock:
            before, arrival.size = arrival.size, arrival.size + size
            if size and before // STEP == arrival.size // STEP:
                return
            arrival.refused = self._too_much(arrival)
            if arrival.refused:  # perhaps only because of files that are gone
                self._waiting = {path: kept for path, kept in self._waiting.items() if os.path.exists(path)}
                arrival.refused = self._too_much(arrival)
        if arrival.refused:
            raise NearlError(arrival.refused)

    def _too_much(self, arrival: Arrival) -> str:
        """Why it may not go on, in a sentence, or ""."""
        found = [(a.sender, a.size) for a in self._arriving] + list(self._waiting.values())
        own = [size for sender, size in found if sender == arrival.sender]
        spare = SMALL_BYTES if arrival.size <= SMALL else 0
        if sum(own) > EACH_BYTES + spare or len(own) > EACH_FILES:
            return TOO_MUCH
        if sum(size for _, size in found) > ALL_BYTES + spare:
            return TOO_MANY
        with contextlib.suppress(OSError):
            return NO_SPACE if shutil.disk_usage(root()).free < MIN_FREE else ""
        return ""

    def end(self, arrival: Arrival, paths: Iterable[str]) -> None:
        """The request has ended and left these files."""
        with self._lock:
            self._arriving.remove(arrival)
            for path in paths:
                with contextlib.suppress(OSError):
                    self._waiting[str(path)] = (arrival.sender, os.stat(path).st_size)

    def gone(self, path: str | Path) -> None:
        """A file was read, or is deleted for another reason."""
        with self._lock:
            self._waiting.pop(str(path), None)


COUNTED = Counted()
