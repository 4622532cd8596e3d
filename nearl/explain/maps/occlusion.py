"""Occlusion (Zeiler & Fergus, ECCV 2014): hide a part of the image and see how far the score falls.

It needs only the model's answers, so it is the reference for the others. A window of ``WINDOW`` x
``WINDOW`` patches, filled with the image's mean colour, moves by ``STRIDE`` patches; a patch's value is the mean fall
over the windows that cover it (our choice).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nearl.explain.card import MapCard
from nearl.explain.score import Score
from nearl.explain.trace import Trace

WINDOW, STRIDE, BATCH = 2, 1, 16


def windows(grid: tuple[int, int], window: int = WINDOW, stride: int = STRIDE) -> Tensor:
    """bool [windows, grid height, grid width], True where hidden; every patch is hidden at least once."""

    def starts(size: int) -> list[int]:
        last = max(size - window, 0)
        return sorted({*range(0, last, stride), last})

    places = [(i, j) for i in starts(grid[0]) for j in starts(grid[1])]
    masks = torch.zeros(len(places), *grid, dtype=torch.bool)
    for mask, (i, j) in zip(masks, places, strict=True):
        mask[i : i + window, j : j + window] = True
    return masks


def cover(pixels: Tensor, hidden: Tensor, fill: Tensor) -> Tensor:
    """Copies [K, 3, H, W] of an image [3, H, W], with ``fill`` where ``hidden`` [K, grid height, grid width]."""
    rows = torch.arange(pixels.shape[1]) * hidden.shape[1] // pixels.shape[1]
    columns = torch.arange(pixels.shape[2]) * hidden.shape[2] // pixels.shape[2]
    where = hidden[:, rows][:, :, columns].to(pixels.device)[:, None]
    return torch.where(where, fill, pixels)


@torch.no_grad()
def occlusion(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """The mean fall of the score over the windows that cover each patch."""
    masks = windows(trace.tower.grid)
    times, parts = masks.sum(0).float(), masks.split(BATCH)
    maps = []
    for pixels, logits in zip(trace.pixels, trace.logits.detach(), strict=True):
        fill = pixels.mean((1, 2), keepdim=True)
        covered = (cover(pixels, part, fill) for part in parts)
        fall = (score.of(logits) - trace.passes(score, len(maps), covered, len(parts))).float().cpu()
        maps.append(((fall[:, None, None] * masks).sum(0) / times).numpy())
    return np.stack(maps)


CARD = MapCard(
    "occlusion",
    "Occlusion",
    occlusion,
    "Covers the image piece by piece and measures how far the score falls.",
    "A finding that shows in two places is missed, since hiding one leaves the other; it takes many passes.",
    "logits lost",
    signed=True,
    same_units=True,
    slow=True,
)
