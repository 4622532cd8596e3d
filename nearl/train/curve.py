"""Accuracy on held-out images while a model is being taught: for looking at alone, it chooses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearl.methods.nearl.network import NearlCLIP, PromptTokens
from nearl.train.views import Samples

if TYPE_CHECKING:
    from nearl.methods.nearl.finetune import Recipe

CURVE_IMAGES = 48  # at most; the figures at the end use all held-out images
CURVE_SHARE = 0.1  # of the training's image passes that may go into the curve, about
FEWEST_POINTS, MOST_POINTS = 3, 12
BATCH = 16


class Curve:
    """Balanced accuracy of ``model`` on up to `CURVE_IMAGES` of ``held``, of every class alike, always the same ones.

    ``texts``: tokens [P, L] of each class's prompts, of which all are used, as for a reading. The images are embedded
    once. All numbers are our choice.
    """

    def __init__(self, model: NearlCLIP, held: Samples, texts: list[Tensor], recipe: Recipe):
        by_class = [np.flatnonzero(np.asarray(held.labels) == c) for c in sorted(set(held.labels))]
        ranks = sorted((rank, int(i)) for members in by_class for rank, i in enumerate(members))
        self.held = held.subset(sorted(i for _, i in ranks[:CURVE_IMAGES]))
        self.model, self.prompts = model, PromptTokens(torch.cat(texts), [len(group) for group in texts])
        passes = 2 * CURVE_SHARE * recipe.steps * recipe.batch_size  # a backward pass costs about one forward pass
        points = min(max(int(passes / len(self.held)), FEWEST_POINTS), MOST_POINTS)
        self._every = max(recipe.steps // points, 1)
        self._tokens: Tensor | None = None

    def due(self, step: int) -> bool:
        """Whether the curve has a point after this step, from 1."""
        return step % self._every == 0

    @torch.no_grad()
    def measure(self) -> float:
        """Mean recall over the classes that have held-out images, 0..1."""
        backbone = self.model.backbone
        if self._tokens is None:
            images = self.held.images.split(BATCH)
            self._tokens = torch.cat([backbone.vision.embed(backbone.normalise(part)) for part in images])
        logits = torch.cat([self.model.forward_tokens(part, self.prompts) for part in self._tokens.split(BATCH)])
        labels = np.asarray(self.held.labels)
        right = logits.argmax(-1).cpu().numpy() == labels
        return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))
