"""A run in a process of its own, seen from the process that started it: a crash there, or a lack of memory, ends one
method and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from nearl.errors import NearlError
from nearl.runs import ZERO_GPU, host
from nearl.runs.folder import RunFolder
from nearl.runs.status import CANCELLED, DONE, STARTING
from nearl.runs.teaching import SNAPSHOT_SECONDS
from nearl.train.memory import NO_MEMORY

FORKS = sys.platform == "linux"  # other systems have no fork, or libraries that do not survive it
POLL_SECONDS = 0.25
PATIENCE = 4.0  # seconds in which a cancelled run may stop by itself
LONG_PATIENCE = 120.0  # where it is alone and has learned something: its best weights are still to be kept


def work(run: RunFolder, give_way: Callable[[], bool] = lambda: False, gpu: bool = True) -> bool:
    """Do what is left of a run until it has ended; its status says how.

    ``give_way`` is asked when a method is finished: where it says so, the rest is left for another call, and True
    returned. ``gpu``: whether to ask for the GPU of a ZeroGPU Space (`nearl.runs.zero_gpu`); where that is refused, the
    run goes on on the CPU. NearlError if no process can be started.
    """
    if run.look().state in (DONE, CANCELLED):
        return False
    if gpu and ZERO_GPU in os.environ:
        from nearl.runs import zero_gpu

        left = zero_gpu.work(run, give_way)
        if left is not None:
            return left
    return _in_processes(run, give_way)


class Worker:
    """The process that works on ``run``. It ends when this process does, and the run can then be resumed."""

    def __init__(self, run: RunFolder, process: subprocess.Popen | host.Forked):
        self.run, self.process = run, process

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most ``timeout`` seconds. Returns whether the process is still alive; once False, the
        run's status says how it ended."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return True
        self._close()
        if self.run.exists() and not self.run.look().finished:
            self.run.lost(_why(code))
        return False

    def kill(self) -> None:
        """End the process now, if it is alive. What it was doing can be resumed."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


def start(run: RunFolder, every: float = SNAPSHOT_SECONDS) -> Worker:
    """Start a run that is waiting, or resume one that was interrupted or has failed, in a process of its own.

    ``every``: seconds between snapshots. NearlError if the run is done or cancelled, or no process can be started.
    """
    if run.load().look().state in (DONE, CANCELLED):
        raise NearlError("This run is finished; start a new one.")
    run.wait(STARTING)
    try:
        if FORKS and run.about.backbone["device"] == "cpu":
            return Worker(run, host.fork(run.path, every))
        return Worker(run, host.command(str(run.path), str(every), stdout=subprocess.DEVNULL))
    except OSError as error:
        raise NearlError("No process could be started for this run; try again later.") from error


def _in_processes(run: RunFolder, give_way: Callable[[], bool]) -> bool:
    """A process for the run, and another one each time that a method has made it die."""
    while True:
        try:
            worker = start(run)
        except NearlError:
            if run.look().state == CANCELLED:  # a moment ago
                return False
            raise
        try:
            others = _watch(worker, give_way)
        finally:
            worker.kill()
        if run.look().finished:
            return False
        if run.cancel_requested():  # killed, because it did not stop by itself
            run.cancelled()
            return False
        if others:
            run.wait()
            return True


def _watch(worker: Worker, give_way: Callable[[], bool]) -> bool:
    """Wait until the process has ended or is to be ended; returns whether that is to give way."""
    run = worker.run
    asked, rows = None, len(run.rows)
    while worker.wait(POLL_SECONDS):
        if run.cancel_requested():
            asked = asked or time.monotonic()
            patience = LONG_PATIENCE if run.about.alone and run.look().losses else PATIENCE
            if time.monotonic() - asked > patience:
                return False
        elif give_way() and len(run.rows) > rows:
            return True
    return False


def _why(code: int) -> str:
    """The sentence for a process that ended with this exit code without a word."""
    if code == -getattr(signal, "SIGKILL", 9):
        return NO_MEMORY  # nobody here killed it, so the system did, which it does for want of memory
    return f"The process of this run ended unexpectedly (code {code}); start it again."
