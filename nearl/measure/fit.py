"""Fitting one method and measuring what it achieves and what it costs, as if it were alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np

from nearl.data.sets.labelled import LabelledSet
from nearl.measure.cost import PeakMemory
from nearl.measure.elsewhere import drop
from nearl.measure.evaluate import evaluate, gain_of
from nearl.methods import Task, make
from nearl.train.loop import Training
from nearl.train.recipe import Progress, Recipe, Snapshot

METRICS = ("n", "balanced_accuracy", "balanced_accuracy_interval", "accuracy", "auroc", "ece")
TIMED, REPEATS = 16, 3  # images and repetitions for the time of a prediction


class Fit:
    """A method that is being fitted: iterate to train it. ``method`` and ``training`` are there from the start, `cost`
    at the end. The time spent by whoever iterates does not count.

    ``held``: images for the learning curve. ``resume``: a snapshot of ``training``; ``spent``: the seconds until then.
    ``options``: of the method.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        recipe: Recipe,
        held: LabelledSet | None = None,
        resume: Snapshot | None = None,
        spent: float = 0.0,
        options: dict | None = None,
    ):
        self.task, self.recipe, self._before = task, recipe, spent
        self._peak = PeakMemory(task.backbone.device)
        task.frozen.start_clock(self._peak.so_far)
        self._began, self._away = time.perf_counter(), 0.0
        self._steps: list[float] = []
        self.method = make(name, task, **(options or {}))
        self.training: Training = self.method.fit(recipe, held, resume)

    def __iter__(self) -> Iterator[Progress]:
        at = time.perf_counter()
        for progress in self.training:
            left = time.perf_counter()
            self._steps.append(left - at)
            yield progress
            at = time.perf_counter()
            self._away += at - left
        self._seconds, self._most = self.spent, self.task.frozen.peak_alone(self._peak.so_far())

    @property
    def spent(self) -> float:
        """Seconds of training so far, features of the frozen model that were there before included."""
        return self._before + self.task.frozen.alone(time.perf_counter() - self._began - self._away)

    def cost(self) -> dict:
        """Trained parameters, seconds and peak memory (MiB) of the fit, milliseconds of a step, and the settings."""
        method = self.method
        return {
            "parameters": method.trainable,
            "fit_seconds": round(self._seconds, 4),
            "step_ms": round(1000 * statistics.median(self._steps), 3) if self._steps else None,
            "peak_mb": None if self._most is None else round(self._most, 1),
            "settings": {"recipe": asdict(self.recipe), "options": method.options, "chosen": method.chosen},
        }

    def predict_ms(self, data: LabelledSet) -> float:
        """Milliseconds of a prediction per image that was not seen before."""
        sample, spent = data.records[:TIMED], []
        for _ in range(REPEATS):
            self.task.frozen.forget(sample)
            at = time.perf_counter()
            self.method.predict(sample)
            spent.append(1000 * (time.perf_counter() - at) / len(sample))
        return round(statistics.median(spent), 3)


def metrics(probabilities: np.ndarray, labels: list[int]) -> dict:
    """The figures of a row, of probabilities [N, C], N > 0."""
    found = evaluate(probabilities, np.array(labels))
    return {key: found[key] for key in METRICS}


def measure(
    task: Task,
    test: LabelledSet,
    name: str,
    recipe: Recipe,
    watch: Callable[[Progress], None] = lambda progress: None,
    there: LabelledSet | None = None,
) -> dict:
    """Fits one method on a task and measures it on ``test``: returns its metrics, its costs and its gain over the
    untaught model. ``there``: images of another source with the same classes, measured on too ("there", with the
    "drop")."""
    fit = Fit(name, task, recipe)
    for progress in fit:
        watch(progress)
    after, labels = fit.method.predict(test.records), np.array(test.labels)
    row = {"metrics": metrics(after, test.labels), **fit.cost(), "predict_ms": fit.predict_ms(test)}
    if there is not None:
        found = metrics(fit.method.predict(there.records), there.labels)
        row["there"] = {**found, "drop": drop(row["metrics"], found)}
    return row | {"gain": gain_of(make("zero-shot", task).predict(test.records), after, labels)}
