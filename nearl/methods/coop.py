"""CoOp, after Zhou et al., Learning to Prompt for Vision-Language Models, 2021."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.backbones.context import ContextSlot
from nearl.methods.base import Card, Method
from nearl.methods.frozen import Task, ensemble
from nearl.methods.nearl.finetune import Progress, Recipe, draw_prompts
from nearl.methods.nearl.network import PromptTokens
from nearl.methods.training import descend, draw_view


class CoOp(Method):
    """A unified context of M learned token vectors stands before every class's words and is trained through the frozen
    text tower.

    The paper puts it before the bare class name. Here it stands before each of the class's prompts, which are then
    averaged as in zero-shot: the names of a visitor's folders say less than the prompts (our choice). The vectors
    start as noise of the size that the tower's own token vectors have; the paper's 0.02 is that size in CLIP.
    """

    card = Card(
        "coop",
        "CoOp",
        "A few word vectors that belong to no word are put before every prompt and trained. The image features are "
        "frozen.",
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

    def encode_text(self, prompts: PromptTokens) -> Tensor:
        """Unit class embeddings [C, E] of tokenised prompts with the context before them."""
        text = self.task.backbone.text
        x, state = self.slot.embed(prompts.tokens, self.context)
        for k in range(text.depth):
            x = text.block(k, x, state)
        return ensemble(F.normalize(text.pool(x, state).float(), dim=-1), prompts.counts)

    def learn(self, recipe: Recipe) -> Iterator[Progress]:
        task = self.task
        views = task.frozen.embed(task.frozen.views(task.support.records, recipe))
        texts = [task.backbone.tokenize(group) for group in task.prompt_set.texts()]

        def logits(index: np.ndarray, rng: np.random.Generator) -> Tensor:
            classes = self.encode_text(draw_prompts(texts, recipe.prompts_per_class, rng))
            return task.backbone.logit_scale * draw_view(views, index, rng) @ classes.T

        return descend(self, recipe, logits)

    def classes(self) -> Tensor:
        return self.text(lambda: self.encode_text(self.task.tokens()))
