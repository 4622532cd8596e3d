"""CLIP-Adapter, after Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, 2021."""

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


class ClipAdapter(Method):
    """f* = ratio relu(W_2 relu(W_1 f)) + (1 - ratio) f, normalised; on the image side alone, as in the released code.

    Without biases the bottleneck is positively homogeneous, so unit features serve as well as raw ones. The ratio is
    0.2 for every set, as released (the paper searches it; our choice), and the reduction 4.
    """

    card = Card(
        "clip-adapter",
        "CLIP-Adapter",
        "A small two-layer network reads the final image feature, and a fifth of its output is mixed in. Nothing "
        "before that feature changes.",
        "Gao et al., CLIP-Adapter, arXiv 2110.04544",
        "two matrices that reduce the feature to a quarter of its width and expand it again",
        recipe={"steps": 200, "lr": 1e-3},
    )

    def __init__(self, task: Task, ratio: float = 0.2, reduction: int = 4):
        super().__init__(task, ratio=ratio, reduction=reduction)
        width = task.backbone.embed_dim
        self.down = nn.Parameter(torch.zeros(max(width // reduction, 1), width, device=task.backbone.device))
        self.up = nn.Parameter(torch.zeros(width, max(width // reduction, 1), device=task.backbone.device))

    def start(self, recipe: Recipe) -> None:
        for matrix in (self.down, self.up):
            nn.init.kaiming_uniform_(matrix, a=5**0.5)  # as torch initialises linear layers

    def adapt(self, f: Tensor) -> Tensor:
        """Adapted unit embeddings [B, E] of unit embeddings [B, E]."""
        ratio = self.options["ratio"]
        return F.normalize(ratio * F.relu(F.relu(f @ self.down.T) @ self.up.T) + (1 - ratio) * f, dim=-1)

    def phases(self, recipe: Recipe) -> list[Phase]:
        frozen, classes = self.task.frozen, self.task.classes()
        views = frozen.embed(frozen.views(self.task.support.records, recipe))

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            return self.backbone.logit_scale * self.adapt(draw_view(views, index, rng)[rows]) @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]

    def embed(self, pooled: Tensor) -> Tensor:
        return self.adapt(super().embed(pooled))
