"""Rows of results in a folder of ``*.jsonl`` files, one file for each process that writes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from nearl.errors import NearlError


class Results:
    """The rows in a folder. Other processes may append at the same time, or be killed while they do."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            (self.folder / ".claims").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NearlError(f"'{folder}' cannot be used as an output folder: {error.strerror}.") from error
        self._own = self.folder / f"runs-{socket.gethostname()}-{os.getpid()}.jsonl"
        self._read: dict[Path, tuple[int, list[dict]]] = {}

    def rows(self) -> list[dict]:
        """Every finished run once, in the order of the files; a truncated line is ignored."""
        found: dict[str, dict] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            size = path.stat().st_size
            if self._read.get(path, (-1, []))[0] != size:
                self._read[path] = size, [row for row in map(_row, path.read_text("utf-8").splitlines()) if row]
            for row in self._read[path][1]:
                found.setdefault(row["run"], row)
        return list(found.values())

    def finished(self) -> set[str]:
        """The keys of the runs that have a row."""
        return {row["run"] for row in self.rows()}

    def append(self, row: dict) -> None:
        """Add a row to this process's own file, in one write."""
        with self._own.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            line = json.dumps(row).encode() + b"\n"
            file.write(line if file.read(1) in (b"", b"\n") else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Yields whether this process may do a run; the claim ends with the block, or with the process."""
        lock = FileLock(self.folder / ".claims" / key, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def _row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "run" in row else None
