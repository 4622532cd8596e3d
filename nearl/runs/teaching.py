"""The work of a run: every method is taught and measured with every seed. Plain data in, events out.

Nothing here relies on a global or on a file, so `perform` runs in this process, in a worker process, or in the process
that a ZeroGPU Space forks for one call.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nearl.adapters.store import Adapter
from nearl.backbones import Backbone
from nearl.data.records import ImageRecord
from nearl.errors import NearlError
from nearl.measure import findings, gap
from nearl.measure.evaluate import learned_from, rows, study
from nearl.measure.fit import Fit, metrics
from nearl.measure.interaction import interaction
from nearl.methods import Method, Task, make
from nearl.prompts import FINDINGS
from nearl.reading.claims import Claim, Claims
from nearl.reading.findings import thresholds
from nearl.reading.trust import fit_findings_trust, fit_trust
from nearl.runs.bench import Bench
from nearl.runs.job import UNTAUGHT, Job, Pair, backbone_of
from nearl.runs.status import CANCELLED, CHECKING, STARTING, TEACHING
from nearl.train import memory
from nearl.train.recipe import Progress, Snapshot
from nearl.train.samples import fingerprints

log = logging.getLogger("nearl.runs")

SNAPSHOT_SECONDS = 10.0
CHECK_BATCH = 16  # images between two looks at whether to stop, while checking
CURVE_IMAGES = 400  # held-out images above which there is no curve, which would take too long (our choice)
SHOWN = 32  # images, at most, whose places in the joint space are kept
NO_SPACE = "The disk is full; free some space, then start it again."
HALVED = "Memory ran out, so at most {} images go through the model at a time; the result is the same, it takes longer."
FAULT = "Teaching stopped because of a fault; the details are on the console of the program."


@dataclass(frozen=True)
class Step:
    """One step of a method is done, or its first is about to begin."""

    method: str
    seed: int
    phase: str
    """"starting", "teaching", "fold 2 of 4" or "checking"."""
    step: int
    """From 1; in "checking" the number of images. 0 at the start."""
    steps: int
    seconds_left: float | None
    """Estimate for this method and seed; None at the start."""
    loss: float | None = None
    """Training loss; None in "checking"."""
    lr: float | None = None
    """Learning rate; None in "checking"."""
    held_out: float | None = None
    """Balanced accuracy on held-out images, where it was measured after this step."""
    note: str = ""
    """What is new to be known of how it is done, a sentence, or ""."""


@dataclass(frozen=True)
class Finished:
    """A method is finished with one seed, has failed, or was cancelled where it is the only one."""

    row: dict
    """"method", "seed" and, where it failed, "error", a sentence. Else "metrics" (None where nothing was measured),
    "parameters", "fit_seconds", "step_ms", "peak_mb", "settings", "taught" (images), "said" (class of every held-out
    image), "stopped" ("", "early" or "cancelled"), "seconds" by phase and "pretrained" (of `learned_from`); and in a
    comparison
    "predict_ms" and, with the first seed, "space": places in the joint space (`nearl.measure.gap.study`) "before" and
    "after", the "labels" of these images, and the interaction scores "together"; with images of another source "there",
    the metrics on them."""
    adapter: Adapter | None = None
    """With its figures and trust; None after the first seed, for zero-shot, and where nothing was learned."""
    results: dict | None = None
    """Of `nearl.measure.evaluate.study`; None where it failed or was cancelled."""
    images: list[dict] = field(default_factory=list)
    """Of `nearl.measure.evaluate.rows`, with "image", the index in the job."""


Event = Step | Snapshot | Finished


def perform(
    job: Job,
    pairs: Sequence[Pair] | None = None,
    state: Snapshot | None = None,
    stop: Callable[[], bool] = lambda: False,
    every: float = SNAPSHOT_SECONDS,
    backbone: Backbone | None = None,
) -> Iterator[Event]:
    """Teach and measure each of ``pairs`` (default: all of the job). Yields a Step after every step, a Snapshot every
    ``every`` seconds, which given as ``state`` lets a new call resume its pair, and a Finished for every pair.

    Where the split is "folds", the adapter is taught with all images and then once more with each fold's support, for
    the figures alone: the held parts' predictions are pooled. ``stop`` is asked before every step. What a cancelled
    method has learned is kept only where it is the job's only one: the best weights so far, which are not measured. A
    failure ends the run where it is the only one, else it is a row. ``backbone``: one that is loaded already.
    """
    bench = Bench(job, backbone or backbone_of(job))
    for pair in job.pairs if pairs is None else pairs:
        at = None if state is None else (job.name_now(state.about["method"]), state.about["seed"])
        own = state if at == pair else None
        lesson = _Lesson(bench, *pair, stop, every, own)
        try:
            yield from lesson.run()
        except _Cancelled:
            return
        except Exception as error:
            if job.alone:
                raise
            yield Finished({"method": pair[0], "seed": pair[1], "error": why(error)})


class LeftOff(Exception):
    """Ends the events of a run that is to be resumed elsewhere; says why in a sentence."""


class _Cancelled(Exception):
    """The run was asked to stop."""


@dataclass
class _Part:
    """One training: of the adapter that is kept, or of a fold."""

    phase: str
    support: list[int]
    held: list[int]


class _Lesson:
    """One method with one seed: its parts are taught and read the held-out images one after the other."""

    def __init__(
        self, bench: Bench, name: str, seed: int, stop: Callable[[], bool], every: float, state: Snapshot | None
    ):
        self.bench, self.job, self.name, self.seed, self.stop, self.every = bench, bench.job, name, seed, stop, every
        self.recipe = self.job.recipe_of(name, seed)
        split, job = self.job.split, self.job
        folds = split.folds if split.kind == "folds" else []
        self.parts = [_Part(TEACHING, bench.draw(split.support, seed), [] if folds else job.held)]
        self.parts += [
            _Part(f"fold {k} of {len(folds)}", bench.draw(list(support), seed), list(held))
            for k, (support, held) in enumerate(folds, start=1)
        ]
        self.read: list[np.ndarray] = []  # probabilities [H, C] of each part that is done
        self.adapter: Adapter | None = None
        self.row: dict = {"method": name, "seed": seed}
        self.seconds = dict.fromkeys(("forward", "backward", "optimiser", "evaluate"), 0.0)
        self.seconds["decode"] = job.decode_seconds
        self._resume: Snapshot | None = None
        self._spent = 0.0
        if state is not None:
            self._restore(state)
        self._began = self._saved = time.monotonic()
        self._steps = 0  # taken in this call

    def run(self) -> Iterator[Event]:
        yield Step(self.name, self.seed, STARTING, 0, 0, None)
        try:
            while len(self.read) < len(self.parts):
                yield from self._part(self.parts[len(self.read)])
            yield from self._finish()
        except _Cancelled:
            if self.job.alone:
                yield Finished(self.row | {"stopped": CANCELLED, "seconds": self.seconds}, self.adapter)
            raise

    def _part(self, part: _Part) -> Iterator[Event]:
        """Teach one part and read its held-out images."""
        first = part.phase == TEACHING
        drawn = first and self.job.alone and 0 < len(part.held) <= CURVE_IMAGES and not self.job.slices
        watched = self.bench.images.subset(part.held) if drawn else None
        task, options = self.bench.task(part.support), self.job.options
        fit = Fit(self.name, task, self.recipe, watched, self._resume, self._spent, options)
        self._resume, self._spent = None, 0.0
        has = memory.capacity(self.bench.backbone.device)
        if first and has is not None and fit.training.phases:
            note = memory.words(fit.training.memory(), has)
            yield Step(self.name, self.seed, STARTING, 0, 0, None, note=note)
        steps, stopped, most = iter(fit), "", 0
        while True:
            if self.stop():
                if first and fit.training.keep_best():
                    self.adapter = fit.method.adapter()
                self._add(fit)
                raise _Cancelled
            progress = next(steps, None)
            if progress is None:
                break
            stopped = progress.stopped
            self._steps += 1
            fewer = HALVED.format(fit.training.most) if fit.training.most != most else ""
            most = fit.training.most
            yield replace(self._step(part, progress), note=fewer)
            if progress.step < progress.steps and not stopped and time.monotonic() - self._saved >= self.every:
                yield self._snapshot(fit)
                self._saved = time.monotonic()
        self._add(fit)
        if first:
            self.row |= fit.cost() | {"taught": len(part.support), "stopped": stopped}
            self._keep(fit)
            if self.bench.prompt_set.kind == FINDINGS:  # probabilities, to choose thresholds by
                self.on_support = fit.method.predict(self.bench.images.subset(part.support).records)
            yield from self._elsewhere(fit.method)
        yield from self._read(fit.method, part.held)

    def _keep(self, fit: Fit) -> None:
        """What only the first part gives: the adapter and, in a comparison, more of what tells methods apart."""
        if self.seed == self.job.seeds[0] and self.name != UNTAUGHT:
            self.adapter = fit.method.adapter()
        if self.job.compared and self.job.held:
            held = self.bench.images.subset(self.job.held)
            self.row["predict_ms"] = fit.predict_ms(held)
            if self.seed == self.job.seeds[0]:
                self.row["space"] = self._space(fit.method, fit.task)

    def _elsewhere(self, method: Method) -> Iterator[Step]:
        """Measure the method on the images of another source, if there are any."""
        there, found = self.job.there, []
        if there:
            yield from self._batches(there, lambda records: found.append(method.predict(records)))
            self.row["there"] = metrics(np.concatenate(found), [self.job.labels[i] for i in there])

    def _space(self, method: Method, task: Task) -> dict:
        """Where some held-out images and the classes lie before and after (`nearl.measure.gap`), and the share of the
        answer that is of both together (`nearl.measure.interaction`)."""
        held = self.bench.images.subset(self.job.held)
        some = held.subset(range(0, len(held), -(-len(held) // SHOWN)))
        methods = {"before": make(UNTAUGHT, task), "after": method}
        found = {one.pop("name"): one for one in gap.study(methods, some.records, some.labels)}
        together = {name: interaction(one, some.records)["score"] for name, one in methods.items()}
        return {**found, "labels": some.labels, "together": together}

    def _read(self, method: Method, held: list[int]) -> Iterator[Step]:
        """Add the method's probabilities [H, C] of the held-out images; a Step after every batch."""
        found = [np.zeros((0, len(self.job.classes)), np.float32)]
        yield from self._batches(held, lambda records: found.append(method.predict(records)))
        self.read.append(np.concatenate(found))

    def _batches(self, indices: list[int], work: Callable[[list[ImageRecord]], object]) -> Iterator[Step]:
        began = time.perf_counter()
        for start in range(0, len(indices), CHECK_BATCH):
            if self.stop():
                raise _Cancelled
            work(self.bench.images.subset(indices[start : start + CHECK_BATCH]).records)
            done = min(start + CHECK_BATCH, len(indices))
            left = (time.perf_counter() - began) / done * (len(indices) - done)
            yield Step(self.name, self.seed, CHECKING, done, len(indices), left + self._later())
        self.seconds["evaluate"] += time.perf_counter() - began

    def _finish(self) -> Iterator[Event]:
        """The figures: before with the frozen model, after with the models that never saw the images."""
        job, held, bench = self.job, self.job.held, self.bench
        yield from self._batches(sorted({*self.parts[0].support, *held}), bench.frozen.pooled)  # which the rest needs
        began = time.perf_counter()
        after, labels = np.concatenate(self.read), [job.labels[i] for i in held]
        before, known = self._before(bench.images.subset(held).records)
        files, prompts = [job.files[i] for i in held], bench.prompt_set
        if prompts.kind == FINDINGS:
            trust = self._findings_trust(after, labels)
            taught = bench.images.subset(self.parts[0].support)
            plain = make(UNTAUGHT, bench.task(self.parts[0].support)).predict(taught.records)
            limits = thresholds(plain, taught.labels, prompts), trust["thresholds"]
            results = findings.study(before, after, labels, prompts, job.split.kind, limits)
            results["pretrained"] = learned_from(known)
            table = findings.rows(before, after, labels, prompts, files, limits)
        else:
            trust = self._trust(after, labels) if self.adapter is not None else {}
            results = study(before, after, labels, job.classes, job.split.kind) | {"pretrained": learned_from(known)}
            table = rows(before, after, labels, job.classes, files)
        if self.adapter is not None:
            self.adapter.meta |= {"metrics": results if held else None, "trust": trust}
            if trust["temperature"] is not None and self.adapter.meta.get("images"):
                self.adapter.meta["images"]["calibrated"] = fingerprints(bench.backbone, bench.images.subset(held))
        self.seconds["evaluate"] += time.perf_counter() - began
        row = self.row | {
            "metrics": metrics(after, labels) if held and prompts.kind != FINDINGS else None,
            "said": after.argmax(1).tolist() if prompts.kind != FINDINGS else [],
            "seconds": self.seconds,
            "pretrained": learned_from(known),
        }
        yield Finished(row, self.adapter, results, [{**line, "image": i} for line, i in zip(table, held, strict=True)])

    def _before(self, records: list[ImageRecord]) -> tuple[np.ndarray, list[Claim] | None]:
        """(probabilities [N, C] of the frozen model, calibrated as they are when these images are read, which findings
        are not; what is known of each image)."""
        bench = self.bench
        plain = make(UNTAUGHT, bench.task(self.parts[0].support)).predict(records)
        claims = Claims(bench.backbone, bench.prompt_set)
        if not len(records):  # nothing was held out
            return plain, None
        known = claims.of(bench.frozen.embed(bench.frozen.pooled(records)), records)
        return claims.calibrated(plain, known), known

    def _trust(self, after: np.ndarray, labels: list[int]) -> dict:
        support, held, folded = self.parts[0].support, self.job.held, self.job.split.kind == "folds"
        trust = fit_trust(
            self.bench.prompt_set.digest,
            after if held else None,
            labels,
            self.bench.embed(support),
            [self.job.labels[i] for i in support],
            self.bench.embed(held) if held and not folded else None,
            folds=folded,
        )
        return trust.to_dict()

    def _findings_trust(self, after: np.ndarray, labels: list) -> dict:
        """Of findings: the thresholds are chosen on the training images, the temperature on the held-out ones."""
        bench, prompts, support = self.bench, self.bench.prompt_set, self.parts[0].support
        taught = bench.images.subset(support)
        limits, held = thresholds(self.on_support, taught.labels, prompts), self.job.held
        kept = bench.embed(held) if held else None
        return fit_findings_trust(prompts, limits, after, labels, bench.embed(support), kept).to_dict()

    def _step(self, part: _Part, progress: Progress) -> Step:
        return Step(
            self.name, self.seed, part.phase, progress.step, progress.steps, progress.seconds_left + self._later(),
            progress.loss, progress.lr, progress.held_out,
        )  # fmt: skip

    def _later(self) -> float:
        """Seconds that the parts after this one take, at the pace until now."""
        steps = max(len(self.parts) - len(self.read) - 1, 0) * self.recipe.steps
        return steps * (time.monotonic() - self._began) / max(self._steps, 1)

    def _add(self, fit: Fit) -> None:
        for phase, value in fit.training.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + value

    def _snapshot(self, fit: Fit) -> Snapshot:
        run, kept = fit.training.snapshot(), self.adapter
        tensors = {f"run.{name}": value for name, value in run.tensors.items()}
        tensors |= {f"kept.{name}": value for name, value in (kept.state if kept else {}).items()}
        about = {
            "method": self.name,
            "seed": self.seed,
            "read": [part.tolist() for part in self.read],
            "kept": kept.meta if kept else None,
            "row": self.row,
            "seconds": self.seconds,
            "spent": fit.spent,
            "run": run.about,
        }
        return Snapshot(tensors, about)

    def _restore(self, state: Snapshot) -> None:
        about = state.about
        parts: dict[str, dict] = {"run": {}, "kept": {}}
        for key, value in state.tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        shape = -1, len(self.job.classes)
        self.read = [np.asarray(part, np.float32).reshape(shape) for part in about["read"]]
        self.adapter = Adapter(parts["kept"], about["kept"]) if about["kept"] else None
        self.row, self.seconds, self._spent = dict(about["row"]), dict(about["seconds"]), about["spent"]
        self._resume = Snapshot(parts["run"], about["run"])


def why(error: Exception) -> str:
    """One sentence for whoever started the run; the details of an unexpected error go to the log."""
    if isinstance(error, NearlError):
        return str(error)
    if memory.ran_out(error):
        return memory.NO_MEMORY
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):  # safetensors has no number
        return NO_SPACE
    log.exception("teaching")
    return FAULT
