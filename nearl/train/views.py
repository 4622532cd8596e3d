"""Augmented views of the training images, each embedded once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from nearl.backbones import Backbone
from nearl.data.sets.labelled import LabelledSet
from nearl.train.recipe import Recipe
from nearl.train.samples import Samples

MAX_VIEWS = 512
STRENGTHS = {"gentle": (0.7, 10.0, 0.2), "strong": (0.5, 25.0, 0.4)}
"""Smallest share of the area that a crop keeps, largest rotation in degrees, largest change of brightness and contrast
(our choice)."""


class Change(NamedTuple):
    """One way to augment an image: rotate by ``angle`` degrees, crop ``scale`` of both sides at (``top``, ``left``)
    pixels, multiply ``brightness`` and ``contrast``, and mirror if ``mirrored`` is 1."""

    scale: float
    top: float
    left: float
    angle: float
    brightness: float
    contrast: float
    mirrored: float

    @classmethod
    def draw(cls, size: tuple[int, int], strength: str, flip: bool, rng: np.random.Generator) -> Change:
        """A random change of an image of ``size`` (height, width), of the given strength."""
        area, turn, light = STRENGTHS[strength]
        scale = math.sqrt(rng.uniform(area, 1.0))
        top, left = (rng.integers(0, side - round(side * scale) + 1) for side in size)
        angle = rng.uniform(-turn, turn)
        brightness, contrast = rng.uniform(1 - light, 1 + light), rng.uniform(1 - light, 1 + light)
        return cls(scale, float(top), float(left), angle, brightness, contrast, float(flip and rng.random() < 0.5))

    def apply(self, image: Tensor) -> Tensor:
        """The changed image, uint8 [3, H, W] as it was given."""
        change, (height, width) = v2.functional, image.shape[-2:]
        crop = int(self.top), int(self.left), round(height * self.scale), round(width * self.scale)
        image = change.rotate(image, self.angle, v2.InterpolationMode.BILINEAR)
        image = change.resized_crop(image, *crop, [height, width], antialias=True)
        image = change.adjust_contrast(change.adjust_brightness(image, self.brightness), self.contrast)
        return change.horizontal_flip(image) if self.mirrored else image


class Store(Protocol):
    """Anything that keeps tensors by key: `Kept`, or `nearl.methods.Frozen`."""

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor: ...


class Views:
    """Images as embedded patches, each in a few augmented views, for the steps of training.

    What precedes the first block (a convolutional stem in the embedded backbone) is never adapted, so every view is
    embedded once, when it is first drawn, and kept in ``kept``, which runs on one backbone may share. A view depends on
    the image's content, the number of the view and the recipe's seed alone, and is embedded by itself, so that it is
    identical to the bit in any order. ``MAX_VIEWS`` bounds the memory: large sets have fewer views per image.
    """

    def __init__(self, backbone: Backbone, support: LabelledSet | Samples, recipe: Recipe, kept: Store | None = None):
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
        """Embedded patches [B, n, d] of the picked views; of each view a random share ``keep``."""
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
        tokens = self._view(i, v)  # first, so that its time is not counted for the embedding too
        return self.kept.get(self._key("embedding", i, v), lambda: self.backbone.encode_tokens(tokens[None])[0])

    def change_of(self, i: int) -> str:
        """The hash that the augmentation of an image depends on: its own."""
        return self._names[i]

    def _view(self, i: int, v: int) -> Tensor:
        return self.kept.get(self._key("tokens", i, v), lambda: self._embed(i, v))

    def _embed(self, i: int, v: int) -> Tensor:
        image = self.images[i]
        if self.strength != "none":
            rng = np.random.default_rng([self.seed, v, int(self.change_of(i)[:16], 16)])
            image = Change.draw((image.shape[-2], image.shape[-1]), self.strength, self.flip, rng).apply(image)
        return self.backbone.vision.embed(self.backbone.normalise(image[None]))[0]


class Kept:
    """Tensors by key, each computed once."""

    def __init__(self) -> None:
        self._tensors: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of ``key``, computed the first time."""
        if key not in self._tensors:
            self._tensors[key] = compute()
        return self._tensors[key]


def some_patches(tokens: Tensor, share: float, prefix: int, rng: np.random.Generator) -> Tensor:
    """A random ``share`` of each image's patch tokens, in order, after its prefix tokens: [B, N, d] -> [B, n, d].

    The tokens carry their positions, so a tower reads the rest as an image with gaps (Li et al., FLIP, arXiv
    2212.00794). A step costs about that share of a full one, and no patch can be relied on.
    """
    count = tokens.shape[1] - prefix
    left = max(1, round(share * count))
    if left == count:
        return tokens
    rows = [np.sort(rng.permutation(count)[:left]) + prefix for _ in tokens]
    index = np.concatenate([np.tile(np.arange(prefix), (len(rows), 1)), np.stack(rows)], axis=1)
    return tokens[torch.arange(len(rows))[:, None], torch.from_numpy(index)]
