"""Figures of probabilities against labels, each with its 95 % interval, and which of them have too few images.

The intervals are for the sampling of images: other images of the same kind, the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import FEW_HELD, FEW_OF_CLASS
from nearl.errors import NearlError
from nearl.measure import intervals
from nearl.prompts import class_key
from nearl.reading.claims import UNKNOWN, Claim
from nearl.reading.classifier import Classifier
from nearl.train.samples import fingerprints

ECE_BINS = 15
SHOWN_BINS = 10  # of the reliability diagram
WIDEST = 0.5  # a figure whose interval is wider is not shown (our choice)
FIGURES = ("balanced_accuracy", "accuracy", "auroc", "ece")
NOTHING_HELD = "No image was kept aside, so how well it does on new images is not known."


def evaluate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    classes: Sequence[str] | None = None,
) -> dict:
    """The figures of ``probabilities``, float [N, C], against ``labels``, int [N], N > 0, as plain JSON values.

    n; balanced_accuracy (mean recall of the classes that occur; from Wilson intervals), accuracy
    (Wilson), auroc (binary, else the macro mean of one-against-rest; Newcombe; None where a class has no image), ece
    (top label, 15 equal bins; ``draws`` bootstrap samples), each with its ``..._interval`` [low, high].
    recall: per class {"class", "right", "n", "recall", "interval"}, the last two None without images.
    confusion: C lists of C counts, rows are the truth. reliability: 10 bins {"low", "high", "n", "confidence", "right",
    "interval"}: mean highest probability, proportion that is correct and its Wilson interval; None in an empty bin.
    ``classes``: the names in "recall"; default the indices as text. Raises NearlError for probabilities that are not
    finite.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=int)
    if not np.isfinite(probabilities).all():
        raise NearlError("The model gives probabilities that are not numbers; teach it with a lower learning rate.")
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
        "balanced_accuracy_interval": intervals.of_mean(recalls, [intervals.wilson(*pair) for pair in hits]),
        "accuracy": float(correct.mean()),
        "accuracy_interval": intervals.wilson(int(correct.sum()), len(labels)),
        "auroc": auroc,
        "auroc_interval": None if auroc is None else intervals.auroc(auroc, counts),
        "ece": _ece(confidence, correct),
        "ece_interval": _ece_interval(confidence, correct, draws, seed),
        "recall": [
            {
                "class": name,
                "right": int(k),
                "n": int(n),
                "recall": float(k / n) if n else None,
                "interval": intervals.wilson(int(k), int(n)) if n else None,
            }
            for name, k, n in zip(names, right, counts, strict=True)
        ],
        "confusion": confusion.tolist(),
        "reliability": _reliability(confidence, correct),
    }


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The "ece" of `evaluate` alone."""
    return _ece(probabilities.max(1), probabilities.argmax(1) == labels)


def _around(estimate: float, low: float, high: float) -> list[float]:
    """An interval that holds the estimate."""
    return [float(min(low, estimate)), float(max(high, estimate))]


def _ece_interval(confidence: np.ndarray, correct: np.ndarray, draws: int, seed: int) -> list[float]:
    """Bootstrap over images. A sample's error is biased upwards by about as much as the estimate itself, so the lower
    quantile is moved down by twice that. The lower end is 0 where perfectly calibrated probabilities would give as
    large an error on as many images (consistency resampling, Bröcker and Smith 2007; combining both is our choice)."""
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
                "interval": intervals.wilson(right, n) if n else None,
            }
        )
    return rows


# ----------------------------------------------------------------------------------------------------- before and after


def study(
    frozen: np.ndarray, adapted: np.ndarray | None, labels: Sequence[int], classes: Sequence[str], kind: str
) -> dict:
    """The figures before and after teaching on held-out images, as plain JSON values without file names.

    ``frozen``, ``adapted``: float [N, C]; N may be 0. ``kind``: how the images were held out, "given", "held-out",
    "folds" or "none". Keys: "n", "classes", "kind", "few" (fewer than 20 images), "too_few" (a sentence where the
    balanced accuracy is not shown, else ""), "frozen", "adapted" (as of `evaluate`, or None), "gain".

    A figure whose interval is wider than 0.5, before or after teaching, is None in both, and so is the recall of a
    class with fewer than `FEW_OF_CLASS` images; "unsaid", {figure: sentence} beside the figures and a sentence beside
    a recall, says why. The interval stays. gain: {"value", "interval"} of the balanced accuracy after minus before on
    the same images, or None without ``adapted``; its value is None where the interval is too wide.
    """
    labels = np.asarray(labels, dtype=int)
    result = {"n": len(labels), "classes": list(classes), "kind": kind, "few": len(labels) < FEW_HELD, "too_few": ""}
    if not len(labels):
        return {**result, "too_few": NOTHING_HELD, "frozen": None, "adapted": None, "gain": None}
    before = _said(evaluate(frozen, labels, classes=classes))
    after = None if adapted is None else _said(evaluate(adapted, labels, classes=classes))
    if after is not None:
        _alike(before, after)
    if before["balanced_accuracy"] is None:
        result["too_few"] = f"{_images(len(labels))} are too few to say how well it does on new images."
    gain = None if adapted is None else gain_of(frozen, adapted, labels)
    return {**result, "frozen": before, "adapted": after, "gain": gain}


def _said(figures: dict) -> dict:
    """``figures`` with those whose interval is too wide set to None, and the reason beside them."""
    unsaid = {}
    for key in FIGURES:
        if figures[key] is None:
            unsaid[key] = "A class has no image among those kept aside, so this cannot be measured."
        elif reason := _too_wide(figures[f"{key}_interval"]):
            figures[key], unsaid[key] = None, reason
    for row in figures["recall"]:
        row["unsaid"] = _few(row["n"], row["interval"])
        row["recall"] = None if row["unsaid"] else row["recall"]
    return {**figures, "unsaid": unsaid}


def _alike(before: dict, after: dict) -> None:
    """What cannot be said of one of them is said of neither: the same images would else tell the better half alone."""
    for key in FIGURES:
        if not before["unsaid"].get(key) and not after["unsaid"].get(key):
            continue
        for figures in (before, after):
            if figures[key] is not None:
                figures[key], figures["unsaid"][key] = None, _wide(figures[f"{key}_interval"])


def _few(n: int, interval: Sequence[float] | None) -> str:
    """Why a class's recall is not shown, by the number of its images alone, so that all classes are treated alike."""
    if interval is None:
        return "No image of this class was kept aside."
    return f"Fewer than {FEW_OF_CLASS} images: anything from {_ends(interval)} fits." if n < FEW_OF_CLASS else ""


def _too_wide(interval: Sequence[float]) -> str:
    return _wide(interval) if interval[1] - interval[0] > WIDEST else ""


def _wide(interval: Sequence[float]) -> str:
    return f"Too few images to say: anything from {_ends(interval)} fits."


def _ends(interval: Sequence[float]) -> str:
    return "{:.0f} to {:.0f}\u202f%".format(*(100 * end for end in interval))


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def gain_of(frozen: np.ndarray, adapted: np.ndarray, labels: np.ndarray) -> dict:
    """{"value", "interval"} of the balanced accuracy after minus before on the same images, probabilities [N, C]; the
    value is None where the interval is too wide."""
    before, after, values, ranges = frozen.argmax(1), adapted.argmax(1), [], []
    for c in np.unique(labels):
        was, now = before[labels == c] == c, after[labels == c] == c
        values.append(float(now.mean() - was.mean()))
        table = [int(part.sum()) for part in (was & now, was & ~now, now & ~was, ~was & ~now)]
        ranges.append(intervals.paired(*table))
    value, interval = float(np.mean(values)), intervals.of_mean(values, ranges)
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
    "shares_after"}: the most probable class and its probability, and those of all classes by name; "after…" None
    without ``adapted``. Class and file names as given."""
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


def _top(probabilities: np.ndarray | None, classes: Sequence[str], when: str) -> dict:
    if probabilities is None:
        return {when: None, f"{when}_share": None, f"shares_{when}": None}
    best = int(np.argmax(probabilities))
    each = {name: float(value) for name, value in zip(classes, probabilities, strict=True)}
    return {when: classes[best], f"{when}_share": float(probabilities[best]), f"shares_{when}": each}


def mistakes(rows: Sequence[dict], most: int = 12) -> list[dict]:
    """The rows that are wrong after teaching (before it, where there is no after), the most confident first."""
    when: Callable[[dict], str] = lambda row: "before" if row["after"] is None else "after"  # noqa: E731
    wrong = [row for row in rows if row[when(row)] != row["truth"]]
    return sorted(wrong, key=lambda row: -row[f"{when(row)}_share"])[:most]


def measure(classifier: Classifier, data: LabelledSet) -> dict:
    """A classifier's {"n", "classes", "frozen": metrics, "adapted": metrics | None, "taught", "calibrated"} on images.

    Images that the classifier's method was taught with, or that its probabilities were calibrated with, are left out;
    "taught" and "calibrated" are their numbers, None where the adapter does not say which images these are. "chance" is
    the balanced accuracy of guessing, and the metrics have "no_better_than_chance"; "pretrained" is `learned_from`. The
    classes of ``data`` are matched to those of the prompt set by name; the prompt set may have more. Raises NearlError
    for a class that the prompts do not name, and where no image is left.
    """
    index = {class_key(name): i for i, name in enumerate(classifier.prompt_set.classes)}
    unknown = [name for name in data.classes if class_key(name) not in index]
    if unknown:
        raise NearlError(f"The prompts do not name the class '{unknown[0]}' of the images; add prompts for it.")
    data, known = unseen(classifier, data)
    labels = np.array([index[class_key(data.classes[label])] for label in data.labels])
    prediction = classifier.predict(data.records)
    frozen, adapted, classes = prediction.frozen, prediction.adapted, prediction.classes
    chance = 1 / len(classes)
    figures = [None if one is None else evaluate(one, labels, classes=classes) for one in (frozen, adapted)]
    for one in filter(None, figures):
        one["no_better_than_chance"] = no_better_than_chance(one, chance)
    return {
        "n": len(labels),
        "classes": classes,
        "chance": chance,
        "pretrained": learned_from(prediction.claims),
        "frozen": figures[0],
        "adapted": figures[1],
        **known,
    }


def no_better_than_chance(figures: dict, chance: float) -> bool:
    """Whether the interval of the balanced accuracy, of `evaluate`, reaches down to that of guessing."""
    return figures["balanced_accuracy_interval"][0] <= chance


def learned_from(claims: Sequence[Claim] | None) -> bool:
    """Whether most images are of a kind that the model was pretrained with; False where that is not known."""
    return 2 * sum(claim.kind != UNKNOWN for claim in claims or ()) > len(claims or ())


def unseen(classifier: Classifier, data: LabelledSet) -> tuple[LabelledSet, dict[str, int | None]]:
    """(the images that the classifier's method has not seen, the numbers of the others)."""
    if classifier.method is None:
        return data, {"taught": 0, "calibrated": 0}
    seen = classifier.method.adapter().meta.get("images")
    if seen is None:
        return data, {"taught": None, "calibrated": None}
    each = fingerprints(classifier.backbone, data)
    taught, calibrated = set(seen["taught"]), set(seen["calibrated"])
    kept = [i for i, one in enumerate(each) if one not in taught | calibrated]
    if not kept:
        raise NearlError("The adapter has seen all of these images while it was taught; bring others to measure on.")
    count = sum(one in taught for one in each)
    return data.subset(kept), {"taught": count, "calibrated": len(data) - len(kept) - count}
