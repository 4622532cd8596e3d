"""Patch evidence: an exact split of the score over the patches, for towers that average them.

Where the image embedding is the mean over patches of something that each patch has by itself, u = (1/N) sum_i u_i, the
cosine logit is a sum too: scale <u, t> / |u| = sum_i scale <u_i, t> / (N |u|). Nothing is approximated, so the patches
of a map add up to the score. What the patch has taken in from others on the way is counted where it ended up.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearl.backbones import Backbone
from nearl.explain.card import Method
from nearl.methods.shows import Shows

if TYPE_CHECKING:
    from nearl.explain.score import Score
    from nearl.explain.trace import Trace


def _each(tower, tokens: Tensor) -> Tensor:
    """What the pooling makes of each patch alone: [B, N, d] -> [B, patches, E]."""
    prefix = tower.prefix_tokens
    patches = tokens[:, prefix:, None]
    before = tokens[:, None, :prefix].expand(-1, patches.shape[1], -1, -1)
    return tower.pool(torch.cat([before, patches], 2).flatten(0, 1)).unflatten(0, patches.shape[:2])


@torch.no_grad()
def evidence(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    with trace.backbone.lock:
        each = _each(trace.tower, trace.tokens.detach()).float()
    length = torch.linalg.vector_norm(each.mean(1), dim=-1)[:, None, None]
    embeddings = trace.scorer.embeddings
    logits = trace.backbone.logit_scale * each @ embeddings.T / (length * each.shape[1])  # [B, patches, C]
    return score.of(logits).unflatten(1, trace.tower.grid).float().cpu().numpy()


@lru_cache(maxsize=16)
def _averages(tower) -> bool:
    """Whether the pooling is a mean of what each patch gives alone, tried on random tokens."""
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


def averages_patches(backbone: Backbone) -> bool:
    """True where the image embedding is a mean over patches before it is normalised."""
    with backbone.lock:
        return _averages(backbone.vision)


METHODS = (
    Method(
        "evidence",
        "Patch evidence",
        evidence,
        "Splits the score exactly over the patches: what each adds for the class or takes away; the patches sum to it.",
        "A patch also holds what it took in from its neighbours, so evidence may sit beside its cause.",
        "logits",
        signed=True,
        same_units=True,
        fits=averages_patches,
        needs=(Shows.LINEAR,),
    ),
)
