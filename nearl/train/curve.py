"""Accuracy on held-out images during training; for display only, it selects nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearl.train.answers import known
from nearl.train.learner import Learner
from nearl.train.memory import Portions
from nearl.train.samples import Samples

CURVE_SHARE = 0.1  # of the image passes of training that the curve may cost, about
FEWEST_POINTS, MOST_POINTS = 2, 12
BATCH = 16


class Curve:
    """Balanced accuracy of a method on ``held``, the images of the final figures, so that its last point is theirs.

    What precedes the learned part of the forward pass is computed once. ``steps`` and ``batch_size``: of the training;
    they say how many points are affordable. All numbers are our choice.
    """

    def __init__(self, learner: Learner, held: Samples, steps: int, batch_size: int):
        self.held = held
        self.learner = learner
        passes = 2 * CURVE_SHARE * steps * batch_size  # a backward pass costs about one forward pass
        points = min(max(int(passes / len(self.held)), FEWEST_POINTS), MOST_POINTS)
        self._every = max(steps // points, 1)
        self._prepared: list[Tensor] = []
        self._portions = Portions(BATCH, learner.backbone.device)

    def due(self, step: int) -> bool:
        """Whether the curve has a point after this step, from 1."""
        return step % self._every == 0

    @torch.no_grad()
    def measure(self, again: bool = False) -> float:
        """Mean recall, 0..1, over the classes that have held-out images; of several questions each its own answers.

        ``again``: also what is otherwise computed once, since the precision is another one.
        """
        if again or not self._prepared:
            normalise = self.learner.backbone.normalise
            prepare = lambda some: self.learner.prepare(normalise(some))  # noqa: E731
            self._prepared = [part for _, part in self._portions.each(self.held.images, prepare)]
        logits = torch.cat([row for part in self._prepared for _, row in self._portions.each(part, self.learner.judge)])
        found = []
        for q, (index, labels) in zip(
            self.learner.questions, known(self.held.labels, self.learner.questions), strict=True
        ):
            right = logits[index, q].argmax(-1).cpu().numpy() == labels
            found += [right[labels == c].mean() for c in np.unique(labels)]
        return float(np.mean(found))
