"""Text-informed linear probe, after Shakeri et al., Few-shot Adaptation of Medical Vision-Language Models, 2024."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor, nn

from nearl.methods.base import Card, Method
from nearl.methods.frozen import Task
from nearl.methods.selection import choose_strength
from nearl.train.learner import Phase
from nearl.train.recipe import Recipe


class TextProbe(Method):
    """logits_c = <f, w_c + a_c t_c>, with learned visual prototypes w and multipliers a of the text embeddings t.

    The paper stops a block-coordinate descent early. We add ``(|w|^2 + |a - scale|^2) / 2`` to ``strength`` x the
    class-balanced cross-entropy and solve this convex problem to convergence, with the strength selected within the
    support set (our choice). At strength zero it is the zero-shot classifier, from which the search starts.
    """

    card = Card(
        "text-probe",
        "Text-informed probe",
        "A linear classifier whose weights are a learned visual prototype plus the class's text embedding, scaled by a "
        "learned multiplier. With few images it stays close to zero-shot.",
        "Shakeri et al., Few-shot Adaptation of Medical Vision-Language Models, arXiv 2409.03868",
        "one prototype and one multiplier per class",
        any_classes=False,
    )

    def __init__(self, task: Task):
        super().__init__(task)
        count = len(task.prompt_set.classes)
        self.prototypes = nn.Parameter(torch.zeros(count, task.backbone.embed_dim, device=task.backbone.device))
        self.multipliers = nn.Parameter(task.backbone.logit_scale.repeat(count))

    def phases(self, recipe: Recipe) -> list[Phase]:
        features, texts = (v.cpu().numpy().astype(np.float64) for v in (self.task.features(), self.task.classes()))
        strengths = []
        for question, index, answers in self.task.problems:
            w, a, strength = self._solve(features[index], answers, texts[question], recipe.seed)
            self.prototypes.data[question].copy_(torch.from_numpy(w))
            self.multipliers.data[question].copy_(torch.from_numpy(a))
            strengths.append(strength)
        self.chosen = {"strength": strengths[0] if len(strengths) == 1 else strengths}
        return []

    def _solve(self, x: np.ndarray, y: np.ndarray, t: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
        """(prototypes, multipliers, strength), the strength selected within the support set."""
        scale = float(self.task.backbone.logit_scale)

        def predictor(index: np.ndarray, strength: float):
            w, a = solve(x[index], y[index], t, scale, strength)
            return lambda held: np.exp(log_softmax(x[held] @ (w + a[:, None] * t).T, axis=1))

        strength = choose_strength(y, predictor, seed)
        return *solve(x, y, t, scale, strength), strength

    def weights(self) -> Tensor:
        """w_c + a_c t_c, [C, E]."""
        return self.prototypes[self.rows] + self.multipliers[self.rows][:, None] * self.task.classes()

    def classes(self) -> Tensor:
        return F.normalize(self.weights(), dim=-1)

    def scores(self, images: Tensor) -> Tensor:
        return images @ self.weights().T


def solve(x: np.ndarray, y: np.ndarray, t: np.ndarray, scale: float, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """The prototypes [C, E] and multipliers [C] at the minimum, float64; x [N, E], y [N], t [C, E]."""
    classes, width = t.shape
    counts = np.bincount(y, minlength=classes)
    weight = strength * len(y) / (classes * counts[y])
    truth, match = np.eye(classes)[y], x @ t.T

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, a = flat[:-classes].reshape(classes, width), flat[-classes:]
        log_p = log_softmax(x @ w.T + a * match, axis=1)
        residual = weight[:, None] * (np.exp(log_p) - truth)
        value = 0.5 * (w**2).sum() + 0.5 * ((a - scale) ** 2).sum() - (weight * log_p[np.arange(len(y)), y]).sum()
        return value, np.concatenate([(w + residual.T @ x).ravel(), a - scale + (residual * match).sum(0)])

    start = np.concatenate([np.zeros(classes * width), np.full(classes, scale)])
    flat = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000, "gtol": 1e-6}).x
    return flat[:-classes].reshape(classes, width), flat[-classes:]
