"""A report summarised to findings by rules: which are present, absent or not certain, and which sentence says so.

Sentences are split into clauses; a finding that is named in one is present unless the clause negates it, doubts it, or
speaks of another time. This follows NegEx (Chapman et al., 2001) and ConText (Harkema et al., 2009); the lists of words
and the order of the rules are our choice. No rule reads meaning: check the summary of a report before teaching with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nearl.prompts import class_key

PRESENT, UNCERTAIN, ABSENT = "present", "uncertain", "absent"  # the first outweighs those after it
NOTHING = "No finding."  # the summary of a report without a finding


class Term(NamedTuple):
    """How a finding is named in reports: regular expressions over text in lower case."""

    noun: str
    """As the summary calls it."""
    patterns: tuple[str, ...]
    broad: tuple[str, ...] = ()
    """Words that leave open which of several findings is meant: negated they exclude this one, else they say that it
    is uncertain."""


class Mention(NamedTuple):
    """What a sentence says of a finding."""

    finding: str
    state: str
    """PRESENT, UNCERTAIN or ABSENT."""


class Line(NamedTuple):
    """A sentence of a report; without mentions it is left out of the summary."""

    text: str
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class Summary:
    """What a report says of the findings of a vocabulary."""

    lines: tuple[Line, ...]
    vocabulary: Mapping[str, Term]

    @property
    def states(self) -> dict[str, str]:
        """The state of each finding that the report speaks of, in the order of the vocabulary. Where sentences disagree
        present outweighs uncertain, and that absent."""
        order = (PRESENT, UNCERTAIN, ABSENT)
        said: dict[str, set[str]] = {}
        for line in self.lines:
            for mention in line.mentions:
                said.setdefault(mention.finding, set()).add(mention.state)
        return {name: next(state for state in order if state in said[name]) for name in self.vocabulary if name in said}

    @property
    def present(self) -> tuple[str, ...]:
        """The findings that are present."""
        return tuple(name for name, state in self.states.items() if state == PRESENT)

    @property
    def sentences(self) -> list[str]:
        """A sentence for each finding that is present; `NOTHING` where there is none."""
        return [f"There is {self.vocabulary[name].noun}." for name in self.present] or [NOTHING]

    @property
    def text(self) -> str:
        """The summary as it is read."""
        return " ".join(self.sentences)


def vocabulary(names: Iterable[str]) -> dict[str, Term]:
    """The terms of findings: those of `CHEST`, and for other names their own words in this or the reverse order."""
    known = {class_key(name): term for name, term in CHEST.items()}
    return {name: known.get(class_key(name)) or _by_words(name) for name in names}


def summarise(report: str, terms: Mapping[str, Term] | None = None) -> Summary:
    """The summary of a report, for the findings of `terms` (default: `CHEST`). Sentences of its history, and those
    under such a heading, count as unsaid."""
    terms = CHEST if terms is None else terms
    lines = [Line(text, () if aside else tuple(_read(text, terms))) for text, aside in _sentences(report)]
    return Summary(tuple(lines), terms)


# ---- sentences and clauses

_ASIDE = re.compile(
    r"(clinical )?(history|indication|information|question|details|data)s?( and history)?|reason for (the )?"
    r"(exam\w*|study|request)|technique|comparison|procedure|recommendations?|advice"
)
_SENTENCE = re.compile(r"(?<=[.!?])(?<!\bdr\.)(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!approx\.)(?<!cf\.)\s+", re.IGNORECASE)
_HEADING = re.compile(r"([A-Za-z][A-Za-z /]{2,40}):\s*")
_OWN_SENTENCE = ("technique", "comparison", "procedure")  # headings of a single sentence


def _sentences(report: str) -> Iterator[tuple[str, bool]]:
    """(sentence, whether it speaks of something else than this study) of a report."""
    below = False  # a heading without a text of its own
    for paragraph in re.split(r"\n+", report):
        aside, below = below, False
        for sentence in filter(None, (part.strip() for part in _SENTENCE.split(paragraph.strip()))):
            heading = _HEADING.match(sentence)
            words = " ".join(heading[1].lower().split()) if heading else ""
            if heading:
                aside = bool(_ASIDE.fullmatch(words))
                below = aside and heading.end() == len(sentence)
            yield sentence, aside
            aside = aside and words not in _OWN_SENTENCE


_NEXT = (
    r"(?:no|without|the|there|a|an|his|her|small|mild|moderate|large|new|stable|persist\w*|unchanged|known|minimal|"
    r"trace|tiny|old)"
)
_BREAK = re.compile(  # where a clause ends
    rf"[;:]|\b(?:but|however|although|though|yet|while|whereas|except|apart from|aside from|other than|besides|which|"
    rf"where|still|instead)\b|,(?: and| with)?(?= {_NEXT}\b)|\b(?:and|with)(?= {_NEXT}\b)|"
    r"\band(?= (?:also|(?:is|are|has|have) now)\b)"
)
_SEEN = (
    r"(?:seen|present|visible|visuali[sz]ed|identified|evident|detected|demonstrated|appreciated|noted|found|apparent|"
    r"there|shown)"
)
_SLIGHT = r"(?:\w+ly |interval |appreciable |substantial |definite |any |further )*"
_CHANGE = (
    r"(?:change[sd]?|increase[sd]?|decrease[sd]?|progress(?:ion|ed)|growth|grown|larger|smaller|different|worse|better)"
)
_NO_NEGATION = re.compile(  # reads like a negation of a finding and is none
    rf"\bno {_SLIGHT}{_CHANGE}(?: (?:in|of)(?: size)?)?\b|\bwithout {_SLIGHT}{_CHANGE}\b|\bnot {_SLIGHT}{_CHANGE}\b|"
    rf"\bnot only\b|\bnot {_SEEN} (?:before|previously|earlier|(?:on|in) (?:the )?(?:prior|previous))\b|"
    rf"\bnot previously {_SEEN}\b|\bnot been {_SEEN} (?:before|previously)\b|"
    r"\b(?:not|never|incompletely|partial(?:ly)?|partly|nearly|almost|mostly|largely)(?: yet| been| completely| fully|"
    r" entirely)* (?:resolved|cleared|gone|resolution)\b|\bno resolution\b|\bnot enlarged since\b"
)
_DOUBT = re.compile(
    r"\b(?:can ?not|could not|can't|not)(?: be)?(?: \w+ly| reliably)*(?: be)? (?:excluded?|ruled? out)\b|"
    r"\b(?:difficult|hard|impossible) to (?:exclude|rule out)\b|"
    r"\b(?:possibl[ey]|probabl[ey]|likely|unlikely|may|might|could|suspicious|suspect\w*|suspicion|suggest\w*|"
    r"questionable|equivocal|versus|vs|perhaps|presumabl[ey]|concern\w*|doubtful)\b|\?"
)
_UNSAID = re.compile(  # what follows is asked, or of another time, or only part of what there may be
    r"\b(?:history of|h/o|to (?:exclude|rule out)|^rule out|evaluate for|assess(?:ment)? for|question of|if|in case of|"
    r"no (?:new|further|additional|other|second)|no known|risk of|prior to)\b"
)
_BEFORE = re.compile(  # negates what follows in the clause
    r"\b(?:no|not|without|denies|neither|nor|never|none|absence of|absent|negative for|free of|clear of|lack of|"
    r"rather than|resolution of|resolved|clearing of|disappearance of|normal|excludes?|excluded|ruled out)\b"
)
_AFTER = re.compile(  # negates what precedes it in the clause
    rf"\b(?:not|no longer|never) (?:\w+ly |been )*{_SEEN}\b|\b(?:resolved|cleared|disappeared|gone|absent|excluded|"
    r"ruled out|normal|negative|unremarkable)\b"
)


def _read(sentence: str, terms: Mapping[str, Term]) -> Iterator[Mention]:
    """What a sentence says of each finding that it names."""
    text = " ".join(sentence.lower().replace("’", "'").split())
    plain = _NO_NEGATION.sub(lambda found: " " * len(found[0]), text)
    doubtless = _DOUBT.sub(lambda found: " " * len(found[0]), plain)
    exact = {name: _found(text, term.patterns) for name, term in {**CHEST, **terms}.items()}
    taken = [span for spans in exact.values() for span in spans]
    for name, term in terms.items():
        spans = [(span, False) for span in exact[name]]
        if not spans:  # such as an effusion of which no side is said
            open_ = _found(text, term.broad)
            spans = [(at, True) for at in open_ if all(at[1] <= other[0] or at[0] >= other[1] for other in taken)]
        states = [_state(plain, doubtless, span, broad) for span, broad in spans]
        yield from (Mention(name, state) for state in dict.fromkeys(states) if state)


def _found(text: str, patterns: Iterable[str]) -> list[tuple[int, int]]:
    """(start, end) of what the patterns find; of places that overlap the longest."""
    spans = sorted((m.span() for p in patterns for m in re.finditer(p, text)), key=lambda span: span[0] - span[1])
    kept: list[tuple[int, int]] = []
    for start, end in spans:
        if all(end <= other[0] or start >= other[1] for other in kept):
            kept.append((start, end))
    return sorted(kept)


def _state(plain: str, doubtless: str, span: tuple[int, int], broad: bool) -> str:
    """The state of a finding that is named at ``span``; "" where nothing is said of it. ``plain``: the text without
    what only reads like a negation; ``doubtless``: without words of doubt too."""
    start, end = span
    ends = [m.span() for m in _BREAK.finditer(plain)]
    left = max((stop for _, stop in ends if stop <= start), default=0)
    right = min((begin for begin, _ in ends if begin >= end), default=len(plain))
    before, inside, after = doubtless[left:start], doubtless[start:end], doubtless[end:right]
    if _UNSAID.search(before):
        return ""
    if _DOUBT.search(plain[left:right]):
        return UNCERTAIN
    if _BEFORE.search(before) or re.search(r"\b(?:not|no longer|no|never)\b", inside) or _AFTER.search(after):
        return ABSENT
    return UNCERTAIN if broad else PRESENT


# ---- findings of the chest

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
    """A term for any other finding: its words, which may have an ending and others between them."""
    stems = [re.escape(word[:-1] if word.endswith("s") and len(word) > 4 else word) for word in class_key(name).split()]
    forward = r"(?: \w+){0,3} ".join(rf"\b{stem}\w*" for stem in stems)
    backward = r"\b[^,;]{0,40}".join(rf"\b{stem}\w*" for stem in reversed(stems))
    return Term(class_key(name), (forward, backward) if len(stems) > 1 else (forward,))
