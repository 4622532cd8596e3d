"""Class-specific relevance through the attention of every layer, for the patches of an image.

Source: Chefer, Gur & Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers", ICCV 2021: R <- R + A' R with A' = mean over heads of (gradient * attention), positive part, from R = I.
Only the row that the pooling reads is carried (from the last layer backwards), which gives the same for less work.

What is our choice: pooling other than by a class token is taken as one more attention. Attention pooling is one; the
mean over patches has the fixed weights 1 / N, whose gradient times weight is <d score / d token, token>.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nearl.explain.card import Method
from nearl.explain.maps.attention import pooled_tokens
from nearl.explain.trace import CAM, POOL

if TYPE_CHECKING:
    from nearl.explain.score import Score
    from nearl.explain.trace import Trace


def carry(readout: Tensor, attention: list[Tensor], grads: list[Tensor]) -> Tensor:
    """Relevance [B, N] of the first tokens from that of the last ones; attention and gradients [B, heads, N, N]."""
    for weights, grad in zip(reversed(attention), reversed(grads), strict=True):
        positive = (weights.detach() * grad).clamp(min=0).mean(1)
        readout = readout + (readout[:, None] @ positive)[:, 0]
    return readout


def relevance(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    keys = [*range(trace.tower.depth), CAM, *([POOL] if trace.pool_attention is not None else [])]
    (
        *grads,
        cam,
    ) = trace.grad(score, *keys[: trace.tower.depth + 1])
    if trace.pool_attention is not None:
        weighted = trace.pool_attention.detach() * trace.grad(score, POOL)[0]
        readout = weighted.clamp(min=0).mean((1, 2))
    elif trace.token_pooled:
        readout = pooled_tokens(trace)
    else:
        readout = (trace.cam.detach() * cam).sum(-1).clamp(min=0)
        readout[:, : trace.tower.prefix_tokens] = 0
        readout = readout / readout.sum(1, keepdim=True).clamp(min=torch.finfo(readout.dtype).tiny)
    return trace.to_grid(carry(readout, trace.attention, grads))


METHODS = (
    Method(
        "relevance",
        "Relevance",
        relevance,
        "Attention followed back to the patches, counting only what raised this class's score at each step.",
        "It follows attention alone and counts raising effects alone, so it cannot show evidence against the class.",
        "relevance",
        gradient=True,
    ),
)
