"""Labelled images as the model takes them: decoded once, kept as uint8, seen in augmented views when taught with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from nearl.backbones import Backbone
from nearl.data.labelled import LabelledSet

if TYPE_CHECKING:
    from nearl.finetune import Recipe

MAX_VIEWS = 512
STRENGTHS = {"gentle": (0.7, 10.0, 0.2), "strong": (0.5, 25.0, 0.4)}
"""Least share of the area that a crop keeps, most degrees of a turn, most change of brightness and contrast (ours)."""


@dataclass(frozen=True)
class Samples:
    """``images`` uint8 [N, 3, H, W] in the backbone's own resize and crop; labels[i] is an index into ``classes``."""

    images: Tensor
    labels: list[int]
    classes: list[str]

    @classmethod
    def of(cls, backbone: Backbone, data: LabelledSet | Samples) -> Samples:
        """A labelled set as the model takes it; what already is goes through as it is."""
        if isinstance(data, Samples):
            return data
        return cls(as_uint8(backbone, data), list(data.labels), list(data.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> dict[str, int]:
        """How many images every class has."""
        return {name: self.labels.count(index) for index, name in enumerate(self.classes)}

    def subset(self, indices: Iterable[int]) -> Samples:
        """The images at ``indices``, in that order, with the same classes."""
        chosen = list(indices)
        return Samples(self.images[chosen], [self.labels[i] for i in chosen], self.classes)


def as_uint8(backbone: Backbone, data: LabelledSet) -> Tensor:
    """All images of a set as uint8 [N, 3, H, W]."""
    if not data.records:
        return torch.zeros(0, 3, *backbone.image_size, dtype=torch.uint8)
    return torch.stack([backbone.to_uint8(record.image()) for record in data.records])


class Change(NamedTuple):
    """One way to augment an image: turn it by ``angle`` degrees, crop ``scale`` of both sides at (``top``, ``left``)
    pixels, multiply ``brightness`` and ``contrast``, and swap left and right where ``mirrored`` is 1."""

    scale: float
    top: float
    left: float
    angle: float
    brightness: float
    contrast: float
    mirrored: float

    @classmethod
    def draw(cls, size: tuple[int, int], strength: str, flip: bool, rng: np.random.Generator) -> Change:
        area, turn, light = STRENGTHS[strength]
        scale = math.sqrt(rng.uniform(area, 1.0))
        top, left = (rng.integers(0, side - round(side * scale) + 1) for side in size)
        angle = rng.uniform(-turn, turn)
        brightness, contrast = rng.uniform(1 - light, 1 + light), rng.uniform(1 - light, 1 + light)
        return cls(scale, float(top), float(left), angle, brightness, contrast, float(flip and rng.random() < 0.5))

    def apply(self, image: Tensor) -> Tensor:
        """uint8 [3, H, W] -> the same, changed."""
        change, (height, width) = v2.functional, image.shape[-2:]
        crop = int(self.top), int(self.left), round(height * self.scale), round(width * self.scale)
        image = change.rotate(image, self.angle, v2.InterpolationMode.BILINEAR)
        image = change.resized_crop(image, *crop, [height, width], antialias=True)
        image = change.adjust_contrast(change.adjust_brightness(image, self.brightness), self.contrast)
        return change.horizontal_flip(image) if self.mirrored else image


def augment(images: Tensor, rng: np.random.Generator, strength: str = "gentle") -> Tensor:
    """uint8 [B, 3, H, W] -> the same, each image changed at random in the way of that strength."""
    return torch.stack([Change.draw(image.shape[-2:], strength, False, rng).apply(image) for image in images])


class Views:
    """Images as embedded patches, each in a few augmented ways.

    What comes before the first block (a convolutional stem in the embedded backbone) is never adapted, so every view
    is embedded once, when it is first drawn, and kept. ``MAX_VIEWS`` bounds the memory: many images have fewer views
    each. The recipe's ``augment`` is "none", "gentle" or "strong"; its ``flip`` mirrors half of the augmented views and
    is off unless asked for, because left and right mean something in medical images.
    """

    def __init__(self, backbone: Backbone, support: LabelledSet | Samples, recipe: Recipe):
        self.backbone, self.images = backbone, Samples.of(backbone, support).images
        self.strength, self.flip = recipe.augment, recipe.flip
        self.count = max(1, min(recipe.views, MAX_VIEWS // len(self.images))) if self.strength != "none" else 1
        self.tokens: dict[tuple[int, int], Tensor] = {}
        self._drawn: list[tuple[list[tuple[int, int]], list[Change]]] = []  # what was embedded together, in order

    @torch.no_grad()
    def draw(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Embedded patches [B, N, d] of a random view of each image in ``index``."""
        keys = [(int(i), int(v)) for i, v in zip(index, rng.integers(self.count, size=len(index)), strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self.tokens]
        if new:
            size = self.images.shape[-2:]
            augmented = new if self.strength != "none" else []
            changes = [Change.draw(size, self.strength, self.flip, rng) for _ in augmented]
            self._embed(new, changes)
        return torch.stack([self.tokens[key] for key in keys])

    def _embed(self, keys: list[tuple[int, int]], changes: list[Change]) -> None:
        images = self.images[[i for i, _ in keys]]
        if changes:
            images = torch.stack([change.apply(image) for change, image in zip(changes, images, strict=True)])
        self.tokens.update(zip(keys, self.backbone.vision.embed(self.backbone.normalise(images)), strict=True))
        self._drawn.append((keys, changes))

    def state(self) -> dict[str, Tensor]:
        """Which views were drawn so far, how, and which of them together: ``restore`` embeds them just so again."""
        keys = [(turn, *key) for turn, (group, _) in enumerate(self._drawn) for key in group]
        changes = [change for _, group in self._drawn for change in group]
        return {
            "keys": torch.tensor(keys, dtype=torch.int64).reshape(-1, 3),
            "changes": torch.tensor(changes, dtype=torch.float64).reshape(-1, len(Change._fields)),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """The reverse of ``state``, to the bit on the same machine."""
        changes = [Change(*row) for row in state["changes"].tolist()]
        groups: dict[int, list[int]] = {}
        for row, turn in enumerate(state["keys"][:, 0].tolist()):
            groups.setdefault(turn, []).append(row)
        for rows in groups.values():
            keys = [tuple(state["keys"][row, 1:].tolist()) for row in rows]
            self._embed(keys, [changes[row] for row in rows] if changes else [])
