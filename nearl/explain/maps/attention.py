"""What attends to what: raw attention of one layer and head, and attention rollout (Abnar & Zuidema, ACL 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearl.explain.card import Method

if TYPE_CHECKING:
    from nearl.explain.score import Score
    from nearl.explain.trace import Trace


def raw(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Attention to each patch: from the class token where that is pooled, else the mean over the patches (our choice).

    ``layer`` None is the last; ``head`` None is the mean over heads.
    """
    weights = trace.attention[-1 if layer is None else layer].detach()
    weights = weights.mean(1) if head is None else weights[:, head]
    rows = weights[:, :1] if trace.token_pooled else weights[:, trace.tower.prefix_tokens :]
    return trace.to_grid(100 * rows.mean(1))


def rollout(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Attention of all layers multiplied through, half of each layer being the residual path."""
    readout = pooled_tokens(trace)
    for weights in reversed(trace.attention):
        readout = 0.5 * readout + 0.5 * (readout[:, None] @ weights.detach().mean(1))[:, 0]
    return trace.to_grid(100 * readout)


def pooled_tokens(trace: Trace) -> Tensor:
    """How the pooling reads the last tokens, [B, N], rows sum to one: the class token, all patches alike, or by the
    attention that pools."""
    batch, count, prefix = *trace.tokens.shape[:2], trace.tower.prefix_tokens
    if trace.pool_attention is not None:
        return trace.pool_attention.detach().mean((1, 2))
    readout = torch.zeros(batch, count, device=trace.tokens.device)
    if trace.token_pooled:
        readout[:, 0] = 1.0
    else:
        readout[:, prefix:] = 1 / (count - prefix)
    return readout


METHODS = (
    Method(
        "attention",
        "Attention",
        raw,
        "How much one layer, or one head of it, reads from each patch on the way to the answer.",
        "What is read need not count: attention is the same for every class and often rests on plain background.",
        "% of attention",
        layers=True,
        heads=True,
        by_class=False,
        same_units=True,
    ),
    Method(
        "rollout",
        "Attention rollout",
        rollout,
        "Attention followed through all layers, back to the patches.",
        "It is the same for every class, and takes what is passed on for what matters.",
        "% of attention",
        by_class=False,
        same_units=True,
    ),
)
