"""Answers to findings: from which probability on one counts as present, and which answers contradict each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nearl.prompts import FINDINGS, PromptSet, Rule, class_key
from nearl.train.answers import Label, members

HALF = 0.5  # where nothing was measured
_DENIED = re.compile(
    r"(?:no|not|without|absence of|free of|negative for)[ -](?:(?:any|evidence of|signs? of) )*(.*\w.*)"
    r"|(.*\w.*)[ -](?:absent|negative|free)"
)
_HEALTHY = re.compile(  # names of images without any finding
    r"(?:normal|healthy|unremarkable)(?: findings?| controls?"
    r"|(?: \S+){0,2} (?:images?|scans?|study|exam\w*|x-rays?|ct|mri|radiographs?|ultrasound))?"
    r"|(?:no|without|nothing) (?:(?:acute|significant|relevant|focal|visible) )?"
    r"(?:findings?|abnormal\w*|disease|patholog\w*)"
)


def thresholds(probabilities: np.ndarray, labels: Sequence[Label], prompts: PromptSet) -> list[float]:
    """Of each finding the probability from which on it counts as present, chosen on images with ``labels``: where
    sensitivity plus specificity is largest (Youden's index), in the middle of the widest such gap; 0.5 where an answer
    does not occur. ``probabilities``: [N, 2 F]."""
    table = members(labels, len(prompts.classes))
    found = []
    for k in range(len(prompts.findings)):
        there, away = probabilities[table[:, 2 * k], 2 * k], probabilities[table[:, 2 * k + 1], 2 * k]
        found.append(_youden(np.asarray(there, float), np.asarray(away, float)))
    return found


def _youden(there: np.ndarray, away: np.ndarray) -> float:
    if not len(there) or not len(away):
        return HALF
    values = np.unique(np.concatenate([there, away]))
    edges = np.concatenate([[0.0], values, [1.0]])
    cuts = (edges[1:] + edges[:-1]) / 2
    index = (there >= cuts[:, None]).mean(1) + (away < cuts[:, None]).mean(1)
    best = np.flatnonzero(index >= index.max() - 1e-12)
    return float(cuts[best[np.argmax((edges[1:] - edges[:-1])[best])]])


def broken(answers: Sequence[bool], findings: Sequence[str], rules: Sequence[Rule]) -> list[Rule]:
    """The rules that the answers for one image, bool [F], break."""
    present = dict(zip(findings, answers, strict=True))
    return [rule for rule in rules if present[rule.first] and present[rule.second] == rule.excludes]


def consistent(answers: np.ndarray, findings: Sequence[str], rules: Sequence[Rule]) -> np.ndarray:
    """Whether the answers for each image, bool [N, F], break no rule: bool [N]."""
    place = {name: k for k, name in enumerate(findings)}
    fine = np.ones(len(answers), dtype=bool)
    for rule in rules:
        first, second = answers[:, place[rule.first]], answers[:, place[rule.second]]
        fine &= ~(first & (second == rule.excludes))
    return fine


def in_words(rule: Rule) -> str:
    """What is wrong where a rule is broken, in a sentence."""
    if rule.excludes:
        return f"“{rule.first}” and “{rule.second}” are both said to be present, and your rules exclude that."
    return f"“{rule.first}” is said to be present and “{rule.second}” absent, though the first is a kind of the second."


def denials(answers: Sequence[bool], prompts: PromptSet) -> Iterator[str]:
    """What is wrong, in sentences, where the answers for one image, bool [F], contradict each other by the names of the
    findings alone: one denies another ("no tumour", "tumour"), or is that there is none ("normal"). What the set's own
    rules exclude is left to them."""
    names = prompts.findings
    present, keys = dict(zip(names, answers, strict=True)), {name: class_key(name) for name in names}
    denied = {name: _denied(keys[name]) for name in names}
    ruled = {frozenset(rule[:2]) for rule in prompts.rules if rule.excludes}
    for name, other in ((name, other) for name in names for other in names if denied[name] == _singular(keys[other])):
        if present[name] == present[other] and not (present[name] and {name, other} in ruled):
            said = "present" if present[name] else "absent"
            yield f"“{other}” and “{name}” are both said to be {said}, but one denies the other: one answer is wrong."
    for name in (name for name in names if present[name] and _HEALTHY.fullmatch(keys[name])):
        beside = [
            f"“{other}”"
            for other in names
            if present[other]
            and not (denied[other] or _HEALTHY.fullmatch(keys[other]) or {name, other} in ruled)
            and denied[name] != _singular(keys[other])
        ]
        if beside:
            yield f"“{name}” is said to be present beside {', '.join(beside)}, which usually exclude each other."


def _denied(key: str) -> str:
    """What a name says is not there; "" for one that denies nothing."""
    found = _DENIED.fullmatch(key)
    return _singular(found[1] or found[2]) if found else ""


def _singular(key: str) -> str:
    return re.sub(r"^(?:an?|the) |(?<=\w{3})(?<!s)s$", "", key)


class Answer(NamedTuple):
    """What is said of one finding in one image."""

    finding: str
    share: float
    """Probability that it is present."""
    threshold: float
    present: bool


def answers(shares: np.ndarray, limits: Sequence[float], prompts: PromptSet) -> tuple[list[Answer], list[str]]:
    """(the answer to each finding, the contradictions between them in sentences) from probabilities [2 F]."""
    found = [
        Answer(name, float(share), float(limit), bool(share >= limit))
        for name, share, limit in zip(prompts.findings, shares[::2], limits, strict=True)
    ]
    said = [answer.present for answer in found]
    wrong = broken(said, prompts.findings, prompts.rules)
    return found, [*map(in_words, wrong), *denials(said, prompts)]


def limits_of(prompts: PromptSet, chosen: Sequence[float] | None) -> list[float]:
    """The thresholds of each finding: those that were chosen, or 0.5; none for classes."""
    if prompts.kind != FINDINGS:
        return []
    return list(chosen) if chosen is not None else [HALF] * len(prompts.findings)
