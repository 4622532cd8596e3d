"""A teaching run in a process of its own, seen from the process that started it.

Whatever happens there, out of memory or a crash, ends that run with a sentence and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from nearl.errors import NearlError
from nearl.runs.folder import CANCELLED, DONE, NO_MEMORY, STARTING, RunFolder
from nearl.runs.job import SNAPSHOT_SECONDS

log = logging.getLogger("nearl.runs")

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """The process that works on ``run``. It ends by itself when this process does, and the run can then be resumed.

    ``on_event`` is called in a thread with every event of `nearl.runs.job.teach` but snapshots and the last.
    """

    def __init__(self, run: RunFolder, process: subprocess.Popen, on_event: Callable[[dict], None] | None):
        self.run, self.process = run, process
        self._killed = False
        self._on_event = on_event
        self._thread = threading.Thread(target=self._follow, name="run", daemon=True)
        self._thread.start()

    def poll(self) -> bool:
        """Whether the process is still alive. Once False, the run's status says how it ended."""
        return self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most ``timeout`` seconds; as `poll`."""
        self._thread.join(timeout)
        return self.poll()

    def kill(self) -> None:
        """End the process now. What it was doing is left to be resumed."""
        self._killed = True
        self.process.kill()
        self._thread.join()

    def _follow(self) -> None:
        for line in self.process.stdout:
            if self._on_event is not None and line.endswith(b"\n"):  # a killed process may leave half a line
                self._tell(json.loads(line))
        code = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        if not self._killed and self.run.exists() and not self.run.finished:
            self.run.fail(_why(code))

    def _tell(self, event: dict) -> None:
        try:
            self._on_event(event)
        except Exception:  # the listener's fault must not end the listening
            log.exception("on_event")


def start(run: RunFolder, on_event: Callable[[dict], None] | None = None, every: float = SNAPSHOT_SECONDS) -> Worker:
    """Teach a run that is waiting, or go on with one that was interrupted or has failed, in a process of its own.

    ``every``: seconds between snapshots. NearlError if the run is done or cancelled, or no process can be started.
    """
    if run.load().status["state"] in (DONE, CANCELLED):
        raise NearlError("This run is finished; start a new one.")
    return Worker(run, launch(run, "nearl.runs", str(every)), on_event)


def launch(run: RunFolder, module: str, *arguments: str) -> subprocess.Popen:
    """``python -m module RUN arguments``, which can import what this process can. NearlError if none can be started."""
    run.wait(STARTING)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", module, str(run.path), *arguments]
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for this process alone
        )
    except OSError as error:
        raise NearlError("No process could be started for this run; try again later.") from error


def _why(code: int) -> str:
    """The sentence for a process that ended with this exit code without a word."""
    if code == -getattr(signal, "SIGKILL", 9):
        return NO_MEMORY  # nobody here killed it, so the system did, which it does for want of memory
    return f"The process of this run ended unexpectedly (code {code}); start it again."
