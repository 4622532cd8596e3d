"""How much of a model's answer results from image and prompt together, and how much from either alone.

After InterSHAP (Wenderoth et al., "Measuring Cross-Modal Interactions in Multimodal Models", arXiv 2412.15828): the
Shapley interaction index with the modalities as players. There are two, so nothing is sampled. Let v(S) be the output
with the players outside S hidden; then

    interaction  I   = v(image, prompt) - v(image) - v(prompt) + v()
    main effects M_i = v(image) - v()       M_p = v(prompt) - v()

(Shapley values less their halves of the interaction), which add up to v(image, prompt) - v(). The score is

    mean |I| / (mean |I| + mean |M_i| + mean |M_p|)        over all images and classes, 0..1

Our choice is what hides a player. The output is the logit L[image, class]. A hidden image is replaced by each image of
a background and a hidden prompt by that of each class, and the logits are averaged:

    v(image) = mean_c L[i, c]    v(prompt) = mean_b L[b, c]    v() = mean_b,c L[b, c]

so that I is the interaction of a two-way analysis of variance. A score of 0 means that every image ranks the classes
alike, and 1 that neither images nor classes have main effects. The set of classes is fixed, so what a method's image
side takes from all of its prompts at once (NEARL) counts as the image's. For a probe, whose class is a row of weights,
the class stands for the prompt. Where L = s <f, t>, I = s <f - mean f, t - mean t>.

The authors' package computes it otherwise, and `intershap` does as it does: a modality is hidden by its mean over the
training set, the Shapley interaction value is I / 2 and is counted once, and the ratio is taken for every sample and
output before it is averaged:

    mean of |I / 2| / (|I / 2| + |M_i| + |M_p|)

The mean image of the support set then hides the image (pixel by pixel, as the model takes it), and the mean over the
classes, whose embeddings are the prompts' features here, hides the prompt. Both are given side by side: they agree on
"none" and "only together", and in between this one is the lower for its half, whatever the answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods import Method


def effects(outputs: np.ndarray, background: np.ndarray | None = None) -> dict[str, float]:
    """Return "score" as above and the mean absolute "interaction", "image" and "prompt" behind it, of outputs [N, C]
    and those of a background [K, C] (default: the same). The score is 0 where nothing varies."""
    outputs = np.asarray(outputs, dtype=np.float64)
    background = outputs if background is None else np.asarray(background, dtype=np.float64)
    neither = background.mean()
    image = outputs.mean(1, keepdims=True) - neither
    prompt = background.mean(0) - neither
    both = outputs - neither - image - prompt
    parts = {"interaction": np.abs(both).mean(), "image": np.abs(image).mean(), "prompt": np.abs(prompt).mean()}
    total = sum(parts.values())
    return {"score": float(parts["interaction"] / total) if total > 0 else 0.0} | {
        k: float(v) for k, v in parts.items()
    }


def intershap(both: np.ndarray, first: np.ndarray, second: np.ndarray, neither: np.ndarray) -> float:
    """The score 0..1 of the authors' package for two modalities, from the outputs [N, ...] with both, with one alone
    and with neither (which may be broadcast). Samples without any effect count as 0."""
    both, first, second, neither = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (both, first, second, neither))
    )
    pair = np.abs(both - first - second + neither) / 2
    total = pair + np.abs(first - neither) + np.abs(second - neither)
    return float(np.divide(pair, total, out=np.zeros_like(total), where=total > 0).mean())


@torch.no_grad()
def interaction(
    method: Method, records: Sequence[ImageRecord], background: Sequence[ImageRecord] | None = None
) -> dict[str, float]:
    """The `effects` of a fitted method's logits for some images, and their `intershap`. ``background``: the images that
    stand for a hidden one, or whose mean does (default: the same). NearlError where there is no image."""
    if not records or (background is not None and not background):
        raise NearlError("There is no image to measure on.")
    logits = lambda some: method.logits(some).float().cpu().numpy()  # noqa: E731
    outputs = logits(records)
    hidden = logits([_mean_image(method.backbone, records if background is None else background)])
    score = intershap(outputs, outputs.mean(1, keepdims=True), hidden, hidden.mean())
    return effects(outputs, None if background is None else logits(background)) | {"intershap": score}


def _mean_image(backbone: Backbone, records: Sequence[ImageRecord]) -> ImageRecord:
    """The mean of images as the model takes them, pixel by pixel."""
    total = sum(backbone.to_uint8(record.image()).double() for record in records)
    pixels = (total / len(records)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return ImageRecord.from_pixels("mean image", pixels)
