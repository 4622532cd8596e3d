"""Methods on the same support images: one row of results for every set, method, number of shots and seed.

Rows go to ``*.jsonl`` in one folder (`nearl.measure.results`). Finished runs are not repeated, and runs claimed by
another process on this machine are skipped, so several commands may share a folder and be killed at any time.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from nearl import __version__
from nearl.adapters.store import FORMERLY, public_name, todays_name
from nearl.backbones import Backbone, load_backbone
from nearl.data.sets.labelled import LabelledSet, resolve_splits
from nearl.data.splits import draw_support, hold_out
from nearl.errors import NearlError
from nearl.measure.elsewhere import common, prompts_of, restricted
from nearl.measure.evaluate import learned_from
from nearl.measure.fit import measure
from nearl.measure.results import Results
from nearl.methods import Frozen, Task, card, recipe
from nearl.prompts import PromptSet, default_prompts, ready_sets
from nearl.reading.claims import Claims
from nearl.reading.words import text_notes
from nearl.train import memory
from nearl.train.recipe import Recipe

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "peft", "scikit-learn", "numpy")
HELD_OUT = 0.25  # of a set without test images


@dataclass(frozen=True)
class Run:
    """One run, which gives one row of results: plain values, so that it can be sent to another machine."""

    data: str
    """Folder or zip of the set; the same path on all machines."""
    method: str
    shots: int
    """Images of every class to teach with."""
    seed: int
    """Of the draw of these images and of the training."""
    backbone: str = "embedded"
    weights: str = "pretrained"
    device: str = "cpu"
    prompts: str = ""
    """File of a prompt set; "" for the set's own."""
    recipe: tuple[tuple[str, object], ...] = ()
    """Changes to the method's default recipe."""
    test_on: str = ""
    """Folder or zip of another source with the same classes, which is measured on too (`nearl.measure.elsewhere`)."""
    same: tuple[tuple[str, str], ...] = ()
    """Names in either source that mean one class."""

    def settings(self) -> Recipe:
        """The whole recipe of this run."""
        return recipe(self.method, **{**dict(self.recipe), "seed": self.seed})


@dataclass
class Loaded:
    """A set as it is compared on."""

    name: str
    train: LabelledSet
    test: LabelledSet
    split: str
    """"given" (the set has test images) or "held-out" (a fixed part of it)."""
    prompt_set: PromptSet
    frozen: Frozen
    there: LabelledSet | None = None
    """Images of the other source."""


def plan(
    data: Sequence[str], methods: Sequence[str], shots: Sequence[int], seeds: int, **settings: object
) -> list[Run]:
    """All runs, set after set and seed after seed. NearlError for a missing method or folder, too small a
    number, and for another source that is one of ``data``."""
    for name in methods:
        card(name)
    for folder in (*data, *filter(None, [settings.get("test_on")])):
        if not Path(folder).exists():
            raise NearlError(f"There is no folder or zip of images at '{folder}'.")
    test_on = settings.get("test_on")
    if test_on and any(Path(folder).resolve() == Path(test_on).resolve() for folder in data):
        raise NearlError(f"'{test_on}' is the same source as the one to teach with; give another one with --test-on.")
    if seeds < 1 or min(shots, default=0) < 1:
        raise NearlError("Comparing needs at least one seed, and numbers of shots of at least 1.")
    runs = [
        Run(str(folder), method, count, seed, **settings)
        for folder in data
        for seed in range(seeds)
        for count in shots
        for method in dict.fromkeys(methods)
        if method != "zero-shot" or seed == 0  # there is no chance in it
    ]
    for run in runs:
        run.settings()
    return runs


def perform(runs: Sequence[Run], out: str | Path, say: Callable[[str], None] = lambda line: None) -> Iterator[dict]:
    """Work through the runs in this process; yields the row of every run that it finishes.

    Runs that ``out`` already has, and runs claimed by another process, are skipped. Stop iterating to cancel: finished
    rows stay.
    """
    results, shelf = Results(out), _SHELF
    for number, run in enumerate(runs, start=1):
        key = shelf.key(run)
        if key in results.finished():
            continue
        with results.claim(key) as mine:
            if not mine or key in results.finished():
                continue
            say(f"{number}/{len(runs)}  {Path(run.data).name}  {run.method}  {run.shots} shots  seed {run.seed}")
            with memory.in_words():
                row = shelf.measure(run, key)
            for note in shelf.heard():
                say(note)
            results.append(row)
            yield row


def perform_on_ray(runs: Sequence[Run], out: str | Path, say: Callable[[str], None] = lambda line: None):
    """``perform`` with every run as a task of a Ray cluster (``RAY_ADDRESS``, else one started on this machine).

    All machines must see the same ``data`` paths; rows are written here. NearlError where Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise NearlError("--executor ray needs the package 'ray', which is not installed: pip install ray.") from error
    results, shelf = Results(out), _SHELF
    todo = {shelf.key(run): run for run in runs}
    todo = {key: run for key, run in todo.items() if key not in results.finished()}
    if not todo:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        with contextlib.ExitStack() as claims:
            mine = {k: run for k, run in todo.items() if claims.enter_context(results.claim(k))}
            task = ray.remote(num_cpus=1, num_gpus=int(runs[0].device.startswith("cuda")))(_measure_anywhere)
            waiting = {task.remote(run, key): run for key, run in mine.items()}
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
                run = waiting.pop(ready)
                try:
                    row = ray.get(ready)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, NearlError) else error from None
                results.append(row)
                say(f"{len(mine) - len(waiting)}/{len(mine)}  {Path(run.data).name}  {run.method}")
                yield row
    finally:
        if started:
            ray.shutdown()


class _Shelf:
    """Backbone and set in use, kept from run to run."""

    def __init__(self):
        self._backbone: tuple[tuple, Backbone] = ((), None)
        self._set: tuple[tuple, Loaded] = ((), None)
        self._prints: dict[tuple, str] = {}
        self._news: list[str] = []

    def backbone(self, run: Run) -> Backbone:
        of = (run.backbone, run.device, run.weights)
        if self._backbone[0] != of:
            self._backbone = of, load_backbone(*of)
        return self._backbone[1]

    def heard(self) -> list[str]:
        """What to tell of the set that was read last, once: what was left out, and how its files were understood."""
        news, self._news = list(dict.fromkeys(self._news)), []
        return news

    def load(self, run: Run) -> Loaded:
        of = (run.data, run.prompts, run.backbone, run.device, run.test_on, run.same)
        if self._set[0] != of:
            train, test = resolve_splits(run.data)
            parts = [part for part in (train, test) if part is not None]
            self._news = [note for part in parts for note in (*(p.reason for p in part.problems), *part.said())]
            split = "given"
            if test is None:
                kept, held = hold_out(train.labels, HELD_OUT, 0)
                train, test, split = train.subset(kept), train.subset(held), "held-out"
            file = _prompt_file(run)
            if file is not None:
                prompt_set = PromptSet.load(file)
            elif train.prompts is not None:
                prompt_set = PromptSet.from_dict(train.prompts)
            else:
                prompt_set = default_prompts(train.classes)
            loaded = Loaded(Path(run.data).stem, train, test, split, prompt_set.for_classes(train.classes), None)
            loaded = self._elsewhere(run, loaded) if run.test_on else loaded
            self._news += text_notes(self.backbone(run), loaded.prompt_set)
            self._set = of, replace(loaded, frozen=Frozen(self.backbone(run)))
        return self._set[1]

    def _elsewhere(self, run: Run, loaded: Loaded) -> Loaded:
        """The set with the classes alone that the other source has too, and the other source's images."""
        first, second = resolve_splits(run.test_on)
        there = second or first
        found = common(loaded.train.classes, [n for n, count in there.counts().items() if count], run.same)
        ours, theirs = list(found), list(found.values())
        left = [name for name in loaded.train.classes if name not in found]
        other = [name for name in there.classes if name not in theirs]
        for whose, names in ((loaded.name, left), (Path(run.test_on).stem, other)):
            if names:
                self._news.append(f"Classes of {whose} that only it has are left out: {', '.join(names)}.")
        self._news += [
            note for part in (first, second) if part for note in (*(p.reason for p in part.problems), *part.said())
        ]
        return replace(
            loaded,
            train=restricted(loaded.train, ours),
            test=restricted(loaded.test, ours),
            prompt_set=prompts_of(loaded.prompt_set, ours),
            there=restricted(there, theirs, ours),
        )

    def key(self, run: Run) -> str:
        """A key of everything that the run's figures depend on, without reading an image."""
        at = (run.data, run.prompts)
        if at not in self._prints:
            file = _prompt_file(run)
            words = "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
            self._prints[at] = fingerprint(run.data) + words
        weights = self.backbone(run).identity["weights"]
        method = _in_keys(run.method)
        parts = [self._prints[at], weights, run.device, method, run.shots, asdict(run.settings()), __version__]
        if run.test_on:
            if (run.test_on, "") not in self._prints:
                self._prints[run.test_on, ""] = fingerprint(run.test_on)
            parts += [self._prints[run.test_on, ""], sorted(run.same)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def measure(self, run: Run, key: str) -> dict:
        backbone, data = self.backbone(run), self.load(run)
        support = data.train.subset(draw_support(data.train.labels, run.shots, run.seed))
        task = Task(backbone, data.prompt_set, support, data.frozen)
        measured = measure(task, data.test, run.method, run.settings(), there=data.there)
        images = data.frozen.embed(data.frozen.pooled(data.test.records))  # kept since the untaught model read them
        known = Claims(backbone, data.prompt_set).of(images, data.test.records)
        return {
            "run": key,
            "set": data.name,
            "method": run.method,
            "shots": run.shots,
            "seed": run.seed,
            **measured,
            "pretrained": learned_from(known),
            "backbone": backbone.identity | {"name": public_name(backbone.name)},
            "data": fingerprint(run.data),
            "split": data.split,
            **({"test_on": Path(run.test_on).stem} if run.test_on else {}),
            "support": _digest(support),
            "support_counts": support.counts(),
            "prompts": data.prompt_set.digest,
            "packages": {"nearl": __version__, **_versions()},
            "python": platform.python_version(),
            "device": run.device,
            "threads": torch.get_num_threads(),
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }


_SHELF = _Shelf()  # of this process, or of a Ray worker, which goes on to other runs of the same set


def _measure_anywhere(run: Run, key: str) -> dict:
    with memory.in_words():
        return _SHELF.measure(run, key)


def finished(runs: Sequence[Run], out: str | Path) -> list[dict]:
    """The rows that ``out`` has of these runs, method after method in the order of ``runs``."""
    keys = {_SHELF.key(run) for run in runs}
    order = {method: place for place, method in enumerate(dict.fromkeys(run.method for run in runs))}
    rows = [row for row in Results(out).rows() if row["run"] in keys]
    rows = [row | {"method": todays_name(row["method"], row.get("settings", {}).get("options"))} for row in rows]
    return sorted(rows, key=lambda row: order[row["method"]])


def _in_keys(method: str) -> str:
    """A method's name in the key of a run: the one that it had before, and another one for whose name that was."""
    return FORMERLY.get(method, f"{method}, today's" if method in FORMERLY.values() else method)


def fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) over names and sizes of a set's files, or over a zip's bytes."""
    path, digest = Path(path), hashlib.sha256()
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
    return digest.hexdigest()


def _prompt_file(run: Run) -> Path | None:
    """The run's prompt file, else the project's prompts for a set of this name; None where the set has its own."""
    if run.prompts:
        return Path(run.prompts)
    if (Path(run.data) / "prompts.json").is_file():
        return None
    return ready_sets().get(Path(run.data).stem)


def _digest(support: LabelledSet) -> str:
    """SHA-256 (hex) over the support images' pixels and labels, in any order."""
    pairs = sorted(f"{r.digest} {support.classes[y]}" for r, y in zip(support.records, support.labels, strict=True))
    return hashlib.sha256("\n".join(pairs).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
