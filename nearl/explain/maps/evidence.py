"""Patch evidence: an exact split of the score over the patches, for towers that average them.

Where the image embedding is the mean over patches of something that each patch has by itself, u = (1/N) sum_i u_i, the
cosine logit is a sum too: scale <u, t> / |u| = sum_i scale <u_i, t> / (N |u|). A constant in a logit is split evenly.
Nothing is approximated, so the patches of a map add up to the score. What a patch took in from others on the way is
counted where it ended up.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nearl.backbones import Backbone
from nearl.backbones.towers import VisionTower
from nearl.explain.card import MapCard
from nearl.explain.score import Score
from nearl.explain.trace import Trace
from nearl.methods.shows import Shows


@torch.no_grad()
def evidence(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Each patch's part of the score, in logits."""
    with trace.backbone.lock:
        each = _each(trace.tower, trace.tokens.detach()).float()
    length = torch.linalg.vector_norm(each.mean(1), dim=-1)[:, None, None]
    count, constant = each.shape[1], trace.scorer.scores(torch.zeros_like(each[:1, :1]))
    logits = trace.scorer.scores(each / (length * count)) - constant * (1 - 1 / count)  # [B, patches, C]
    return score.of(logits).unflatten(1, trace.tower.grid).float().cpu().numpy()


def _each(tower: VisionTower, tokens: Tensor) -> Tensor:
    """Pool each patch alone: tokens [B, N, D] -> embeddings [B, patches, E]."""
    prefix = tower.prefix_tokens
    patches = tokens[:, prefix:, None]
    before = tokens[:, None, :prefix].expand(-1, patches.shape[1], -1, -1)
    return tower.pool(torch.cat([before, patches], 2).flatten(0, 1)).unflatten(0, patches.shape[:2])


@lru_cache(maxsize=16)
def _averages(tower: VisionTower) -> bool:
    """Whether the pooling is a mean over what each patch gives alone, tried on random tokens."""
    generator = torch.Generator().manual_seed(0)
    parameter = next(tower.visual.parameters())
    tokens = torch.randn(1, tower.prefix_tokens + 4, tower.width, generator=generator).to(parameter)
    try:
        with torch.no_grad():
            each, pooled = _each(tower, tokens), tower.pool(tokens)
    except RuntimeError:  # a pooling that takes the whole grid only
        return False
    depends = not torch.allclose(each[:, 0], each[:, 1], rtol=1e-3)  # where the class token is pooled it does not
    return depends and torch.allclose(pooled, each.mean(1), rtol=1e-3, atol=1e-4)


def unfit(backbone: Backbone) -> str:
    """Return "" where the image embedding is a mean over patches before it is normalised, else why it does not fit."""
    with backbone.lock:
        averages = _averages(backbone.vision)
    return "" if averages else f"“Patch evidence” needs a model that averages its patches, not '{backbone.name}'."


CARD = MapCard(
    "evidence",
    "Patch evidence",
    evidence,
    "Splits the score exactly over the patches: what each adds for the class or takes away; the patches sum to it.",
    "A patch also holds what it took in from its neighbours, so evidence may be beside its cause.",
    "logits",
    signed=True,
    same_units=True,
    needs=frozenset({Shows.LINEAR}),
    unfit=unfit,
)
