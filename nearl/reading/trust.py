"""How far a reading can be trusted: calibrated probabilities, sets of classes that contain the true one as often as
promised, and images unlike the training images. Fitted once after teaching, on held-out images, and stored with the
adapter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from scipy.optimize import minimize_scalar

from nearl.backbones.familiar import FEWEST_TO_COMPARE, USUAL, threshold
from nearl.data.splits import FEW_HELD
from nearl.errors import NearlError
from nearl.prompts import FINDINGS, PromptSet
from nearl.train.answers import Label, known

COVERAGES = ("0.8", "0.9", "0.95")
USED = ("0.9", "0.8")  # the coverage shown with a prediction: the first that was measured
COOLEST, HOTTEST = 0.05, 20.0
FLOOR = 1e-12  # of a probability, before its logarithm
NOTHING_HELD = "No image was kept aside."
FOLDS = "The folds' predictions come from other models; sets can only be measured on images kept from this model."
FOLDS_CALIBRATE = "The shares are calibrated with models taught on parts of the images, not with this very one."
TOO_FEW = (
    f"Which classes are not ruled out is not said: a promise of how often they include the true one takes {FEW_HELD} "
    "images kept aside{}."
)
CALIBRATING = f"Calibrating the shares takes {FEW_HELD} images kept aside"
UNUSABLE = "What this adapter says about how far to trust it cannot be used; ask for the file again or teach it again."
OTHER_PROMPTS = (
    "The prompts were edited since teaching. Trust was measured with the old ones, so the shares are shown as the "
    "model gives them, without sets."
)

Temperature = Annotated[float, Field(ge=COOLEST / 2, le=HOTTEST * 2)]
Threshold = Annotated[float, Field(ge=-0.01, le=1.01)]
Distance = Annotated[float, Field(ge=-0.01, le=2.01)]
Limit = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[list[Annotated[float, Field(ge=-1.01, le=1.01)]], Field(min_length=1, max_length=8192)]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Trust:
    """What was measured of an adapter. Its values may come from anybody, so their types and ranges are checked."""

    prompts: Annotated[str, Field(max_length=128)]
    """PromptSet.digest of the prompts that it was measured with; temperature and conformal hold for these alone."""
    temperature: Temperature | None
    """Probabilities become softmax(log(p) / temperature); None if not fitted."""
    conformal: dict[Literal["0.8", "0.9", "0.95"], Threshold]
    """Largest allowed 1 - p of the true class, before calibration, by coverage."""
    centroids: Annotated[list[Row], Field(min_length=1, max_length=256)]
    """Unit class means [C][E] of the training images' embeddings in the frozen model."""
    far: Distance | None
    """Largest cosine distance to the nearest centroid of an image that still counts as similar; None if not fitted."""
    refused: Annotated[
        dict[Annotated[str, Field(max_length=32)], Annotated[str, Field(max_length=400)]], Field(max_length=8)
    ]
    """Why something was not measured, a sentence each: "temperature", "conformal" or "far"; of adapters of earlier
    versions also a coverage."""
    folds: bool = False
    """Fitted on the pooled predictions of the folds' models."""
    thresholds: Annotated[list[Limit], Field(max_length=64)] | None = None
    """Of each finding the uncalibrated probability from which on it counts as present; None for classes."""

    @field_validator("centroids")
    @classmethod
    def _of_one_width(cls, rows: list[Row]) -> list[Row]:
        if len({len(row) for row in rows}) != 1:
            raise ValueError("rows of different lengths")
        return rows

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities [B, C] after temperature scaling (Guo et al. 2017), float32; unchanged if there is none. Those
        of findings are scaled in pairs."""
        if self.temperature is None:
            return probabilities
        if self.thresholds is None:
            return softened(probabilities, self.temperature)
        pairs = np.asarray(probabilities).reshape(-1, 2)
        return softened(pairs, self.temperature).reshape(np.shape(probabilities))

    def limits(self) -> list[float] | None:
        """The thresholds of the probabilities as they are shown, which are calibrated."""
        if self.thresholds is None or self.temperature is None:
            return self.thresholds
        pairs = [value for limit in self.thresholds for value in (limit, 1 - limit)]
        return self.calibrate(np.array([pairs]))[0, ::2].astype(float).tolist()

    def sets(self, probabilities: np.ndarray, coverage: str) -> list[list[int]]:
        """The classes in the set of each row of uncalibrated probabilities [B, C], likeliest first.

        The likeliest is always in the set (our choice; it can only raise the coverage). Raises KeyError for a coverage
        that was not measured.
        """
        limit = 1 - self.conformal[coverage] - 1e-6  # float32 shares
        shares = np.asarray(probabilities, dtype=np.float64)
        order = np.argsort(-shares, axis=1, kind="stable")
        return [
            [int(c) for i, c in enumerate(line) if i == 0 or p[c] >= limit]
            for line, p in zip(order, shares, strict=True)
        ]

    def unlike(self, embeddings: np.ndarray) -> np.ndarray:
        """Whether each image, of unit embeddings [B, E] in the frozen model, is farther from all class means than
        ``far``: bool [B], all False without ``far``."""
        if self.far is None:
            return np.zeros(len(embeddings), dtype=bool)
        return _distances(embeddings, np.asarray(self.centroids)) > self.far + 1e-6

    @property
    def coverage(self) -> str | None:
        """The coverage whose sets are shown: "0.9", else "0.8", else None.

        Without a temperature fewer than `FEW_HELD` images were held out; what an adapter then promises is not repeated.
        """
        return next((c for c in USED if c in self.conformal and self.temperature is not None), None)

    def notes(self) -> list[str]:
        """The sentences of ``refused``, and why a stored promise is not repeated; without those about single coverages,
        of which the adapters of earlier versions have some."""
        kept = [words for key, words in self.refused.items() if key not in COVERAGES]
        return [*kept, TOO_FEW.format(", and there were fewer")] if self.conformal and self.coverage is None else kept

    def read(self, shares: np.ndarray, embeddings: np.ndarray, prompts: PromptSet) -> tuple[np.ndarray, dict]:
        """The probabilities to show, and the ``trust`` of `nearl.reading.classifier.Prediction`.

        ``shares``: the model's probabilities [B, C]; ``embeddings``: unit image embeddings [B, E] in the frozen model.
        With other prompts than those it was measured with, only the comparison of images holds.
        """
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
            "thresholds": self.limits() if same else None,
            "unlike": None if self.far is None else self.unlike(embeddings).tolist(),
            "notes": notes,
        }

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {key: value for key, value in asdict(self).items() if key != "thresholds" or value is not None}

    @classmethod
    def from_dict(cls, content: object) -> Trust:
        """The reverse of `to_dict`, for content that may come from anybody. NearlError for any other layout."""
        try:
            return cls(**content)
        except (TypeError, ValueError, OverflowError) as error:  # pydantic's errors are ValueErrors
            raise NearlError(UNUSABLE) from error

    def check(self, taught: PromptSet) -> None:
        """Raises NearlError where this does not go with the prompts that its adapter was taught: of findings each has
        one threshold and there are no sets, of classes none has."""
        findings = taught.kind == FINDINGS
        if (self.thresholds is not None) != findings or (findings and self.conformal):
            raise NearlError(UNUSABLE)
        if self.thresholds is not None and len(self.thresholds) != len(taught.findings):
            raise NearlError(UNUSABLE)


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

    ``held_probabilities`` [M, C], ``held_labels`` [M]: the taught model's uncalibrated probabilities of held-out
    images, or None. ``support_embeddings`` [N, E], ``support_labels`` [N]: unit embeddings of the training images in
    the frozen model; ``held_embeddings`` [M, E]: of the held-out ones. Where those are too few for "unlike", the
    distances of the training images, each left out once, are used as well. ``folds``: the held-out probabilities are
    pooled from the models of the folds; a temperature is then a fair guess for the final model, but no set can be
    promised.
    """
    refused: dict[str, str] = {}
    held = held_probabilities is not None and len(held_probabilities) > 0
    probabilities = np.asarray(held_probabilities, dtype=np.float64) if held else None
    labels = np.asarray(held_labels, dtype=int) if held else None

    temperature = None
    if held and len(labels) >= FEW_HELD:
        temperature = fit_temperature(probabilities, labels)
    else:
        refused["temperature"] = f"{CALIBRATING}{_only(len(labels) if held else 0)}."

    conformal = {}
    if not held or folds:
        refused["conformal"] = FOLDS if held else f"{NOTHING_HELD} Sets of classes can only be measured on such images."
    else:
        scores = 1 - probabilities[np.arange(len(labels)), labels]
        conformal = {c: threshold(scores, c) for c in COVERAGES if len(labels) >= fewest(c)}
        if not conformal:
            refused["conformal"] = TOO_FEW.format(_only(len(labels)))

    centroids, far = _familiar(support_embeddings, np.asarray(support_labels, dtype=int), held_embeddings, refused)
    return Trust(prompt_digest, temperature, conformal, centroids, far, refused, bool(folds and held))


def fit_findings_trust(
    prompts: PromptSet,
    thresholds: Sequence[float],
    held_probabilities: np.ndarray,
    held_labels: Sequence[Label],
    support_embeddings: np.ndarray,
    held_embeddings: np.ndarray | None,
) -> Trust:
    """The same for findings: one temperature for all, no sets, and all training images as one class.

    ``held_probabilities`` [M, 2 F], ``held_labels`` [M]: of the taught model, uncalibrated, and `nearl.train.answers`.
    """
    refused = {"conformal": "Sets are of classes; of findings each has a share of its own."}
    parts = [
        (np.asarray(held_probabilities, dtype=np.float64)[index, question], answers)
        for question, (index, answers) in zip(prompts.questions, known(held_labels, prompts.questions), strict=True)
        if len(index)
    ]
    temperature = None
    if len(held_probabilities) >= FEW_HELD:
        temperature = pooled_temperature(parts)
    else:
        refused["temperature"] = f"{CALIBRATING}{_only(len(held_probabilities))}."
    together = np.zeros(len(support_embeddings), dtype=int)
    centroids, far = _familiar(support_embeddings, together, held_embeddings, refused)
    limits = [min(max(float(value), 0.0), 1.0) for value in thresholds]
    return Trust(prompts.digest, temperature, {}, centroids, far, refused, False, limits)


def _only(count: int) -> str:
    """The end of a sentence on what takes more images than there were."""
    return "; there was only one" if count == 1 else f"; there were only {count}" if count else "; there was none"


def _familiar(
    support: np.ndarray, labels: np.ndarray, held: np.ndarray | None, refused: dict[str, str]
) -> tuple[list[list[float]], float | None]:
    """(class means, the largest distance of an image that counts as similar, or None with a sentence in ``refused``) of
    unit embeddings of the training images, with labels, and of held-out ones."""
    support = np.asarray(support, dtype=np.float64)
    means = [support[labels == c].mean(0) for c in np.unique(labels)]
    centroids = np.stack([mean / max(np.linalg.norm(mean), FLOOR) for mean in means])
    kept = np.zeros(0) if held is None else _distances(held, centroids)
    distances = kept if len(kept) >= FEWEST_TO_COMPARE else np.append(kept, _left_out(support, labels))
    far = None
    if len(distances) >= FEWEST_TO_COMPARE:
        far = threshold(distances, USUAL)
    else:
        refused["far"] = f"Telling unlike images takes {FEWEST_TO_COMPARE} images{_only(len(distances))}."
    return [[round(float(v), 6) for v in row] for row in centroids], far


def fewest(coverage: str) -> int:
    """The smallest number of held-out images M with which this coverage c is promised.

    The ceil((M + 1) c)-th smallest of M scores exists from M = ceil(c / (1 - c)) = ceil(1 / (1 - c)) - 1 on. With so
    few the promise holds on average over many draws of the M images, and for the one draw at hand the true coverage,
    Beta(k, M + 1 - k) with k = ceil((M + 1) c), varies widely. So it also takes `FEW_HELD` images, below which no other
    figure is given without a caveat either (our choice).
    """
    share = Fraction(coverage)
    return max(math.ceil(share / (1 - share)), FEW_HELD)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in 0.05..20 with the smallest log loss on probabilities [M, C]; convex in its inverse.

    Targets are 1 - e for the label and e / (C - 1) for the others, e = 1 / (M + 2), as Platt (1999) does for two
    classes; otherwise a few images that are all correct would call for probabilities of 100 %.
    """
    return pooled_temperature([(probabilities, labels)])


def pooled_temperature(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The same for several parts, (probabilities [M, C], labels [M]), that may have classes of their own."""
    kept = []
    for probabilities, labels in parts:
        count, classes = probabilities.shape
        if count and classes > 1:
            miss = 1 / (count + 2)
            targets = np.full((count, classes), miss / (classes - 1))
            targets[np.arange(count), labels] = 1 - miss
            kept.append((_logits(probabilities), targets))
    if not kept:
        return 1.0

    def loss(inverse: float) -> float:
        return -sum(
            float((targets * np.log(np.maximum(_softened(logits, 1 / inverse), FLOOR))).sum())
            for logits, targets in kept
        )

    found = minimize_scalar(loss, bounds=(1 / HOTTEST, 1 / COOLEST), method="bounded", options={"xatol": 1e-4})
    return float(1 / found.x)


def softened(probabilities: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """softmax(log(p) / temperature), float32 [B, C]; ``temperature``: one for all, or [B, 1]."""
    return _softened(_logits(probabilities), temperature).astype(np.float32)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), FLOOR))


def _softened(logits: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    scaled = logits / temperature
    shares = np.exp(scaled - scaled.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _distances(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Cosine distance [N] of unit embeddings [N, E] to the nearest of the unit centroids [C, E]."""
    return 1 - (np.asarray(embeddings, dtype=np.float64) @ centroids.T).max(1)


def _left_out(support: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distances of the training images to the class means, each image left out of its own class's; only of classes with
    two images or more."""
    kept, distances = np.arange(len(labels)), []
    for i in kept:
        others = kept != i
        if (labels[others] == labels[i]).any():
            means = np.stack([support[others & (labels == c)].mean(0) for c in np.unique(labels[others])])
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), FLOOR)
            distances.append(_distances(support[i : i + 1], means)[0])
    return np.array(distances)
