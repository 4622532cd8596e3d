"""How findings are named in reports: those of the chest, and any other by its own words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from nearl.errors import NearlError
from nearl.prompts import class_key


class Term(NamedTuple):
    """How a finding is named in reports: regular expressions over text in lower case."""

    noun: str
    """As the summary calls it."""
    patterns: tuple[str, ...]
    broad: tuple[str, ...] = ()
    """Words that leave open which of several findings is meant: negated they exclude this one, else they say that it
    is uncertain."""
    inverted: bool = False
    """Whether the finding is that the patterns' finding is absent, as of the class "no tumor"."""


def vocabulary(names: Iterable[str]) -> dict[str, Term]:
    """The terms of findings: those of `CHEST`, and for other names their own words in this or the reverse order.
    NearlError for an empty name."""
    names = list(names)
    if any(not class_key(name) for name in names):
        raise NearlError("A finding without a name cannot be looked for in reports; give every finding a name.")
    known = {class_key(name): term for name, term in CHEST.items()}
    return {name: known.get(class_key(name)) or _by_words(name) for name in names}


_GAP = r"(?:(?!\blobes?\b)[^,;.])"


def _effusion(side: str, other: str) -> Term:
    exact = (
        rf"\b{side}(?:-sided)?(?: (?!{other})\w+){{0,2}} effusions?",
        rf"\beffusions?\b(?:(?!{other})[^,;]){{0,40}}\b(?:on|at|in) the {side}\b",
        r"\bbilateral(?: \w+){0,2} effusions?|\beffusions? on both sides",
        r"\b(?:right and left|left and right)(?: \w+)? effusions?",
    )
    return Term(f"{side} pleural effusion", exact, (r"(?<!pericardial )(?<!joint )\beffusions?\b",))


def _consolidation(place: str) -> Term:
    lobe = rf"{place}(?: (?:and|or) (?:upper|middle|lower))? lobes?"
    what = r"(?:consolidat\w*|airspace opacit\w*|airspace disease)"
    exact = (rf"\b{lobe}\b{_GAP}{{0,40}}\b{what}", rf"\b{what}\b{_GAP}{{0,50}}\b{lobe}")
    return Term(f"{place} lobe consolidation", exact, (rf"\b{what}\b(?!{_GAP}{{0,50}}lobe)",))


CHEST: dict[str, Term] = {
    "nodule": Term("lung nodule", (r"(?<!thyroid )\bnodules?\b|\bnodular opacit(?:y|ies)\b",)),
    "mass": Term("lung mass", (r"(?<!muscle )(?<!bone )\bmass(?:es)?\b(?! effect)",)),
    "right effusion": _effusion("right", "left"),
    "left effusion": _effusion("left", "right"),
    "pneumothorax": Term("pneumothorax", (r"\b(?:hydro)?pneumothora(?:x|ces)\b",)),
    "upper lobe consolidation": _consolidation("upper"),
    "lower lobe consolidation": _consolidation("lower"),
    "cardiomegaly": Term(
        "cardiomegaly",
        (
            r"\bcardiomegaly\b|\bcardiac enlargement\b|\benlargement of the (?:heart|cardiac silhouette)\b",
            r"\benlarged (?:heart|cardiac (?:silhouette|shadow))\b",
            r"\b(?:heart|cardiac (?:silhouette|shadow))(?: (?!and\b)\w+){0,3} enlarged\b",
        ),
    ),
    "rib lesion": Term(
        "sclerotic rib lesion",
        (r"\b(?:lesions?|metastas[ie]s)\b[^,;]{0,50}\bribs?\b", r"\bribs?(?: \w+){0,2} (?:lesions?|metastas[ie]s)\b"),
    ),
    "aortic calcification": Term(
        "aortic calcification",
        (r"\bcalcif\w+\b[^,;]{0,30}\baort\w+", r"\baort\w+(?: (?!and\b)\w+){0,4} calcif\w+"),
    ),
    "hilar adenopathy": Term(
        "hilar adenopathy",
        (
            r"\bhil(?:ar|um|a)\b[^,;]{0,30}\b(?:lymph )?nodes?(?: \w+){0,2} enlarged\b",
            r"\bhil(?:ar|um|a)\b[^,;]{0,30}\b(?:nodes?|(?:lymph)?adenopathy)\b",
            r"\b(?:nodes?|(?:lymph)?adenopathy)\b[^,;]{0,30}\bhil(?:ar|um|a)\b",
        ),
        (r"\b(?:lymph)?adenopathy\b",),
    ),
    "vertebral fracture": Term(
        "vertebral compression fracture",
        (
            r"\b(?:vertebral|compression|wedge)(?: \w+){0,2} fractures?\b",
            r"\bfractures?\b[^,;]{0,30}\b(?:vertebra\w*|[tl]\d{1,2})\b",
            r"\b(?:vertebra\w*|[tl]\d{1,2})\b[^,;]{0,30}\blost height\b",
        ),
    ),
}


def _by_words(name: str) -> Term:
    """A term for any other finding: its words, which may have an ending and others between them. "no tumor" is found
    where a tumor is denied."""
    denied = re.fullmatch(r"(?:no|not|non|without)[ -](.*\w.*)", class_key(name))
    words = (denied[1] if denied else class_key(name)).split()
    stems = [re.escape(word[:-1] if word.endswith("s") and len(word) > 4 else word) for word in words]
    if not re.search(r"\w", name):  # "+", which no sentence can be asked for
        return Term(class_key(name), ())
    forward = r"(?: \w+){0,3} ".join(rf"\b{stem}\w*" for stem in stems)
    backward = r"\b[^,;]{0,40}".join(rf"\b{stem}\w*" for stem in reversed(stems))
    return Term(class_key(name), (forward, backward) if len(stems) > 1 else (forward,), inverted=bool(denied))
