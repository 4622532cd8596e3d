"""The frozen model's features, each computed once, and one few-shot task."""

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
from nearl.prompts import PromptSet
from nearl.train.answers import known, members
from nearl.train.batches import PromptTokens, check_support, class_means
from nearl.train.memory import Portions, Spill
from nearl.train.recipe import Recipe
from nearl.train.views import Change, Views

BATCH = 16
IN_MEMORY = 1_000_000_000  # bytes of features (our choice)


class Frozen:
    """The one cache of features, by image content and by text, shared by all tasks and methods on one backbone.

    It keeps pooled features before the last projection (embeddings follow by one matrix product), embedded patches, and
    what methods compute from them. The cost of each is recorded, so that time and memory of a method do not depend on
    which method came first. With a ``limit``, only so many features are kept, the most recently used. They are
    computed in ``portions``, which become smaller where memory runs out; what is more than ``IN_MEMORY`` is on disk.
    """

    def __init__(self, backbone: Backbone, limit: int | None = None):
        self.backbone, self.limit = backbone, limit
        self._kept = Spill(IN_MEMORY)
        self._cost: dict[Hashable, float] = {}
        self._peaks: dict[Hashable, float | None] = {}
        self.portions = Portions(BATCH, backbone.device)
        self.start_clock()

    # ---- features ----------------------------------------------------------------------------------------------------

    def pooled(self, records: Sequence[ImageRecord]) -> Tensor:
        """Pooled features [B, D] float32 of the images as they are; of a study the mean of its slices' (our choice)."""
        if any(record.stack for record in records):
            return torch.stack([self.slices(record).mean(0) for record in records])
        return self.of_images("image", records, lambda some: self.see(self.pixels(some)))

    def slices(self, record: ImageRecord) -> Tensor:
        """Pooled features [S, D] of the slices of a study; of any other image S = 1."""
        return self.pooled(record.parts)

    def views(self, records: Sequence[ImageRecord], recipe: Recipe) -> Tensor:
        """Pooled features [V, B, D] of ``recipe.views`` augmented views of each image; V = 1 without augmentation, and
        of studies, which are read as they are.

        The views of an image depend on its content, the seed and the kind of augmentation, not on the other images.
        """
        if recipe.augment == "none" or any(record.stack for record in records):
            return self.pooled(records)[None]
        by_digest = {record.digest: record for record in records}
        views = range(recipe.views)
        kind = ("view", recipe.augment, recipe.flip, recipe.seed)
        keys = [(*kind, v, record.digest) for v in views for record in records]

        def encode(keys: list[tuple]) -> Tensor:
            images = []
            for *_, v, digest in keys:
                image = self.backbone.to_uint8(by_digest[digest].image())
                rng = np.random.default_rng([recipe.seed, v, int(digest[:16], 16)])
                images.append(Change.draw(image.shape[-2:], recipe.augment, recipe.flip, rng).apply(image))
            return self.see(self.backbone.normalise(torch.stack(images)))

        return self._get(keys, encode).unflatten(0, (len(views), len(records)))

    def patches(self, records: Sequence[ImageRecord]) -> Tensor:
        """Embedded patches [B, N, D] of the images as they are; large, so that they are kept only without a limit."""
        embed = lambda some: self.backbone.vision.embed(self.pixels(some))  # noqa: E731
        return embed(records) if self.limit is not None else self.of_images("patches", records, embed)

    def classes(self, prompt_set: PromptSet) -> Tensor:
        """Unit embeddings [C, E] of the classes: the normalised mean of their prompts' unit embeddings."""
        groups = prompt_set.texts()
        texts = [text for group in groups for text in group]
        each = self.of_texts("text", texts, lambda tokens: self.backbone.encode_text(tokens).float())
        return ensemble(each, [len(group) for group in groups])

    def of_images(
        self, kind: Hashable, records: Sequence[ImageRecord], encode: Callable[[list[ImageRecord]], Tensor]
    ) -> Tensor:
        """``encode``'s features [B, ...], computed once for every kind and image content."""
        by_digest = {record.digest: record for record in records}
        keys = [(kind, record.digest) for record in records]
        return self._get(keys, lambda keys: encode([by_digest[digest] for _, digest in keys]))

    def of_texts(self, kind: Hashable, texts: Sequence[str], encode: Callable[[Tensor], Tensor]) -> Tensor:
        """``encode``'s features [P, ...] of tokens [P, L], computed once for every kind and text."""
        tokenize = self.backbone.tokenize
        return self._get([(kind, text) for text in texts], lambda keys: encode(tokenize([text for _, text in keys])))

    def get(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of ``key``, computed the first time; see `nearl.train.views.Store`."""
        return self._get([key], lambda keys: compute()[None])[0]

    def pixels(self, records: Sequence[ImageRecord]) -> Tensor:
        """Normalised model input [B, 3, H, W] on the backbone's device."""
        return self.backbone.normalise(torch.stack([self.backbone.to_uint8(record.image()) for record in records]))

    def see(self, pixels: Tensor) -> Tensor:
        """Pooled features [B, D] float32 of normalised pixels [B, 3, H, W], not cached."""
        return self.through(self.backbone.vision.embed(pixels))

    def through(self, x: Tensor) -> Tensor:
        """Pooled features [B, D] float32 of embedded patches [B, N, D], not cached."""
        vision = self.backbone.vision
        for k in range(vision.depth):
            x = vision.block(k, x)
        return vision.features(x).float()

    def embed(self, pooled: Tensor) -> Tensor:
        """Unit image embeddings [..., E] of pooled features [..., D]."""
        projection = self.backbone.vision.projection
        return F.normalize(pooled if projection is None else F.linear(pooled, *projection), dim=-1)

    def forget(self, records: Sequence[ImageRecord]) -> None:
        """Drop what is kept of these images as they are, as if they had not been seen."""
        digests = {part.digest for record in records for part in record.parts}
        self._drop([key for key in self._kept if len(key) == 2 and key[1] in digests])

    # ---- what they cost ----------------------------------------------------------------------------------------------

    def start_clock(self, peak: Callable[[], float | None] = lambda: None) -> None:
        """From here on, what is used is counted for ``alone`` and ``peak_alone``; ``peak`` gives the memory so far."""
        self._used, self._spent, self._peak = set(), 0.0, peak

    def peak_alone(self, mb: float | None) -> float | None:
        """Peak memory since ``start_clock``, or that of computing what was used if it was higher, MiB."""
        return max([mb, *(self._peaks[key] for key in self._used)], key=lambda value: value or 0.0)

    def alone(self, seconds: float) -> float:
        """Seconds since ``start_clock`` as if nothing had been kept before: without the time of the features that were
        computed meanwhile, and with that of all features that were used."""
        return seconds - self._spent + sum(self._cost[key] for key in self._used)

    @torch.no_grad()
    def _get(self, keys: list[Hashable], encode: Callable[[list], Tensor]) -> Tensor:
        found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = [key for key in dict.fromkeys(keys) if key not in found]

        def timed(batch: list[Hashable]) -> tuple[Tensor, float]:
            with self.backbone.lock:
                began = time.perf_counter()
                return encode(batch), time.perf_counter() - began

        for batch, (features, seconds) in self.portions.each(missing, timed):
            new = dict(zip(batch, features, strict=True))
            found |= new
            self._kept.update(new)
            self._spent += seconds
            self._cost.update(dict.fromkeys(batch, seconds / len(batch)))
            self._peaks.update(dict.fromkeys(batch, self._peak()))
        self._used.update(keys)
        if self.limit is not None:
            for key in keys:  # the most recently used last
                self._kept.pop(key, None)
                self._kept[key] = found[key]
            self._drop(list(self._kept)[: -self.limit])
        return torch.stack([found[key] for key in keys])

    def _drop(self, keys: list[Hashable]) -> None:
        for key in keys:
            for table in (self._kept, self._cost, self._peaks):
                table.pop(key, None)
            self._used.discard(key)


@dataclass
class Task:
    """One few-shot task. Raises NearlError where images and prompts do not name the same classes in the same order, or
    a class is empty."""

    backbone: Backbone
    prompt_set: PromptSet
    support: LabelledSet | None = None
    """The images to teach with; None where a method is only to predict."""
    frozen: Frozen = field(default=None)
    """Where features are kept; may be shared by many tasks."""

    def __post_init__(self) -> None:
        self.frozen = self.frozen or Frozen(self.backbone)
        if self.support is not None:
            check_support(self.support, self.prompt_set)

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the support images, int64 [N]; not of findings, of which an image has several."""
        return torch.tensor(self.support.labels, device=self.backbone.device)

    @cached_property
    def problems(self) -> list[tuple[slice, np.ndarray, np.ndarray]]:
        """What a classifier has to solve, for each question (its classes, the support images of which the answer is
        known int [n], their answers from 0 int [n])."""
        questions = self.prompt_set.questions
        return [(q, *found) for q, found in zip(questions, known(self.support.labels, questions), strict=True)]

    @cached_property
    def members(self) -> Tensor:
        """Which support images are of which class, float32 [N, C]."""
        table = members(self.support.labels, len(self.prompt_set.classes))
        return torch.from_numpy(table).float().to(self.backbone.device)

    @cached_property
    def _tokens(self) -> PromptTokens:
        groups = self.prompt_set.texts()
        return PromptTokens(self.backbone.tokenize([t for group in groups for t in group]), [len(g) for g in groups])

    def tokens(self) -> PromptTokens:
        """All prompts of all classes as tokens."""
        return self._tokens

    def views(self, recipe: Recipe) -> Views:
        """Augmented views of the support images, for the steps of training."""
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
    """Unit class embeddings [C, E]: the normalised mean of each class's unit prompt embeddings [P, E], class after
    class."""
    return F.normalize(class_means(embeddings, counts), dim=-1)
