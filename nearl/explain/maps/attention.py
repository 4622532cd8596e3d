"""What attends to what: raw attention of one layer and head, and attention rollout (Abnar & Zuidema, ACL 2020)."""

from __future__ import annotations

import numpy as np

from nearl.explain.card import MapCard
from nearl.explain.score import Score
from nearl.explain.trace import Trace


def raw(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Attention to each patch: from the class token where that is pooled, else the mean over the patches (our choice).

    ``layer`` None is the last; ``head`` None is the mean over heads.
    """
    weights = trace.attention[-1 if layer is None else layer].detach()
    weights = weights.mean(1) if head is None else weights[:, head]
    rows = weights[:, :1] if trace.tower.token_pooled else weights[:, trace.tower.prefix_tokens :]
    return trace.to_grid(100 * rows.mean(1))


def rollout(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """The product of the attention of all layers, half of each layer being the residual path."""
    readout = trace.readout()
    for weights in reversed(trace.attention):
        readout = 0.5 * readout + 0.5 * (readout[:, None] @ weights.detach().mean(1))[:, 0]
    return trace.to_grid(100 * readout)


CARDS = (
    MapCard(
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
    MapCard(
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
