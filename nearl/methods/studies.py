"""Chest studies of up to four images, for the methods that read them: current and prior, each frontal and lateral."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.train.recipe import Recipe
from nearl.train.samples import Samples
from nearl.train.views import Store, Views

TIMES, VIEWS = ("current", "prior"), ("frontal", "lateral")


class Place(NamedTuple):
    """What an image of a study shows."""

    time: int
    """Index into `TIMES`."""
    view: int
    """Index into `VIEWS`."""


ALONE = Place(0, 0)  # the current frontal image
Study = Mapping[Place, ImageRecord]
"""The images that there are of a study; what is missing is left out."""


class Images(NamedTuple):
    """The images of B studies, one after the other: M in all."""

    records: list[ImageRecord]
    places: Tensor
    """Time and view, int64 [M, 2]."""
    owners: Tensor
    """The study of each image, int64 [M]."""

    @classmethod
    def of(cls, studies: Sequence[Study], device: torch.device) -> Images:
        """The images of studies, in the order of their places. NearlError for a study without an image."""
        found = [(n, place, study[place]) for n, study in enumerate(studies) for place in sorted(study)]
        if len({n for n, _, _ in found}) < len(studies):
            raise NearlError("A study has no image; leave it out, or add its frontal or lateral image.")
        places = torch.tensor([place for _, place, _ in found], device=device).reshape(-1, 2)
        return cls([record for *_, record in found], places, torch.tensor([n for n, *_ in found], device=device))


def mean_of(features: Tensor, owners: Tensor) -> Tensor:
    """The mean [B, D] of the features [M, D] of each study; ``owners`` int64 [M]: 0 to B - 1, each at least once."""
    count = int(owners.max()) + 1
    total = features.new_zeros(count, features.shape[-1]).index_add(0, owners, features)
    return total / torch.bincount(owners, minlength=count)[:, None].to(features.dtype)


class StudyViews(Views):
    """The images of studies as embedded patches, for the steps of training. Those of a study are augmented alike, so
    that a lesion's size can be compared, and see different patches."""

    def __init__(self, backbone: Backbone, images: Images, recipe: Recipe, kept: Store | None = None):
        pixels = torch.stack([backbone.to_uint8(record.image()) for record in images.records])
        super().__init__(backbone, Samples(pixels, [0] * len(pixels), []), recipe, kept)
        self.owners = images.owners.tolist()

    def _key(self, what: str, i: int, v: int) -> tuple:
        return (*super()._key(what, i, v), self.change_of(i))

    def change_of(self, i: int) -> str:
        """What the augmentation of an image depends on: the first image of its study."""
        return self._names[self.owners.index(self.owners[i])]

    def drawn(self, rows: np.ndarray, views: Sequence[int], rng: np.random.Generator) -> Tensor:
        """Embedded patches [M, n, D] of images, of each the view with the number of its study."""
        return self.tokens([(int(i), v) for i, v in zip(rows, views, strict=True)], rng)


def chosen(images: Images, index: np.ndarray, alone: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(images int [M], their studies' places in the batch int [M]) of a step with the studies at ``index`` int [B].

    With probability ``alone`` a study that has a current frontal image is read from that one alone.
    """
    owners, first = images.owners.cpu().numpy(), (images.places == 0).all(1).cpu().numpy()
    rows, batch = [], []
    for at, (study, draw) in enumerate(zip(index, rng.random(len(index)), strict=True)):
        own = np.flatnonzero(owners == study)
        if draw < alone and first[own].any():
            own = own[first[own]]
        rows += own.tolist()
        batch += [at] * len(own)
    return np.array(rows), np.array(batch)
