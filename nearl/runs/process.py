"""A run in a process of its own, seen from the process that started it: a crash there, or a lack of memory, ends one
method and nothing else. On a ZeroGPU Space, which forks a process for every call that needs the GPU, such calls."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from nearl.errors import NearlError
from nearl.runs import host
from nearl.runs.folder import RunFolder
from nearl.runs.status import CANCELLED, DONE, STARTING
from nearl.runs.teaching import NO_MEMORY, SNAPSHOT_SECONDS, perform

FORKS = sys.platform == "linux"  # other systems have no fork, or libraries that do not survive it
POLL_SECONDS = 0.25
PATIENCE = 4.0  # seconds in which a cancelled comparison may stop by itself
LONG_PATIENCE = 120.0  # where the best weights are still to be kept
ON_ZERO_GPU = "SPACES_ZERO_GPU" in os.environ  # set on such Spaces
GPU_SECONDS = 120  # to ask for; a call that needs more is ended by the Space (our choice)

if ON_ZERO_GPU:  # a Space expects decorated functions while it starts, so the app imports this module early
    import spaces

    perform_on_gpu = spaces.GPU(duration=GPU_SECONDS)(perform)


def work(run: RunFolder, give_way: Callable[[], bool] = lambda: False) -> bool:
    """Do what is left of a run until it has ended; its status says how.

    ``give_way`` is asked when a method is finished: where it says so, the rest is left for another call, and True
    returned. NearlError if no process can be started.
    """
    if run.look().state in (DONE, CANCELLED):
        return False
    return (_on_zero_gpu if ON_ZERO_GPU else _in_processes)(run, give_way)


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
    patience = LONG_PATIENCE if run.about.alone else PATIENCE
    while worker.wait(POLL_SECONDS):
        if run.cancel_requested():
            asked = asked or time.monotonic()
            if time.monotonic() - asked > patience:
                return False
        elif give_way() and len(run.rows) > rows:
            return True
    return False


def _on_zero_gpu(run: RunFolder, give_way: Callable[[], bool]) -> bool:
    """Every method in a call of its own for the GPU."""
    run.wait(STARTING)
    with contextlib.suppress(NearlError):  # the sentence is in the status
        job = run.job()
        if torch.cuda.is_available():  # the job was made by a process that has none
            job.backbone["device"] = "cuda"
        while not run.look().finished:
            for _ in run.record(perform_on_gpu(job, run.todo()[:1], run.snapshot(), run.cancel_requested)):
                pass
            if not run.look().finished and give_way():
                return True
    return False


def _why(code: int) -> str:
    """The sentence for a process that ended with this exit code without a word."""
    if code == -getattr(signal, "SIGKILL", 9):
        return NO_MEMORY  # nobody here killed it, so the system did, which it does for want of memory
    return f"The process of this run ended unexpectedly (code {code}); start it again."
