"""A plugin: a method and a map of its own, and the file format of `tests.support.toy_format`, a line for each.

``NEARL_PLUGINS=tests.support.toy`` makes the command line, the page and their worker processes know all three.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.explain.card import MapCard
from nearl.explain.registry import MAPS
from nearl.explain.score import Score
from nearl.explain.trace import Trace
from nearl.methods import METHODS, Card, Method, Task
from nearl.train.learner import Phase
from nearl.train.recipe import Recipe
from tests.support import toy_format  # noqa: F401  registers its format


class Shift(Method):
    """logits = scale <normalised f + shift, t_c>: one trained vector is added to every image embedding."""

    card = Card(
        "toy-shift",
        "Toy shift",
        "One trained vector is added to every image embedding. The prompts stay as they are.",
        "a toy of the tests, in no paper",
        "one vector",
        recipe={"lr": 1e-2},
    )

    def __init__(self, task: Task):
        super().__init__(task)
        self.shift = nn.Parameter(torch.zeros(task.backbone.embed_dim, device=task.backbone.device))

    def phases(self, recipe: Recipe) -> list[Phase]:
        images, classes = super().images(self.task.support.records), self.classes()

        def forward(index: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, float]:
            return self.backbone.logit_scale * self._shifted(images[index]) @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]

    def embed(self, pooled: Tensor) -> Tensor:
        return self._shifted(super().embed(pooled))

    def _shifted(self, images: Tensor) -> Tensor:
        return F.normalize(images + self.shift, dim=-1)


def energy(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Squared length of every patch token, float32 [B, grid height, grid width]."""
    patches = trace.tokens.detach()[:, trace.tower.prefix_tokens :].float()
    return patches.square().sum(-1).unflatten(1, trace.tower.grid).cpu().numpy()


METHODS.register("toy-shift", Shift)
MAPS.register(
    "toy-energy",
    MapCard(
        "toy-energy",
        "Toy energy",
        energy,
        "Shows how long the token of each patch is.",
        "It does not depend on the class.",
        "squared length",
        by_class=False,
    ),
)
