"""The training loop of every adapter."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from nearl.backbones import Backbone
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.train import memory
from nearl.train.answers import Objective
from nearl.train.batches import balanced_batch
from nearl.train.clock import Clock
from nearl.train.curve import Curve
from nearl.train.learner import Learner, Phase
from nearl.train.recipe import Progress, Recipe, Snapshot
from nearl.train.samples import Samples

SMOOTHING = 0.9  # weight of the earlier value in the smoothed loss that selects the best weights (our choice)
FEWEST_STEPS = 5  # of a phase, before there are best weights of it


class Training:
    """A training run: an iterator of Progress, one for each optimiser step. Stop iterating to cancel.

    A run that reaches its last step leaves the weights of that step in the method. One that stops early leaves those
    with the lowest smoothed training loss; after a cancelled one `keep_best` puts them there. Held-out images select
    nothing. The backbone's lock is held for one step at a time. Deterministic for a seed on one machine, also if
    resumed. Raises NearlError for a snapshot of another run, for a loss that is not finite, and where memory runs out.

    Where memory runs out, the images of a step go through the model in parts, half as many at a time, and their
    gradients are added up, each part weighted by its share of the images. What is drawn is drawn once for all parts and
    no layer reads other images of the batch, so the step stays the same but for rounding, and for dropout, which is
    drawn for each part. ``most``: images at a time, 0 for all.
    """

    def __init__(
        self,
        learner: Learner,
        recipe: Recipe,
        held: LabelledSet | Samples | None = None,
        resume: Snapshot | None = None,
    ):
        self.learner, self.recipe, self.backbone = learner, recipe, learner.backbone
        self.optimizer = torch.optim.AdamW(parameter_groups(learner.learned, recipe.weight_decay), lr=recipe.lr)
        self.phases = [phase for phase in learner.phases(recipe) if phase.steps]
        self.steps, self.step = sum(phase.steps for phase in self.phases), 0
        self.rng = np.random.default_rng(recipe.seed)
        self.clock = Clock(self.backbone.device)
        self.most = 0
        self.objective = Objective(learner.labels, learner.questions, recipe.label_smoothing, self.backbone.device)
        held = None if held is None or not self.steps else Samples.of(self.backbone, held)
        self.curve = Curve(learner, held, self.steps, recipe.batch_size) if held else None
        self._smoothed = math.nan
        self._best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})  # smoothed loss, step, weights
        if resume is not None:
            self._restore(resume)
        learner.moved(self.step)
        self._loop = self._run()

    def __iter__(self) -> Iterator[Progress]:
        return self

    def __next__(self) -> Progress:
        with memory.in_words():
            return next(self._loop)

    def close(self) -> None:
        """End the run; `keep_best` and `snapshot` can still be called."""
        self._loop.close()

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent so far: "forward", "backward", "optimiser" and "evaluate"."""
        return self.clock.seconds

    def _run(self) -> Generator[Progress, None, None]:
        learner, recipe, backbone, clock = self.learner, self.recipe, self.backbone, self.clock
        began, since, stopped = time.monotonic(), self.step, ""
        earliest = self.steps - self.phases[-1].steps if self.phases else 0  # only the last phase may stop early
        while self.step < self.steps and not stopped:
            number, start = self._phase()
            phase = self.phases[number]
            if self.step == start:
                began, since = time.monotonic(), start
            lr = recipe.lr * learning_rate(self.step - start, phase.steps, recipe.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with backbone.lock:
                value = self._gradients(phase)
                with clock("optimiser"):
                    torch.nn.utils.clip_grad_norm_(learner.learned.parameters(), recipe.clip)
                    self.optimizer.step()
            self.step += 1
            learner.moved(self.step)
            if not math.isfinite(value):
                raise NearlError(f"Training broke down at step {self.step} (the loss is {value}); try a smaller lr.")
            self._remember(value, self.step - start)
            if recipe.patience and self.step - recipe.patience >= self._best[1] > earliest:
                stopped = "early" if self.step < self.steps else ""
            last = self.step == self.steps or bool(stopped)
            if stopped:
                self.keep_best()
            held_out = None
            if self.curve is not None and (self.curve.due(self.step) or last):
                with backbone.lock, clock("evaluate"), nullcontext() if last else self._autocast():
                    held_out = self.curve.measure(again=last)  # the last point in float32, as images are read
            left = 0.0 if last else self._seconds_left(number, start, (time.monotonic() - began) / (self.step - since))
            yield Progress(self.step, self.steps, value, lr, left, held_out, stopped)

    def _gradients(self, phase: Phase) -> float:
        """Put the gradients of the next step into the parameters; returns its loss."""
        index = balanced_batch(self.learner.labels, phase.batch_size, self.rng)
        drawn = self.rng.bit_generator.state
        while True:
            try:
                return self._parts(phase, index, drawn)
            except Exception as error:
                if not memory.ran_out(error) or self.most == 1 or len(index) == 1:
                    raise
            self.most = min(self.most or len(index), len(index)) // 2
            memory.let_go(self.backbone.device)

    def _parts(self, phase: Phase, index: np.ndarray, drawn: Mapping) -> float:
        """As `_gradients`, ``most`` images at a time; every part draws from the generator's state ``drawn``."""
        device, most = self.backbone.device, self.most or len(index)
        value = 0.0
        self.optimizer.zero_grad()
        for start in range(0, len(index), most):
            rows = slice(start, start + most)
            part = () if most >= len(index) else (rows,)
            self.rng.bit_generator.state = drawn
            with seeded(1_000_003 * self.recipe.seed + self.step + start * 7_368_787, device):
                with self.clock("forward"):
                    with self._autocast():
                        logits, penalty = phase.forward(index, self.rng, *part)
                    loss = (self.objective(logits, index[rows]) + penalty) * (len(logits) / len(index))
                with self.clock("backward"):
                    loss.backward()
            value += loss.item()
        return value

    def memory(self) -> float:
        """Bytes that this will take at its peak, about: the model's weights, what is trained with its gradients, both
        moments and the best values, and what autograd keeps of a step. That is counted for one and for two images, of
        which every other image takes the difference."""
        frozen = [*self.backbone.model.parameters(), *self.backbone.model.buffers()]
        trained = [p for p in self.learner.learned.parameters() if p.requires_grad]
        known = {tensor.untyped_storage().data_ptr() for tensor in (*frozen, *trained)}
        most = 0.0

        def forward(phase: Phase, images: int) -> object:
            with self._autocast():
                return phase.forward(np.arange(images), np.random.default_rng(0))

        for phase in self.phases:
            with self.backbone.lock, seeded(0, self.backbone.device):
                one, two = (memory.kept_for_backward(partial(forward, phase, n), known) for n in (1, 2))
            most = max(most, one + (two - one) * (phase.batch_size - 1))
        size = lambda tensors: sum(tensor.nbytes for tensor in tensors)  # noqa: E731
        return size(frozen) + 5 * size(trained) + memory.SPARE * most

    def _phase(self) -> tuple[int, int]:
        """The number of the phase of the next step, and the step at which that phase starts."""
        start = 0
        for number, phase in enumerate(self.phases):
            if self.step < start + phase.steps:
                return number, start
            start += phase.steps
        raise AssertionError("there is no next step")

    def _seconds_left(self, number: int, start: int, each: float) -> float:
        """From the seconds that each step of phase ``number`` took."""
        phase, *later = self.phases[number:]
        in_units = phase.pace * (start + phase.steps - self.step) + sum(p.pace * p.steps for p in later)
        return each * in_units / phase.pace

    def _autocast(self) -> torch.autocast:
        return autocast(self.backbone, self.recipe, self.learner.mixed_precision)

    # ---- best weights, snapshots -------------------------------------------------------------------------------------

    def _remember(self, loss: float, count: int) -> None:
        """``count``: steps of this phase so far. The first losses of a phase have equal weights in the smoothed one, so
        that an easy batch at its start does not look like the best of all.
        """
        if count == 1:  # losses of different phases cannot be compared
            self._smoothed, self._best = 0.0, (math.inf, *self._best[1:])
        self._smoothed += max(1 - SMOOTHING, 1 / count) * (loss - self._smoothed)
        if count >= FEWEST_STEPS and self._smoothed < self._best[0]:
            state = {name: value.detach().clone() for name, value in self.learner.learned.state_dict().items()}
            self._best = self._smoothed, self.step, state

    def keep_best(self) -> bool:
        """Put the weights with the lowest smoothed training loss into the method; False before there are any."""
        _, step, state = self._best
        if state:
            self.learner.learned.load_state_dict(state)
            self.learner.moved(step)
        return bool(state)

    def snapshot(self) -> Snapshot:
        """The state between two steps, for ``resume``."""
        loss, step, best = self._best
        tensors = {f"model.{name}": value for name, value in self.learner.learned.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in best.items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
        about = {
            "of": self._identity(),
            "step": self.step,
            "smoothed": self._smoothed,
            "best": [loss, step] if best else None,
            "rng": self.rng.bit_generator.state,
            "seconds": dict(self.seconds),
        }
        return Snapshot({name: value.detach().cpu().clone() for name, value in tensors.items()}, about)

    def _restore(self, saved: Snapshot) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for key, value in saved.tensors.items():
            part, _, name = key.partition(".")
            parts.get(part, {})[name] = value
        about = saved.about
        of = about["of"] | {"recipe": asdict(Recipe(**about["of"]["recipe"]))}  # one of before may lack some fields
        if of != self._identity():
            raise NearlError("The saved state belongs to another run; start this one from the beginning.")
        self.learner.learned.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimizer"].items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.step, self._smoothed = about["step"], about["smoothed"]
        if about["best"] is not None:
            self._best = (*about["best"], {k: v.to(self.backbone.device) for k, v in parts["best"].items()})
        self.rng.bit_generator.state = about["rng"]
        self.clock.seconds |= {k: v + self.seconds.get(k, 0.0) for k, v in about["seconds"].items()}

    def _identity(self) -> dict:
        """What a snapshot must belong to, as it is read back from JSON."""
        return json.loads(json.dumps({"recipe": asdict(self.recipe), **self.learner.identity()}))


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine to zero; a factor in 0..1."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's groups: weight decay on matrices only."""
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    rest = [p for p in module.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def has_fast_bf16(backbone: Backbone) -> bool:
    """Whether bf16 autocast is faster than float32 for this backbone on its device."""
    if backbone.device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return backbone.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def autocast(backbone: Backbone, recipe: Recipe, allowed: bool = True) -> torch.autocast:
    """bf16 autocast where the recipe and the method allow it and it is faster, else a context without effect."""
    fast = allowed and recipe.precision == "auto" and has_fast_bf16(backbone)
    return torch.autocast(backbone.device.type, torch.bfloat16, enabled=fast)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's generators seeded inside, and as they were afterwards: what dropout draws in a step depends on the step
    alone, also in a resumed run."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
