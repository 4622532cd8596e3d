"""How far a reading can be trusted: calibrated shares, sets of classes that hold the true one as often as promised, and
images unlike those taught with. Fitted once after teaching, on images kept aside, and stored with the adapter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np
from scipy.optimize import minimize_scalar

from nearl.backbones.familiar import FEWEST_TO_COMPARE, USUAL, threshold
from nearl.errors import NearlError
from nearl.prompts import PromptSet

COVERAGES = ("0.8", "0.9", "0.95")
USED = ("0.9", "0.8")  # the coverage shown at prediction: the first that was measured
FEWEST_TO_CALIBRATE = 20  # images kept aside; our choice
COOLEST, HOTTEST = 0.05, 20.0
FLOOR = 1e-12  # of a share, before its logarithm
MAX_CENTROIDS, MAX_WIDTH, MAX_SENTENCE = 256, 8192, 400
NOTHING_HELD = "No image was kept aside."
FOLDS = "The folds' predictions come from other models; sets can only be measured on images kept from this very model."
FOLDS_CALIBRATE = "The shares are calibrated with models taught on parts of the images, not with this very one."
OTHER_PROMPTS = (
    "The prompts were edited since teaching; how far to trust the shares was measured with the old ones, so they are "
    "shown as the model gives them, without sets."
)


@dataclass(frozen=True)
class Trust:
    """What was measured; ``refused``, {"temperature" | "conformal" | a coverage | "far": sentence}, says what was not.

    prompts: PromptSet.digest of the prompts it was measured with; temperature and conformal hold for these alone.
    temperature: shares become softmax(log(share) / temperature); None if not fitted. folds: fitted on the pooled
    predictions of the folds' models. conformal: coverage as text, "0.9" -> largest allowed 1 - share of the true class,
    on shares as the model gives them, before calibration. centroids: unit class means [C][E] of the frozen image
    embeddings taught with. far: largest cosine distance to the nearest of them still called alike.
    """

    prompts: str
    temperature: float | None
    conformal: dict[str, float]
    centroids: list[list[float]]
    far: float | None
    refused: dict[str, str]
    folds: bool = False

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Shares [N, C] after temperature scaling (Guo et al. 2017), float32; unchanged without a temperature."""
        if self.temperature is None:
            return probabilities
        return _softened(_logits(probabilities), self.temperature).astype(np.float32)

    def sets(self, probabilities: np.ndarray, coverage: str) -> list[list[int]]:
        """For each row of uncalibrated shares [N, C] the classes in the set, likeliest first. The likeliest is always
        in (our choice; it can only raise the coverage). KeyError for a coverage that was not measured."""
        limit = 1 - self.conformal[coverage] - 1e-6  # float32 shares
        shares = np.asarray(probabilities, dtype=np.float64)
        order = np.argsort(-shares, axis=1, kind="stable")
        return [
            [int(c) for i, c in enumerate(line) if i == 0 or p[c] >= limit]
            for line, p in zip(order, shares, strict=True)
        ]

    def unlike(self, embeddings: np.ndarray) -> np.ndarray:
        """bool [N]: farther from all class means than ``far``. ``embeddings``: frozen unit image embeddings [N, E].
        All False without ``far``."""
        if self.far is None:
            return np.zeros(len(embeddings), dtype=bool)
        return _distances(embeddings, np.asarray(self.centroids)) > self.far + 1e-6

    @property
    def coverage(self) -> str | None:
        """The coverage whose sets are shown: "0.9", else "0.8", else None."""
        return next((c for c in USED if c in self.conformal), None)

    def notes(self) -> list[str]:
        """The sentences of ``refused``; of the coverages only the smallest, where there is none at all."""
        return [words for key, words in self.refused.items() if key not in COVERAGES[1:]]

    def read(self, shares: np.ndarray, embeddings: np.ndarray, prompts: PromptSet) -> tuple[np.ndarray, dict]:
        """Shares [N, C] as the model gives them and frozen unit image embeddings [N, E] -> the shares to show and the
        ``trust`` of `nearl.reading.classifier.Prediction`. Other prompts than those it was measured with void all
        but the
        comparison of images, which does not depend on them."""
        same = prompts.digest == self.prompts
        notes = self.notes() if same else [words for key, words in self.refused.items() if key == "far"]
        if not same and (self.temperature is not None or self.conformal):
            notes.insert(0, OTHER_PROMPTS)
        if same and self.folds and self.temperature is not None:
            notes.insert(0, FOLDS_CALIBRATE)
        coverage = self.coverage if same else None
        sets = None
        if coverage:
            sets = [[prompts.classes[i] for i in chosen] for chosen in self.sets(shares, coverage)]
        return self.calibrate(shares) if same else shares, {
            "calibrated": same and self.temperature is not None,
            "coverage": float(coverage) if coverage else None,
            "sets": sets,
            "unlike": None if self.far is None else self.unlike(embeddings).tolist(),
            "notes": notes,
        }

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: object) -> Trust:
        """The reverse of to_dict, for content that may come from anybody. NearlError for any other layout."""
        try:
            return cls(**_checked(content))
        except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
            detail = f" ({error})" if isinstance(error, _Wrong) else ""
            raise NearlError(
                f"What this adapter says about how far to trust it cannot be used{detail}; "
                "ask for the file again or teach it anew."
            ) from None


def fit_trust(
    prompt_digest: str,
    held_probabilities: np.ndarray | None,
    held_labels: Sequence[int] | None,
    support_embeddings: np.ndarray,
    support_labels: Sequence[int],
    held_embeddings: np.ndarray | None = None,
    folds: bool = False,
) -> Trust:
    """Fit everything that the images allow.

    held_probabilities [M, C], held_labels [M]: the adapted model's shares, as it gives them, on images that were never
    taught with, or None. support_embeddings [N, E], support_labels [N]: frozen unit embeddings of what was taught with;
    held_embeddings [M, E] likewise of what was kept aside; where they are too few for "unlike", the distances of what
    was taught with, each image left out once, are taken as well. ``folds``: the held probabilities are pooled from the
    models of the folds; a temperature is then a fair guess for the final one, but no set can be promised.
    """
    refused: dict[str, str] = {}
    held = held_probabilities is not None and len(held_probabilities) > 0
    probabilities = np.asarray(held_probabilities, dtype=np.float64) if held else None
    labels = np.asarray(held_labels, dtype=int) if held else None

    temperature = None
    if held and len(labels) >= FEWEST_TO_CALIBRATE:
        temperature = fit_temperature(probabilities, labels)
    else:
        count = f"there are {len(labels)}" if held else "none was"
        refused["temperature"] = f"Calibrating the shares takes {FEWEST_TO_CALIBRATE} images kept aside; {count}."

    conformal = {}
    if not held or folds:
        refused["conformal"] = FOLDS if held else f"{NOTHING_HELD} Sets of classes can only be measured on such images."
    else:
        scores = 1 - probabilities[np.arange(len(labels)), labels]
        for coverage in COVERAGES:
            if len(labels) >= fewest(coverage):
                conformal[coverage] = threshold(scores, coverage)
            else:
                share = f"{100 * float(coverage):.0f}\u202f%"
                refused[coverage] = (
                    f"Sets that hold the true class in {share} of cases take at least {fewest(coverage)} images kept "
                    f"aside; there are {len(labels)}."
                )

    support, support_labels = np.asarray(support_embeddings, dtype=np.float64), np.asarray(support_labels, dtype=int)
    means = [support[support_labels == c].mean(0) for c in np.unique(support_labels)]
    centroids = np.stack([mean / max(np.linalg.norm(mean), FLOOR) for mean in means])
    kept = np.zeros(0) if held_embeddings is None else _distances(held_embeddings, centroids)
    distances = kept if len(kept) >= FEWEST_TO_COMPARE else np.append(kept, _left_out(support, support_labels))
    far = None
    if len(distances) >= FEWEST_TO_COMPARE:
        far = threshold(distances, USUAL)
    else:
        refused["far"] = f"Telling unlike images takes {FEWEST_TO_COMPARE} images; there are {len(distances)}."
    return Trust(
        prompt_digest,
        temperature,
        conformal,
        [[round(float(v), 6) for v in row] for row in centroids],
        far,
        refused,
        bool(folds and held),
    )


def fewest(coverage: str) -> int:
    """The smallest number of held-out images with which a set can promise this coverage: ceil(c / (1 - c))."""
    share = Fraction(coverage)
    return math.ceil(share / (1 - share))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in 0.05..20 with the smallest log loss on [M, C] shares; convex in its inverse.

    Targets are 1 - e for the label and e / (C - 1) for the others, e = 1 / (M + 2), as Platt (1999) does for two
    classes: else a few images that are all right would call for shares of 100 %.
    """
    logits, (count, classes) = _logits(probabilities), probabilities.shape
    if classes < 2:
        return 1.0
    miss = 1 / (count + 2)
    targets = np.full((count, classes), miss / (classes - 1))
    targets[np.arange(count), labels] = 1 - miss

    def loss(inverse: float) -> float:
        return -float((targets * np.log(np.maximum(_softened(logits, 1 / inverse), FLOOR))).sum(1).mean())

    found = minimize_scalar(loss, bounds=(1 / HOTTEST, 1 / COOLEST), method="bounded", options={"xatol": 1e-4})
    return float(1 / found.x)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), FLOOR))


def _softened(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    shares = np.exp(scaled - scaled.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _distances(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Cosine distance [N] of unit embeddings [N, E] to the nearest of the unit centroids [C, E]."""
    return 1 - (np.asarray(embeddings, dtype=np.float64) @ centroids.T).max(1)


def _left_out(support: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distances of the images taught with to the class means, each left out of its own; only of classes of two up."""
    kept, distances = np.arange(len(labels)), []
    for i in kept:
        others = kept != i
        if (labels[others] == labels[i]).any():
            means = np.stack([support[others & (labels == c)].mean(0) for c in np.unique(labels[others])])
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), FLOOR)
            distances.append(_distances(support[i : i + 1], means)[0])
    return np.array(distances)


# ---------------------------------------------------------------------------------------------------- reading it back


class _Wrong(ValueError):
    """What is wrong with the content, in words."""


def _checked(content: object) -> dict:
    if not isinstance(content, dict):
        raise _Wrong("it is not a table of names and values")
    keys = {"prompts", "temperature", "conformal", "centroids", "far", "refused", "folds"}
    if set(content) != keys:
        raise _Wrong("its entries are not the expected ones")
    if (
        not isinstance(content["prompts"], str)
        or len(content["prompts"]) > 128
        or not isinstance(content["folds"], bool)
    ):
        raise _Wrong("it does not say which prompts it was measured with")
    temperature, far = content["temperature"], content["far"]
    if temperature is not None:
        temperature = _number(temperature, COOLEST / 2, HOTTEST * 2, "temperature")
    if far is not None:
        far = _number(far, -0.01, 2.01, "distance")
    if not isinstance(content["conformal"], dict) or not set(content["conformal"]) <= set(COVERAGES):
        raise _Wrong("its coverages are not the expected ones")
    conformal = {key: _number(value, -0.01, 1.01, "threshold") for key, value in content["conformal"].items()}
    refused = content["refused"]
    if not isinstance(refused, dict) or len(refused) > 8:
        raise _Wrong("its reasons are not sentences")
    if not all(isinstance(v, str) and len(v) <= MAX_SENTENCE and len(k) <= 32 for k, v in refused.items()):
        raise _Wrong("its reasons are not sentences")
    return {
        "prompts": content["prompts"],
        "temperature": temperature,
        "conformal": conformal,
        "centroids": _table(content["centroids"]),
        "far": far,
        "refused": dict(refused),
        "folds": content["folds"],
    }


def _number(value: object, low: float, high: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= float(value) <= high:
        raise _Wrong(f"its {what} is out of range")
    return float(value)


def _table(rows: object) -> list[list[float]]:
    fits = isinstance(rows, list) and 0 < len(rows) <= MAX_CENTROIDS and all(isinstance(row, list) for row in rows)
    if not fits or not 0 < len(rows[0]) <= MAX_WIDTH or len({len(row) for row in rows}) != 1:
        raise _Wrong("its class means are not a table of numbers")
    return [[_number(v, -1.01, 1.01, "class mean") for v in row] for row in rows]
