"""Choosing one strength of regularisation inside the support set, never on test images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

STRENGTHS = tuple(10.0**k for k in range(-1, 6))  # of the data term against the penalty: scikit-learn's C
ALONE = 10.0  # where a class has a single image, so that nothing can be held out (our choice)
FOLDS = 4


def choose_strength(
    labels: np.ndarray, fit: Callable[[np.ndarray, float], Callable[[np.ndarray], np.ndarray]], seed: int
) -> float:
    """The strength with the best mean log-likelihood of held-out support images, all classes weighted equally.

    ``fit(index, strength)`` learns from the images at ``index`` and returns a function from indices to probabilities
    [B, C]. As many stratified folds as the smallest class has images, but at most four (our choice).
    """
    from sklearn.model_selection import StratifiedKFold  # seconds to import, and not needed to predict

    folds = min(FOLDS, int(np.bincount(labels).min()))
    if folds < 2:
        return ALONE
    weight = 1 / np.bincount(labels)[labels]
    scores = np.zeros(len(STRENGTHS))
    for learn, held in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
        for i, strength in enumerate(STRENGTHS):
            p = fit(learn, strength)(held)[np.arange(len(held)), labels[held]]
            scores[i] += (weight[held] * np.log(np.maximum(p, 1e-12))).sum()
    return STRENGTHS[int(scores.argmax())]
