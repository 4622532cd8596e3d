"""Metrics of a set of probabilities against labels."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from nearl.classifier import Classifier
from nearl.data.labelled import LabelledSet
from nearl.errors import NearlError

ECE_BINS = 15


def evaluate(probabilities: np.ndarray, labels: np.ndarray, draws: int = 4000, seed: int = 0) -> dict:
    """Balanced accuracy (with a 95 % interval for the sampling of images, from the Jeffreys posterior), accuracy, AUROC
    (binary, else the macro mean of one-against-rest), expected calibration error (top label, 15 equal bins) and n.

    ``probabilities`` float [N, C], ``labels`` int [N]. AUROC is None where a class has no image.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    predicted = probabilities.argmax(1)
    return {
        "n": len(labels),
        "balanced_accuracy": float(np.mean([k / n for k, n in _hits(labels, predicted)])),
        "balanced_accuracy_interval": _interval(labels, predicted, draws, seed),
        "accuracy": float((predicted == labels).mean()),
        "auroc": _auroc(probabilities, labels),
        "ece": _ece(probabilities, labels),
    }


def _hits(labels: np.ndarray, predicted: np.ndarray) -> list[tuple[int, int]]:
    """(right, all) per class that occurs."""
    return [(int((predicted[labels == c] == c).sum()), int((labels == c).sum())) for c in np.unique(labels)]


def _interval(labels: np.ndarray, predicted: np.ndarray, draws: int, seed: int) -> list[float]:
    """2.5 % and 97.5 % quantiles of the mean recall, each class's recall drawn from its Jeffreys posterior
    Beta(right + 1/2, wrong + 1/2). Unlike a bootstrap it does not shrink to a point where all of a class are right."""
    rng = np.random.default_rng(seed)
    hits = _hits(labels, predicted)
    recalls = np.mean([rng.beta(k + 0.5, n - k + 0.5, draws) for k, n in hits], axis=0)
    estimate = np.mean([k / n for k, n in hits])
    low, high = np.quantile(recalls, [0.025, 0.975])
    return [float(min(low, estimate)), float(max(high, estimate))]


def _auroc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes or classes < 2:
        return None
    scores = probabilities / probabilities.sum(1, keepdims=True)
    return float(roc_auc_score(labels, scores[:, 1] if classes == 2 else scores, multi_class="ovr"))


def _ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


def measure(classifier: Classifier, data: LabelledSet) -> dict:
    """``{"n", "classes", "frozen": metrics, "adapted": metrics | None}`` of a classifier on labelled images.

    The classes of ``data`` are found among those of the prompt set by name; the prompt set may have more.
    Raises NearlError for a class that the prompts do not name.
    """
    index = {name.casefold(): i for i, name in enumerate(classifier.prompt_set.classes)}
    unknown = [name for name in data.classes if name.casefold() not in index]
    if unknown:
        raise NearlError(f"The prompts do not name the class '{unknown[0]}' of the images; add prompts for it.")
    labels = np.array([index[data.classes[label].casefold()] for label in data.labels])
    prediction = classifier.predict(data.records)
    adapted = prediction.adapted
    return {
        "n": len(labels),
        "classes": prediction.classes,
        "frozen": evaluate(prediction.frozen, labels),
        "adapted": None if adapted is None else evaluate(adapted, labels),
    }
