"""What every method starts from: the frozen model's features, each computed once, and one few-shot task."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.methods.nearl.finetune import Recipe, check
from nearl.methods.nearl.network import PromptTokens
from nearl.prompts import PromptSet
from nearl.train.views import Change, Views

BATCH = 16


class Frozen:
    """Features of the frozen model, kept by image content and by text, and shared by all tasks on one backbone.

    Kept are pooled features before the last projection; embeddings follow from them by one matrix product. What each
    cost to compute is remembered, so that time and memory of a method do not depend on which method came first. With a
    ``limit`` no more than so many are kept, the latest used.
    """

    def __init__(self, backbone: Backbone, limit: int | None = None):
        self.backbone, self.limit = backbone, limit
        self._kept: dict[Hashable, Tensor] = {}
        self._cost: dict[Hashable, float] = {}
        self._peaks: dict[Hashable, float | None] = {}
        self.start_clock()

    def pooled(self, records: Sequence[ImageRecord]) -> Tensor:
        """Pooled features [B, P] float32 of the images as they are."""
        by_key = {("image", record.digest): record for record in records}
        return self._get(
            [("image", record.digest) for record in records],
            lambda keys: self._see(self.pixels([by_key[key] for key in keys])),
        )

    def views(self, records: Sequence[ImageRecord], recipe: Recipe) -> Tensor:
        """Pooled features [V, B, P] of ``recipe.views`` augmented views of each image; without augmentation V = 1.

        An image's views depend on the image, the seed and the kind of augmentation, not on the images beside it.
        """
        if recipe.augment == "none":
            return self.pooled(records)[None]
        by_digest = {record.digest: record for record in records}
        views = range(recipe.views)
        kind = ("view", recipe.augment, recipe.flip, recipe.seed)
        keys = [(*kind, v, record.digest) for v in views for record in records]

        def encode(keys: list[tuple]) -> list[Tensor]:
            images = []
            for *_, v, digest in keys:
                image = self.backbone.to_uint8(by_digest[digest].image())
                rng = np.random.default_rng([recipe.seed, v, int(digest[:16], 16)])
                images.append(Change.draw(image.shape[-2:], recipe.augment, recipe.flip, rng).apply(image))
            return self._see(self.backbone.normalise(torch.stack(images)))

        return self._get(keys, encode).unflatten(0, (len(views), len(records)))

    def patches(self, records: Sequence[ImageRecord]) -> Tensor:
        """Embedded patches [B, N, d] of the images as they are, for methods that go through the blocks themselves.

        They are large, so that they are kept only where there is no ``limit``.
        """
        embed = self.backbone.vision.embed
        if self.limit is not None:
            return embed(self.pixels(records))
        by_key = {("patches", record.digest): record for record in records}
        return self._get(
            [("patches", record.digest) for record in records],
            lambda keys: list(embed(self.pixels([by_key[key] for key in keys]))),
        )

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """What ``key`` names, computed the first time; see `nearl.train.views.Kept`."""
        return self._get([key], lambda keys: [compute()])[0]

    def peak_alone(self, mb: float | None) -> float | None:
        """Peak memory since ``start_clock``, or that of computing what was used if it was higher, MiB."""
        return max([mb, *(self._peaks[key] for key in self._used)], key=lambda value: value or 0.0)

    def pixels(self, records: Sequence[ImageRecord]) -> Tensor:
        """Normalised model input [B, 3, H, W] on the backbone's device."""
        return self.backbone.normalise(torch.stack([self.backbone.to_uint8(record.image()) for record in records]))

    def embed(self, pooled: Tensor) -> Tensor:
        """Pooled features [..., P] -> unit image embeddings [..., E]."""
        projection = self.backbone.vision.projection
        return F.normalize(pooled if projection is None else F.linear(pooled, *projection), dim=-1)

    def classes(self, prompt_set: PromptSet) -> Tensor:
        """Unit embeddings [C, E] of the classes: the mean of their prompts' unit embeddings."""
        groups = prompt_set.texts()
        encode = lambda keys: list(self.backbone.encode_text(self.backbone.tokenize([t for _, t in keys])).float())  # noqa: E731
        return ensemble(self._get([("text", t) for g in groups for t in g], encode), [len(g) for g in groups])

    def forget(self, records: Sequence[ImageRecord]) -> None:
        """Drop what is kept of these images, as if they had not been seen."""
        self._drop([(kind, record.digest) for kind in ("image", "patches") for record in records])

    def start_clock(self, peak: Callable[[], float | None] = lambda: None) -> None:
        """From here on, what is used is counted for ``alone`` and ``peak_alone``; ``peak`` gives the memory so far."""
        self._used, self._spent, self._peak = set(), 0.0, peak

    def alone(self, seconds: float) -> float:
        """Seconds since ``start_clock`` as if nothing had been kept before it: the time of features that were computed
        meanwhile is taken out, and that of all that were used is put in."""
        return seconds - self._spent + sum(self._cost[key] for key in self._used)

    def _see(self, pixels: Tensor) -> list[Tensor]:
        vision, x = self.backbone.vision, self.backbone.vision.embed(pixels)
        for k in range(vision.depth):
            x = vision.block(k, x)
        return list(vision.features(x).float())

    @torch.no_grad()
    def _get(self, keys: list[Hashable], encode: Callable[[list], list[Tensor]]) -> Tensor:
        missing = [key for key in dict.fromkeys(keys) if key not in self._kept]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            with self.backbone.lock:
                began = time.perf_counter()
                self._kept.update(zip(batch, encode(batch), strict=True))
                seconds = time.perf_counter() - began
            self._spent += seconds
            self._cost.update(dict.fromkeys(batch, seconds / len(batch)))
            self._peaks.update(dict.fromkeys(batch, self._peak()))
        self._used.update(keys)
        found = torch.stack([self._kept[key] for key in keys])
        if self.limit is not None:
            for key in keys:
                self._kept[key] = self._kept.pop(key)
            self._drop(list(self._kept)[: -self.limit])
        return found

    def _drop(self, keys: list[Hashable]) -> None:
        for key in keys:
            for table in (self._kept, self._cost, self._peaks):
                table.pop(key, None)
            self._used.discard(key)


@dataclass
class Task:
    """One few-shot task: a backbone, the prompts of its classes, and the support images (None where a method is only
    to predict). ``frozen`` may be shared by many tasks.

    Raises NearlError where images and prompts do not name the same classes in the same order, or a class is empty.
    """

    backbone: Backbone
    prompt_set: PromptSet
    support: LabelledSet | None = None
    frozen: Frozen = field(default=None)

    def __post_init__(self) -> None:
        self.frozen = self.frozen or Frozen(self.backbone)
        if self.support is not None:
            check(self.support, self.prompt_set)

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the support images, int64 [N]."""
        return torch.tensor(self.support.labels, device=self.backbone.device)

    @cached_property
    def _tokens(self) -> PromptTokens:
        groups = self.prompt_set.texts()
        return PromptTokens(self.backbone.tokenize([t for group in groups for t in group]), [len(g) for g in groups])

    def tokens(self) -> PromptTokens:
        """All prompts of all classes as tokens."""
        return self._tokens

    def views(self, recipe: Recipe) -> Views:
        """The support images in augmented views, as the steps of training draw them."""
        return Views(self.backbone, self.support, recipe, self.frozen)

    @property
    def shots(self) -> float:
        """Support images per class, on average."""
        return len(self.support) / len(self.support.classes)

    def features(self) -> Tensor:
        """Unit embeddings [N, E] of the support images."""
        return self.images(self.support.records)

    def images(self, records: Sequence[ImageRecord]) -> Tensor:
        """Unit embeddings [B, E] of images in the frozen model."""
        return self.frozen.embed(self.frozen.pooled(records))

    def classes(self) -> Tensor:
        """Unit embeddings [C, E] of the classes in the frozen model."""
        return self.frozen.classes(self.prompt_set)


def ensemble(embeddings: Tensor, counts: list[int]) -> Tensor:
    """Unit embeddings [P, E] of prompts, class after class -> unit embeddings [C, E]: each class's normalised mean."""
    return F.normalize(torch.stack([part.mean(0) for part in embeddings.split(counts)]), dim=-1)
