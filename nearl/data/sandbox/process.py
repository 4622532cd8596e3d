"""One worker process, as the app sees it: how it is started, spoken to and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nearl.data.sandbox.messages import Source, receive_head, send
from nearl.errors import NearlError
from nearl.registry import PLUGINS, load_plugins

GROWN = 1_500_000_000  # a worker whose memory ever exceeded so many bytes is replaced
OPEN_JOBS = 6  # that a worker keeps in memory between their turns
MAX_MESSAGE = 50_000_000  # bytes of JSON
START_SECONDS = 300.0  # in which a worker has to be there: a busy machine imports slowly, and no file is to blame
ROOT = Path(__file__).resolve().parents[3]
PASSED_ON = (  # environment; the last one lets the tests measure their coverage of the worker
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "TMPDIR", "TEMP", "COVERAGE_PROCESS_CONFIG",
)  # fmt: skip


CRASH, LATE, REQUEST = "crash", "late", "request"
ENDED_BY = {  # return codes, as Python has them of signals; not on Windows
    -getattr(signal, name): why for name, why in (("SIGPROF", LATE), ("SIGXCPU", REQUEST)) if hasattr(signal, name)
}


class Died(Exception):
    """The worker is gone. why: CRASH; LATE, the file took too long; REQUEST, its request has no CPU time left."""

    def __init__(self, why: str):
        self.why = why


class Worker:
    """A worker process, started when first needed and replaced when it died or has grown. Not thread-safe."""

    def __init__(self, memory: int, cpu: float, seconds: float):
        self.memory, self.cpu, self.seconds = memory, cpu, seconds
        self.peak = 0  # most bytes of memory of any process so far
        self.started = 0  # processes so far
        self.jobs: OrderedDict[int, None] = OrderedDict()  # those that the process knows, last used last
        self.used = False  # whether the process has finished a turn
        self._process: subprocess.Popen | None = None
        self._heard = 0.0  # when its last message came
        self._there = False  # whether one has come

    def open(self, job: int, sources: Sequence[Source], order: dict) -> None:
        """Tell the process about a job; `order` is what `worker.main` needs beside the sources. Raises Died."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        with self._guarded():
            while len(self.jobs) >= OPEN_JOBS:
                self._say(b"C", {"job": self.jobs.popitem(last=False)[0]})
            listed = [[name, None if isinstance(content, bytes) else str(content)] for name, content in sources]
            self._say(b"J", {"job": job, "sources": listed, **order})
            for _, content in sources:
                if isinstance(content, bytes):
                    send(self._process.stdin, b"B", content)
            self.jobs[job] = None

    def turn(self, job: int, seconds: float, left: float | None, take: Callable[[bytes, Any], None]) -> None:
        """Go on with a job until the turn ends; `take` gets the letter and content of each message, which is JSON, or
        for D a number of bytes that it must take with `fill`. Raises Died, also where `take` can make no sense of it.

        seconds: of CPU time, after which the turn ends. left: after which it is broken off."""
        with self._guarded():
            self.jobs.move_to_end(job)
            self._say(b"G", {"job": job, "seconds": seconds, "left": left})
            kind = b""
            while kind != b"Z":
                kind, size = receive_head(self._process.stdout)
                self._heard, self._there = time.monotonic(), True
                if kind == b"R":
                    continue
                if kind == b"D":
                    take(kind, size)
                    continue
                if size > MAX_MESSAGE:
                    raise ValueError("too long a message")
                message = json.loads(self._process.stdout.read(size))
                take(kind, message)
            self.peak, self.used = max(self.peak, int(message["peak"])), True
            if message["done"]:
                self.jobs.pop(job, None)
            grown = message["peak"] > GROWN
        if grown and not self.jobs:
            self.stop()

    def fill(self, view: memoryview) -> None:
        """Take as many bytes of a D message as the view has."""
        if self._process.stdout.readinto(view) != len(view):
            raise EOFError

    def close(self, job: int) -> None:
        """Let the process forget a job."""
        if job in self.jobs:
            del self.jobs[job]
            with contextlib.suppress(Died), self._guarded():
                self._say(b"C", {"job": job})

    def stop(self) -> None:
        """End the process; the next job starts another."""
        self.jobs.clear()
        self.used = self._there = False
        if self._process is not None:
            self._process.kill()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Ends the process and raises Died if its messages break off, make no sense, or stop for `seconds`."""
        process, late, ended = self._process, threading.Event(), threading.Event()
        self._heard = time.monotonic()

        def left() -> float:
            return self._heard + (self.seconds if self._there else START_SECONDS) - time.monotonic()

        def watch() -> None:
            while not ended.wait(max(0.01, min(left(), self.seconds))):
                if left() <= 0:
                    late.set()
                    process.kill()
                    return

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            yield
        except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
            if isinstance(error, (EOFError, BrokenPipeError)):  # it is about to be gone, and how will be known
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
            why = LATE if late.is_set() else ENDED_BY.get(process.poll(), CRASH)
            self.stop()
            raise Died(why) from error
        except BaseException:
            self.stop()
            raise
        finally:
            ended.set()

    def _say(self, kind: bytes, message: dict) -> None:
        send(self._process.stdin, kind, json.dumps(message).encode())
        self._process.stdin.flush()

    def _start(self) -> None:
        self.stop()
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if os.environ.get(PLUGINS):  # file formats from outside, found where this process finds them
            load_plugins()  # a module that cannot be imported is better met here, with its own error
            environment |= {PLUGINS: os.environ[PLUGINS], "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        command = [sys.executable, "-m", "nearl.data.sandbox.worker", str(self.memory), str(self.cpu)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise NearlError("The decoder could not be started on this machine; try again later.") from error
        self.started += 1
