"""The modality gap: how far apart the images and the classes of a method lie in their joint space.

Source: Liang et al., "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation Learning",
NeurIPS 2022, arXiv 2203.02053. They measure |mean(images) - mean(texts)| of unit embeddings and draw two principal
components of both. Our choice: one plane for all methods, fitted to the frozen model's embeddings alone, so that
differences between the methods' plots are due to the methods; and class embeddings (the mean of a class's prompts) for
texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods import Method


@dataclass(frozen=True)
class Plane:
    """A plane through ``centre`` [E] along two orthonormal ``axes`` [2, E], float64."""

    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, images: Tensor | np.ndarray, classes: Tensor | np.ndarray) -> Plane:
        """The plane of the first two principal components of images [N, E] and classes [C, E] together. The
        largest coordinate of each axis is positive. NearlError for fewer than two points or dimensions."""
        points = np.concatenate([_array(images), _array(classes)])
        if min(points.shape) < 2:
            raise NearlError("Drawing the joint space takes at least two images or classes.")
        centre = points.mean(0)
        axes = np.linalg.svd(points - centre, full_matrices=False)[2][:2]
        largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
        return cls(centre, axes * np.where(largest < 0, -1.0, 1.0))

    def project(self, x: Tensor | np.ndarray) -> np.ndarray:
        """[N, E] -> float64 [N, 2]."""
        return (_array(x) - self.centre) @ self.axes.T

    def share(self, x: Tensor | np.ndarray) -> float:
        """The proportion 0..1 of the scatter of x [N, E] about the centre that lies in the plane; for the points that
        it was fitted to, the explained variance ratio."""
        whole = np.square(_array(x) - self.centre).sum()
        return float(np.square(self.project(x)).sum() / whole) if whole > 0 else 1.0


def gap_length(images: Tensor | np.ndarray, classes: Tensor | np.ndarray) -> float:
    """|mean(images) - mean(classes)| of images [N, E] and classes [C, E]; 0..2 for unit embeddings."""
    return float(np.linalg.norm(_array(images).mean(0) - _array(classes).mean(0)))


def study(methods: Mapping[str, Method], records: Sequence[ImageRecord], labels: Sequence[int]) -> list[dict]:
    """A plain dict for each fitted method, all of one task, on the same images [N] with ``labels`` [N].

    "name"; "images" [[x, y]] and "classes" [[x, y]] in the frozen model's plane; "gap"; "share" of the method's points
    in the plane (`Plane.share`); "own": mean cosine of an image to its own class, and "other": to the nearest other
    class (None with one class); where a method has no such points, only "name" and "error", a sentence. NearlError
    where there is no image.
    """
    if not records:
        raise NearlError("There is no image to measure on.")
    task = next(iter(methods.values())).task
    plane = Plane.fit(task.images(records), task.classes())
    return [_describe(name, method, records, np.asarray(labels), plane) for name, method in methods.items()]


def _describe(name: str, method: Method, records: Sequence[ImageRecord], labels: np.ndarray, plane: Plane) -> dict:
    try:
        images, classes = map(_array, method.embeddings(records))
    except NearlError as error:
        return {"name": name, "error": str(error)}
    cosines, rows = images @ classes.T, np.arange(len(labels))
    others = cosines.copy()
    others[rows, labels] = -np.inf
    return {
        "name": name,
        "images": plane.project(images).round(5).tolist(),
        "classes": plane.project(classes).round(5).tolist(),
        "gap": gap_length(images, classes),
        "share": plane.share(np.concatenate([images, classes])),
        "own": float(cosines[rows, labels].mean()),
        "other": float(others.max(1).mean()) if len(classes) > 1 else None,
        "error": "",
    }


def _array(x: Tensor | np.ndarray) -> np.ndarray:
    return (x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)).astype(np.float64)
