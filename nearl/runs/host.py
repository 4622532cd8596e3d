"""A process that has imported what runs need, and forks a worker for one run after the other: importing takes seconds
of processor time, forking none.

A fork cannot use a GPU that its parent has touched, and not every system forks well, so `nearl.runs.process` asks a
host for runs on the CPU of a Linux machine alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IDLE_SECONDS = 300.0  # after which a host that has nothing to do ends, and gives its memory back
SETTINGS = ("NEARL_", "HF_", "OMP_")  # beginnings of the variables that a host has read when it starts


def command(*arguments: str, **options: object) -> subprocess.Popen:
    """Start ``python -m nearl.runs``, which ends when its stdin does."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "nearl.runs", *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for this process alone
        **options,  # type: ignore[call-overload]
    )


class Host:
    """The process that forks, seen from the one that started it. It has one worker at a time."""

    def __init__(self) -> None:
        self.owner, self.settings = os.getpid(), _settings()
        self.process = command(bufsize=0, stdout=subprocess.PIPE)

    @property
    def usable(self) -> bool:
        """Whether it is alive, of this process, and knows today's settings."""
        return self.owner == os.getpid() and self.settings == _settings() and self.process.poll() is None

    def line(self, timeout: float | None) -> bytes | None:
        """The next line that the host says, empty once it is gone; None if there is none within ``timeout`` seconds."""
        with selectors.DefaultSelector() as waiting:  # which knows files of any number, unlike select
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline() if waiting.select(timeout) else None

    def end(self) -> int:
        """End it, and the worker with it; returns its exit code."""
        self.process.stdin.close()
        self.process.kill()
        self.process.stdout.close()
        return self.process.wait()


_idle: list[Host] = []
_guard = threading.Lock()


def fork(path: Path, every: float) -> Forked:
    """A worker for the run in the folder ``path``, with a snapshot every ``every`` seconds. OSError if no process can
    be started."""
    order = json.dumps({"path": str(path), "every": every}).encode() + b"\n"
    while host := _take():
        try:
            host.process.stdin.write(order)
            return Forked(host)
        except BrokenPipeError:  # it ended a moment ago
            host.end()
    host = Host()
    host.process.stdin.write(order)
    return Forked(host)


def _take() -> Host | None:
    """A host that has nothing to do, if there is one."""
    with _guard:
        while _idle:
            host = _idle.pop()
            if host.usable:
                return host
            if host.owner == os.getpid():
                host.end()
    return None


class Forked:
    """A worker that a host forks; what `nearl.runs.process.Worker` needs of it is as of a `subprocess.Popen`."""

    stdin = None

    def __init__(self, host: Host):
        self.host = host
        self.returncode: int | None = None
        self._pid: int | None = None

    @property
    def pid(self) -> int | None:
        """Waits until the worker is there; None if it never was."""
        while self._pid is None and self.returncode is None:
            self._hear(None)
        return self._pid

    def wait(self, timeout: float | None = None) -> int:
        """The worker's exit code, or -N if signal N ended it. TimeoutExpired if it lives on after so many seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            if not self._hear(None if end is None else max(0.0, end - time.monotonic())):
                raise subprocess.TimeoutExpired("nearl.runs", timeout or 0.0)
        return self.returncode

    def poll(self) -> int | None:
        """As `wait`, but None if it lives."""
        while self.returncode is None and self._hear(0.0):
            pass
        return self.returncode

    def kill(self) -> None:
        """End it, if it lives."""
        if self.poll() is not None:
            return
        if self._pid is None:  # the host is importing
            self.host.process.kill()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def _hear(self, timeout: float | None) -> bool:
        """Take a line from the host: the worker's number, or its exit code. False if none came in time."""
        line = self.host.line(timeout)
        if line is None:
            return False
        if not line:
            if self._pid is not None:  # it lives, and may write to the run after others have said that it is gone
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            self.returncode = self.host.end()
        elif self._pid is None:
            self._pid = int(line)
        else:
            self.returncode = int(line)
            with _guard:
                _idle.append(self.host)
        return True


def _settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}
