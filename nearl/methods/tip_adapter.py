"""Tip-Adapter and Tip-Adapter-F, after Zhang et al., Training-free Adaption of CLIP for Few-shot Classification."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.adapters.store import Adapter
from nearl.methods.base import Card, Method
from nearl.methods.frozen import Task
from nearl.train.batches import draw_view
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe

ALPHA, BETA = 1.0, 5.5  # the paper's values before its search
ALPHAS, BETAS = (0.3, 1.0, 3.0, 10.0), (1.0, 3.0, 5.5, 10.0, 20.0)
LARGEST = 1e3  # alpha or beta that is accepted from an adapter
PAPER = "Zhang et al., Tip-Adapter, arXiv 2207.09519"


class TipAdapter(Method):
    """logits = scale <f, t> + alpha exp(-beta (1 - <f, keys>)) onehot(labels): a cache of the support images.

    A key is the normalised mean of the unit embeddings of an image's augmented views. The paper searches alpha and beta
    on the images that it reports on. Here the search is leave-one-out over the support set (a support image is
    classified without its own key); where a class has a single image, alpha = 1 and beta = 5.5 (our choice).
    """

    card = Card(
        "tip-adapter",
        "Tip-Adapter",
        "The support images are kept in a table, and those most similar to a new image vote with their labels. The "
        "vote is added to the zero-shot answer.",
        PAPER,
        "nothing; two numbers are selected within the support set",
        any_classes=False,
    )

    def __init__(self, task: Task):
        super().__init__(task)
        count, device = 0 if task.support is None else len(task.support), task.backbone.device
        self.register_buffer("keys", torch.zeros(count, task.backbone.embed_dim, device=device))
        self.register_buffer("values", torch.zeros(count, len(task.prompt_set.classes), device=device))

    def start(self, recipe: Recipe) -> None:
        task = self.task
        views = task.frozen.embed(task.frozen.views(task.support.records, recipe))
        self.keys.data.copy_(F.normalize(views.mean(0), dim=-1))
        self.values.copy_(task.members)
        self.chosen = dict(zip(("alpha", "beta"), self._search(), strict=True))

    def _search(self) -> tuple[float, float]:
        if self.values.sum(0).min() < 2:
            return ALPHA, BETA
        queries, problems = self.task.features(), self.task.problems
        frozen = self.task.backbone.logit_scale * queries @ self.task.classes().T
        near = queries @ self.keys.data.T
        weight = 1 / self.values.sum(0)

        def loss(alpha: float, beta: float) -> float:
            affinity = torch.exp(-beta * (1 - near)).fill_diagonal_(0.0)
            logits = frozen + alpha * affinity @ self.values
            parts = [(logits[index, q], torch.from_numpy(y).to(logits.device), weight[q]) for q, index, y in problems]
            return sum(F.cross_entropy(part, y, weight=w).item() for part, y, w in parts)

        return min(product(ALPHAS, BETAS), key=lambda pair: loss(*pair))

    def scores(self, f: Tensor) -> Tensor:
        affinity = torch.exp(-self.chosen["beta"] * (1 - f @ self.keys.T))
        frozen = self.task.backbone.logit_scale * f @ self.task.classes().T
        return frozen + self.chosen["alpha"] * affinity @ self.values[:, self.rows]

    def make_room(self, state: dict[str, Tensor]) -> None:
        for name in ("keys", "values"):  # one row for each training image
            tensor = getattr(self, name)
            tensor.data = tensor.data.new_zeros(len(state[name]), tensor.shape[1])

    def restore(self, adapter: Adapter) -> None:
        super().restore(adapter)
        self.chosen = {name: float(self.chosen[name]) for name in ("alpha", "beta")}
        if not all(0 <= value <= LARGEST for value in self.chosen.values()):
            raise ValueError("alpha or beta out of range")


class TipAdapterF(TipAdapter):
    """Tip-Adapter whose keys are trained further; alpha and beta stay."""

    card = Card(
        "tip-adapter-f",
        "Tip-Adapter-F",
        "Tip-Adapter's table, whose features are then trained so that the votes are correct. Its labels stay.",
        PAPER,
        "one feature vector per support image",
        any_classes=False,
        recipe={"steps": 200, "lr": 1e-3},
    )

    def __init__(self, task: Task):
        super().__init__(task)
        self.keys = nn.Parameter(self._buffers.pop("keys"))

    def phases(self, recipe: Recipe) -> list[Phase]:
        views = self.task.frozen.embed(self.task.frozen.views(self.task.support.records, recipe))

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            return self.scores(draw_view(views, index, rng)[rows]), 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]
