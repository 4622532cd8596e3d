"""The layout of the results that come with a run or an adapter, which may be from anybody."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from nearl.prompts import MAX_CLASSES, MAX_FINDINGS

Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Difference = Annotated[float, Field(strict=True, ge=-1, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=10**9)]
Text = Annotated[str, Field(strict=True)]
Interval = tuple[Share, Share]


class Bin(BaseModel):
    """A bin of the reliability diagram."""

    low: Share
    high: Share
    n: Count
    confidence: Share | None
    right: Share | None
    interval: Interval | None

    @model_validator(mode="after")
    def _complete(self) -> Bin:
        if self.n and None in (self.confidence, self.right, self.interval):
            raise ValueError("a bin with images lacks a figure")
        return self


class Recall(BaseModel):
    """How many images of a class were recognised."""

    n: Count
    right: Count
    recall: Share | None
    interval: Interval | None

    @model_validator(mode="after")
    def _complete(self) -> Recall:
        if self.n and self.interval is None:
            raise ValueError("a recall lacks its interval")
        return self


class Figures(BaseModel):
    """Figures before or after teaching; None where too few images say too little."""

    balanced_accuracy: Share | None
    balanced_accuracy_interval: Interval | None
    accuracy: Share | None
    accuracy_interval: Interval | None
    auroc: Share | None
    auroc_interval: Interval | None
    ece: Share | None
    ece_interval: Interval | None
    recall: list[Recall]
    confusion: list[list[Count]]
    reliability: Annotated[list[Bin], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _complete(self) -> Figures:
        return _with_intervals(self, "balanced_accuracy", "accuracy", "auroc", "ece")


class Gain(BaseModel):
    """The change of the balanced accuracy by teaching."""

    value: Difference | None
    interval: tuple[Difference, Difference]


class Results(BaseModel):
    """The results of `nearl.measure.evaluate.study`."""

    n: Count
    classes: Annotated[list[Text], Field(min_length=1, max_length=MAX_CLASSES)]
    kind: Literal["given", "held-out", "folds", "none"]
    few: Annotated[bool, Field(strict=True)]
    too_few: Text
    frozen: Figures | None
    adapted: Figures | None
    gain: Gain | None
    pretrained: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _fits(self) -> Results:
        size, both = len(self.classes), [figures for figures in (self.frozen, self.adapted) if figures]
        if (self.gain is None) != (self.adapted is None) or (self.adapted and not self.frozen):
            raise ValueError("a gain takes figures before and after")
        if any(len(f.recall) != size or [len(row) for row in f.confusion] != [size] * size for f in both):
            raise ValueError("the figures are of other classes")
        if not self.too_few and any(f.balanced_accuracy is None for f in both):
            raise ValueError("the balanced accuracy is missing")
        return self


class Answered(BaseModel):
    """How well one finding is told from its absence; None where an answer does not occur."""

    finding: Text
    n: Count
    positives: Count
    threshold: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    auroc: Share | None
    auroc_interval: Interval | None
    sensitivity: Share | None
    sensitivity_interval: Interval | None
    specificity: Share | None
    specificity_interval: Interval | None

    @model_validator(mode="after")
    def _complete(self) -> Answered:
        return _with_intervals(self, "auroc", "sensitivity", "specificity")


class FindingFigures(BaseModel):
    """Figures of findings before or after teaching."""

    n: Count
    per_finding: list[Answered]
    macro_auroc: Share | None
    macro_auroc_interval: Interval | None
    macro_sensitivity: Share | None
    macro_sensitivity_interval: Interval | None
    macro_specificity: Share | None
    macro_specificity_interval: Interval | None
    consistent: Share | None
    consistent_shuffled: Share | None

    @model_validator(mode="after")
    def _complete(self) -> FindingFigures:
        return _with_intervals(self, "macro_auroc", "macro_sensitivity", "macro_specificity")


class FindingResults(BaseModel):
    """The results of `nearl.measure.findings.study`."""

    n: Count
    classes: Annotated[list[Text], Field(min_length=2, max_length=MAX_CLASSES)]
    findings: Annotated[list[Text], Field(min_length=1, max_length=MAX_FINDINGS)]
    kind: Literal["given", "held-out", "folds", "none"]
    few: Annotated[bool, Field(strict=True)]
    too_few: Text
    frozen: FindingFigures | None
    adapted: FindingFigures | None
    gain: Gain | None

    @model_validator(mode="after")
    def _fits(self) -> FindingResults:
        both = [figures for figures in (self.frozen, self.adapted) if figures]
        if (self.gain and not self.adapted) or (self.adapted and not self.frozen):
            raise ValueError("a gain takes figures before and after")
        if any([row.finding for row in figures.per_finding] != self.findings for figures in both):
            raise ValueError("the figures are of other findings")
        return self


M = TypeVar("M", bound=BaseModel)


def _with_intervals(figures: M, *keys: str) -> M:
    """The same figures. ValueError for one without its interval."""
    for key in keys:
        if getattr(figures, key) is not None and getattr(figures, f"{key}_interval") is None:
            raise ValueError(f"{key} lacks its interval")
    return figures


def readable(results: object) -> bool:
    """Whether these are the results of `nearl.measure.evaluate.study` or `nearl.measure.findings.study`, each number in
    its range."""
    kind = FindingResults if isinstance(results, dict) and "findings" in results else Results
    try:
        kind.model_validate(results)
    except ValidationError:
        return False
    return True
