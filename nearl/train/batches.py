"""Which images and prompts a training step sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.prompts import FINDINGS, PromptSet
from nearl.train.answers import Label, members
from nearl.train.samples import Samples


class PromptTokens(NamedTuple):
    """Tokens [P, L] of all prompts of all classes, class after class, and the number of prompts of each class."""

    tokens: Tensor
    counts: list[int]


def balanced_batch(labels: Sequence[Label], size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` image indices, every class equally likely, no image twice while its class still has others."""
    held = [label if isinstance(label, tuple | list) else (label,) for label in labels]
    count = 1 + max(c for label in held for c in label)
    by_class = [found for column in members(labels, count).T if len(found := np.flatnonzero(column))]
    order = rng.permutation(len(by_class))
    queues = [iter(()) for _ in by_class]
    picked = []
    for i in range(size):
        c = order[i % len(by_class)]
        index = next(queues[c], None)
        if index is None:
            queues[c] = iter(rng.permutation(by_class[c]))
            index = next(queues[c])
        picked.append(index)
    return np.array(picked)


def draw_prompts(texts: list[Tensor], most: int, rng: np.random.Generator) -> PromptTokens:
    """Up to ``most`` prompts of each class as one batch; ``texts``: tokens [P, L] of each class."""
    drawn = [t[np.sort(rng.permutation(len(t))[:most])] for t in texts]
    return PromptTokens(torch.cat(drawn), [len(t) for t in drawn])


def class_means(x: Tensor, counts: list[int]) -> Tensor:
    """Mean [C, ...] over each class's prompts [P, ...], class after class, in one go however many classes there are."""
    if len(set(counts)) == 1:
        return x.unflatten(0, (len(counts), counts[0])).mean(1)
    each = torch.tensor(counts, device=x.device)
    rows = torch.arange(len(counts), device=x.device).repeat_interleave(each)
    total = x.new_zeros(len(counts), *x.shape[1:]).index_add(0, rows, x)
    return total / each.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def draw_view(views: Tensor, index: np.ndarray, rng: np.random.Generator) -> Tensor:
    """A random one of the cached views [V, N, ...] of each image in ``index``, [B, ...]."""
    return views[torch.from_numpy(rng.integers(len(views), size=len(index))), torch.from_numpy(index)]


def check_support(support: LabelledSet | Samples, prompt_set: PromptSet) -> None:
    """Raises NearlError unless there are images of at least two classes, and prompts for exactly these classes."""
    if len(support.classes) < 2:
        raise NearlError("Teaching needs at least two classes; add images of a second one.")
    if list(prompt_set.classes) != list(support.classes):
        raise NearlError(
            f"The prompts are for {', '.join(prompt_set.classes)}, but the images are of "
            f"{', '.join(support.classes)}; both must name the same classes in the same order."
        )
    empty = [name for name, count in support.counts().items() if count == 0]
    if empty and prompt_set.kind == FINDINGS:
        place = prompt_set.classes.index(empty[0])
        finding, state = prompt_set.findings[place // 2], ("present", "absent")[place % 2]
        raise NearlError(
            f"“{finding}” is marked {state} in no image to teach with, so it cannot be taught; add such images or "
            "remove its column."
        )
    if empty:
        raise NearlError(f"The class '{empty[0]}' has no image that can be read; add some or remove the class.")
