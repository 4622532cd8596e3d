"""Labelled images as the model takes them: decoded once, kept as uint8."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nearl.backbones import Backbone
from nearl.data.sets.labelled import LabelledSet
from nearl.train.answers import members


@dataclass(frozen=True)
class Samples:
    """A labelled set after the backbone's own resize and crop."""

    images: Tensor
    """uint8 [N, 3, H, W]."""
    labels: list
    """N indices into ``classes``, or tuples of them (`nearl.train.answers`)."""
    classes: list[str]

    @classmethod
    def of(cls, backbone: Backbone, data: LabelledSet | Samples) -> Samples:
        """The samples of a labelled set; Samples are returned as they are."""
        if isinstance(data, Samples):
            return data
        return cls(as_uint8(backbone, data), list(data.labels), list(data.classes))

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> dict[str, int]:
        """The number of images of every class."""
        found = members(self.labels, len(self.classes)).sum(0)
        return dict(zip(self.classes, found.tolist(), strict=True))

    def subset(self, indices: Iterable[int]) -> Samples:
        """The images at ``indices``, in that order, with the same classes."""
        chosen = list(indices)
        return Samples(self.images[chosen], [self.labels[i] for i in chosen], self.classes)


def fingerprints(backbone: Backbone, data: LabelledSet | Samples) -> list[str]:
    """A hash of every image as the model takes it, by which an adapter knows its training images again: whatever
    becomes the same pixels has the same one. 16 hex digits."""
    images = data.images if isinstance(data, Samples) else (backbone.to_uint8(r.image()) for r in data.records)
    return [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()[:16] for image in images]


def as_uint8(backbone: Backbone, data: LabelledSet) -> Tensor:
    """All images of a set as uint8 [N, 3, H, W]; of studies all their slices, study after study."""
    if not data.records:
        return torch.zeros(0, 3, *backbone.image_size, dtype=torch.uint8)
    return torch.stack([backbone.to_uint8(part.image()) for record in data.records for part in record.parts])
