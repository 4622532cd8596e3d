"""Reads untrusted files in a worker process with limited memory and time, so that no file can take the app down.

One worker is shared; it is started when first needed and replaced when it dies or has grown.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nearl.data.formats.drafts import PICTURE, scan_from, space_for
from nearl.data.records import ImageRecord, Problem, base_name
from nearl.data.sandbox.worker import receive_head, send
from nearl.errors import NearlError
from nearl.registry import PLUGINS, load_plugins

MEMORY = 3_000_000_000  # bytes of address space of the worker (our choice: five times the largest scan)
SECONDS = 60.0  # for one file in memory; three times as much for several, and for a path, which may be a folder
GROWN = 1_500_000_000  # a worker whose memory ever exceeded so many bytes is replaced
ROOT = Path(__file__).resolve().parents[3]
PASSED_ON = (  # environment; the last one lets the tests measure their coverage of the worker
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "TMPDIR", "TEMP", "COVERAGE_PROCESS_CONFIG",
)  # fmt: skip

Source = tuple[str, "bytes | Path"]


class _Died(Exception):
    """The worker is gone. late: it was killed because it took too long."""

    def __init__(self, late: bool):
        self.late = late


class Sandbox:
    """A worker process and the jobs sent to it. Thread-safe; one job at a time."""

    def __init__(self, memory: int = MEMORY, seconds: float = SECONDS):
        self.memory, self.seconds = memory, seconds
        self.peak = 0  # most bytes of memory of any worker so far
        self.started = 0  # workers so far
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None

    def read(
        self, sources: Sequence[Source], max_side: int | None = None
    ) -> tuple[list[tuple[int, ImageRecord]], list[tuple[int, Problem]]]:
        """(records, problems) of the sources, each with the index of its source. Files that crash the worker or take
        too long become problems, and the rest is read."""
        with self._lock:
            try:
                return self._job(list(enumerate(sources)), max_side)
            except _Died as died:
                if len(sources) == 1:
                    return [], [(0, self._why(sources[0][0], died))]
            records, problems = [], []  # one by one, to know which of them it was
            for number, source in enumerate(sources):
                try:
                    some, others = self._job([(number, source)], max_side)
                except _Died as died:
                    some, others = [], [(number, self._why(source[0], died))]
                records += some
                problems += others
            return records, problems

    def close(self) -> None:
        """Stop the worker; the next job starts another."""
        with self._lock:
            self._stop()

    def _why(self, name: str, died: _Died) -> Problem:
        name = base_name(name)
        what = "took too long to decode" if died.late else "made the decoder fail"
        return Problem(name, f"{name} {what} and was left out; export it again or as PNG.")

    def _job(self, sources: list[tuple[int, Source]], max_side: int | None):
        fresh = self._process is None or self._process.poll() is not None
        if fresh:
            self._start()
        try:
            return self._run(sources, max_side)
        except _Died as died:
            if fresh or died.late:
                raise
        self._start()  # an earlier job may have been the cause
        return self._run(sources, max_side)

    def _run(self, sources: list[tuple[int, Source]], max_side: int | None):
        many = len(sources) > 1 or isinstance(sources[0][1][1], Path)
        late = threading.Event()
        process = self._process

        def too_late() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.seconds * (3 if many else 1), too_late)
        timer.daemon = True
        timer.start()
        try:
            self._send(sources, max_side)
            return self._receive(sources)
        except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
            self._stop()  # it is dead, or its messages make no sense
            raise _Died(late.is_set()) from error
        except BaseException:
            self._stop()
            raise
        finally:
            timer.cancel()

    def _send(self, sources: list[tuple[int, Source]], max_side: int | None) -> None:
        listed = [[name, None if isinstance(content, bytes) else str(content)] for _, (name, content) in sources]
        stream = self._process.stdin
        send(stream, b"J", json.dumps({"sources": listed, "max_side": max_side}).encode())
        for _, (_, content) in sources:
            if isinstance(content, bytes):
                send(stream, b"B", content)
        stream.flush()

    def _receive(self, sources: list[tuple[int, Source]]):
        stream = self._process.stdout
        records: list[tuple[int, ImageRecord]] = []
        problems: list[tuple[int, Problem]] = []
        header = space = None
        filled = 0
        while True:
            kind, size = receive_head(stream)
            if kind == b"D":
                view = memoryview(space).cast("B")[filled : filled + size]
                if len(view) != size or stream.readinto(view) != size:
                    raise EOFError
                filled += size
            else:
                if size > 50_000_000:
                    raise ValueError("too long a message")
                message = json.loads(stream.read(size))
            if header is not None and kind in (b"H", b"Z"):
                raise ValueError("a draft without its end")
            if kind == b"H":
                header, space, filled = message, space_for(message), 0
            elif kind == b"E":
                header = None
                problems.append((sources[message[0]][0], Problem(str(message[1]), str(message[2]))))
            elif kind == b"Z":
                self.peak = max(self.peak, int(message["peak"]))
                if message["peak"] > GROWN:
                    self._stop()
                return records, problems
            if kind == b"D" and filled == space.nbytes and header is not None:
                records.append((sources[header["source"]][0], _record(header, space)))
                header = space = None

    def _start(self) -> None:
        self._stop()
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if os.environ.get(PLUGINS):  # file formats from outside, found where this process finds them
            load_plugins()  # a module that cannot be imported is better met here, with its own error
            environment |= {PLUGINS: os.environ[PLUGINS], "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        command = [sys.executable, "-m", "nearl.data.sandbox.worker", str(self.memory)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise NearlError("The decoder could not be started on this machine; try again later.") from error
        self.started += 1

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()
            self._process.wait()
            self._process = None


def _record(header: dict, space: np.ndarray) -> ImageRecord:
    name = base_name(str(header["name"]))
    if header["kind"] == PICTURE:
        return ImageRecord.from_pixels(name, space, [str(note)[:300] for note in header["meta"]["notes"]])
    return ImageRecord.from_scan(name, scan_from(header["meta"], space))


SHARED = Sandbox()
