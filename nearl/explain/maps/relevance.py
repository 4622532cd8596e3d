"""Class-specific relevance through the attention of every layer, for the patches of an image.

Source: Chefer, Gur & Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers", ICCV 2021: R <- R + A' R with A' = mean over heads of (gradient * attention), positive part, from R = I.
Only the row that the pooling reads is carried, from the last layer backwards, which gives the same for less work.

Our choice: pooling other than by a class token is treated as one more attention. Attention pooling is one; the mean
over patches has the fixed weights 1 / N, whose gradient times weight is <d score / d token, token>.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearl.explain.card import MapCard
from nearl.explain.score import Score
from nearl.explain.trace import CAM, POOL, Trace


def carry(readout: Tensor, attention: list[Tensor], grads: list[Tensor]) -> Tensor:
    """Relevance [B, N] of the last tokens -> that of the first ones; attention and gradients [B, heads, N, N]."""
    for weights, grad in zip(reversed(attention), reversed(grads), strict=True):
        positive = (weights.detach() * grad).clamp(min=0).mean(1)
        readout = readout + (readout[:, None] @ positive)[:, 0]
    return readout


def relevance(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Relevance of the pooling, carried back through all layers."""
    *grads, cam = trace.grad(score, *range(trace.tower.depth), CAM)
    if trace.pool_attention is not None:
        weighted = trace.pool_attention.detach() * trace.grad(score, POOL)[0]
        readout = weighted.clamp(min=0).mean((1, 2))
    elif trace.tower.token_pooled:
        readout = trace.readout()
    else:
        readout = (trace.cam.detach() * cam).sum(-1).clamp(min=0)
        readout[:, : trace.tower.prefix_tokens] = 0
        readout = readout / readout.sum(1, keepdim=True).clamp(min=torch.finfo(readout.dtype).tiny)
    return trace.to_grid(carry(readout, trace.attention, grads))


CARD = MapCard(
    "relevance",
    "Relevance",
    relevance,
    "Attention followed back to the patches, counting only what raised this class's score at each step.",
    "It follows attention alone and counts raising effects alone, so it cannot show evidence against the class.",
    "relevance",
    gradient=True,
)
