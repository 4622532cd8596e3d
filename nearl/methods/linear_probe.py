"""Linear probe: logistic regression on the frozen image embeddings."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nearl.methods.base import Card, Method
from nearl.methods.frozen import Task
from nearl.methods.selection import choose_strength
from nearl.train.learner import Phase
from nearl.train.recipe import Recipe


class LinearProbe(Method):
    """logits = W f + b for unit f; minimises |W|^2 / 2 + strength x class-balanced cross-entropy to convergence."""

    card = Card(
        "linear-probe",
        "Linear probe",
        "A logistic regression on the frozen image features, which ignores the prompts. The strength of its "
        "regularisation is chosen by cross-validation within the support set.",
        "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020",
        "one weight per feature and class, and one bias per class",
        any_classes=False,
        reads_prompts=False,
    )

    def __init__(self, task: Task):
        super().__init__(task)
        count = len(task.prompt_set.classes)
        self.weight = nn.Parameter(torch.zeros(count, task.backbone.embed_dim, device=task.backbone.device))
        self.bias = nn.Parameter(torch.zeros(count, device=task.backbone.device))

    def phases(self, recipe: Recipe) -> list[Phase]:
        features, strengths = self.task.features().cpu().numpy().astype(np.float64), []
        for question, index, answers in self.task.problems:
            weight, bias, strength = _solve(features[index], answers, recipe.seed)
            self.weight.data[question].copy_(torch.from_numpy(weight))
            self.bias.data[question].copy_(torch.from_numpy(bias))
            strengths.append(strength)
        self.chosen = {"strength": strengths[0] if len(strengths) == 1 else strengths}
        return []

    def scores(self, images: Tensor) -> Tensor:
        return images @ self.weight[self.rows].T + self.bias[self.rows]


def _solve(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(weight [C, E], bias [C], strength) for features [N, E] and classes [N]."""
    fit = lambda index, strength: _regression(strength).fit(x[index], y[index])  # noqa: E731
    predictor = lambda index, strength: lambda held: fit(index, strength).predict_proba(x[held])  # noqa: E731
    strength = choose_strength(y, predictor, seed)
    found = fit(np.arange(len(y)), strength)
    weight, bias = found.coef_, found.intercept_
    if len(bias) == 1:  # two classes: one logit, split evenly
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias, strength


def _regression(strength: float):
    from sklearn.linear_model import LogisticRegression  # seconds to import, and not needed to predict

    return LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, tol=1e-6)
