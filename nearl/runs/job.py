"""One teaching run from images to a measured adapter: plain data and tensors in, plain events out.

Nothing here relies on a global or on a file, so the same function runs in this process, in a worker process, or in the
process that a ZeroGPU Space forks for one call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor

from nearl.adapters.store import Adapter
from nearl.backbones import Backbone, load_backbone
from nearl.data.records import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import Split
from nearl.errors import NearlError
from nearl.measure.evaluate import rows, study
from nearl.methods import Frozen, Task, card, make, restore
from nearl.prompts import PromptSet, class_key
from nearl.reading.classifier import Classifier
from nearl.reading.trust import fit_trust
from nearl.train.recipe import Progress, Recipe, Snapshot
from nearl.train.samples import as_uint8

SNAPSHOT_SECONDS = 10.0
CHECK_BATCH = 16  # images between two looks at whether to stop, while checking

TEACHING, CHECKING = "teaching", "checking"


@dataclass
class Job:
    """All that a run needs, in plain data: it can be pickled, and written as JSON beside one tensor.

    backbone: {"name", "device", "weights", "fingerprint"}. images: uint8 [N, 3, H, W] as `Backbone.to_uint8` makes
    them, those to teach with and, after them, given test images, whose indices are ``test``. labels and files: N of
    each; files are for the eyes of whoever brought them. prompts: of a PromptSet for ``classes``. split: which images
    teach and which are held out. config: the method's own settings, None for its defaults. recipe: of a Recipe.
    decode_seconds: what bringing the images to this form took.
    """

    backbone: dict
    classes: list[str]
    prompts: dict
    images: Tensor = field(repr=False)
    labels: list[int]
    test: list[int]
    files: list[str]
    split: Split
    recipe: dict
    method: str = "nearl"
    config: dict | None = None
    name: str = "images"
    decode_seconds: float = 0.0

    def to_plain(self) -> dict:
        """Everything but the images, for JSON."""
        return {k: v for k, v in vars(self).items() if k not in ("images", "split")} | {"split": asdict(self.split)}

    @classmethod
    def from_plain(cls, images: Tensor, plain: dict) -> Job:
        """The reverse of `to_plain`. KeyError or TypeError for anything else."""
        split = plain["split"]
        folds = [(list(support), list(held)) for support, held in split["folds"]]
        return cls(**{**plain, "images": images, "split": Split(**{**split, "folds": folds})})


@dataclass
class Outcome:
    """What came of a run. adapter: None where the run was cancelled before there was anything to keep.

    results: what `nearl.measure.evaluate.study` says on held-out images, None where the run was cancelled. rows:
    each held-out
    image as `nearl.measure.evaluate.rows` tells it, with "image", its index in the job. stopped: "", "early" or
    "cancelled".
    seconds by phase: decode, forward, backward, optimiser, evaluate.
    """

    adapter: Adapter | None
    results: dict | None
    rows: list[dict]
    stopped: str
    seconds: dict[str, float]


def make_job(
    backbone: Backbone,
    data: LabelledSet,
    test: LabelledSet | None,
    prompt_set: PromptSet,
    split: Split,
    recipe: Recipe,
    method: str = "nearl",
    config: dict | None = None,
) -> Job:
    """A run on these images. ``split`` has indices into ``data``; ``test`` may be images to measure on (split kind
    "given"). ``method``: a name of `nearl.methods`, ``config``: its own settings.

    NearlError where prompts, images and test images do not name the same classes, and for a missing method.
    """
    began = time.perf_counter()
    card(method)
    prompt_set = prompt_set.for_classes(data.classes)
    index = {class_key(name): number for number, name in enumerate(data.classes)}
    images, labels, files = [as_uint8(backbone, data)], list(data.labels), [r.name for r in data.records]
    if test is not None:
        unknown = [name for name in test.classes if class_key(name) not in index]
        if unknown:
            raise NearlError(f"The test images have a class “{unknown[0]}” that is not taught; add images of it.")
        images.append(as_uint8(backbone, test))
        labels += [index[class_key(test.classes[label])] for label in test.labels]
        files += [record.name for record in test.records]
    return Job(
        backbone={
            "name": backbone.name,
            "device": str(backbone.device),
            "weights": "pretrained",
            "fingerprint": backbone.identity["weights"],
        },
        classes=list(data.classes),
        prompts=prompt_set.to_dict(),
        images=torch.cat(images),
        labels=labels,
        test=list(range(len(data), len(labels))),
        files=files,
        split=split,
        recipe=asdict(recipe),
        method=method,
        config=config,
        name=data.name,
        decode_seconds=time.perf_counter() - began,
    )


def teach(
    job: Job,
    backbone: Backbone | None = None,
    state: Snapshot | None = None,
    stop: Callable[[], bool] = lambda: False,
    every: float = SNAPSHOT_SECONDS,
) -> Iterator[dict]:
    """Teach, then measure on what was held out. Yields events:

    {"phase": "teaching" | "fold 2 of 4" | "checking", "step", "steps", "loss", "lr", "held_out", "seconds_left"} after
    every step (in "checking" the steps are images, and there is no loss); {"snapshot": Snapshot} every ``every``
    seconds, which given as ``state`` lets a new call go on from there; and last {"done": Outcome}.

    Where the split is "folds", the adapter is taught on all images and then one more on each fold's support, for the
    figures alone: the held parts' predictions are pooled. ``stop`` is asked before every step: a cancelled run keeps
    the best weights of the adapter so far (`nearl.train.loop.Training`), which are then not measured.
    ``backbone``: one
    that is loaded already, else the job's is loaded.
    """
    yield from _Teaching(job, backbone or backbone_of(job), state, stop, every).run()


class _Cancelled(Exception):
    """Somebody asked to stop. ``best``: what was taught so far."""

    def __init__(self, best: Adapter | None = None):
        self.best = best


class _Teaching:
    """The state of one call of `teach`: the parts to teach, those that are done, and the time each phase took."""

    def __init__(self, job: Job, backbone: Backbone, state: Snapshot | None, stop: Callable[[], bool], every: float):
        self.job, self.backbone, self.stop, self.every = job, backbone, stop, every
        self.recipe = Recipe(**job.recipe)
        self.prompt_set = PromptSet.from_dict(job.prompts)
        self.frozen = Frozen(backbone)
        pixels = job.images.permute(0, 2, 3, 1).numpy()  # resize and crop change nothing at the model's own size
        self.records = [ImageRecord.from_pixels(name, image) for name, image in zip(job.files, pixels, strict=True)]
        self.images = LabelledSet(job.classes, self.records, job.labels)
        split = job.split
        given = job.test if split.kind == "given" else split.held
        self.parts = [(TEACHING, split.support, given)] if split.kind != "folds" else [(TEACHING, split.support, [])]
        self.parts += [(f"fold {k} of {len(split.folds)}", *fold) for k, fold in enumerate(split.folds, start=1)]
        self.done: list[Adapter] = []
        self.stopped = ""
        self.seconds = dict.fromkeys(("forward", "backward", "optimiser", "evaluate"), 0.0)
        self.seconds["decode"] = job.decode_seconds
        self.resume: Snapshot | None = None
        if state is not None:
            self._restore(state)
        self._saved = self._began = time.monotonic()
        self._steps = 0  # taken in this call

    def run(self) -> Iterator[dict]:
        try:
            while len(self.done) < len(self.parts):
                yield from self._teach(*self.parts[len(self.done)])
            yield from self._check()
        except _Cancelled as cancelled:
            adapter = self.done[0] if self.done else cancelled.best
            yield {"done": Outcome(adapter, None, [], "cancelled", self.seconds)}

    def _teach(self, phase: str, support: list[int], held: list[int]) -> Iterator[dict]:
        watched = self.images.subset(held) if held and phase == TEACHING else None
        task = Task(self.backbone, self.prompt_set, self.images.subset(support), self.frozen)
        method = make(self.job.method, task, **(self.job.config or {}))
        run, stopped = method.fit(self.recipe, watched, self.resume), ""
        self.resume = None
        while True:
            if self.stop():
                self._add(run.seconds)
                raise _Cancelled(method.adapter() if phase == TEACHING and run.keep_best() else None)
            progress = next(run, None)
            if progress is None:
                break
            self._steps, stopped = self._steps + 1, progress.stopped
            yield self._event(phase, progress)
            if time.monotonic() - self._saved >= self.every:
                yield {"snapshot": self._snapshot(run.snapshot())}
                self._saved = time.monotonic()
        self._add(run.seconds)
        self.done.append(method.adapter())
        if phase == TEACHING:
            self.stopped = stopped

    def _event(self, phase: str, progress: Progress) -> dict:
        later = (len(self.parts) - len(self.done) - 1) * self.recipe.steps
        pace = (time.monotonic() - self._began) / self._steps
        return {
            "phase": phase,
            "step": progress.step,
            "steps": progress.steps,
            "loss": progress.loss,
            "lr": progress.lr,
            "held_out": progress.held_out,
            "seconds_left": progress.seconds_left + later * pace,
        }

    def _check(self) -> Iterator[dict]:
        """Measure on the held-out images: before with the frozen model, after with the adapters that never saw them."""
        began = time.perf_counter()
        adapter, job = self.done[0], self.job
        folded = job.split.kind == "folds"
        groups = list(zip(self.done[1:], [held for _, _, held in self.parts[1:]], strict=True))
        groups = groups if folded else [(adapter, self.parts[0][2])]
        held = [i for _, group in groups for i in group]
        support = self.parts[0][1]
        classifier = Classifier(self.backbone, self.prompt_set)
        records, shown = self.records, None
        batches = [(None, support[i : i + CHECK_BATCH]) for i in range(0, len(support), CHECK_BATCH)]
        batches += [(a, group[i : i + CHECK_BATCH]) for a, group in groups for i in range(0, len(group), CHECK_BATCH)]
        frozen, adapted, seen = [], [], 0
        for taught, batch in batches:
            if self.stop():
                raise _Cancelled
            some = [records[i] for i in batch]
            if taught is None:  # kept by the classifier for the distances below and for the held-out folds
                classifier.image_features(some)
            else:
                if shown is not taught:
                    shown = taught
                    classifier.set_method(restore(self.backbone, taught))
                prediction = classifier.predict(some)
                frozen.append(prediction.frozen)
                adapted.append(prediction.adapted)
            seen += len(batch)
            left = (time.perf_counter() - began) / seen * (len(support) + len(held) - seen)
            event = {"phase": CHECKING, "step": seen, "steps": len(support) + len(held), "seconds_left": left}
            yield event | {"loss": None, "lr": None, "held_out": None}
        nothing = np.zeros((0, len(job.classes)), dtype=np.float32)
        before, after = np.concatenate([nothing, *frozen]), np.concatenate([nothing, *adapted])
        labels, files = [job.labels[i] for i in held], [job.files[i] for i in held]
        results = study(before, after, labels, job.classes, job.split.kind)
        table = rows(before, after, labels, job.classes, files)
        table = [{**row, "image": i} for row, i in zip(table, held, strict=True)]
        embed = lambda indices: classifier.image_features([records[i] for i in indices]).cpu().numpy()  # noqa: E731
        trust = fit_trust(
            self.prompt_set.digest,
            after if held else None,
            labels,
            embed(support),
            [job.labels[i] for i in support],
            embed(held) if held and not folded else None,
            folds=folded,
        )
        adapter.meta |= {"metrics": results if held else None, "trust": trust.to_dict()}
        self._add({"evaluate": time.perf_counter() - began})
        yield {"done": Outcome(adapter, results, table, self.stopped, self.seconds)}

    def _add(self, seconds: dict[str, float]) -> None:
        for phase, value in seconds.items():
            self.seconds[phase] += value

    def _snapshot(self, run: Snapshot) -> Snapshot:
        tensors = {f"run.{name}": value for name, value in run.tensors.items()}
        for number, adapter in enumerate(self.done):
            tensors |= {f"done.{number}.{name}": value for name, value in adapter.state.items()}
        about = {
            "done": [a.meta for a in self.done],
            "stopped": self.stopped,
            "seconds": self.seconds,
            "run": run.about,
        }
        return Snapshot(tensors, about)

    def _restore(self, state: Snapshot) -> None:
        adapters: list[dict[str, Tensor]] = [{} for _ in state.about["done"]]
        run: dict[str, Tensor] = {}
        for key, value in state.tensors.items():
            part, _, name = key.partition(".")
            if part == "run":
                run[name] = value
            else:
                number, _, name = name.partition(".")
                adapters[int(number)][name] = value
        self.done = [Adapter(*pair) for pair in zip(adapters, state.about["done"], strict=True)]
        self.stopped, self.seconds = state.about["stopped"], dict(state.about["seconds"])
        self.resume = Snapshot(run, state.about["run"])


def backbone_of(job: Job) -> Backbone:
    """The backbone that a job was made with. NearlError if its weights are others now."""
    about = job.backbone
    backbone = load_backbone(about["name"], about["device"], about["weights"])
    if backbone.identity["weights"] != about["fingerprint"]:
        raise NearlError(
            f"The model '{about['name']}' has other weights now than when this run was made; start a new run."
        )
    return backbone
