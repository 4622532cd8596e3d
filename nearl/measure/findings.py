"""Figures of findings: for each how well it is told from its absence, their means, and how often answers agree.

Answers that are not known count nowhere. The interval of a mean is that of independent figures, though all findings are
read from the same images; that of a gain is from resampled images (our choice).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from nearl.data.sets.findings import FindingsSet
from nearl.data.splits import FEW_HELD
from nearl.errors import NearlError
from nearl.measure import intervals
from nearl.measure.evaluate import NOTHING_HELD, learned_from, unseen
from nearl.prompts import FINDINGS, PromptSet, Rule, class_key
from nearl.reading.classifier import Classifier
from nearl.reading.findings import consistent, thresholds
from nearl.train.answers import Label, members

SHUFFLES, DRAWS = 200, 400


def figures(present: np.ndarray, labels: Sequence[Label], prompts: PromptSet, limits: Sequence[float]) -> dict:
    """The figures of probabilities ``present`` [N, F] that each finding is there, as plain JSON values.

    n; macro_auroc, macro_sensitivity and macro_specificity, the means over the findings of which both answers occur,
    each with its interval, or None; per_finding: "finding", "n" (known), "positives", "threshold" (of ``limits``),
    "auroc" (Newcombe), "sensitivity" and "specificity" (Wilson), with their intervals, None where an answer does not
    occur; "consistent", the share of images whose answers break no rule, and "consistent_shuffled", the same of answers
    that are shuffled between images, both None without rules.
    """
    if not np.isfinite(present).all():
        raise NearlError("The model gives probabilities that are not numbers; teach it with a lower learning rate.")
    table = members(labels, len(prompts.classes))
    rows = [
        _one(name, present[:, k], table[:, 2 * k], table[:, 2 * k + 1], float(limits[k]))
        for k, name in enumerate(prompts.findings)
    ]
    answers = present >= np.asarray(limits)
    found: dict = {"n": len(labels), "per_finding": rows}
    for key in ("auroc", "sensitivity", "specificity"):
        measured = [row for row in rows if row["auroc"] is not None]
        values = [row[key] for row in measured]
        ranges = [row[f"{key}_interval"] for row in measured]
        found[f"macro_{key}"] = float(np.mean(values)) if values else None
        found[f"macro_{key}_interval"] = intervals.of_mean(values, ranges) if values else None
    return found | agreement(answers, prompts.findings, prompts.rules)


def _one(name: str, p: np.ndarray, there: np.ndarray, away: np.ndarray, limit: float) -> dict:
    known, positives, negatives = there | away, int(there.sum()), int(away.sum())
    both = bool(positives and negatives)
    auroc = float(roc_auc_score(there[known], p[known])) if both else None
    row = {
        "finding": name,
        "n": int(known.sum()),
        "positives": positives,
        "threshold": limit,
        "auroc": auroc,
        "auroc_interval": intervals.auroc(auroc, [negatives, positives]) if both else None,
    }
    for key, hits, n in (
        ("sensitivity", int((p[there] >= limit).sum()), positives),
        ("specificity", int((p[away] < limit).sum()), negatives),
    ):
        row[key] = hits / n if n else None
        row[f"{key}_interval"] = intervals.wilson(hits, n) if n else None
    return row


def agreement(answers: np.ndarray, findings: Sequence[str], rules: Sequence[Rule]) -> dict:
    """The share of images whose answers, bool [N, F], break no rule, and the mean of that share when the answers to
    each finding are shuffled between the images, which keeps how often each is given."""
    if not rules or not len(answers):
        return {"consistent": None, "consistent_shuffled": None}
    rng, shares = np.random.default_rng(0), []
    for _ in range(SHUFFLES):
        mixed = np.stack([rng.permutation(column) for column in answers.T], 1)
        shares.append(consistent(mixed, findings, rules).mean())
    return {
        "consistent": float(consistent(answers, findings, rules).mean()),
        "consistent_shuffled": float(np.mean(shares)),
    }


def study(
    frozen: np.ndarray,
    adapted: np.ndarray | None,
    labels: Sequence[Label],
    prompts: PromptSet,
    kind: str,
    limits: tuple[Sequence[float], Sequence[float]],
) -> dict:
    """The figures before and after teaching on held-out images, as plain JSON values without file names.

    ``frozen``, ``adapted``: probabilities [N, 2 F]; ``limits``: the thresholds of both; ``kind``: as of
    `nearl.measure.evaluate.study`. Keys: "n", "classes", "findings", "kind", "few", "too_few" (a sentence, or ""),
    "frozen", "adapted" (of `figures`, or None) and "gain", {"value", "interval"} of the macro AUROC, or None.
    """
    result = {
        "n": len(labels), "classes": list(prompts.classes), "findings": list(prompts.findings), "kind": kind,
        "few": len(labels) < FEW_HELD, "too_few": "", "frozen": None, "adapted": None, "gain": None,
    }  # fmt: skip
    if not len(labels):
        return {**result, "too_few": NOTHING_HELD}
    result["frozen"] = figures(frozen[:, ::2], labels, prompts, limits[0])
    if adapted is not None:
        result["adapted"] = figures(adapted[:, ::2], labels, prompts, limits[1])
        result["gain"] = gain_of(frozen[:, ::2], adapted[:, ::2], labels)
    if result["frozen"]["macro_auroc"] is None:
        result["too_few"] = "No finding is both present and absent among the images kept aside, so nothing is measured."
    return result


def gain_of(before: np.ndarray, after: np.ndarray, labels: Sequence[Label]) -> dict | None:
    """{"value", "interval"} of the macro AUROC after minus before on the same images, probabilities [N, F]; None where
    no finding has both answers. The interval is from resampled images."""
    table = members(labels, 2 * before.shape[1])

    def difference(chosen: np.ndarray) -> float:
        found = []
        for k in range(before.shape[1]):
            there, away = table[chosen, 2 * k], table[chosen, 2 * k + 1]
            if there.any() and away.any():
                rows = chosen[there | away]
                found.append(_auroc(after[rows, k], table[rows, 2 * k]) - _auroc(before[rows, k], table[rows, 2 * k]))
        return float(np.mean(found)) if found else np.nan

    value, rng = difference(np.arange(len(labels))), np.random.default_rng(0)
    if np.isnan(value):
        return None
    drawn = [difference(rng.integers(0, len(labels), len(labels))) for _ in range(DRAWS)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"value": value, "interval": [float(min(low, value)), float(max(high, value))]}


def _auroc(p: np.ndarray, there: np.ndarray) -> float:
    """The share of pairs in which the image with the finding has the higher probability; ties count half."""
    ordered, positives = np.sort(p[~there]), p[there]
    below = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(below.mean() / 2 / len(ordered))


def rows(
    frozen: np.ndarray,
    adapted: np.ndarray | None,
    labels: Sequence[Label],
    prompts: PromptSet,
    files: Sequence[str],
    limits: tuple[Sequence[float], Sequence[float]],
) -> list[dict]:
    """Per image {"index", "file", "truth" (1, 0 or None of each finding), "before", "after" (the probability of each
    finding), "said_before", "said_after" (whether that reaches its threshold, of ``limits`` as of `study`)}; those
    after are None without ``adapted``."""
    table = members(labels, len(prompts.classes))

    def named(values) -> dict:
        return dict(zip(prompts.findings, values, strict=True))

    def truth(row: np.ndarray) -> list[int | None]:
        return [1 if there else 0 if away else None for there, away in row.reshape(-1, 2)]

    return [
        {
            "index": i,
            "file": file,
            "truth": named(truth(table[i])),
            "before": named(map(float, frozen[i, ::2])),
            "after": None if adapted is None else named(map(float, adapted[i, ::2])),
            "said_before": named(map(bool, frozen[i, ::2] >= np.asarray(limits[0]))),
            "said_after": None if adapted is None else named(map(bool, adapted[i, ::2] >= np.asarray(limits[1]))),
        }
        for i, file in enumerate(files)
    ]


class Mistake(NamedTuple):
    """A wrong answer to one finding of one image."""

    row: dict
    """Of `rows`."""
    finding: str
    present: bool
    """Whether it is."""
    share: float
    """The probability that it is, as it was read."""

    @property
    def words(self) -> tuple[str, str]:
        """(what is true, what was read)."""
        there, away = f"{self.finding} present", f"{self.finding} absent"
        return (there, away) if self.present else (away, there)


def mistakes(rows: Sequence[dict], results: Mapping, most: int = 12) -> list[Mistake]:
    """The wrong answers after teaching, or before it where nothing was taught, those furthest from their threshold
    first; one of each image at most. ``results``: of `study`."""
    shown = results.get("adapted") or results.get("frozen")
    if not shown:
        return []
    limits = {one["finding"]: one["threshold"] for one in shown["per_finding"]}
    found: dict[int, Mistake] = {}
    for row in rows:
        shares = row["after"] or row["before"]
        wrong = [
            Mistake(row, name, bool(true), shares[name])
            for name, true in row["truth"].items()
            if true is not None and (shares[name] >= limits[name]) != bool(true)
        ]
        if wrong:
            found[row["index"]] = max(wrong, key=lambda one: abs(one.share - limits[one.finding]))
    return sorted(found.values(), key=lambda one: -abs(one.share - limits[one.finding]))[:most]


def measure(classifier: Classifier, data: FindingsSet, support: FindingsSet | None = None) -> dict:
    """As `nearl.measure.evaluate.measure`, of findings: "n", "findings", "frozen", "adapted" (of `figures`; the latter
    None without an adapter), "gain", and on top "macro_auroc", its interval, "per_finding", "consistent" and
    "consistent_shuffled" of the taught model, or the frozen one where there is none, and "pretrained".

    The thresholds of the taught model are those of its adapter; the frozen model's are chosen on ``support``, or are
    0.5. Raises NearlError for prompts of classes, for a finding that the prompts do not name, and where no image is
    left.
    """
    prompts = classifier.prompt_set
    if prompts.kind != FINDINGS:
        raise NearlError(
            "These images are marked with findings, but the prompts are of classes; use findings' prompts."
        )
    names = set(map(class_key, prompts.findings))
    unknown = [name for name in data.findings if class_key(name) not in names]
    if unknown:
        raise NearlError(f"The prompts do not name the finding “{unknown[0]}” of the images; add prompts for it.")
    data, known = unseen(classifier, data.aligned(prompts.findings))
    prediction = classifier.predict(data.records)
    before, after = classifier.limits(False), classifier.limits(True)
    if support is not None:
        support = support.aligned(prompts.findings)
        before = thresholds(classifier.zero_shot.predict(support.records), support.labels, prompts)
    result = study(prediction.frozen, prediction.adapted, data.labels, prompts, "given", (before, after))
    result["pretrained"] = learned_from(prediction.claims)
    shown = result["adapted"] or result["frozen"]
    top = ("macro_auroc", "macro_auroc_interval", "per_finding", "consistent", "consistent_shuffled")
    return {**result, **{key: shown[key] for key in top}, **known}
