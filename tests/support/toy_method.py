"""A method from outside the package, in a plugin module (``NEARL_PLUGINS=tests.support.toy_method``).

It learns one factor for each coordinate of the frozen image embedding.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.methods import METHODS, Card, Method, Task
from nearl.train.batches import draw_view
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe


class Toy(Method):
    card = Card(
        "toy", "Toy", "A factor for each coordinate. It is for tests.", "none, arXiv 0000.00000", "the factors",
        recipe={"steps": 30, "lr": 1e-2},
    )  # fmt: skip

    def __init__(self, task: Task):
        super().__init__(task)
        self.factors = nn.Parameter(torch.ones(task.backbone.embed_dim, device=task.backbone.device))

    def start(self, recipe: Recipe) -> None:
        nn.init.ones_(self.factors)

    def embed(self, pooled: Tensor) -> Tensor:
        return F.normalize(super().embed(pooled) * self.factors, dim=-1)

    def phases(self, recipe: Recipe) -> list[Phase]:
        views, classes = self.task.frozen.views(self.task.support.records, recipe), self.task.classes()

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            return self.backbone.logit_scale * self.embed(draw_view(views, index, rng)[rows]) @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]


METHODS.register("toy", Toy)
