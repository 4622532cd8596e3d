"""CoOp, after Zhou et al., Learning to Prompt for Vision-Language Models, 2021."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.backbones.context import ContextSlot
from nearl.methods.base import Card, InsideText
from nearl.methods.frozen import Task
from nearl.train.batches import draw_prompts, draw_view
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe


class CoOp(InsideText):
    """A unified context of M learned token vectors, put before every prompt and trained through the frozen text tower.

    The paper puts it before the bare class name. Here it precedes each of the class's prompts, which are then averaged
    as in zero-shot, because the names of a visitor's folders say less than the prompts (our choice). The vectors start
    as noise with the spread of the tower's own token vectors; the paper's 0.02 is that spread in CLIP.
    """

    card = Card(
        "coop",
        "CoOp",
        "A few trained word vectors that belong to no word are put before every prompt. The image features are frozen.",
        "Zhou et al., Learning to Prompt for Vision-Language Models, arXiv 2109.01134",
        "the vectors of the learned context",
        features=False,
        recipe={"lr": 2e-3},
    )

    def __init__(self, task: Task, context: int = 4):
        super().__init__(task, context=context)
        table = task.backbone.text.token_table
        self.context = nn.Parameter(torch.zeros(context, table.shape[1], device=task.backbone.device))
        self.slot = ContextSlot(task.backbone, context)

    def start(self, recipe: Recipe) -> None:
        nn.init.normal_(self.context, std=self.slot.spread())

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        text = self.backbone.text
        x, state = self.slot.embed(tokens, self.context)
        for k in range(text.depth):
            x = text.block(k, x, state)
        return F.normalize(text.pool(x, state).float(), dim=-1)

    def phases(self, recipe: Recipe) -> list[Phase]:
        frozen = self.task.frozen
        views = frozen.embed(frozen.views(self.task.support.records, recipe))
        texts = [self.backbone.tokenize(group) for group in self.task.prompt_set.texts()]

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            classes = self.encode_text(draw_prompts(texts, recipe.prompts_per_class, rng))
            return self.backbone.logit_scale * draw_view(views, index, rng)[rows] @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]
