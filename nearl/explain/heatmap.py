"""A map over the patches of one image: raw values in their own units, and their place on the image."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.explain.outside import covered, patient_of

OUTSIDE = (
    "Most of this map is outside the patient, on empty background. The model may read the outline there, or store what "
    "it saw elsewhere; do not take it for the place of a finding."
)
MOST, MUCH = 0.5, 1 / 3  # share of a map outside the patient that is said, and where its peak is outside (our choice)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """One map of one image."""

    values: np.ndarray  # float32 [grid height, grid width], in ``units``
    box: tuple[float, float, float, float]
    """What the model saw: left, top, right, bottom in pixels of the image; outside it where preprocessing padded."""
    image_size: tuple[int, int]  # width, height
    class_name: str
    method: str  # key of the map
    name: str  # name of the map
    units: str
    adapted: bool | None  # None for a difference of both models
    signed: bool = False  # below zero means against the class
    against: str = ""  # what the class was compared with; "" for its logit alone
    layer: int | None = None  # counted from 0; None is all, or the map's own choice
    head: int | None = None  # counted from 0; None is the mean

    @property
    def range(self) -> tuple[float, float]:
        """The values at both ends of the colour bar, symmetric about zero if the map is signed."""
        if self.signed:
            top = float(np.abs(self.values).max())
            return -top, top
        return float(self.values.min()), float(self.values.max())

    @property
    def blank(self) -> bool:
        """Whether all patches are alike, so that there is nothing to draw."""
        return float(np.ptp(self.values)) == 0

    @property
    def peak(self) -> tuple[int, int]:
        """(row, column) of the patch with the highest value."""
        row, column = divmod(int(self.values.argmax()), self.values.shape[1])
        return row, column

    @property
    def peak_pixel(self) -> tuple[int, int]:
        """(x, y) of the centre of that patch, in pixels of the image."""
        (row, column), (left, top, right, bottom) = self.peak, self.box
        rows, columns = self.values.shape
        x, y = left + (column + 0.5) * (right - left) / columns, top + (row + 0.5) * (bottom - top) / rows
        return round(x), round(y)

    def _patient(self, record: ImageRecord) -> np.ndarray:
        """The share of each patch that shows the patient, float32 [grid height, grid width]."""
        shown, (width, height) = patient_of(record), record.size
        x, y = shown.shape[1] / width, shown.shape[0] / height
        left, top, right, bottom = self.box
        return covered(shown, (left * x, top * y, right * x, bottom * y), self.values.shape)

    def outside(self, record: ImageRecord) -> float:
        """The share of the map's absolute values, 0..1, that is outside the patient in its image.

        Vision Transformers are known to store facts about the whole image in such patches (arXiv 2309.16588).
        """
        weight = np.abs(self.values)
        return float((weight * (1 - self._patient(record))).sum() / max(weight.sum(), 1e-30))

    def caution(self, record: ImageRecord) -> str:
        """`OUTSIDE` where most of the map, or its peak and much of it, is outside the patient, else ""."""
        share = self.outside(record)
        peak = self._patient(record)[self.peak] < 0.5
        return OUTSIDE if share > MOST or (peak and share > MUCH) else ""

    def scaled(self, span: tuple[float, float] | None = None) -> np.ndarray:
        """The values as fractions of ``span`` (default: ``range``): 0..1, or -1..1 if signed."""
        low, high = span or self.range
        if self.signed:
            return np.clip(self.values / max(high, 1e-30), -1, 1)
        return np.clip((self.values - low) / max(high - low, 1e-30), 0, 1)

    def shares(self) -> Heatmap:
        """The positive part in per cent of its sum, so that maps without common units can be compared."""
        positive = np.maximum(self.values, 0)
        return replace(self, values=100 * positive / max(positive.sum(), 1e-30), units="% of the map", signed=False)


def difference(before: Heatmap, after: Heatmap, same_units: bool) -> Heatmap:
    """After less before, patch by patch, signed.

    The units are the map's if those mean the same in both models, else per cent of each map (our choice).
    """
    if not same_units:
        before, after = before.shares(), after.shares()
    return replace(after, values=after.values - before.values, adapted=None, signed=True)


def seen_box(backbone: Backbone, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image of ``size`` (width, height) that preprocessing shows to the model."""
    (width, height), (model_h, model_w) = size, backbone.image_size
    mode = backbone.preprocess_cfg["resize_mode"]
    if mode == "squash":
        return 0.0, 0.0, float(width), float(height)
    fit = min if mode == "longest" else max  # pad around the image, or crop its centre
    scale = fit(model_w / width, model_h / height)
    w, h = model_w / scale, model_h / scale
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2
