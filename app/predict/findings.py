"""What the Predict tab shows where an image may have several findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.html import render
from app.visitor.workspace import Workspace
from nearl.prompts import FINDINGS

if TYPE_CHECKING:
    from nearl.prompts import PromptSet
    from nearl.reading.findings import Answer


CONTRADICTORY = "contradictory"


def asked(workspace: Workspace) -> PromptSet | None:
    """The prompts that the images were read with, where they are of findings."""
    prompts = workspace.viewing.prompts
    return prompts if prompts is not None and prompts.kind == FINDINGS else None


def answers_of(workspace: Workspace, place: int, adapted: bool) -> tuple[list[Answer], list[str]]:
    """The answers for an image, and their contradictions."""
    from nearl.reading.findings import answers

    prediction, classifier = workspace.viewing.prediction, workspace.viewing.classifier
    shares = prediction.adapted if adapted else prediction.frozen
    return answers(shares[place], classifier.limits(adapted), asked(workspace))


def reading(workspace: Workspace, trusted: str, about: dict[str, Any]) -> str:
    """The findings of the image on show. `about`: the sentences "doubt", "unknown", "unfamiliar" and
    "measured", the "adapter", whether the image is "alien", and what `closer.html` takes."""
    prediction, place = workspace.viewing.prediction, workspace.viewing.selected
    taught = prediction.adapted is not None
    found, wrong = answers_of(workspace, place, taught)
    before = prediction.frozen[place, ::2].tolist()
    after = prediction.adapted[place, ::2].tolist() if taught else [None] * len(before)
    untaught = set(workspace.viewing.classifier.untaught()) if taught else set()
    rows = [
        {
            "name": answer.finding,
            "present": answer.present,
            "before": was,
            "after": now,
            "limit": answer.threshold,
            "untaught": answer.finding in untaught,
        }
        for answer, was, now in zip(found, before, after, strict=True)
    ]
    return render(
        "predict/findings.html", rows=rows, taught=taught, present=[a.finding for a in found if a.present],
        contradictions=wrong, trusted=trusted, ruled=bool(asked(workspace).rules),
        chosen=taught and bool(prediction.trust and prediction.trust["thresholds"]), **about,
    )  # fmt: skip


def table(workspace: Workspace, doubts: list[str], unlike: list[str]) -> str:
    """All images at a glance: which findings each is said to have. `doubts`, `unlike`: what to say beside each answer
    before and after teaching."""

    def said(place: int, adapted: bool, mark: str) -> tuple[str, str]:
        found, wrong = answers_of(workspace, place, adapted)
        marks = filter(None, (mark, CONTRADICTORY if wrong else ""))
        return ", ".join(answer.finding for answer in found if answer.present) or "none", ", ".join(marks)

    taught = workspace.viewing.prediction.adapted is not None
    rows = [
        (record.name, *said(i, False, doubts[i]), *(said(i, True, unlike[i]) if taught else ("", "")))
        for i, record in enumerate(workspace.viewing.records)
    ]
    return render("predict/findings_table.html", rows=rows, taught=taught)


def closest(workspace: Workspace) -> str:
    """The finding of the image on show that is most clearly present, or else nearest to that."""
    found, _ = answers_of(workspace, workspace.viewing.selected, workspace.viewing.prediction.adapted is not None)
    return max(found, key=lambda answer: answer.share - answer.threshold).finding


def offered(workspace: Workspace) -> list[str]:
    """The classes of which a map may be asked for: those of the prompts; of findings their presence."""
    prompts = asked(workspace)
    return list(workspace.viewing.prediction.classes if prompts is None else prompts.findings)
