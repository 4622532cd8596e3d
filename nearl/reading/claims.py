"""What an untaught answer may claim: the kind of image, how often the prompts are right, and why it is no more than a
guess. For backbones that were measured (`nearl.backbones.measured`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nearl.backbones import Backbone
from nearl.backbones.catalogue import own_windows
from nearl.backbones.familiar import Familiar
from nearl.backbones.measured import Measured, SetFigures
from nearl.data.formats.volume import PLANES
from nearl.data.formats.windows import Window
from nearl.data.images import ImageRecord
from nearl.methods import Frozen
from nearl.prompts import FINDINGS, PromptSet, class_key
from nearl.reading.trust import softened

MOST = 3  # classes named in a sentence
WINDOWS = {"chest CT": "Lung", "abdominal CT": "Abdomen"}  # in which a kind is usually shown (our choice)
NOT_THESE = "How often these prompts are right was not measured on images like this one."
UNSURE = "A guess: whether the model can tell these findings present from absent was never measured."
UNKNOWN = ""  # the kind of an image that is unlike the training images
NOT_FAR = 1.5  # of the distance from which an image is unlike: up to here the nearest kind is its own (our choice)
MODALITIES = {  # of DICOM, to a pattern for the titles of its kinds of image
    "CT": r"\bCT\b", "MR": r"\bMRI\b", "US": "ultrasound", "CR": "X-ray", "DX": "X-ray", "MG": "mammogram",
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """What is known of the answer for one image."""

    kind: str
    """A key of `Measured.kinds`, or UNKNOWN."""
    fits: bool
    """Whether the prompts may be for images of this kind: not where they are for another one, nor for UNKNOWN."""
    doubt: str
    """Why the answer is no more than a guess, in a sentence; "" where nothing speaks against it."""


class Claims:
    """What is known of a prompt set on a backbone."""

    def __init__(self, backbone: Backbone, prompts: PromptSet):
        self.prompts, self.familiar, self.measured = prompts, backbone.familiar, backbone.measured
        asked = self.measured is not None and prompts.kind != FINDINGS  # ready sets are of classes
        found = self.measured.of(prompts) if asked else None
        self.ready, self.unchanged = found or ("", False)

    @property
    def figures(self) -> SetFigures | None:
        """Of the ready set that these prompts are, as they are or changed; None for others."""
        return self.measured.sets.get(self.ready) if self.measured is not None else None

    def words(self) -> str:
        """How often the prompts are right on test images, in a sentence; "" for a backbone that was not measured."""
        if self.measured is None:
            return ""
        if self.figures is None:
            return "How often these prompts are right has not been measured."
        return measured_words(self.figures, self.unchanged, self.prompts.classes)

    def of(self, images: Tensor, records: Sequence[ImageRecord], elsewhere: Sequence[str] = ()) -> list[Claim] | None:
        """What is known of the answers for images, from unit embeddings [B, E] and the modality of scans; None for a
        backbone that was not measured. ``elsewhere``: the kinds of the same scans in other views, for those that are of
        none in this one."""
        if self.measured is None or self.familiar is None:
            return None
        kinds = [kind for kind, _ in placed(self.measured, self.familiar, images, records)]
        if elsewhere:
            kinds = [kind or other for kind, other in zip(kinds, elsewhere, strict=True)]
        return [self.about(kind) for kind in kinds]

    def calibrated(self, probabilities: np.ndarray, claims: Sequence[Claim] | None) -> np.ndarray:
        """Probabilities [B, C] after the temperature of each image's kind; unchanged where nothing was measured, which
        is so of all findings."""
        if self.measured is None or not claims or self.prompts.kind == FINDINGS:
            return probabilities
        return softened(probabilities, np.array([[self.measured.temperature_of(claim.kind)] for claim in claims]))

    def about(self, kind: str) -> Claim:
        """What is known of the answer for an image of this kind, or UNKNOWN, on a backbone that was measured."""
        measured = self.measured
        if kind == UNKNOWN or measured is None:
            return Claim(kind, False, "A guess: this image is unlike the model's training images.")
        other = f"These classes do not fit: to the model, this image is of another kind, “{measured.title(kind)}”."
        if self.figures is not None:
            fits = kind in self.figures.kinds
            return Claim(kind, fits, _doubt(self.figures) if fits else other)
        findings = self.prompts.kind == FINDINGS  # what one is about, its prompts for "present" say
        named = measured.named(self.prompts)[:: 2 if findings else 1]
        asked = self.prompts.findings or self.prompts.classes
        strange = [name for name, kinds in zip(asked, named, strict=True) if kind not in kinds]
        if not strange:
            return Claim(kind, True, UNSURE if findings else "")
        if len(strange) == len(named) and all(named):
            return Claim(kind, False, other)
        listed = ", ".join(f"“{name}”" for name in strange[:MOST]) + (" and others" if len(strange) > MOST else "")
        title = measured.title(kind)  # a class may have a known name, and prompts that say something else
        said = f"A guess: no training image of the kind “{title}” was labelled as the prompts of {listed} say."
        return Claim(kind, True, said)


def placed(
    measured: Measured, familiar: Familiar, images: Tensor, records: Sequence[ImageRecord]
) -> list[tuple[str, float]]:
    """(kind, distance to the nearest training set) of each image, among the kinds that a scan's modality allows."""
    each = nearest(measured, familiar, images, records)
    return [(UNKNOWN if distance > familiar.far else measured.kind_of(name), distance) for name, distance in each]


def nearest(
    measured: Measured, familiar: Familiar, images: Tensor, records: Sequence[ImageRecord]
) -> list[tuple[str, float]]:
    """(training set, distance) of each image likewise, also of one that is unlike the training images; "" for an image
    that is far from all of them."""
    kinds, found = [measured.kind_of(name) for name in familiar.names], []
    for apart, record in zip(familiar.apart(images), records, strict=True):
        pattern = MODALITIES.get(record.scan.modality if record.scan is not None else "")
        allowed = [i for i, kind in enumerate(kinds) if not pattern or re.search(pattern, measured.title(kind))]
        place = min(allowed or range(len(kinds)), key=lambda i: float(apart[i]))
        distance = float(apart[place])
        found.append(("" if distance > NOT_FAR * familiar.far else familiar.names[place], distance))
    return found


def recognised(frozen: Frozen, record: ImageRecord) -> ImageRecord:
    """The view of `located`."""
    return located(frozen, record)[0]


@torch.no_grad()
def located(frozen: Frozen, record: ImageRecord) -> tuple[ImageRecord, str]:
    """A scan in the view in which the model recognises its kind best, or in the window of that kind where it has one,
    with a note that says so, and that kind; other images, and scans that are not recognised, as they are, and UNKNOWN.
    A CT is shown in the three windows of the model's training images, as red, green and blue, where it has its own.

    All windows of a CT are tried, and other planes where none of this one is recognised (our choice). The window of the
    kind is that in which people read it, also where the model recognises the kind in another one alone; the note then
    names both.
    """
    measured, familiar, scan = frozen.backbone.measured, frozen.backbone.familiar, record.scan
    three = own_windows(frozen.backbone.name)
    if three and scan is not None and scan.modality == "CT" and not scan.colour:
        note = "Shown in three windows at once, as in this model's training."
        return replace(record.at(window=three), notes=(*record.notes, note)), UNKNOWN
    if measured is None or familiar is None or scan is None or scan.colour:
        return record, UNKNOWN
    windows = dict.fromkeys([record.view.window, *(scan.presets() if scan.modality == "CT" else ())])
    planes = [plane for plane in scan.planes if plane != record.view.plane]
    here = [record.at(window=window) for window in windows]
    there = [
        record.at(window=window, plane=plane, index=scan.slices(plane) // 2) for plane in planes for window in windows
    ]
    for views in filter(None, (here, there)):
        images = frozen.embed(frozen.pooled(views))
        each = enumerate(placed(measured, familiar, images, views))
        known = [(distance, i, kind) for i, (kind, distance) in each if kind != UNKNOWN]
        if known:
            _, best, kind = min(known)
            title = measured.title(kind)
            own = [w for w in windows if isinstance(w, Window) and w.name == WINDOWS.get(title)]
            seen = [place for place in known if place[2] == kind and views[place[1]].view.window in own]
            if seen or not own:
                view = views[min(seen or known)[1]]
                return (
                    record if view.view == record.view else _noted(view, f": the model recognises “{title}”.")
                ), kind
            only = (
                f", in which people read a {title}. The model recognises a {title} in {_window(views[best])} alone, "
                "which looks more like its training images, so its answer in this one is a guess."
            )
            return _noted(views[best].at(window=own[0]), only), kind
    return record, UNKNOWN


def _window(record: ImageRecord) -> str:
    return f"the window “{record.view.window.name}”" if isinstance(record.view.window, Window) else "its own window"


def _noted(record: ImageRecord, why: str) -> ImageRecord:
    plane = f", {record.view.plane}" if record.view.plane in PLANES else ""
    return replace(record, notes=(*record.notes, f"Shown in {_window(record)}{plane}{why}"))


def measured_words(figures: SetFigures, unchanged: bool, classes: Sequence[str]) -> str:
    """How often a ready set is right on its test images, in a sentence. ``classes``: the names as they are shown."""
    shown = {class_key(name): name.replace("_", " ") for name in classes}
    each = ", ".join(f"{shown[class_key(row.name)]} {row.right} of {row.n}" for row in figures.classes if row.n)
    images = "1 test image" if figures.n == 1 else f"{figures.n} test images"
    whose = "these prompts were" if unchanged else "these prompts, before they were changed, were"
    low, high = figures.interval
    said = (
        f"On {images} {whose} right in {_per_cent(figures.balanced_accuracy)}, each class counted equally (balanced "
        f"accuracy, 95 % interval {100 * low:.0f} to {100 * high:.0f}; {each})"
    )
    guess = "; a guess" if figures.guess and len(figures.tested) > 1 else ""
    return f"{said}{guess}. Chance is {_per_cent(figures.chance)}."


def _doubt(figures: SetFigures) -> str:
    if len(figures.tested) < 2:
        only = f"only of “{figures.tested[0].replace('_', ' ')}”" if figures.tested else "of none of its classes"
        return f"A guess: there were test images {only}, so how often these prompts are wrong is not known."
    if figures.guess:
        right, chance = _per_cent(figures.balanced_accuracy), _per_cent(figures.chance)
        return (
            f"A guess: on {figures.n} test images these prompts were right in {right}, each class counted equally, and "
            f"chance is {chance}."
        )
    return ""


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f}\u202f%"
