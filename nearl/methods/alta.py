"""Bottleneck adapters in the image tower, after ALTA (Lian et al., TMI 2025)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.backbones import Backbone
from nearl.backbones.shadow import shadow
from nearl.methods.base import Card, InsideTower
from nearl.methods.frozen import Task
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe


class Bottleneck(nn.Module):
    """U gelu(V x) with biases: 2 D r + r + D parameters for tokens x of width D. U starts at zero."""

    def __init__(self, width: int, rank: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))


class Alta(InsideTower):
    """In every block of the image tower, a = attention(x) becomes a + S(a) and m = MLP(y) becomes m + P(y) / 2, with
    bottlenecks S and P of rank 64. The text tower is frozen.

    ALTA aligns a masked image model with reports on many pairs; here its adapters learn the task from the support
    images. The rank and the factor 1/2 are our choice.
    """

    card = Card(
        "alta",
        "ALTA-style adapters",
        "Every block of the image tower gets two narrow networks, one after its attention and one parallel to its MLP. "
        "They add nothing at the start.",
        "Lian et al., Efficient Medical Vision-Language Alignment Through Adapting Masked Vision Models, "
        "arXiv 2506.08990",
        "two bottlenecks in every block of the image tower",
        features=False,
        recipe={"lr": 1e-3},
    )

    def __init__(self, task: Task, rank: int = 64, scale: float = 0.5):
        super().__init__(task, rank=rank, scale=scale)
        self.adapted = shadow(task.backbone)
        vision = self.adapted.vision
        with torch.random.fork_rng():
            make = lambda: nn.ModuleList(Bottleneck(vision.width, rank) for _ in range(vision.depth))  # noqa: E731
            self.serial, self.parallel = make().to(task.backbone.device), make().to(task.backbone.device)
        for k in range(vision.depth):
            vision.hook(k, self.serial[k], lambda x, k=k: scale * self.parallel[k](x))

    @property
    def tower(self) -> Backbone:
        return self.adapted

    def start(self, recipe: Recipe) -> None:
        for bottleneck in (*self.serial, *self.parallel):
            bottleneck.down.reset_parameters()
            nn.init.zeros_(bottleneck.up.weight)
            nn.init.zeros_(bottleneck.up.bias)

    def phases(self, recipe: Recipe) -> list[Phase]:
        views, classes = self.task.views(recipe), self.task.classes()

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            return self.backbone.logit_scale * self.adapted.encode_tokens(views.draw(index, rng)[rows]) @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]
