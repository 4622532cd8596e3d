"""What the training loop needs of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from nearl.backbones import Backbone
from nearl.train.recipe import Recipe

ALL = slice(None)  # rows of a batch


class Phase(NamedTuple):
    """A part of training with a learning-rate cycle of its own."""

    steps: int
    batch_size: int
    forward: Callable[..., tuple[Tensor, Tensor | float]]
    """``forward(index, rng)``: logits [B, C] of the support images at ``index`` int64 [B], and a penalty to add to
    their loss. What it draws, it draws from the generator. ``forward(index, rng, rows)``, where memory is short: draws
    for all of them as before, but computes those at the slice ``rows`` alone; the penalty is their mean, or the same
    for any images."""
    pace: float = 1.0
    """Duration of a step relative to those of the other phases, about."""


class Learner(Protocol):
    """A method, as the loop sees it."""

    backbone: Backbone
    labels: list
    """Of the support images; see `nearl.train.answers`."""
    questions: list[slice]
    """The classes among which one is true."""
    learned: nn.Module
    """Its state dict is what training changes, and what a snapshot and an adapter hold."""
    mixed_precision: bool
    """Whether bf16 autocast may be used where it is fast."""

    def phases(self, recipe: Recipe) -> list[Phase]:
        """The phases of training, in order."""

    def moved(self, steps: int) -> None:
        """Called when ``learned`` has changed: it is now as after ``steps`` steps."""

    def identity(self) -> dict:
        """Plain JSON that tells this training task from others."""

    def prepare(self, pixels: Tensor) -> Tensor:
        """The part of the forward pass before anything learned; for the learning curve."""

    def judge(self, prepared: Tensor) -> Tensor:
        """The rest of it: logits [B, C]."""
