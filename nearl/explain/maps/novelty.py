"""What adapters between the blocks added: for each token, how much of the update was orthogonal to it (new, and kept)
and how much was parallel (incremental, and removed), after Peng et al., NEARL-CLIP, arXiv 2508.04101.

Figures are in per cent of the token's own length, so that layers and towers can be compared (our choice).
"""

from __future__ import annotations

import numpy as np
import torch

from nearl.explain.card import MapCard
from nearl.explain.score import Score
from nearl.explain.trace import Trace
from nearl.methods.shows import Shows


def novel(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """The orthogonal part; ``layer`` None is the mean over all adapted layers."""
    return _layers(trace, layer, "novel")


def parallel(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """The size of the parallel part; ``layer`` None is the mean over all adapted layers."""
    return _layers(trace, layer, "parallel")


def _layers(trace: Trace, layer: int | None, part: str) -> np.ndarray:
    updates = trace.updates.values() if layer is None else [trace.updates[layer]]
    stacked = torch.stack([getattr(update, part).abs() for update in updates])
    return trace.to_grid(100 * stacked.mean(0))


CARDS = (
    MapCard(
        "novelty",
        "What teaching added",
        novel,
        "How far teaching moved what the model holds of each patch, in directions that were new to it.",
        "It shows where the model was changed, not whether the change speaks for this class.",
        "% of the token's length",
        layers=True,
        by_class=False,
        same_units=True,
        needs=frozenset({Shows.UPDATES}),
    ),
    MapCard(
        "parallel",
        "What the orthogonal step removed",
        parallel,
        "How much of each proposed change only repeated what was already there; NEARL removes this part.",
        "It shows what was discarded, so nothing in the answer depends on it directly.",
        "% of the token's length",
        layers=True,
        by_class=False,
        same_units=True,
        needs=frozenset({Shows.UPDATES}),
    ),
)
