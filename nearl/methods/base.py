"""What all methods have in common: a card, fit, predict, and a state of tensors alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nearl.data.images import ImageRecord
from nearl.finetune import Progress, Recipe
from nearl.methods.frozen import Task
from nearl.store import Adapter, new_adapter


@dataclass(frozen=True)
class Card:
    """A method in words: registry ``name``, ``title``, the ``idea`` in two sentences, the ``paper``, what is
    ``trained``. ``features``: works on cached features alone. ``recipe``: where it departs from ``Recipe``."""

    name: str
    title: str
    idea: str
    paper: str
    trained: str
    features: bool = True
    recipe: dict = field(default_factory=dict)


class Method(nn.Module, ABC):
    """One way to adapt a frozen backbone to a task. Parameters are what is trained, buffers what else it has to keep;
    the backbone is neither. ``options``: the method's own settings; ``chosen``: what it chose inside the support set.
    """

    card: ClassVar[Card]

    def __init__(self, task: Task, **options):
        super().__init__()
        self.task, self.options, self.chosen = task, options, {}
        self._text: Tensor | None = None

    @classmethod
    def recipe(cls, **changes) -> Recipe:
        """The method's default recipe, with changes."""
        return Recipe(**{**cls.card.recipe, **changes})

    def fit(self, recipe: Recipe | None = None) -> Iterator[Progress]:
        """Learn from the task's support set; a Progress after each step, none where there are no steps.

        Stop iterating to cancel. Deterministic for a seed on one machine. NearlError where the set cannot be taught.
        """
        recipe = recipe or self.recipe()
        with self.task.backbone.lock, torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.start(recipe)
        self._text = None
        for progress in self.learn(recipe):
            self._text = None
            yield progress

    def start(self, recipe: Recipe) -> None:
        """Initialise, with torch's generator seeded."""

    def learn(self, recipe: Recipe) -> Iterator[Progress]:
        """The steps of training."""
        return iter(())

    @abstractmethod
    def logits(self, records: Sequence[ImageRecord]) -> Tensor:
        """Logits [B, C] of images; each is independent of the others."""

    @torch.no_grad()
    def predict(self, records: Sequence[ImageRecord]) -> np.ndarray:
        """Probabilities float32 [B, C], rows sum to one, relative to the prompts."""
        if not records:
            return np.zeros((0, len(self.task.prompt_set.classes)), np.float32)
        return self.logits(records).float().softmax(-1).cpu().numpy()

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def text(self, encode: Callable[[], Tensor]) -> Tensor:
        """``encode()``, once between two steps of training: for classes that depend on what is learned."""
        if self._text is None:
            self._text = encode()
        return self._text

    def adapter(self) -> Adapter:
        """The state as tensors and JSON, for ``nearl.store``."""
        task, counts = self.task, {} if self.task.support is None else self.task.support.counts()
        return new_adapter(
            self.state_dict(),
            backbone=task.backbone.identity,
            config={"options": self.options, "chosen": self.chosen},
            classes=list(task.prompt_set.classes),
            prompts=task.prompt_set.to_dict(),
            support_counts=counts,
            method=self.card.name,
        )

    def restore(self, adapter: Adapter) -> None:
        """Take over the state of an adapter of this method. RuntimeError where tensors do not fit."""
        self.load_state_dict(adapter.state)
        self.chosen, self._text = dict(adapter.config["chosen"]), None
