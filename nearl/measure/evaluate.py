"""Figures of a set of probabilities against labels, each with its 95 % interval, and what they are too few to say.

Intervals are for the sampling of images: other images of the same kind, the same model. None of them shrinks to a point
where every image is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.prompts import class_key
from nearl.reading.classifier import Classifier

ECE_BINS = 15
SHOWN_BINS = 10  # of the reliability diagram
FEW = 20  # images below which a page says how little they tell (our choice)
WIDEST = 0.5  # 95 % intervals wider than this say too little for a figure to stand there (our choice)
FIGURES = ("balanced_accuracy", "accuracy", "auroc", "ece")
NOTHING_HELD = "No image was kept aside, so nothing is known about how well it does on new ones."
Z = norm.ppf(0.975)


def evaluate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> dict:
    """What ``probabilities``, float [N, C], say against ``labels``, int [N], N > 0; plain numbers, ready for JSON.

    n; balanced_accuracy (mean recall of the classes that occur; from Wilson intervals), accuracy
    (Wilson), auroc (binary, else the macro mean of one-against-rest; Newcombe; None where a class has no image), ece
    (top label, 15 equal bins; ``draws`` bootstrap samples), each with its ``..._interval`` [low, high].
    recall: per class {"class", "right", "n", "recall", "interval"}, the last two None without images.
    confusion: C lists of C counts, rows are the truth. reliability: 10 bins {"low", "high", "n", "confidence", "right",
    "interval"}: mean top share, share that is right and its Wilson interval, None in an empty bin.
    ``classes``: the names in "recall"; default the indices as text. Raises NearlError for shares that are not finite.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=int)
    if not np.isfinite(probabilities).all():
        raise NearlError("The model gives shares that are not numbers; teach it anew with a lower learning rate.")
    width = probabilities.shape[1]
    names = [str(i) for i in range(width)] if classes is None else list(classes)
    predicted = probabilities.argmax(1)
    confusion = np.zeros((width, width), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    confidence, correct = probabilities.max(1), predicted == labels
    right, counts = np.diag(confusion), confusion.sum(1)
    hits = [(int(k), int(n)) for k, n in zip(right, counts, strict=True) if n]
    recalls = np.array([k / n for k, n in hits])
    auroc = _auroc(probabilities, labels)
    return {
        "n": len(labels),
        "balanced_accuracy": float(recalls.mean()),
        "balanced_accuracy_interval": mean_interval(recalls, [wilson(*pair) for pair in hits]),
        "accuracy": float(correct.mean()),
        "accuracy_interval": wilson(int(correct.sum()), len(labels)),
        "auroc": auroc,
        "auroc_interval": None if auroc is None else auroc_interval(auroc, counts),
        "ece": _ece(confidence, correct),
        "ece_interval": _ece_interval(confidence, correct, draws, seed),
        "recall": [
            {
                "class": name,
                "right": int(k),
                "n": int(n),
                "recall": float(k / n) if n else None,
                "interval": wilson(int(k), int(n)) if n else None,
            }
            for name, k, n in zip(names, right, counts, strict=True)
        ],
        "confusion": confusion.tolist(),
        "reliability": _reliability(confidence, correct),
    }


# ----------------------------------------------------------------------------------------------------------- intervals


def wilson(right: int, n: int) -> list[float]:
    """The 95 % score interval of a share of ``right`` out of ``n`` > 0 (Wilson 1927)."""
    share = right / n
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return [float(max(middle - reach, 0.0)) if right else 0.0, float(min(middle + reach, 1.0)) if right < n else 1.0]


def auroc_interval(auroc: float, counts: Sequence[int]) -> list[float]:
    """A 95 % interval of Wilson's type: the values t with |auroc - t| <= z sqrt(V(t)), V of Hanley and McNeil with both
    m - 1 and n - 1 replaced by (m + n) / 2 - 1 (Newcombe 2006, method 5).

    ``counts``: images of each class, all > 0. For the macro mean V is the mean over the classes of one-against-rest,
    which the variance of the mean cannot exceed (our choice: wide rather than short).
    """
    m = np.asarray(counts, dtype=float)
    n = m.sum() - m
    half = m.sum() / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) * np.mean(1 / (m * n))
        return (auroc - t) ** 2 - Z**2 * spread

    tiny = 1e-9  # the interval never ends at the estimate, which is a second root at 0 and at 1
    return [
        float(brentq(excess, 0.0, auroc - tiny)) if auroc > tiny else 0.0,
        float(brentq(excess, auroc + tiny, 1.0)) if auroc < 1 - tiny else 1.0,
    ]


def mean_interval(shares: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[float]:
    """The 95 % interval of the mean of independent ``shares`` (or differences) from the interval of each: on each side
    the root of the summed squared distances to the ends, over their number (MOVER, Zou and Donner 2008)."""
    shares, (low, high) = np.asarray(shares, dtype=float), np.asarray(intervals, dtype=float).T
    reach = [np.sqrt(((shares - end) ** 2).sum()) / len(shares) for end in (low, high)]
    return [float(shares.mean() - reach[0]), float(shares.mean() + reach[1])]


def paired_interval(both: int, first: int, second: int, neither: int) -> list[float]:
    """The 95 % interval of (second - first) / n, a difference of two shares of the same n > 0 images: those that are
    right only the second time less those right only the first time (Newcombe 1998, method 10)."""
    n = both + first + second + neither
    (p, q) = (both + second) / n, (both + first) / n
    (p_low, p_high), (q_low, q_high) = wilson(both + second, n), wilson(both + first, n)
    product = both * neither - first * second
    product = max(product - n / 2, 0) if product > 0 else product
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = product / margins**0.5 if margins else 0.0

    def reach(a: float, b: float) -> float:
        return np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    return [float(p - q - reach(p - p_low, q_high - q)), float(p - q + reach(p_high - p, q - q_low))]


def _around(estimate: float, low: float, high: float) -> list[float]:
    """An interval that holds the estimate."""
    return [float(min(low, estimate)), float(max(high, estimate))]


def _ece_interval(confidence: np.ndarray, correct: np.ndarray, draws: int, seed: int) -> list[float]:
    """Bootstrap over images. A sample's error is too high by about as much as the estimate's own, so the lower quantile
    is moved down by twice that; and the lower end is 0 where perfectly calibrated shares would give as large an error
    on as many images (consistency resampling, Bröcker and Smith 2007; putting the two together is our choice)."""
    rng = np.random.default_rng(seed)
    n, estimate = len(confidence), _ece(confidence, correct)
    resampled, calibrated = np.empty(draws), np.empty(draws)
    for i in range(draws):
        chosen = rng.integers(0, n, n)
        resampled[i] = _ece(confidence[chosen], correct[chosen])
        calibrated[i] = _ece(confidence, rng.random(n) < confidence)
    low, high = np.quantile(resampled, [0.025, 0.975])
    low -= 2 * max(resampled.mean() - estimate, 0.0)
    if estimate <= np.quantile(calibrated, 0.975):
        low = 0.0
    return _around(estimate, max(low, 0.0), high)


# ------------------------------------------------------------------------------------------------------------- figures


def _auroc(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    classes = probabilities.shape[1]
    if len(np.unique(labels)) < classes or classes < 2:
        return None
    scores = probabilities / probabilities.sum(1, keepdims=True)
    return float(roc_auc_score(labels, scores[:, 1] if classes == 2 else scores, multi_class="ovr"))


def _ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=correct - confidence)).sum() / len(confidence))


def _reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict]:
    bins = np.minimum((confidence * SHOWN_BINS).astype(int), SHOWN_BINS - 1)
    rows = []
    for b in range(SHOWN_BINS):
        inside = bins == b
        n, right = int(inside.sum()), int(correct[inside].sum())
        rows.append(
            {
                "low": b / SHOWN_BINS,
                "high": (b + 1) / SHOWN_BINS,
                "n": n,
                "confidence": float(confidence[inside].mean()) if n else None,
                "right": right / n if n else None,
                "interval": wilson(right, n) if n else None,
            }
        )
    return rows


# ----------------------------------------------------------------------------------------------------- before and after


def study(
    frozen: np.ndarray, adapted: np.ndarray | None, labels: Sequence[int], classes: Sequence[str], kind: str
) -> dict:
    """The figures before and after teaching on images that it was not taught with; plain numbers, no file names.

    ``frozen``, ``adapted``: float [N, C]; N may be 0. ``kind``: how the images were kept aside, "given", "held-out",
    "folds" or "none". Returns {"n", "classes", "kind", "few" (fewer than 20 images), "too_few" (a sentence where the
    balanced accuracy is not said, else ""), "frozen", "adapted" (as of `evaluate`, or None), "gain"}.

    A figure or recall whose interval is wider than 0.5 is None; ``unsaid`` of its dict, {figure: sentence} for the
    figures and a sentence for a recall, says why. The interval stays. gain: {"value", "interval"} of the balanced
    accuracy after less before on the same images, or None without ``adapted``; its value is None where too wide.
    """
    labels = np.asarray(labels, dtype=int)
    result = {"n": len(labels), "classes": list(classes), "kind": kind, "few": len(labels) < FEW, "too_few": ""}
    if not len(labels):
        return {**result, "too_few": NOTHING_HELD, "frozen": None, "adapted": None, "gain": None}
    before = _said(evaluate(frozen, labels, classes=classes))
    after = None if adapted is None else _said(evaluate(adapted, labels, classes=classes))
    if any(figures and figures["balanced_accuracy"] is None for figures in (before, after)):
        result["too_few"] = f"{_images(len(labels))} are too few to say how well it does on new ones."
    gain = None if adapted is None else _gain(np.argmax(frozen, 1), np.argmax(adapted, 1), labels)
    return {**result, "frozen": before, "adapted": after, "gain": gain}


def _said(figures: dict) -> dict:
    """`figures` with those that say too little set to None and the reason beside them."""
    unsaid = {}
    for key in FIGURES:
        if figures[key] is None:
            unsaid[key] = "A class has no image among those kept aside, so this cannot be measured."
        elif reason := _too_wide(figures[f"{key}_interval"]):
            figures[key], unsaid[key] = None, reason
    for row in figures["recall"]:
        row["unsaid"] = _too_wide(row["interval"]) if row["n"] else "No image of this class was kept aside."
        row["recall"] = None if row["unsaid"] else row["recall"]
    return {**figures, "unsaid": unsaid}


def _too_wide(interval: Sequence[float]) -> str:
    low, high = interval
    return (
        f"Too few images to say: anything from {100 * low:.0f} to {100 * high:.0f}\u202f% fits."
        if high - low > WIDEST
        else ""
    )


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def _gain(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> dict:
    """The mean over classes of the recall after less the recall before, and its interval."""
    values, intervals = [], []
    for c in np.unique(labels):
        was, now = before[labels == c] == c, after[labels == c] == c
        values.append(float(now.mean() - was.mean()))
        table = [int(part.sum()) for part in (was & now, was & ~now, now & ~was, ~was & ~now)]
        intervals.append(paired_interval(*table))
    value, interval = float(np.mean(values)), mean_interval(values, intervals)
    return {"value": None if interval[1] - interval[0] > WIDEST else value, "interval": interval}


# ----------------------------------------------------------------------------------------------------- image by image


def rows(
    frozen: np.ndarray,
    adapted: np.ndarray | None,
    labels: Sequence[int],
    classes: Sequence[str],
    files: Sequence[str],
) -> list[dict]:
    """Per image {"index", "file", "truth", "before", "before_share", "after", "after_share", "shares_before",
    "shares_after"}: the likeliest class and its share, and the shares of all by class; "after…" None without
    ``adapted``. Class and file names as given."""
    return [
        {
            "index": i,
            "file": file,
            "truth": classes[label],
            **_top(frozen[i], classes, "before"),
            **_top(None if adapted is None else adapted[i], classes, "after"),
        }
        for i, (label, file) in enumerate(zip(labels, files, strict=True))
    ]


def _top(shares: np.ndarray | None, classes: Sequence[str], when: str) -> dict:
    if shares is None:
        return {when: None, f"{when}_share": None, f"shares_{when}": None}
    best = int(np.argmax(shares))
    each = {name: float(share) for name, share in zip(classes, shares, strict=True)}
    return {when: classes[best], f"{when}_share": float(shares[best]), f"shares_{when}": each}


def mistakes(rows: Sequence[dict], most: int = 12) -> list[dict]:
    """The rows that are wrong after teaching (before it, where there is no after), the most confident first."""
    when: Callable[[dict], str] = lambda row: "before" if row["after"] is None else "after"  # noqa: E731
    wrong = [row for row in rows if row[when(row)] != row["truth"]]
    return sorted(wrong, key=lambda row: -row[f"{when(row)}_share"])[:most]


def measure(classifier: Classifier, data: LabelledSet) -> dict:
    """``{"n", "classes", "frozen": metrics, "adapted": metrics | None}`` of a classifier on labelled images.

    The classes of ``data`` are found among those of the prompt set by name; the prompt set may have more.
    Raises NearlError for a class that the prompts do not name.
    """
    index = {class_key(name): i for i, name in enumerate(classifier.prompt_set.classes)}
    unknown = [name for name in data.classes if class_key(name) not in index]
    if unknown:
        raise NearlError(f"The prompts do not name the class '{unknown[0]}' of the images; add prompts for it.")
    labels = np.array([index[class_key(data.classes[label])] for label in data.labels])
    prediction = classifier.predict(data.records)
    frozen, adapted, classes = prediction.frozen, prediction.adapted, prediction.classes
    return {
        "n": len(labels),
        "classes": classes,
        "frozen": evaluate(frozen, labels, classes=classes),
        "adapted": None if adapted is None else evaluate(adapted, labels, classes=classes),
    }
