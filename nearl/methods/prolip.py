"""ProLIP, after Fahes et al., CLIP's Visual Embedding Projector is a Few-shot Cornucopia, 2024."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.methods.base import Card, Method
from nearl.methods.frozen import Task
from nearl.train.batches import draw_view
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe


class ProLIP(Method):
    """Trains the image tower's last projection W on the cached features before it: cross-entropy + |W - W_0|^2 / N.

    N is the number of support images per class, the paper's rule without a validation set. A bias of the projection
    stays frozen. If a tower ends without a linear projection, an identity matrix after its embedding replaces it (our
    choice). The learning rate is within the range in which the paper finds no difference.
    """

    card = Card(
        "prolip",
        "ProLIP",
        "The matrix that maps the final image feature into the shared space is trained further and pulled back to its "
        "old values. The fewer images there are, the stronger the pull.",
        "Fahes et al., CLIP's Visual Embedding Projector is a Few-shot Cornucopia, arXiv 2410.05270",
        "the last projection matrix of the image tower",
        recipe={"steps": 200, "lr": 1e-4, "weight_decay": 0.0},
    )

    def __init__(self, task: Task):
        super().__init__(task)
        projection, width = task.backbone.vision.projection, task.backbone.embed_dim
        weight, bias = projection or (torch.eye(width, device=task.backbone.device), None)
        self.frozen_weight, self.frozen_bias = weight.detach(), None if bias is None else bias.detach()
        self.weight = nn.Parameter(self.frozen_weight.float().clone())

    def start(self, recipe: Recipe) -> None:
        self.weight.data.copy_(self.frozen_weight)

    def embed(self, pooled: Tensor) -> Tensor:
        """Unit embeddings [B, E] of pooled features [B, D], through the trained projection."""
        return F.normalize(F.linear(pooled, self.weight, self.frozen_bias), dim=-1)

    def penalty(self) -> Tensor:
        """|W - W_0|_F^2 / N, a scalar."""
        return (self.weight - self.frozen_weight).square().sum() / self.task.shots

    def phases(self, recipe: Recipe) -> list[Phase]:
        views, classes = self.task.frozen.views(self.task.support.records, recipe), self.task.classes()

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, Tensor]:
            images = self.embed(draw_view(views, index, rng)[rows])
            return self.backbone.logit_scale * images @ classes.T, self.penalty()

        return [Phase(recipe.steps, recipe.batch_size, forward)]
