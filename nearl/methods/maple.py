"""MaPLe, after Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.backbones.context import ContextSlot
from nearl.methods.base import Card, InsideText, InsideTower
from nearl.methods.frozen import Task
from nearl.train.batches import draw_prompts
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe


class MaPLe(InsideText, InsideTower):
    """Before each of the first J blocks of the text tower, M learned vectors P_k replace those of the block before;
    before the same blocks of the image tower, W_k P_k + b_k do: J (M D_t + D_t D_v + D_v) parameters.

    J = 9 and M = 2 are the paper's; J is at most the number of blocks of either tower. The text vectors have the
    positions and the initial values of CoOp's. The image vectors follow the patches, are added after the embedding and
    its norm, and are dropped before pooling, so that a mean over patches does not include them (our choice; the
    released code adds them before that norm and pools the class token).
    """

    card = Card(
        "maple",
        "MaPLe",
        "A few trained word vectors that belong to no word are put before every prompt, new ones in each of the first "
        "blocks. A matrix turns them into image tokens, so that both towers are prompted together.",
        "Khattak et al., MaPLe: Multi-modal Prompt Learning, arXiv 2210.03117",
        "the text vectors of the first blocks, and a matrix for each that turns them into image tokens",
        features=False,
        recipe={"lr": 2e-3},
    )
    shows = frozenset()  # its own tokens are among the image's

    def __init__(self, task: Task, context: int = 2, depth: int = 9):
        super().__init__(task, context=context, depth=depth)
        backbone = task.backbone
        depth = min(depth, backbone.text.depth, backbone.vision.depth)
        if depth < 1:
            raise ValueError("MaPLe needs at least one block")
        self.slot = ContextSlot(backbone, context)
        self.context = nn.Parameter(torch.zeros(depth, context, backbone.text.width, device=backbone.device))
        with torch.random.fork_rng():
            couplings = [nn.Linear(backbone.text.width, backbone.vision.width) for _ in range(depth)]
        self.couplings = nn.ModuleList(couplings).to(backbone.device)

    def start(self, recipe: Recipe) -> None:
        nn.init.normal_(self.context, std=self.slot.spread())
        for coupling in self.couplings:
            coupling.reset_parameters()

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        text = self.backbone.text
        x, state = self.slot.embed(tokens, self.context[0])
        for k in range(text.depth):
            if 0 < k < len(self.context):
                x = self.slot.place(x, self.context[k])
            x = text.block(k, x, state)
        return F.normalize(text.pool(x, state).float(), dim=-1)

    def encode_tokens(self, x: Tensor) -> Tensor:
        vision, count = self.task.backbone.vision, x.shape[1]
        for k in range(vision.depth):
            if k < len(self.context):
                own = self.couplings[k](self.context[k]).to(x.dtype)
                x = torch.cat([x[:, :count], own.expand(len(x), -1, -1)], dim=1)
            x = vision.block(k, x)
        return self.embed(vision.features(x[:, :count]).float())

    def phases(self, recipe: Recipe) -> list[Phase]:
        views = self.task.views(recipe)
        texts = [self.backbone.tokenize(group) for group in self.task.prompt_set.texts()]

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            classes = self.encode_text(draw_prompts(texts, recipe.prompts_per_class, rng))
            return self.backbone.logit_scale * self.encode_tokens(views.draw(index, rng)[rows]) @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]
