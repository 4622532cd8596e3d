"""The written report of a synthetic chest study: normal, positive, negated and change sentences in varied wording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nearl.data.phantoms.brushes import Rng
from nearl.data.phantoms.thorax.findings import FINDINGS, NAMES

CHANGES = ("new", "larger", "smaller", "unchanged", "resolved")
HEAD = "SYNTHETIC report of a made-up study: it shows no patient. Not for diagnosis."
LUNG = {"nodule", "mass", "upper lobe consolidation", "lower lobe consolidation"}
BONE = {"rib lesion", "vertebral fracture"}
PLEURA = {"right effusion", "left effusion", "pneumothorax"}


class Sentence(NamedTuple):
    """A sentence of a report."""

    text: str
    kind: str
    """"present", "negated", "change", "normal" or "about" (technique and comparison)."""
    finding: str = ""
    """Which finding it is about; "" for none."""


class Report(NamedTuple):
    """A report as sentences, in order."""

    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """The report as it is read: what it is, the findings, and an impression of the positive ones."""
        found = [s.text for s in self.sentences if s.kind in ("present", "change")]
        impression = " ".join(found) if found else "No acute finding."
        body = " ".join(s.text for s in self.sentences)
        return f"{HEAD}\n\n{body}\n\nImpression: {impression}\n"


_PRESENT = {
    "nodule": ("There is a {size} solid nodule in the {place}.", "A {size} nodule is seen in the {place}."),
    "mass": ("There is a {size} mass in the {place}.", "A lobulated mass of {size} lies in the {place}."),
    "right effusion": ("There is a {size} right pleural effusion.", "A {size} effusion is present on the right."),
    "left effusion": ("There is a {size} left pleural effusion.", "A {size} effusion is present on the left."),
    "pneumothorax": ("There is a {size} {side} pneumothorax.", "A {size} pneumothorax is seen on the {side}."),
    "upper lobe consolidation": ("There is consolidation in the {place}.", "The {place} is in part consolidated."),
    "lower lobe consolidation": ("There is consolidation in the {place}.", "Airspace opacity is seen in the {place}."),
    "cardiomegaly": ("The heart is enlarged.", "There is cardiomegaly."),
    "rib lesion": ("There is a sclerotic lesion of the {place}.", "A dense lesion of {size} is seen in the {place}."),
    "aortic calcification": ("There is calcification of the aorta.", "The aortic wall is calcified."),
    "hilar adenopathy": ("There are enlarged lymph nodes at the {place}.", "The {place} is enlarged by lymph nodes."),
    "vertebral fracture": ("There is a compression fracture of {place}.", "{place} has lost height anteriorly."),
}  # fmt: skip
_NEGATED = {
    "nodule": ("There is no lung nodule.", "No nodule is seen."),
    "mass": ("There is no lung mass.", "No mass."),
    "right effusion": ("There is no right pleural effusion.", "No effusion on the right."),
    "left effusion": ("There is no left pleural effusion.", "No effusion on the left."),
    "pneumothorax": ("There is no pneumothorax.", "No evidence of pneumothorax."),
    "upper lobe consolidation": ("No consolidation in the upper lobes.", "The upper lobes are not consolidated."),
    "lower lobe consolidation": ("No consolidation in the lower lobes.", "The lower lobes are not consolidated."),
    "cardiomegaly": ("The heart is not enlarged.", "No cardiomegaly."),
    "rib lesion": ("No focal rib lesion.", "There is no lesion of the ribs."),
    "aortic calcification": ("The aorta is not calcified.", "No calcification of the aorta."),
    "hilar adenopathy": ("There is no hilar adenopathy.", "The hilar lymph nodes are not enlarged."),
    "vertebral fracture": ("No vertebral fracture.", "There is no compression fracture."),
}
_CHANGED = {
    "new": ("The {noun} is new since the prior study.", "The {noun} was not present before."),
    "larger": ("The {noun} is larger than before.", "The {noun} has increased since the prior study."),
    "smaller": ("The {noun} is smaller than before.", "The {noun} has decreased since the prior study."),
    "unchanged": ("The {noun} is unchanged.", "The {noun} is stable since the prior study."),
    "resolved": ("The {noun} seen before has resolved.", "The {noun} of the prior study is no longer seen."),
}
_NORMAL = (  # a sentence, and the findings with which it would be wrong
    ("The trachea is in the midline.", set()),
    ("The oesophagus is unremarkable.", set()),
    ("The thyroid is of normal size.", set()),
    ("The visualised upper abdomen is unremarkable.", set()),
    ("The lungs are clear.", LUNG),
    ("The pleural spaces are clear.", PLEURA),
    ("The bones are unremarkable.", BONE),
    ("The mediastinal contours are normal.", {"cardiomegaly", "hilar adenopathy", "aortic calcification"}),
)


def write(
    seed: int,
    words: Mapping[str, Mapping[str, str]],
    present: Mapping[str, bool],
    changes: Mapping[str, str],
    prior: bool,
) -> Report:
    """The report of a study: every finding that is present, about half of the others as negated, what changed since a
    prior study, and normal sentences that the findings allow."""
    rng = np.random.default_rng([77, seed, 3])
    about = Sentence("Comparison: prior study." if prior else "Comparison: none.", "about")
    found, rest = [Sentence("Chest study in two views and a volume.", "about"), about], []
    for name in NAMES:
        draw, change = rng.random(2), changes.get(name, "")
        if present[name]:
            group = [Sentence(_pick(_PRESENT[name], draw[0]).format(**words[name]), "present", name)]
            group += [_changed(name, change, draw[1])] if change else []
            found += [s._replace(text=s.text[0].upper() + s.text[1:]) for s in group]
        elif change == "resolved":
            found.append(_changed(name, change, draw[1]))
        elif draw[1] < 0.5:
            rest.append(Sentence(_pick(_NEGATED[name], draw[0]), "negated", name))
    ill = {name for name in NAMES if present[name]}
    rest += [Sentence(text, "normal") for text, wrong in _NORMAL if rng.random() < 0.6 and not wrong & ill]
    return Report((*found, *_shuffled(rest, rng)))


def _changed(name: str, change: str, draw: float) -> Sentence:
    return Sentence(_pick(_CHANGED[change], draw).format(noun=FINDINGS[name].noun), "change", name)


def _pick(texts: tuple[str, ...], draw: float) -> str:
    return texts[int(draw * len(texts))]


def _shuffled(sentences: list[Sentence], rng: Rng) -> list[Sentence]:
    return [sentences[i] for i in rng.permutation(len(sentences))]
