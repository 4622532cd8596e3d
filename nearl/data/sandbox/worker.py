"""The worker process of the sandbox: decodes what the app sends, with limited memory and CPU time."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nearl.data.formats.drafts import Draft
from nearl.data.sandbox.clock import Clock
from nearl.data.sandbox.messages import Key, Source, receive_head, send
from nearl.data.sandbox.reader import Count, Done, Fault, read, too_much
from nearl.errors import NearlError
from nearl.registry import load_plugins


def _status(key: str) -> int:
    """A figure of this process in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next((1024 * int(line.split()[1]) for line in status if line.startswith(key)), 0)
    return 0


def address_space() -> int:
    """The address space that this process has now, in bytes; 0 where the system does not tell."""
    return _status("VmSize")


def memory_peak() -> int:
    """The most memory that this process ever held, in bytes; 0 where the system does not tell."""
    if peak := _status("VmHWM"):  # getrusage would count the parent's memory in
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class Job:
    """Sources that are being read, over one turn or several."""

    def __init__(self, order: dict, sources: list[Source], seconds: float, outward: BinaryIO):
        self._sources, self._clock, self._outward = sources, Clock(seconds), outward
        self._room: float = math.inf if order["room"] is None else order["room"]  # bytes that may still be sent
        self._began = 0.0
        self._pieces = self._read(order["max_side"], order["images"], {(a, b) for a, b in order["skip"]})

    def turn(self, seconds: float, left: float | None) -> bool:
        """Go on for so many seconds of CPU time, of which the request has `left`; whether everything was read."""
        self._began, done = time.process_time(), True
        self._clock.start(left)
        try:
            for _ in self._pieces:
                if self._spent() > seconds:
                    done = False
                    break
        except MemoryError:
            name = self._sources[0][0] if len(self._sources) == 1 else "One of the files"
            self._say(b"E", Fault(0, name, too_much(name)))
        self._clock.stop()
        self._say(b"Z", {"done": done, "peak": memory_peak(), "spent": self._spent()})
        return done

    def _read(self, max_side: int | None, images: int | None, skip: set[Key]) -> Iterator[None]:
        """Read and send everything; pauses wherever a turn may end."""
        for item in read(self._sources, max_side, skip, self._begin):
            if isinstance(item, Fault):
                self._say(b"E", item)
            elif isinstance(item, Count):
                self._say(b"N", item)
                if images is not None and item.images > images:
                    return
            elif isinstance(item, Done):
                self._say(b"U", item)
            else:
                yield from self._send(item)
            yield

    def _send(self, draft: Draft) -> Iterator[None]:
        size = math.prod(draft.shape) * np.dtype(draft.dtype).itemsize
        if size > self._room:
            reason = f"{draft.name} was left out: there is no room for more images; bring fewer at a time."
            self._say(b"E", Fault(draft.source, draft.name, reason))
            return
        self._say(b"H", draft.header())
        try:
            for chunk in draft.chunks:
                send(self._outward, b"D", memoryview(chunk).cast("B"))
                self._clock.extend(chunk.nbytes)
                yield
        except NearlError as error:
            self._say(b"E", Fault(draft.source, draft.name, str(error)))
        except MemoryError:
            self._say(b"E", Fault(draft.source, draft.name, too_much(draft.name)))
        else:
            self._room -= size

    def _begin(self, key: Key, name: str) -> None:
        self._clock.begin(key)
        self._say(b"F", [key, name, self._spent()])

    def _spent(self) -> float:
        """Seconds of CPU time in this turn."""
        return time.process_time() - self._began

    def _say(self, kind: bytes, message: object) -> None:
        send(self._outward, kind, json.dumps(message).encode())
        self._outward.flush()


def main(limit: int, seconds: float) -> None:
    """Serve jobs from stdin until it is closed. limit: bytes of memory; seconds: of CPU time for a file."""
    inward = os.fdopen(os.dup(0), "rb")
    outward = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    with open(os.devnull, "r+b") as nowhere:  # decoders may print, even names; nothing of it may mix with messages
        for number in (0, 1, 2):
            os.dup2(nowhere.fileno(), number)
    logging.disable(logging.CRITICAL)
    before = address_space()
    load_plugins()
    limit += address_space() - before  # what plugins import, perhaps torch, does not count
    with contextlib.suppress(ImportError, ValueError, OSError):  # only some systems limit memory
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(outward, b"R")
    outward.flush()
    jobs: dict[int, Job] = {}
    while True:
        try:
            kind, size = receive_head(inward)
        except EOFError:
            return
        order = json.loads(inward.read(size))
        number = order["job"]
        if kind == b"J":
            sources: list[Source] = []
            for name, path in order["sources"]:
                sources.append((name, Path(path) if path is not None else inward.read(receive_head(inward)[1])))
            jobs[number] = Job(order, sources, seconds, outward)
        elif kind == b"C" or jobs[number].turn(order["seconds"], order["left"]):
            jobs.pop(number, None)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
