"""How to train, how far training is, and what is needed to resume it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from nearl.errors import NearlError

PATIENCE = 20  # steps; a good value for those who want early stopping
PRESETS = {"quick": 30, "balanced": 75, "thorough": 200}  # steps
AUGMENTATIONS = ("none", "gentle", "strong")
PRECISIONS = ("auto", "float32")


@dataclass(frozen=True)
class Recipe:
    """How to train an adapter. No paper's values apply to all methods, so every default is our choice."""

    steps: int = 75
    """Optimiser steps (AdamW), in all phases together."""
    warm_start: float = 0.6
    """Share of the steps, 0 <= w < 1, in which NEARL trains its text side alone on frozen image embeddings, which is
    cheap; the other methods have no such phase."""
    batch_size: int = 16
    """Images per step, every class equally likely; NEARL's warm start takes twice as many."""
    lr: float = 3e-3
    """Peak learning rate. In every phase it rises linearly, then falls to zero on a cosine."""
    warmup: int = 5
    """Steps of the linear rise."""
    weight_decay: float = 0.01
    """Of matrices; vectors and scalars have none."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    label_smoothing: float = 0.1
    """Probability mass of the target that is spread evenly over all classes."""
    pull: float = 1.0
    """Strength of NEARL's pull towards the frozen model (`nearl.methods.nearl.anchor.Anchor`); 0 for none."""
    partner: bool = False
    """Whether NEARL has a closed-form classifier beside it (`nearl.methods.nearl.partner`)."""
    augment: str = "gentle"
    """"none", "gentle" or "strong": how much crop, rotation, brightness and contrast vary."""
    flip: bool = False
    """Mirror half of the augmented views. Off by default, because left and right matter in medical images."""
    views: int = 4
    """Most augmented views of an image; each is embedded once."""
    keep: float = 0.5
    """Share of an image's patches, 0 < k <= 1, that a step through the towers sees; others each time."""
    prompts_per_class: int = 2
    """Most prompts of a class in one step."""
    precision: str = "auto"
    """"auto" (bf16 autocast where it is faster) or "float32"."""
    patience: int = 0
    """Stop when the smoothed training loss has not fallen for so many steps; 0 for never."""
    seed: int = 0
    """Of the initial weights and of everything that is drawn."""

    def __post_init__(self):
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise NearlError("Training needs at least one step, one image per batch and a learning rate above zero.")
        if self.augment not in AUGMENTATIONS or self.precision not in PRECISIONS:
            raise NearlError("augment must be 'none', 'gentle' or 'strong', and precision 'auto' or 'float32'.")
        if not 0 < self.keep <= 1 or not 0 <= self.warm_start < 1:
            raise NearlError("keep must be above 0 and at most 1, and warm_start at least 0 and below 1.")
        if self.patience < 0 or (self.flip and self.augment == "none"):
            raise NearlError("patience must be 0 or more, and flip needs augment 'gentle' or 'strong'.")

    @classmethod
    def preset(cls, name: str, **changes) -> Recipe:
        """The default recipe with the steps of "quick", "balanced" or "thorough", then ``changes``."""
        if name not in PRESETS:
            raise NearlError(f"There is no preset called '{name}'; choose one of {', '.join(PRESETS)}.")
        return replace(cls(steps=PRESETS[name]), **changes)


@dataclass(frozen=True)
class Progress:
    """One finished optimiser step."""

    step: int
    """From 1."""
    steps: int
    """In all."""
    loss: float
    """Of this step."""
    lr: float
    """Of this step."""
    seconds_left: float
    """Estimate."""
    held_out: float | None = None
    """Balanced accuracy on the held-out images, at some of the steps; it selects nothing."""
    stopped: str = ""
    """"early" with the last step of a run that `Recipe.patience` stopped, else ""."""


class Snapshot(NamedTuple):
    """The state of a training run between two steps; a resumed run continues exactly as it would have."""

    tensors: dict[str, Tensor]
    about: dict
    """Plain JSON."""
