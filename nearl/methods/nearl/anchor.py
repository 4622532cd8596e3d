"""A pull towards the frozen model, as strong as that model reads the support images well."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.backbones import Backbone
from nearl.train.batches import class_means

MOST = 100.0  # times the strength, where the frozen model makes no mistake


class Anchor:
    """Pulls an adapted model's predictions towards the frozen model's; the better the frozen one reads, the stronger.

    ``weight = strength x max(0, log C / loss - 1)``, at most ``MOST`` times the strength, where the loss is the frozen
    model's cross-entropy on the support images with all C classes weighted equally. A model that reads them no better
    than chance (loss >= log C) is not followed at all; one that reads them well is left only where the labels insist.
    A few images are enough to tell these cases apart, but not to select a strength (our choice; the paper states no
    such term). With several questions each has a weight of its own, and the pull is their mean.

    ``texts``: tokens [P, L] of every class's prompts. ``embeddings``: unit embeddings [B, E] in the frozen model of
    support images; ``problems``: of each question its classes, the images for which its answer is known, and the
    answers (`nearl.methods.frozen.Task.problems`).
    """

    @torch.no_grad()
    def __init__(
        self, backbone: Backbone, texts: list[Tensor], embeddings: Tensor, problems: Sequence[tuple], strength: float
    ):
        each = backbone.encode_text(torch.cat(texts)).float()
        self.classes = F.normalize(class_means(each, [len(text) for text in texts]), dim=-1)
        self.scale = backbone.logit_scale
        logits = self.logits(embeddings)
        self.parts: list[tuple[slice, float]] = []
        for question, index, answers in problems:
            labels, count = torch.as_tensor(answers, device=logits.device), question.stop - question.start
            if not len(labels):
                continue
            each_weight = 1 / torch.bincount(labels, minlength=count).clamp(min=1).float()
            loss = F.cross_entropy(logits[index, question], labels, weight=each_weight).item()
            weight = strength * min(max(0.0, math.log(count) / max(loss, 1e-6) - 1), MOST)
            self.parts.append((question, weight / len(problems)))
        self.weight = sum(weight for _, weight in self.parts)

    def logits(self, embeddings: Tensor) -> Tensor:
        """The frozen model's logits [B, C] for its unit image embeddings [B, E]."""
        return self.scale * embeddings.float() @ self.classes.T

    def loss(self, embeddings: Tensor, logits: Tensor) -> Tensor:
        """``weight`` x KL(frozen || adapted), a scalar, for the frozen embeddings [B, E] and adapted logits [B, C]."""
        frozen, total = self.logits(embeddings), logits.new_zeros(())
        for question, weight in self.parts:
            own, other = logits[:, question].log_softmax(-1), frozen[:, question].log_softmax(-1)
            total = total + weight * F.kl_div(own, other, log_target=True, reduction="batchmean")
        return total
