"""Fine-tuning on a support set: one loop, read from top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.adapters.store import Adapter, new_adapter
from nearl.backbones import Backbone
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.methods.nearl.anchor import Anchor
from nearl.methods.nearl.network import NearlCLIP, NearlConfig, PromptTokens
from nearl.prompts import PromptSet
from nearl.train.clock import Clock
from nearl.train.curve import Curve
from nearl.train.views import STRENGTHS, Samples, Views

SMOOTHING = 0.9  # of the loss that says which weights are the best: this much of the earlier value (our choice)
FEWEST_STEPS = 5  # before which there are no best weights
FULL_STEP = 4.0  # steps of the warm start that one through both towers takes, about
ANCHOR_IMAGES = 64  # at most, to find out how well the frozen model reads
PATIENCE = 20  # steps; a good value for those who want early stopping


@dataclass(frozen=True)
class Recipe:
    """How to train; the paper publishes none of it, so every value is our choice.

    ``steps`` of AdamW. The first ``warm_start`` share of them teaches the text side alone, on the frozen model's image
    embeddings, which cost little once they are there; the others go through both towers. In each of the two phases
    ``lr`` has a linear ``warmup`` and falls to zero on a cosine. ``batch_size`` images (twice as many in the warm
    start) are drawn with every class equally likely. ``weight_decay``; gradients clipped to norm ``clip``;
    ``label_smoothing``; ``pull`` towards the frozen model (strength of `nearl.methods.nearl.anchor.Anchor`; 0: none).
    ``augment`` ("none", "gentle" or "strong": crop, rotation, brightness and contrast) in up to ``views`` ways per
    image; ``flip`` (half of those ways with left and right swapped; never by default); ``keep`` (the share of an
    image's patches that a step through the towers sees, other ones each time). At most ``prompts_per_class`` prompts
    per class and step. ``precision`` ("auto": bf16 autocast where it is faster, "float32"), ``patience`` (stop when the
    smoothed training loss has not fallen for so many steps; 0: never), ``seed``.
    """

    steps: int = 75
    warm_start: float = 0.6
    batch_size: int = 16
    lr: float = 3e-3
    warmup: int = 5
    weight_decay: float = 0.01
    clip: float = 1.0
    label_smoothing: float = 0.1
    pull: float = 1.0
    augment: str = "gentle"
    flip: bool = False
    views: int = 4
    keep: float = 0.5
    prompts_per_class: int = 2
    precision: str = "auto"
    patience: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise NearlError("Training needs at least one step, one image per batch and a learning rate above zero.")
        if self.augment not in ("none", *STRENGTHS) or self.precision not in ("auto", "float32"):
            raise NearlError("augment must be 'none', 'gentle' or 'strong', and precision 'auto' or 'float32'.")
        if not 0 < self.keep <= 1 or not 0 <= self.warm_start < 1:
            raise NearlError("keep must be above 0 and at most 1, and warm_start at least 0 and below 1.")
        if self.patience < 0 or (self.flip and self.augment == "none"):
            raise NearlError("patience must be 0 or more, and flip needs augment 'gentle' or 'strong'.")

    @classmethod
    def preset(cls, name: str, **changes) -> Recipe:
        """ "quick", "balanced" or "thorough": the same recipe with fewer or more steps."""
        steps = {"quick": 30, "balanced": 75, "thorough": 200}
        if name not in steps:
            raise NearlError(f"There is no preset called '{name}'; choose one of {', '.join(steps)}.")
        return replace(cls(steps=steps[name]), **changes)


@dataclass(frozen=True)
class Progress:
    """One optimiser step done: ``loss`` and ``lr`` of that step and an estimate of the ``seconds_left``.

    ``held_out``: balanced accuracy on the held-out images now and then, else None; it is for looking at alone.
    ``stopped``: "early" with the last step of a run that stopped before its time, else "". ``adapter``: the finished
    one, with the last step only.
    """

    step: int
    steps: int
    loss: float
    lr: float
    seconds_left: float
    held_out: float | None = None
    stopped: str = ""
    adapter: Adapter | None = None


class Snapshot(NamedTuple):
    """All that a run needs to go on as if it had never stopped: tensors, and plain JSON about them."""

    tensors: dict[str, Tensor]
    about: dict


def finetune(
    backbone: Backbone,
    support: LabelledSet | Samples,
    prompt_set: PromptSet,
    config: NearlConfig | None = None,
    recipe: Recipe | None = None,
    held: LabelledSet | Samples | None = None,
    resume: Snapshot | None = None,
    views: Views | None = None,
) -> Finetuning:
    """Teach a NEARL adapter; yields a Progress after each step. Stop iterating to cancel; nothing is left behind.

    ``prompt_set`` must name the classes of ``support``, and of ``held``, in the same order. The backbone is not
    changed; its lock is held for one step at a time. Deterministic for a seed on one machine, also with ``resume``,
    what `Finetuning.snapshot` gave. ``held`` is measured for the learning curve and chooses nothing.
    ``views``: those of ``support`` for this recipe, where they are shared with other runs.
    Raises NearlError for a support set that cannot be taught, or a snapshot of another run.
    """
    return Finetuning(backbone, support, prompt_set, config, recipe or Recipe(), held, resume, views)


class Finetuning:
    """A run of `finetune`: an iterator of Progress that can be asked for its best weights and its state at any time.

    A run that goes to its end gives the weights of its last step. One that stops early, or is stopped (`best`), gives
    those after which the smoothed training loss was the lowest: held-out images never choose. ``seconds`` has the time
    spent so far by phase: "forward", "backward", "optimiser", "evaluate".
    """

    def __init__(self, backbone, support, prompt_set, config, recipe, held, resume, views):
        support = Samples.of(backbone, support)
        check(support, prompt_set)
        self.backbone, self.recipe, self.support, self.prompt_set = backbone, recipe, support, prompt_set
        with backbone.lock, torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model = NearlCLIP(backbone, config)
        reads_alone = self.model.config.text_context == "support" and len(self.model.oca_text) > 0
        warm = round(recipe.warm_start * recipe.steps)
        self.warm, self.steps = (warm, recipe.steps) if reads_alone else (0, recipe.steps - warm)
        self.optimizer = torch.optim.AdamW(groups(self.model, recipe.weight_decay), lr=recipe.lr)
        self.views = views or Views(backbone, support, recipe)
        self.texts = [backbone.tokenize(group) for group in prompt_set.texts()]
        with backbone.lock, self._autocast():
            self.anchor = self._anchor() if recipe.pull else None
        held = None if held is None else Samples.of(backbone, held)
        self.curve = Curve(self.model, held, self.texts, recipe) if held else None
        self.rng = np.random.default_rng(recipe.seed)
        self.clock = Clock(backbone.device)
        self.step, self._smoothed = 0, math.nan
        self._best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})
        if resume is not None:
            self._restore(resume)
        self._loop = self._run()

    def __iter__(self) -> Iterator[Progress]:
        return self

    def __next__(self) -> Progress:
        return next(self._loop)

    def close(self) -> None:
        """Stop; `best` and `snapshot` still answer."""
        self._loop.close()

    @property
    def seconds(self) -> dict[str, float]:
        return self.clock.seconds

    def _run(self) -> Iterator[Progress]:
        model, recipe, clock = self.model, self.recipe, self.clock
        began, first, stopped = time.monotonic(), self.step, ""
        while self.step < self.steps and not stopped:
            if self.step == self.warm:  # steps of another pace
                began, first = time.monotonic(), self.step
            lr = recipe.lr * learning_rate(*self._phase(), recipe.warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with self.backbone.lock:
                with clock("forward"), self._autocast():
                    loss = self._loss()
                with clock("backward"):
                    self.optimizer.zero_grad()
                    loss.backward()
                with clock("optimiser"):
                    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                    self.optimizer.step()
            value = loss.item()
            self.step += 1
            if not math.isfinite(value):
                raise NearlError(f"Training broke down at step {self.step} (the loss is {value}); try a smaller lr.")
            self._keep_the_best(value)
            if recipe.patience and self._best[2] and self.step - max(self._best[1], self.warm) >= recipe.patience:
                stopped = "early" if self.step < self.steps else ""
            last = self.step == self.steps or bool(stopped)
            held_out = None
            if self.curve is not None and (self.curve.due(self.step) or last):
                with self.backbone.lock, self._autocast(), clock("evaluate"):
                    held_out = self.curve.measure()
            left = 0.0 if last else self._seconds_left((time.monotonic() - began) / (self.step - first))
            adapter = None
            if last:
                adapter = self.best() if stopped else self._adapter(model.state_dict(), self.step)
            yield Progress(self.step, self.steps, value, lr, left, held_out, stopped, adapter)

    def _phase(self) -> tuple[int, int]:
        """The step within its phase, from 0, and the number of steps in that phase."""
        return (self.step, self.warm) if self.step < self.warm else (self.step - self.warm, self.steps - self.warm)

    def _seconds_left(self, each: float) -> float:
        """From the seconds that each step of this phase took."""
        if self.step <= self.warm:
            return each * (self.warm - self.step + FULL_STEP * (self.steps - self.warm))
        return each * (self.steps - self.step)

    def _loss(self) -> Tensor:
        """The loss of one step: on the frozen model's image embeddings in the warm start, through both towers after."""
        recipe, model, warm = self.recipe, self.model, self.step < self.warm
        index = balanced_batch(self.support.labels, recipe.batch_size * (2 if warm else 1), self.rng)
        prompts = draw_prompts(self.texts, recipe.prompts_per_class, self.rng)
        picked = self.views.pick(index, self.rng)
        frozen = self.views.embeddings(picked) if warm or self.anchor is not None else None
        if warm:
            logits = self.backbone.logit_scale * frozen @ model.encode_text(prompts).embeddings.T
        else:
            logits = model.forward_tokens(self.views.tokens(picked, self.rng), prompts).float()
        target = torch.tensor(self.support.labels, device=self.backbone.device)[index]
        loss = F.cross_entropy(logits, target, label_smoothing=recipe.label_smoothing)
        return loss if self.anchor is None else loss + self.anchor.loss(frozen, logits)

    def _anchor(self) -> Anchor | None:
        """None where the frozen model reads the support images too badly to be followed."""
        rng = np.random.default_rng(self.recipe.seed)
        some = max(ANCHOR_IMAGES, len(self.support.classes))  # one of every class at least
        index = balanced_batch(self.support.labels, min(len(self.support), some), rng)
        labels = torch.tensor(self.support.labels, device=self.backbone.device)[index]
        anchor = Anchor(
            self.backbone, self.texts, self.views.embeddings(self.views.pick(index, rng)), labels, self.recipe.pull
        )
        return anchor if anchor.weight > 0 else None

    def best(self) -> Adapter | None:
        """The adapter after the step with the lowest smoothed training loss so far; None before `FEWEST_STEPS`."""
        _, step, state = self._best
        return self._adapter(state, step) if state else None

    def snapshot(self) -> Snapshot:
        """Where the run is now, between two steps; `finetune` takes it as ``resume``."""
        loss, step, state = self._best
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in state.items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items()}
        about = {
            "of": self._identity(),
            "step": self.step,
            "smoothed": self._smoothed,
            "best": [loss, step] if state else None,
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
        if about["of"] != self._identity():
            raise NearlError("The saved state belongs to another run; start this one anew.")
        self.model.load_state_dict(parts["model"])
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
        """What a snapshot must be of to be used here, as it comes back from JSON."""
        identity = {
            "recipe": asdict(self.recipe),
            "config": self.model.config.to_dict() | {"layers": sorted(self.model.state_dict())},
            "prompts": self.prompt_set.digest,
            "labels": self.support.labels,
            "backbone": self.backbone.identity["weights"],
        }
        return json.loads(json.dumps(identity))

    def _keep_the_best(self, loss: float) -> None:
        if self.step == self.warm + 1:  # another loss, which the one of the warm start says nothing of
            self._smoothed, self._best = math.nan, (math.inf, *self._best[1:])
        before = loss if math.isnan(self._smoothed) else self._smoothed
        self._smoothed = SMOOTHING * before + (1 - SMOOTHING) * loss
        if self.step >= FEWEST_STEPS and self._smoothed < self._best[0]:
            state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self._best = self._smoothed, self.step, state

    def _autocast(self) -> torch.autocast:
        fast = self.recipe.precision == "auto" and has_fast_bf16(self.backbone)
        return torch.autocast(self.backbone.device.type, torch.bfloat16, enabled=fast)

    def _adapter(self, state: dict[str, Tensor], step: int) -> Adapter:
        return new_adapter(
            state,
            backbone=self.backbone.identity,
            config=self.model.config.to_dict(),
            classes=self.support.classes,
            prompts=self.prompt_set.to_dict(),
            support_counts=self.support.counts(),
            recipe=asdict(self.recipe) | {"steps_taken": step},
        )


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine to zero; a factor in 0..1."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def balanced_batch(labels: list[int], size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` image indices, every class equally likely, no image twice while its class still has others."""
    by_class = [np.flatnonzero(np.asarray(labels) == c) for c in sorted(set(labels))]
    order = rng.permutation(len(by_class))
    queues = [iter(()) for _ in by_class]
    picked = []
    for i in range(size):
        c = order[i % len(by_class)]
        index = next(queues[c], None)
        if index is None:
            queues[c] = iter(rng.permutation(by_class[c]))
            index = next(queues[c])
        picked.append(index)
    return np.array(picked)


def draw_prompts(texts: list[Tensor], most: int, rng: np.random.Generator) -> PromptTokens:
    """Up to ``most`` prompts of each class, as one batch of tokens."""
    drawn = [t[np.sort(rng.permutation(len(t))[:most])] for t in texts]
    return PromptTokens(torch.cat(drawn), [len(t) for t in drawn])


def has_fast_bf16(backbone: Backbone) -> bool:
    """Whether bf16 autocast is faster than float32 for this backbone on its device."""
    if backbone.device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return backbone.device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def groups(model: NearlCLIP, weight_decay: float) -> list[dict]:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def check(support: LabelledSet | Samples, prompt_set: PromptSet) -> None:
    """Raises NearlError unless there are images of two classes or more, and prompts for just these."""
    if len(support.classes) < 2:
        raise NearlError("Teaching needs at least two classes; add images of a second one.")
    if list(prompt_set.classes) != list(support.classes):
        raise NearlError(
            f"The prompts are for {', '.join(prompt_set.classes)}, but the images are of "
            f"{', '.join(support.classes)}; both must name the same classes in the same order."
        )
    empty = [name for name, count in support.counts().items() if count == 0]
    if empty:
        raise NearlError(f"The class '{empty[0]}' has no image that can be read; add some or remove the class.")
