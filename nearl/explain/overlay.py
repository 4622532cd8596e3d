"""A map over the model's input, and how it is laid over the image that was shown."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from PIL import Image

from nearl.backbones import Backbone

COLOURS = "inferno"  # perceptually uniform, and dark where there is nothing to see


@dataclass(frozen=True, eq=False)
class Heatmap:
    """``values`` float32 [H, W] in 0..1 over the model's input, for class ``class_name`` by ``method``.

    ``box``: (left, top, right, bottom) in pixels of the original image of size ``image_size`` (width, height): what the
    model saw. It can reach past the image where preprocessing padded.
    """

    values: np.ndarray
    box: tuple[float, float, float, float]
    image_size: tuple[int, int]
    class_name: str
    method: str
    adapted: bool

    @property
    def blank(self) -> bool:
        """True where no part of the image raised the score: there is nothing to draw, and that should be said."""
        return not self.values.any()


def seen_box(backbone: Backbone, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image of ``size`` (width, height) that the backbone's preprocessing shows to the model."""
    (width, height), (model_h, model_w) = size, backbone.image_size
    mode = backbone.preprocess_cfg["resize_mode"]
    if mode == "squash":
        return 0.0, 0.0, float(width), float(height)
    fit = min if mode == "longest" else max  # pad around the image, or crop its centre
    scale = fit(model_w / width, model_h / height)
    w, h = model_w / scale, model_h / scale
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def heat_layer(heatmap: Heatmap) -> Image.Image:
    """The map as an RGBA picture of the original image's size: colour and alpha grow with the value, and nothing is
    drawn outside of what the model saw."""
    left, top, right, bottom = heatmap.box
    values = Image.fromarray(heatmap.values.astype(np.float32))
    x_scale, y_scale = values.width / (right - left), values.height / (bottom - top)
    placed = values.transform(
        heatmap.image_size,
        Image.Transform.AFFINE,
        (x_scale, 0, -left * x_scale, 0, y_scale, -top * y_scale),
        resample=Image.Resampling.BILINEAR,
    )
    values = np.clip(np.asarray(placed), 0, 1)
    colour = matplotlib.colormaps[COLOURS](values)
    colour[..., 3] = values
    return Image.fromarray((colour * 255).round().astype(np.uint8), "RGBA")


def overlay(image: Image.Image, heatmap: Heatmap, opacity: float = 0.6) -> Image.Image:
    """The map over the image at ``opacity`` 0..1; RGB, the image's own size."""
    layer = heat_layer(heatmap)
    layer.putalpha(layer.getchannel("A").point(lambda a: round(a * opacity)))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")
