"""Long work: one teaching run at a time, in a thread of its own, so that it outlives the page that started it.

A run belongs to a workspace. The page only looks at it (`watch`), and a page that comes back can look again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.engine import Engine
from nearl.data.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from nearl.finetune import Progress
    from nearl.store import Adapter

log = logging.getLogger("nearl.app")

WAITING, TEACHING, CHECKING = "waiting", "teaching", "checking"
DONE, CANCELLED, FAILED = "done", "cancelled", "failed"
CHECK_BATCH = 8  # images per turn at the model while checking, so that other visitors' readings get in between

_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="teach")


class Cancelled(Exception):
    """Raised inside the run when somebody asked it to stop."""


@dataclass
class TeachJob:
    """One teaching run: what it works with, how far it is, and what came of it.

    `on_done` is called in the run's thread with the finished adapter, before `state` becomes "done". `scores` is what
    `nearl.evaluate.measure` says on `held_out`, or None if nothing was kept aside.
    """

    engine: Engine
    support: LabelledSet
    held_out: LabelledSet | None
    prompt_set: PromptSet
    preset: str
    on_done: Callable[[Adapter], None]
    state: str = WAITING
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    scores: dict | None = None
    error: str = ""
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def finished(self) -> bool:
        return self.state in (DONE, CANCELLED, FAILED)

    def start(self) -> None:
        """Queue the run behind those of other visitors."""
        _worker.submit(self._run)

    def cancel(self) -> None:
        """Stop before the next step. A run that is still waiting never starts."""
        self._stop.set()
        if self.state == WAITING:
            self.state = CANCELLED

    def _run(self) -> None:
        try:
            self._check_stop()
            adapter = self._teach()
            if self.held_out is not None:
                self.state = CHECKING
                self.scores = adapter.meta["metrics"] = self._score(adapter)
            self._check_stop()
            self.on_done(adapter)
            self.state = DONE
        except Cancelled:
            self.state = CANCELLED
        except NearlError as error:
            self.error, self.state = str(error), FAILED
        except Exception:
            log.exception("teaching")
            self.error = "Teaching stopped because of a fault on the server; the details are on its console."
            self.state = FAILED

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Cancelled

    def _teach(self) -> Adapter:
        backbone = self.engine.backbone()
        from nearl.finetune import Recipe, finetune

        recipe = Recipe.preset(self.preset)
        self.state, self.steps = TEACHING, recipe.steps
        steps = finetune(backbone, self.support, self.prompt_set, recipe=recipe)
        progress: Progress | None = None
        try:
            while True:
                self._check_stop()
                with self.engine.device_lock:
                    following = next(steps, None)
                if following is None:
                    return progress.adapter
                progress = following
                self.step, self.seconds_left = progress.step, progress.seconds_left
                self.losses.append((progress.step, progress.loss))
        finally:
            steps.close()

    def _score(self, adapter: Adapter) -> dict:
        from nearl.classifier import Classifier
        from nearl.evaluate import measure

        with self.engine.device_lock:
            classifier = Classifier(self.engine.backbone(), self.prompt_set, adapter)
        for start in range(0, len(self.held_out), CHECK_BATCH):  # fills the classifier's cache, a few images a turn
            self._check_stop()
            with self.engine.device_lock:
                classifier.predict(self.held_out.records[start : start + CHECK_BATCH])
        with self.engine.device_lock:
            return measure(classifier, self.held_out)
