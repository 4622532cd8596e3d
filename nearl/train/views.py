"""Labelled images as the model takes them: decoded once, kept as uint8, seen in augmented views when taught with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from nearl.backbones import Backbone
from nearl.data.sets.labelled import LabelledSet

if TYPE_CHECKING:
    from nearl.methods.nearl.finetune import Recipe

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
    """Images as embedded patches, each in a few augmented ways, for the steps of training.

    What comes before the first block (a convolutional stem in the embedded backbone) is never adapted, so every view
    is embedded once, when it is first drawn, and kept: in ``kept``, which may be shared by runs on one backbone. How an
    image is changed depends on its content, the number of the view and the recipe's seed alone, and every view is
    embedded by itself, so that it is the same to the bit in any order. ``MAX_VIEWS`` bounds the memory: many images
    have fewer views each. The recipe's ``augment`` is "none", "gentle" or "strong"; its ``flip`` mirrors half of the
    augmented views and is off unless asked for, because left and right mean something in medical images; of its
    ``keep`` see `some_patches`.
    """

    def __init__(self, backbone: Backbone, support: LabelledSet | Samples, recipe: Recipe, kept: Kept | None = None):
        self.backbone, self.images = backbone, Samples.of(backbone, support).images
        self.strength, self.flip, self.seed, self.keep = recipe.augment, recipe.flip, recipe.seed, recipe.keep
        self.count = max(1, min(recipe.views, MAX_VIEWS // len(self.images))) if self.strength != "none" else 1
        self.kept = Kept() if kept is None else kept
        self._names = [hashlib.sha256(image.numpy()).hexdigest() for image in self.images]

    def draw(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Embedded patches [B, n, d] of a random view of each image in ``index``."""
        return self.tokens(self.pick(index, rng), rng)

    def pick(self, index: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
        """A random view of each image in ``index``: (image, number of the view)."""
        return [(int(i), int(v)) for i, v in zip(index, rng.integers(self.count, size=len(index)), strict=True)]

    @torch.no_grad()
    def tokens(self, picked: list[tuple[int, int]], rng: np.random.Generator) -> Tensor:
        """Embedded patches [B, n, d] of the picked views; of each the share ``keep``, other ones every time."""
        tokens = torch.stack([self._view(i, v) for i, v in picked])
        return some_patches(tokens, self.keep, self.backbone.vision.prefix_tokens, rng)

    @torch.no_grad()
    def embeddings(self, picked: list[tuple[int, int]]) -> Tensor:
        """The frozen model's unit embeddings [B, E], float32, of the picked views, with all their patches."""
        return torch.stack([self._embedding(i, v) for i, v in picked]).float()

    def _key(self, what: str, i: int, v: int) -> tuple:
        precision = torch.is_autocast_enabled(self.backbone.device.type)
        kind = (self.strength, self.flip, self.seed, v) if self.strength != "none" else ()
        return (what, self._names[i], precision, *kind)

    def _embedding(self, i: int, v: int) -> Tensor:
        tokens = self._view(i, v)  # before, so that its time is not counted as the embedding's too
        return self.kept.get(self._key("embedding", i, v), lambda: self.backbone.encode_tokens(tokens[None])[0])

    def _view(self, i: int, v: int) -> Tensor:
        return self.kept.get(self._key("tokens", i, v), lambda: self._embed(i, v))

    def _embed(self, i: int, v: int) -> Tensor:
        image = self.images[i]
        if self.strength != "none":
            rng = np.random.default_rng([self.seed, v, int(self._names[i][:16], 16)])
            image = Change.draw(image.shape[-2:], self.strength, self.flip, rng).apply(image)
        return self.backbone.vision.embed(self.backbone.normalise(image[None]))[0]


class Kept:
    """What was computed once, by key."""

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """What ``key`` names, computed the first time."""
        if key not in self._tensors:
            self._tensors[key] = compute()
        return self._tensors[key]


def some_patches(tokens: Tensor, share: float, prefix: int, rng: np.random.Generator) -> Tensor:
    """A random ``share`` of an image's patch tokens, in their order, behind its prefix tokens: [B, N, d] -> [B, n, d].

    Positions are in the tokens already, so a tower reads what is left as a picture with gaps (Li et al., FLIP,
    arXiv 2212.00794): a step costs about that share, and no patch can be relied on.
    """
    count = tokens.shape[1] - prefix
    left = max(1, round(share * count))
    if left == count:
        return tokens
    rows = [np.sort(rng.permutation(count)[:left]) + prefix for _ in tokens]
    index = np.concatenate([np.tile(np.arange(prefix), (len(rows), 1)), np.stack(rows)], axis=1)
    return tokens[torch.arange(len(rows))[:, None], torch.from_numpy(index)]
