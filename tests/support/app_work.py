"""Visitors with labelled images, and runs of theirs, without a browser; threads in place of worker processes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import pytest

from app.engine import Engine
from app.visitor.registry import Registry
from app.visitor.workspace import Workspace
from app.work.run import RunView
from nearl.adapters.store import Adapter
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from nearl.runs import Finished, RunFolder, perform
from nearl.runs.status import STARTING
from nearl.train.memory import NO_MEMORY
from nearl.train.recipe import Recipe
from tests.support.methods_data import teach

PATIENCE = 600  # seconds for anything at all, on a machine that has other work


def taught(engine: Engine, kind: str = "head_mri") -> Adapter:
    """An adapter as a run leaves it, in a few steps."""
    data = phantom_set(kind, 4, size=64)
    return teach(engine.backbone(), data, default_prompts(data.classes), Recipe(steps=6, batch_size=4))


def visitor(registry: Registry) -> Workspace:
    """A visitor who has brought ten images."""
    workspace = registry.get(None)
    workspace.support.keep(phantom_set("smear", 5, size=64))
    return workspace


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(run: RunView) -> RunView:
    until(lambda: run.finished)
    return run


class Threads:
    """From its making on, the workers of runs are threads of this process, which start in no time (a process has to
    import torch first). What ends a process is done to them by ``die``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, engine: Engine):
        self.workers: list[_Thread] = []
        self.deaf = False  # whether workers overhear that they are to stop
        self.finished: list[tuple[str, str]] = []  # (name of the run's folder, method), in order

        def start(run: RunFolder) -> _Thread:
            self.workers.append(_Thread(self, run.load(), engine))
            return self.workers[-1]

        monkeypatch.setattr("nearl.runs.process.start", start)
        monkeypatch.setattr("nearl.runs.process.POLL_SECONDS", 0.001)

    def die(self) -> None:
        """End the worker that was started last between two of its events, as the system ends a process."""
        self.workers[-1].kill()


class _Thread:
    """As `nearl.runs.process.Worker`."""

    def __init__(self, threads: Threads, run: RunFolder, engine: Engine):
        self.threads, self.run, self.killed = threads, run, False
        run.wait(STARTING)
        self.thread = threading.Thread(target=self._work, args=(engine,), daemon=True)
        self.thread.start()

    def _work(self, engine: Engine) -> None:
        run, stop = self.run, lambda: self.run.cancel_requested() and not self.threads.deaf
        with contextlib.suppress(NearlError):  # the run's status has the sentence
            for event in run.record(perform(run.job(), run.todo(), run.snapshot(), stop, backbone=engine.backbone())):
                if isinstance(event, Finished):
                    self.threads.finished.append((run.path.name, event.row["method"]))
                if self.killed:
                    return

    def wait(self, timeout: float) -> bool:
        self.thread.join(timeout)
        if self.thread.is_alive():
            return True
        if self.run.exists() and not self.run.look().finished:
            self.run.lost(NO_MEMORY)
        return False

    def kill(self) -> None:
        self.killed = True
        self.thread.join()
