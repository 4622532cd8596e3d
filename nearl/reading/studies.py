"""What a bridge made of a study: the slices and the atoms that fired, and where its slices and the prompts lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.data.formats.volume import View
from nearl.data.images import ImageRecord
from nearl.methods import Method
from nearl.methods.bridge import Bridge, Stack

ATOMS, NEAREST, STRONGEST = 5, 3, 3  # that are told of: atoms, prompts beside each, slices that fire it (our choice)
FROZEN, TAUGHT, REBUILT = "frozen", "taught", "rebuilt"


class Atom(NamedTuple):
    """An atom of the bank that a study is rebuilt from."""

    number: int
    """Its place in the bank."""
    share: float
    """Its weight; those of all atoms sum to one."""
    prompts: list[tuple[str, float]]
    """The prompts whose embeddings are nearest to it, with their cosines, nearest first."""
    slices: list[int]
    """The places, among those that were read, of the slices that fire it most when each is read alone."""


class Cloud(NamedTuple):
    """Unit embeddings of the slices [S, E], each read alone, and of the prompts [P, E], float32."""

    images: np.ndarray
    texts: np.ndarray


@dataclass(frozen=True)
class Inside:
    """What a bridge made of a study of S slices."""

    views: list[View | None]
    """What each slice shows; None for one that is of no scan."""
    attention: np.ndarray
    """How much each slice counts in the trained attention, the mean of its heads: float32 [S], sums to one."""
    atoms: list[Atom]
    """Those with the largest weights, largest first; none without a bank."""
    bank: int
    """Number of atoms."""
    spread: float
    """How many atoms with equal weights would be as spread out as these are: exp(entropy)."""
    clouds: dict[str, Cloud]
    """In the frozen model (FROZEN), after the trained pooling and map of texts (TAUGHT) and, where there is a bank,
    rebuilt from it (REBUILT)."""


@torch.no_grad()
def inside(method: Method | None, study: ImageRecord) -> Inside | None:
    """What the method made of a study; None for any other method than the bridge, and for a single image."""
    if not isinstance(method, Bridge) or not study.stack:
        return None
    texts = list(dict.fromkeys(text for group in method.task.prompt_set.texts() for text in group))
    with method.backbone.lock:
        stack = method.studies([study])
        alone = stack.features[0]
        each = method.pool(Stack(list(alone[:, None])))
        frozen = method.frozen_texts(texts)
        t = method.mapped(frozen)
        clouds = {FROZEN: _cloud(alone, frozen), TAUGHT: _cloud(each, t)}
        atoms: list[Atom] = []
        weights = torch.zeros(0)
        if len(method.bank):
            weights = method.weights(method.pool(stack))[0]
            clouds[REBUILT] = _cloud(*(F.normalize(method.rebuilt(x), dim=-1) for x in (each, t)))
            atoms = _fired(method, weights, each, t, texts)
        attention = method.attention(stack)[0].mean(0)
    return Inside(
        [part.view for part in study.stack],
        attention.cpu().numpy(),
        atoms,
        len(weights),
        float(torch.special.entr(weights).sum().exp()),
        clouds,
    )


def _cloud(images: Tensor, texts: Tensor) -> Cloud:
    return Cloud(images.float().cpu().numpy(), texts.float().cpu().numpy())


def _fired(method: Bridge, weights: Tensor, each: Tensor, t: Tensor, texts: list[str]) -> list[Atom]:
    """The atoms with the largest ``weights`` [A], from the slices read alone [S, E] and the prompts [P, E]."""
    shares, numbers = weights.topk(min(ATOMS, len(weights)))
    cosines, places = (F.normalize(method.bank[numbers], dim=-1) @ t.T).topk(min(NEAREST, len(texts)))
    slices = method.weights(each)[:, numbers].T.topk(min(STRONGEST, len(each))).indices
    return [
        Atom(number, share, [(texts[p], c) for p, c in zip(near, cosine, strict=True)], strong)
        for number, share, near, cosine, strong in zip(
            numbers.tolist(), shares.tolist(), places.tolist(), cosines.tolist(), slices.tolist(), strict=True
        )
    ]
