"""A volume read as one study, where the adapter in use reads volumes, and a report summarised by rules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from app.predict import findings
from app.visitor.workspace import Workspace
from nearl.data.formats.volume import Scan, View
from nearl.data.images import ImageRecord
from nearl.data.reports import summarise
from nearl.data.terms import vocabulary
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.reading.classifier import Classifier
    from nearl.reading.studies import Inside

LONGEST = 20_000  # characters of a report (our choice)
WHOLE = "The answer after teaching is of the whole volume, read as one study."
UNSAID = "not mentioned"
ANOTHER = "This report stood beside another image than the one on show; type or paste it again beside this one."
NO_READING = "There is no reading to set a report against; press “Read the image” first."
NOT_FINDINGS = "A report is summarised to findings, and the prompts in use are of classes; ask about findings."


@dataclass(frozen=True)
class Studied:
    """How a volume was read as one study."""

    view: View | None
    """`ImageRecord.study_view` at that time."""
    notes: tuple[str, ...]
    """What of it was read, in sentences."""
    inside: Inside | None
    """None where the method does not tell."""


def is_volume(record: ImageRecord | None) -> bool:
    return record is not None and record.scan is not None and record.slices() > 1


def as_read(classifier: Classifier, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """The images as the classifier reads them: volumes as studies where its method reads such."""
    if not classifier.reads_volumes:
        return list(records)
    return [record.study() if is_volume(record) else record for record in records]


def studied(
    classifier: Classifier, records: Sequence[ImageRecord], studies: Sequence[ImageRecord]
) -> list[Studied | None]:
    """What to keep of each of the ``studies`` that `as_read` made of ``records``; None for single images."""
    from nearl.reading.studies import inside

    return [
        Studied(record.study_view, study.notes[len(record.notes) :], inside(classifier.method, study))
        if study.stack
        else None
        for record, study in zip(records, studies, strict=True)
    ]


def still_read(workspace: Workspace) -> bool:
    """Whether the image on show is another slice of a study that was read, so that its reading stays."""
    viewing = workspace.viewing
    return viewing.studied is not None and viewing.studied.view == viewing.record.study_view


def slice_at(workspace: Workspace, record: ImageRecord, number: int) -> ImageRecord:
    """The slice of a column that was pressed; those of the study have the numbers -1, -2... NearlError where there is
    no such column any longer."""
    if number >= 0:
        return record.slice_at(number)
    found = workspace.viewing.studied
    views = found.inside.views if found is not None and found.inside is not None else []
    if -number > len(views):
        raise NearlError("This volume is no longer read as a study; press “Read the image”.")
    view = views[-number - 1]
    return record.at(plane=view.plane, index=view.index, frame=view.frame)


# ---- reports

_numbers = itertools.count()
_scans: WeakKeyDictionary[Scan, int] = WeakKeyDictionary()  # which tell the scans that are in memory apart


def image_of(record: ImageRecord) -> str:
    """What tells the images apart that reports stand beside; the same for all slices of a scan."""
    return record.digest[:12] if record.scan is None else str(_scans.setdefault(record.scan, next(_numbers)))


@dataclass(frozen=True)
class Line:
    """A finding in a report and in the reading."""

    name: str
    said: str
    """What the report says of it: "present", "uncertain", "absent" or `UNSAID`."""
    sentence: str
    """The finding as a sentence of a summary."""
    proof: list[str]
    """The sentences of the report that speak of it."""
    present: bool
    """What the reading says."""
    share: float


def compared(workspace: Workspace, report: str, of: str) -> list[Line]:
    """What a report says of each finding, by rules, beside the reading on show. ``of``: `image_of` the image that it
    was typed beside. NearlError for a report that is empty or too long, that stood beside another image, and without a
    reading of findings."""
    report = report.strip()
    if not report:
        raise NearlError("The report is empty; type or paste its text first.")
    if len(report) > LONGEST:
        raise NearlError(f"The report has {len(report)} characters; at most {LONGEST} are read. Leave some of it out.")
    with workspace.lock:
        prediction, prompts = workspace.viewing.prediction, findings.asked(workspace)
        if prediction is None:
            raise NearlError(NO_READING)
        if prompts is None:
            raise NearlError(NOT_FINDINGS)
        if of != image_of(workspace.viewing.record):
            raise NearlError(ANOTHER)
        answers, _ = findings.answers_of(workspace, workspace.viewing.selected, prediction.adapted is not None)
    found = summarise(report, vocabulary(prompts.findings))
    states = found.states
    return [
        Line(
            answer.finding,
            states.get(answer.finding, UNSAID),
            f"There is {found.vocabulary[answer.finding].noun}.",
            [line.text for line in found.lines if any(m.finding == answer.finding for m in line.mentions)],
            answer.present,
            answer.share,
        )
        for answer in answers
    ]
