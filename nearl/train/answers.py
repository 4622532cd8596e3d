"""Softmax, labels and loss where a prompt set asks one question (its classes) or several (its findings).

A question is a slice of the classes, among which one is true. An image's label is the index of its class, or the tuple
of its classes, at most one of each question; a question without one is unknown for that image and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Label = int | tuple[int, ...]


def members(labels: Sequence[Label], count: int) -> np.ndarray:
    """Which images are of which class: bool [N, C]."""
    table = np.zeros((len(labels), count), dtype=bool)
    for row, label in zip(table, labels, strict=True):
        row[list(label) if isinstance(label, tuple | list) else label] = True
    return table


def known(labels: Sequence[Label], questions: Sequence[slice]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each question (the images for which its answer is known, int [n]; their answers from 0, int [n])."""
    table = members(labels, questions[-1].stop)
    rows = [np.flatnonzero(table[:, q].any(1)) for q in questions]
    return [(index, table[index, q].argmax(1)) for index, q in zip(rows, questions, strict=True)]


def shares(logits: Tensor, questions: Sequence[slice]) -> Tensor:
    """Probabilities [..., C] of logits [..., C]; those of each question sum to one."""
    return torch.cat([logits[..., q].softmax(-1) for q in questions], -1)


class Objective:
    """The loss of a step: the cross-entropy of every answer that is known.

    With several questions the answers are balanced: each step draws images of all classes alike
    (`nearl.train.batches.balanced_batch`), so that a finding comes with others, and what one answer of a question then
    has too much is weighed down. ``labels``: of all support images; ``smoothing``: of Recipe.label_smoothing.
    """

    def __init__(self, labels: Sequence[Label], questions: Sequence[slice], smoothing: float, device: torch.device):
        self.questions, self.smoothing, self.device = questions, smoothing, device
        if len(questions) == 1:
            self.targets = torch.tensor(labels, device=device)
            return
        table = members(labels, questions[-1].stop)
        self.table = torch.from_numpy(table).to(device)
        drawn = (table / np.maximum(table.sum(0), 1)).sum(1)  # how often each image is drawn, relative to others
        mass = (table * drawn[:, None]).sum(0)
        weights = np.ones(len(mass))
        for q in questions:
            weights[q] = mass[q].sum() / (q.stop - q.start) / np.maximum(mass[q], 1e-12)
        self.weights = torch.from_numpy(weights).float().to(device)

    def __call__(self, logits: Tensor, index: np.ndarray) -> Tensor:
        """The loss of logits [B, C] of the support images at ``index``, a scalar."""
        logits = logits.float()
        if len(self.questions) == 1:
            return F.cross_entropy(logits, self.targets[index], label_smoothing=self.smoothing)
        table = self.table[torch.from_numpy(np.asarray(index)).to(self.device)]
        total, weight = logits.sum() * 0, self.weights.sum() * 0 + 1e-12
        for q in self.questions:
            part, answer = logits[:, q].log_softmax(-1), table[:, q].float()
            each = (answer * self.weights[q]).sum(1)  # 0 where it is not known
            soft = (1 - self.smoothing) * (answer * part).sum(1) + self.smoothing * part.mean(1)
            total, weight = total - (each * soft).sum(), weight + each.sum()
        return total / weight
