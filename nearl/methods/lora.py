"""LoRA on the attention of both towers, after Zanella & Ben Ayed, Low-Rank Few-Shot Adaptation of VLMs, 2024."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nearl.backbones import Backbone
from nearl.backbones.shadow import shadow
from nearl.errors import NearlError
from nearl.methods.base import Card, InsideText, InsideTower
from nearl.methods.frozen import Task
from nearl.train.batches import draw_prompts
from nearl.train.learner import ALL, Phase
from nearl.train.recipe import Recipe


class LoRA(InsideText, InsideTower):
    """W x + (alpha / r) B A x for the queries, keys and values of every block of both towers; B starts at zero.

    Rank 2, alpha 1 and dropout 0.25 before A are CLIP-LoRA's, for every set. The layers are ``peft``'s, in a shadow of
    the backbone whose fused attention weights are split in three, so that each of q, k, v has its own A: 6 r D
    parameters per block of width D. Raises NearlError if ``peft`` is not installed.
    """

    card = Card(
        "lora",
        "LoRA",
        "Every attention layer of both towers gets a correction of rank two, added to the weights that make queries, "
        "keys and values. The correction is zero at the start.",
        "Zanella & Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models, arXiv 2405.18541",
        "two thin matrices for each of query, key and value in every block of both towers",
        features=False,
        recipe={"lr": 2e-3},
    )

    def __init__(self, task: Task, rank: int = 2, alpha: float = 1.0, dropout: float = 0.25):
        super().__init__(task, rank=rank, alpha=alpha, dropout=dropout)
        self.adapted = shadow(task.backbone)
        found = _inject(self.adapted, rank, alpha, dropout)
        self.lora = nn.ParameterDict({name.replace(".", "/"): parameter for name, parameter in found.items()})

    def start(self, recipe: Recipe) -> None:
        for name, parameter in self.lora.items():
            if "lora_A" in name:
                nn.init.kaiming_uniform_(parameter, a=5**0.5)
            else:
                nn.init.zeros_(parameter)

    @property
    def tower(self) -> Backbone:
        return self.adapted

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        return self.adapted.encode_text(tokens).float()

    def phases(self, recipe: Recipe) -> list[Phase]:
        views = self.task.views(recipe)
        texts = [self.backbone.tokenize(group) for group in self.task.prompt_set.texts()]

        def forward(index: np.ndarray, rng: np.random.Generator, rows: slice = ALL) -> tuple[Tensor, float]:
            self._dropout(True)
            classes = self.encode_text(draw_prompts(texts, recipe.prompts_per_class, rng))
            images = self.adapted.encode_tokens(views.draw(index, rng)[rows])
            self._dropout(False)
            return self.backbone.logit_scale * images @ classes.T, 0.0

        return [Phase(recipe.steps, recipe.batch_size, forward)]

    def _dropout(self, on: bool) -> None:
        for name, module in self.adapted.model.named_modules():
            if name.endswith("lora_dropout.default"):
                module.train(on)


def _inject(adapted, rank: int, alpha: float, dropout: float) -> dict[str, nn.Parameter]:
    """The parameters, by name, of the layers of peft that this puts into a shadow."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise NearlError("LoRA needs the package 'peft', which is not installed: pip install peft.") from error
    wanted = {id(layer) for tower in (adapted.vision, adapted.text) for layer in tower.split_attention()}
    names = [name for name, module in adapted.model.named_modules() if id(module) in wanted]
    with torch.random.fork_rng():
        inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names), adapted.model
        )
    adapted.model.eval()
    return {name: parameter for name, parameter in adapted.model.named_parameters() if "lora_" in name}
