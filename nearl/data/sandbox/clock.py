"""Ends a worker whose file takes too much CPU time. Not wall-clock time: a busy machine must not refuse good files."""

from __future__ import annotations

import math
import signal
import time

try:
    import resource
except ImportError:  # Windows, where only the app's limit of wall-clock time holds
    AVAILABLE = False
else:
    AVAILABLE = True

BYTES_PER_SECOND = 3_000_000  # a film may take longer: as long as its frames come at this rate (our choice)


class Clock:
    """The CPU time of each file of a job, and of its request. When it is used up, the system ends this process with
    SIGPROF (the file's) or SIGXCPU (the request's), whatever decoder it is in: an exception could be lost in one."""

    def __init__(self, seconds: float):
        self.seconds = seconds  # of one file
        self._left: dict[object, float] = {}  # by file
        self._file: object = None
        self._now = 0.0
        if AVAILABLE:
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)

    def start(self, left: float | None) -> None:
        """A turn begins; left: seconds that its request has in all."""
        self._now = time.process_time()
        self._limit(left)
        self._set()

    def begin(self, file: object) -> None:
        """Count for this file from now on."""
        self._settle()
        self._file = file
        self._set()

    def extend(self, size: int) -> None:
        """The file has yielded so many bytes and may go on for that."""
        self._settle(size / BYTES_PER_SECOND)
        self._set()

    def stop(self) -> None:
        """The turn is over."""
        self._settle()
        self._limit(None)
        self._alarm(0)

    def _settle(self, gained: float = 0.0) -> None:
        now = time.process_time()
        self._left[self._file] = self._left.get(self._file, self.seconds) - (now - self._now) + gained
        self._now = now

    def _set(self) -> None:
        self._alarm(max(1e-3, self._left.get(self._file, self.seconds)))

    def _limit(self, left: float | None) -> None:
        if AVAILABLE:
            most = resource.getrlimit(resource.RLIMIT_CPU)[1]
            end = most if left is None else math.ceil(self._now + left)  # the system counts whole seconds
            resource.setrlimit(resource.RLIMIT_CPU, (end if most == resource.RLIM_INFINITY else min(end, most), most))

    def _alarm(self, seconds: float) -> None:
        if AVAILABLE:
            signal.setitimer(signal.ITIMER_PROF, seconds)
