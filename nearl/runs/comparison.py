"""Several methods on the same images, in a process of its own: what is to be compared, how far it is, what came of it.

A comparison is a run (`nearl.runs.folder`) of several methods. Instead of one adapter and its results its folder has

    rows.jsonl              a method that is finished, or that failed, a line
    adapters/<method>/      what it learnt from the first draw of images

and its status says which "method" and "seed" is at work. ``python -m nearl.runs.comparison RUN`` is the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nearl.adapters.store import Adapter, load_adapter, save_adapter
from nearl.backbones import Backbone
from nearl.data.records import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import draw_support
from nearl.errors import NearlError
from nearl.measure import gap
from nearl.measure.compare import Measured, measuring
from nearl.measure.evaluate import study
from nearl.measure.interaction import interaction
from nearl.methods import Frozen, Method, Task, card, make, recipe
from nearl.prompts import PromptSet
from nearl.reading.trust import fit_trust
from nearl.runs.folder import CANCELLED, DONE, FAILED, STARTING, WAITING, RunFolder, why
from nearl.runs.job import TEACHING, Job, backbone_of
from nearl.runs.lock import hold
from nearl.runs.process import Worker, launch
from nearl.runs.within import settle
from nearl.runs.zero_gpu import ON_ZERO_GPU, SECONDS

EVERY = 0.25  # seconds between two looks at the steps of a method
DRAWN = 32  # images, at most, whose places are drawn
PATIENCE = 4.0  # seconds in which a worker that was asked to stop may do so by itself
UNTAUGHT = "zero-shot"  # learns nothing, so chance has no part in it and there is no adapter

Pair = tuple[str, int]  # method and seed


def pairs_of(methods: Sequence[str], seeds: int) -> list[Pair]:
    """All that is to be done, the first draw of every method before the second."""
    return [(name, seed) for seed in range(seeds) for name in methods if name != UNTAUGHT or seed == 0]


@dataclass
class ComparisonJob(Job):
    """A job whose images every method of ``methods`` is taught and measured with.

    ``shots``: images of every class to teach with, drawn by seed among the split's support; 0 for all. ``seeds``: how
    many draws. ``recipe``: changes to the recipes of the methods that train a tower; {} for each method's own.
    """

    methods: Sequence[str] = ()
    shots: int = 0
    seeds: int = 1

    @classmethod
    def of(cls, job: Job, methods: Sequence[str], shots: int = 0, seeds: int = 1, recipe: dict | None = None):
        """What a run would teach and measure with, for several methods. NearlError for a method that is not there."""
        for name in methods:
            card(name)
        return cls(**{**vars(job), "recipe": dict(recipe or {})}, methods=list(methods), shots=shots, seeds=seeds)

    @property
    def held(self) -> list[int]:
        """The images that are measured on."""
        return self.test if self.split.kind == "given" else self.split.held


def compare(
    job: ComparisonJob,
    pairs: Sequence[Pair] | None = None,
    stop: Callable[[], bool] = lambda: False,
    backbone: Backbone | None = None,
) -> Iterator[dict]:
    """Work through ``pairs`` (default: all). Yields {"method", "seed", "step", "steps", "seconds_left"} now and then,
    and {"row", "adapter"} for every pair that is finished, or that failed and says why in the row's "error".

    The adapter has the figures and the trust that a run gives it; None after the first draw. ``stop`` is asked at every
    step; what a method has learnt until then is let go.
    """
    bench = _Bench(job, backbone or backbone_of(job))
    for name, seed in pairs_of(job.methods, job.seeds) if pairs is None else pairs:
        yield {"method": name, "seed": seed, "step": 0, "steps": 0, "seconds_left": None}
        if stop():
            return
        seen = time.monotonic()
        try:
            for found in bench.measuring(name, seed):
                if isinstance(found, dict):
                    yield found
                elif stop():
                    return
                elif time.monotonic() - seen >= EVERY:
                    seen = time.monotonic()
                    at = {"step": found.step, "steps": found.steps, "seconds_left": found.seconds_left}
                    yield {"method": name, "seed": seed, **at}
        except Exception as error:
            yield {"row": {"method": name, "seed": seed, "error": why(error)}, "adapter": None}


class _Bench:
    """What all methods of a comparison share: the sets, the prompts and the frozen model's features."""

    def __init__(self, job: ComparisonJob, backbone: Backbone):
        self.job, self.backbone, self.frozen = job, backbone, Frozen(backbone)
        self.prompt_set = PromptSet.from_dict(job.prompts)
        pixels = job.images.permute(0, 2, 3, 1).numpy()
        records = [ImageRecord.from_pixels(name, image) for name, image in zip(job.files, pixels, strict=True)]
        everything = LabelledSet(job.classes, records, job.labels)
        self.train, self.test = everything.subset(job.split.support), everything.subset(job.held)

    def measuring(self, name: str, seed: int) -> Iterator:
        """The method's steps as `nearl.train.recipe.Progress`, then the dict of its row and adapter."""
        task = Task(self.backbone, self.prompt_set, self._support(seed), self.frozen)
        settings = recipe(name, **({} if card(name).features else self.job.recipe), seed=seed)
        for found in measuring(task, self.test, name, settings):
            if not isinstance(found, Measured):
                yield found
        said = found.probabilities.argmax(1).tolist()
        row = {"method": name, "seed": seed, **found.row, "taught": len(task.support), "said": said}
        if not seed:
            row["space"] = self._space(task, found.method)
        yield {"row": row, "adapter": None if seed or name == UNTAUGHT else self._adapter(task, found)}

    def _space(self, task: Task, method: Method) -> dict:
        """Where some of the images and the classes lie before and after, and how much of the answer is of both together
        (`nearl.measure.gap`, `nearl.measure.interaction`)."""
        some = self.test.subset(range(0, len(self.test), -(-len(self.test) // DRAWN)))
        methods = {"before": make(UNTAUGHT, task), "after": method}
        found = {one.pop("name"): one for one in gap.study(methods, some.records, some.labels)}
        together = {name: interaction(one, some.records)["score"] for name, one in methods.items()}
        return {**found, "labels": some.labels, "together": together}

    def _support(self, seed: int) -> LabelledSet:
        shots = self.job.shots or len(self.train)
        return self.train.subset(draw_support(self.train.labels, shots, seed))

    def _adapter(self, task: Task, found: Measured) -> Adapter:
        adapter, labels = found.method.adapter(), self.test.labels
        before = make(UNTAUGHT, task).predict(self.test.records)
        embed = lambda records: task.images(records).cpu().numpy()  # noqa: E731
        support, held = embed(task.support.records), embed(self.test.records)
        trust = fit_trust(self.prompt_set.digest, found.probabilities, labels, support, task.support.labels, held)
        results = study(before, found.probabilities, labels, self.job.classes, self.job.split.kind)
        adapter.meta |= {"metrics": results, "trust": trust.to_dict()}
        return adapter


class ComparisonFolder(RunFolder):
    """A comparison on disk."""

    def job(self) -> ComparisonJob:
        """What is to be compared. NearlError if its files are damaged."""
        try:
            images = load_file(self._file("job.safetensors"))["images"]
            return ComparisonJob.from_plain(images, self.about)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise self._damaged("job") from error

    @property
    def about(self) -> dict:
        """The job without its images, which are deleted at the end."""
        return self._read("job.json")

    @property
    def rows(self) -> list[dict]:
        """The methods that are finished or failed, in that order."""
        try:
            lines = self._file("rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    @property
    def todo(self) -> list[Pair]:
        """What has no row yet."""
        done = {(row["method"], row["seed"]) for row in self.rows}
        return [pair for pair in pairs_of(self.about["methods"], self.about["seeds"]) if pair not in done]

    def adapter(self, name: str) -> Adapter:
        """What a finished method learnt. NearlError where there is none."""
        return load_adapter(self._adapter(name))

    def add(self, row: dict, adapter: Adapter | None = None) -> None:
        """A method is finished, or failed."""
        if adapter is not None:
            save_adapter(adapter, self._adapter(row["method"]))
        with self._file("rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def record(self, events: Iterable[dict]) -> Iterator[dict]:
        """Write the events of `compare` as they come, and hand them on; NearlError as of any run."""
        with hold(self._file("lock")):
            self._status(state=TEACHING, phase=STARTING)
            try:
                for event in events:
                    if "row" in event:
                        self.add(event["row"], event["adapter"])
                    else:
                        self._status(state=TEACHING, phase=TEACHING, **event)
                    yield event
            except Exception as error:
                self.fail(sentence := why(error))
                raise NearlError(sentence) from error
            self.end(CANCELLED if self.cancel_requested() and self.todo else DONE)

    def end(self, state: str) -> None:
        self._status(state=state, stopped=CANCELLED if state == CANCELLED else "")

    def skip(self) -> bool:
        """After its process has died: the method that was at work has failed. Whether more is to be done."""
        status = self.status
        if status["state"] != FAILED or not status.get("method"):
            return False
        self.add({"method": status["method"], "seed": status["seed"], "error": status["error"]})
        self._status(state=WAITING) if self.todo else self.end(DONE)
        return bool(self.todo)

    def _adapter(self, name: str):
        return self.path / "adapters" / name.replace(":", "-")


def work(run: ComparisonFolder, give_way: Callable[[], bool] = lambda: False) -> bool:
    """Compare until the run has ended; its status says how. A process that dies takes one method with it.

    ``give_way`` is asked once a method is finished; where it says so the rest is left for another call, and True
    returned.
    """
    while True:
        worker = start(run)
        try:
            others = _wait(worker, run, give_way)
        finally:
            worker.kill()
        if not run.finished and others and not run.cancel_requested():
            run.wait()
            return True
        if not run.finished:  # killed, because it did not stop by itself
            run.end(CANCELLED)
        if not run.skip():
            return False


def _wait(worker: Worker, run: ComparisonFolder, give_way: Callable[[], bool]) -> bool:
    """Until the process has ended or is to be ended; whether that is to give way."""
    asked, rows = None, len(run.rows)
    while worker.wait(EVERY):
        if run.cancel_requested():
            asked = asked or time.monotonic()
            if time.monotonic() - asked > PATIENCE:
                return False
        elif len(run.rows) > rows and give_way():
            return True
    return False


def start(run: ComparisonFolder) -> Worker:
    """A process that works on what is still to be done. NearlError if none can be started."""
    return Worker(run, launch(run, "nearl.runs.comparison"), None)


if ON_ZERO_GPU:
    import spaces

    call = spaces.GPU(duration=SECONDS)(compare)


def work_on_zero_gpu(run: ComparisonFolder) -> None:
    """As `work`, every method a call of its own for the GPU of a ZeroGPU Space."""
    run.wait(STARTING)
    with contextlib.suppress(NearlError):  # the sentence is in the status
        job = run.job()
        if torch.cuda.is_available():  # the job was made by a process that has none
            job.backbone["device"] = "cuda"
        events = (e for p in run.todo if not run.cancel_requested() for e in call(job, [p], run.cancel_requested))
        for _ in run.record(events):
            pass


def main(path: str) -> int:
    settle()
    os.dup2(2, 1)  # nothing is told but through the folder
    run = ComparisonFolder(path).load()
    job = run.job()
    try:
        for _ in run.record(compare(job, run.todo, run.cancel_requested)):
            pass
    except NearlError:
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
