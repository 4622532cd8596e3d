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
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

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


@torch.no_grad()
def interaction(
    method: Method, records: Sequence[ImageRecord], background: Sequence[ImageRecord] | None = None
) -> dict[str, float]:
    """The `effects` of a fitted method's logits for some images. ``background``: the images that stand for a
    hidden one (default: the same). NearlError where there is no image."""
    if not records or (background is not None and not background):
        raise NearlError("There is no image to measure on.")
    logits = lambda some: method.logits(some).float().cpu().numpy()  # noqa: E731
    return effects(logits(records), None if background is None else logits(background))
