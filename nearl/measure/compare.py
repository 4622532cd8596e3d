"""Methods on the same support images: one row of results for every set, method, number of shots and seed.

Rows go to ``*.jsonl`` in one folder, a file for each process, and a run that is found there is not repeated. A run that
another process on this machine is at work on is left to it. So several commands may share a folder, and any of them
may be killed at any time.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nearl import __version__
from nearl.adapters.store import public_name
from nearl.backbones import Backbone, load_backbone
from nearl.data.sets.labelled import LabelledSet, resolve_splits
from nearl.data.splits import draw_support, hold_out
from nearl.errors import NearlError
from nearl.measure.cost import PeakMemory
from nearl.measure.evaluate import evaluate
from nearl.methods import Frozen, Method, Task, card, make, recipe
from nearl.prompts import PromptSet, default_prompts, ready_sets
from nearl.train.recipe import Progress

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "transformers", "peft", "scikit-learn", "numpy")
METRICS = ("n", "balanced_accuracy", "balanced_accuracy_interval", "accuracy", "auroc", "ece")
HELD_OUT = 0.25  # of a set without test images
TIMED, REPEATS = 16, 3  # images and repetitions for the time of a prediction


@dataclass(frozen=True)
class Run:
    """One row to be: plain values, so that it can be sent to another machine that sees the same ``data`` path.

    ``recipe``: changes to the method's default recipe. ``prompts``: a file, "" for the set's own.
    """

    data: str
    method: str
    shots: int
    seed: int
    backbone: str = "embedded"
    weights: str = "pretrained"
    device: str = "cpu"
    prompts: str = ""
    recipe: tuple[tuple[str, object], ...] = ()

    def settings(self):
        """The whole recipe of this run."""
        return recipe(self.method, **{**dict(self.recipe), "seed": self.seed})


@dataclass
class Loaded:
    """A set as it is compared on: fixed training and test images, and prompts in the order of its classes."""

    name: str
    train: LabelledSet
    test: LabelledSet
    split: str
    prompt_set: PromptSet
    frozen: Frozen


def plan(data: Sequence[str], methods: Sequence[str], shots: Sequence[int], seeds: int, **common: object) -> list[Run]:
    """All runs, set after set and seed after seed. NearlError for a method, number or folder that is not there."""
    for name in methods:
        card(name)
    for folder in data:
        if not Path(folder).exists():
            raise NearlError(f"There is no folder or zip of images at '{folder}'.")
    if seeds < 1 or min(shots, default=0) < 1:
        raise NearlError("Comparing needs at least one seed, and numbers of shots of at least 1.")
    runs = [
        Run(str(folder), method, count, seed, **common)
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

    Runs that ``out`` already has, or that another process is at work on, are passed over. Stop iterating to cancel:
    finished rows stay.
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
            row = shelf.measure(run, key)
            results.append(row)
            yield row


def perform_on_ray(runs: Sequence[Run], out: str | Path, say: Callable[[str], None] = lambda line: None):
    """As ``perform``, every run a task of a Ray cluster (``RAY_ADDRESS``, else one started on this machine).

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


class Measured(NamedTuple):
    """A fitted method, its row and its probabilities float32 [N, C] of the test images."""

    row: dict
    method: Method
    probabilities: np.ndarray


def measure(
    task: Task, test: LabelledSet, name: str, recipe, watch: Callable[[Progress], None] = lambda progress: None
) -> dict:
    """Fit one method on a task and measure it on ``test``: metrics, trained parameters, seconds and peak memory (MiB)
    of the fit as if it were alone, milliseconds of a step and of a prediction per image not seen before."""
    for found in measuring(task, test, name, recipe):
        if isinstance(found, Progress):
            watch(found)
    return found.row


def measuring(task: Task, test: LabelledSet, name: str, recipe) -> Iterator[Progress | Measured]:
    """As ``measure``, but yields after every step, and last what came of it. Stop iterating to cancel."""
    frozen, times, away = task.frozen, [], 0.0
    with PeakMemory(task.backbone.device) as peak:
        frozen.start_clock(peak.so_far)
        began = at = time.perf_counter()
        method = make(name, task)
        for progress in method.fit(recipe):
            left = time.perf_counter()
            times.append(left - at)
            yield progress
            at = time.perf_counter()
            away += at - left
        seconds = frozen.alone(time.perf_counter() - began - away)
    most = frozen.peak_alone(peak.mb)
    probabilities = method.predict(test.records)
    metrics = evaluate(probabilities, np.array(test.labels))
    sample, spent = test.records[:TIMED], []
    for _ in range(REPEATS):
        frozen.forget(sample)
        at = time.perf_counter()
        method.predict(sample)
        spent.append(1000 * (time.perf_counter() - at) / len(sample))
    row = {
        "metrics": {key: metrics[key] for key in METRICS},
        "parameters": method.trainable,
        "fit_seconds": round(seconds, 4),
        "step_ms": round(1000 * statistics.median(times), 3) if times else None,
        "peak_mb": None if most is None else round(most, 1),
        "predict_ms": round(statistics.median(spent), 3),
        "settings": {"recipe": asdict(recipe), "options": method.options, "chosen": method.chosen},
    }
    yield Measured(row, method, probabilities)


class _Shelf:
    """Backbone and set in use, kept from run to run."""

    def __init__(self):
        self._backbone: tuple[tuple, Backbone] = ((), None)
        self._set: tuple[tuple, Loaded] = ((), None)
        self._prints: dict[tuple, str] = {}

    def backbone(self, run: Run) -> Backbone:
        of = (run.backbone, run.device, run.weights)
        if self._backbone[0] != of:
            self._backbone = of, load_backbone(*of)
        return self._backbone[1]

    def load(self, run: Run) -> Loaded:
        of = (run.data, run.prompts, run.backbone, run.device)
        if self._set[0] != of:
            train, test = resolve_splits(run.data)
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
            prompt_set = prompt_set.for_classes(train.classes)
            frozen = Frozen(self.backbone(run))
            self._set = of, Loaded(Path(run.data).stem, train, test, split, prompt_set, frozen)
        return self._set[1]

    def key(self, run: Run) -> str:
        """Names a run by all that its numbers depend on, without reading an image."""
        at = (run.data, run.prompts)
        if at not in self._prints:
            file = _prompt_file(run)
            words = "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
            self._prints[at] = fingerprint(run.data) + words
        weights = self.backbone(run).identity["weights"]
        parts = [self._prints[at], weights, run.device, run.method, run.shots, asdict(run.settings()), __version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def measure(self, run: Run, key: str) -> dict:
        backbone, data = self.backbone(run), self.load(run)
        support = data.train.subset(draw_support(data.train.labels, run.shots, run.seed))
        task = Task(backbone, data.prompt_set, support, data.frozen)
        measured = measure(task, data.test, run.method, run.settings())
        return {
            "run": key,
            "set": data.name,
            "method": run.method,
            "shots": run.shots,
            "seed": run.seed,
            **measured,
            "backbone": backbone.identity | {"name": public_name(backbone.name)},
            "data": fingerprint(run.data),
            "split": data.split,
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
    return _SHELF.measure(run, key)


def finished(runs: Sequence[Run], out: str | Path) -> list[dict]:
    """The rows that ``out`` has of these runs, method after method in the order of ``runs``."""
    keys = {_SHELF.key(run) for run in runs}
    order = {method: place for place, method in enumerate(dict.fromkeys(run.method for run in runs))}
    return sorted((row for row in Results(out).rows() if row["run"] in keys), key=lambda row: order[row["method"]])


class Results:
    """The rows in a folder. Appending is safe beside other processes, and after one that was killed while writing."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            (self.folder / ".claims").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NearlError(f"'{folder}' cannot be used as an output folder: {error.strerror}.") from error
        self._own = self.folder / f"runs-{socket.gethostname()}-{os.getpid()}.jsonl"
        self._read: dict[Path, tuple[int, list[dict]]] = {}

    def rows(self) -> list[dict]:
        """Every finished run once, in the order of the files; a line that was cut off is no row."""
        found: dict[str, dict] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            size = path.stat().st_size
            if self._read.get(path, (-1, []))[0] != size:
                self._read[path] = size, [row for row in map(_row, path.read_text("utf-8").splitlines()) if row]
            for row in self._read[path][1]:
                found.setdefault(row["run"], row)
        return list(found.values())

    def finished(self) -> set[str]:
        """The keys of the runs that have a row."""
        return {row["run"] for row in self.rows()}

    def append(self, row: dict) -> None:
        """Add a row to this process's own file, in one write."""
        with self._own.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
            line = json.dumps(row).encode() + b"\n"
            file.write(line if file.read(1) in (b"", b"\n") else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether this process may do a run; the claim ends with the block, or with the process."""
        try:
            import fcntl
        except ImportError:  # Windows: two commands may then do the same run, and the first row counts
            yield True
            return
        with (self.folder / ".claims" / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True


def fingerprint(path: str | Path) -> str:
    """SHA-256 (hex) over names and sizes of a set's files, or over a zip's bytes."""
    path, digest = Path(path), hashlib.sha256()
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
    return digest.hexdigest()


def _prompt_file(run: Run) -> Path | None:
    """--prompts, else the project's own prompts of a set of this name where the set has none itself."""
    if run.prompts:
        return Path(run.prompts)
    if (Path(run.data) / "prompts.json").is_file():
        return None
    return ready_sets().get(Path(run.data).stem)


def _digest(support: LabelledSet) -> str:
    """SHA-256 (hex) over the support images' pixels and labels, whatever their order."""
    pairs = sorted(f"{r.digest} {support.classes[y]}" for r, y in zip(support.records, support.labels, strict=True))
    return hashlib.sha256("\n".join(pairs).encode()).hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "run" in row else None
