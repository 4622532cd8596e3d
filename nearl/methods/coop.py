"""CoOp, after Zhou et al., Learning to Prompt for Vision-Language Models, 2021."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.backbones import Backbone
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
        self.start_at, self.with_gap = gap(task.backbone, context)

    def start(self, recipe: Recipe) -> None:
        nn.init.normal_(self.context, std=spread(self.task.backbone))

    def encode_text(self, prompts: PromptTokens) -> Tensor:
        """Unit class embeddings [C, E] of tokenised prompts with the context before them."""
        text, tokens = self.task.backbone.text, self.with_gap(prompts.tokens)
        x, state = text.embed(tokens, placed(text.token_table[tokens], self.context, self.start_at))
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


def spread(backbone: Backbone) -> float:
    """Standard deviation of the tower's own token vectors."""
    table = backbone.text.token_table
    used = table[table.abs().sum(-1) > 0]  # rows of words that were never learned are zero in the embedded backbone
    return used.float().std().item()


def placed(x: Tensor, own: Tensor, start: int) -> Tensor:
    """[P, L, d] with ``own`` [M, d] in the place of M tokens from ``start`` on."""
    own = own.to(x.dtype)
    return torch.cat([x[:, :start], own.expand(len(x), -1, -1), x[:, start + len(own) :]], dim=1)


def gap(backbone: Backbone, count: int) -> tuple[int, Callable[[Tensor], Tensor]]:
    """Where the context stands, and a function that makes room for it there: int64 [P, L] -> [P, L].

    After the first token where every text begins with the same one (CLIP, BERT), else at the very beginning (SigLIP).
    What no longer fits at the end is cut off, and the text ends with its end token as before. Raises ValueError where
    no room would be left for words.
    """
    with torch.device("cpu"):  # also where a method is only sketched, without memory
        empty, filler = backbone.tokenizer(["", "a"])
    start = int(empty[0] == filler[0])
    if not 0 < count < len(empty) - start - 1:
        raise ValueError(f"{count} context vectors do not fit")
    end, padding = int(empty[start]), int(empty[-1])

    def with_gap(tokens: Tensor) -> Tensor:
        room = tokens.new_full((len(tokens), count), int(filler[start]))
        longer = torch.cat([tokens[:, :start], room, tokens[:, start:]], dim=1)
        kept = longer[:, : tokens.shape[1]].clone()
        too_long = (longer[:, tokens.shape[1] :] != padding).any(1)
        kept[too_long, -1] = end
        return kept

    return start, with_gap
