"""A report summarised to findings by rules: which are present, absent or not certain, and which sentence says so.

Sentences are split into clauses, and those at commas, "and" and "with" into parts. What stands before a finding (a
negation, a doubt, another time) reaches over the parts that follow, as long as they only go on with the list; what
stands after it (resolved, not seen) is said of it, or of the list that ends there. A finding without either is present,
and uncertain where a part could be read both ways. This follows NegEx (Chapman et al., 2001) and ConText (Harkema et
al., 2009); the lists of words and the order of the rules are our choice. No rule reads meaning: check the summary of a
report before teaching with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nearl.data.terms import CHEST, Term

PRESENT, UNCERTAIN, ABSENT = _ORDER = "present", "uncertain", "absent"  # the first outweighs those after it
NOTHING = "No finding."  # the summary of a report without a finding


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
        present outweighs uncertain, and that absent; of an inverted term the reverse."""
        said: dict[str, set[str]] = {}
        for line in self.lines:
            for mention in line.mentions:
                said.setdefault(mention.finding, set()).add(mention.state)
        return {
            name: next(state for state in (_ORDER[::-1] if term.inverted else _ORDER) if state in said[name])
            for name, term in self.vocabulary.items()
            if name in said
        }

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


def summarise(report: str, terms: Mapping[str, Term] | None = None) -> Summary:
    """The summary of a report, for the findings of `terms` (default: `CHEST`). Sentences of its history, and those
    under such a heading, count as unsaid."""
    terms = CHEST if terms is None else terms
    lines = [Line(text, () if aside else tuple(_read(text, terms))) for text, aside in _sentences(report)]
    return Summary(tuple(lines), terms)


# ---- sentences

_ASIDE = re.compile(
    r"(clinical )?(history|indication|information|question|details|data)s?( and history)?|reason for (the )?"
    r"(exam\w*|study|request)|technique|comparison|procedure|recommendations?|advice"
)
_HEADINGS = r"(?:(?:clinical )?(?:history|indication)|technique|comparison|findings?|impression|conclusion)"
_END = re.compile(  # where a sentence ends: after its full stop, before a number of a list, before a heading
    r"(?:(?<=[.!?])(?<!\bdr\.)(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)(?<!approx\.)(?<!cf\.)|"
    rf"(?=\s\d{{1,2}}[.)]\s*[a-z])|(?=\s{_HEADINGS}:))\s+",
    re.IGNORECASE,
)
_ITEM = r"(?:[-*•–]|\d{1,2}[.)])\s*"  # how a line of a list begins
_WRAP = re.compile(rf"(?<=[^.!?:;])\n(?!{_ITEM}|[A-Za-z][A-Za-z /]{{2,40}}:)")  # before a line that goes on
_MARK = "¶"  # between lines of which the second may go on or not: it begins with a capital
_HEADING = re.compile(rf"(?:{_ITEM})?([A-Za-z][A-Za-z /]{{2,40}}):\s*")
_OWN_SENTENCE = ("technique", "comparison", "procedure")  # headings of a single sentence
_LONGEST = 1000  # characters of a sentence whose rules are read (our choice); what a longer one names is uncertain


def _sentences(report: str) -> Iterator[tuple[str, bool]]:
    """(sentence, whether it speaks of something else than this study) of a report. A section ends at the next heading
    or at a blank line."""
    below = False  # a heading without a text of its own
    lines = "\n".join(line.strip() for line in report.splitlines())
    for paragraph in re.split(r"\n\n+", lines):
        aside, below = below, False
        parts = (part for line in _WRAP.sub(_joined, paragraph).split("\n") for part in _END.split(line))
        for sentence in (part.strip() for part in parts if re.search(r"[^\W\d]", part)):
            heading = _HEADING.match(sentence)
            words = " ".join(heading[1].lower().split()) if heading else ""
            below = False
            if heading:
                aside = bool(_ASIDE.fullmatch(words))
                below = aside and heading.end() == len(sentence)
            yield sentence, aside
            aside = aside and (below or words not in _OWN_SENTENCE)


def _joined(wrap: re.Match[str]) -> str:
    begins = re.match(r"[A-Z][a-z]", wrap.string[wrap.end() : wrap.end() + 2])
    return f" {_MARK} " if begins and wrap.string[wrap.start() - 1] != "," else " "


# ---- what is said before and after a finding

_SEEN = (
    r"(?:seen|present|visible|visuali[sz]ed|identified|evident|detected|demonstrated|appreciated|noted|found|apparent|"
    r"there|shown)"
)
_LY = r"(?: \w+ly){0,3}"
_SLIGHT = r"(?:\w+ly |interval |significant |appreciable |substantial |definite |any |further ){0,3}"
_CHANGE = (
    r"(?:change[sd]?|increase[sd]?|decrease[sd]?|progress(?:ion|ed)|growth|grown|larger|smaller|different|worse|better)"
)
_EARLIER = r"(?:before|previously|earlier|(?:on|in|at|by) (?:[^\s,;]+ ){0,3}(?:prior|previous|earlier|(?:19|20)\d\d)\b)"
_NO_NEGATION = re.compile(  # reads like a negation of a finding and is none
    rf"\bno {_SLIGHT}{_CHANGE}(?: (?:in|of)(?: size)?)?\b|\bwithout {_SLIGHT}{_CHANGE}\b|\bnot {_SLIGHT}{_CHANGE}\b|"
    rf"\bnot (?:only|just|merely|simply|infrequent(?:ly)?)\b|\bno (?:fewer|less) than\b|\b(?:no|not|without)(?: \w+)? "
    rf"(?:doubt|question)\b(?! of\b)|\bnot {_SEEN} {_EARLIER}|\bnot previously {_SEEN}\b|\bnot been {_SEEN} {_EARLIER}|"
    r"\bwithout (?:(?:iv|intravenous|oral|any|the|use of) ){0,3}contrast\b|"
    r"\bno (?:prior|previous|earlier)(?: \w+)? (?:study|studies|exam\w*|imaging|images?|films?|ct|radiographs?)\b|"
    r"\b(?:not|never|incompletely|partial(?:ly)?|partly|nearly|almost|mostly|largely)(?: yet| been| completely| fully|"
    r" entirely){0,3} (?:resolved|cleared|gone|resolution)\b|\bno resolution\b|\bnot enlarged since\b"
)
_EXCLUDED = rf"\b(?:not(?: be)?{_LY}(?: be)?|(?:difficult|hard|impossible) to) (?:excluded?|ruled? out)\b"
_BEFORE = re.compile(  # what reaches over what follows; the group names the state, "unsaid" none
    r"(?P<unsaid>\b(?:history of|h/o|to (?:exclude|rule out)|evaluate for|assess(?:ment)? for|question of|if|in case "
    r"of|no (?:new|further|additional|other|second|known|prior|previous)|risk of|prior to|follow[- ]?up (?:of|for)|"
    r"(?:mother|father|brother|sister|parents?|family)(?:'s)?)\b|"
    rf"^\W*rule out\b)|(?P<uncertain>{_EXCLUDED}|\b(?:possibl[ey]|probabl[ey]|(?:not )?(?:un)?likely|may|might|could"
    r"(?! not)|suspicious|suspect\w*|suspicion|suggest\w*|questionable|equivocal|versus|vs|perhaps|presumabl[ey]|"
    r"concern\w*|doubtful|mimic\w*|simulat\w*|low (?:probability|likelihood|suspicion) (?:of|for)|"
    r"(?:resection|removal|excision|drainage) of)\b|\?)|"
    r"(?P<absent>\bnon-$|(?<![\d.,])0 (?!mm|cm)|\b(?:no|zero|without|denies|neither|nor|never|none|absence of|"
    r"negative for|free (?:of|from)|clear of|"
    r"lack of|rather than|resolution of|clearing of|disappearance of|excludes?|rules out|fail(?:s|ed)? to)\b|\bnot(?= "
    r"(?:a|an|any|the|show|demonstrate|reveal|see|have|contain|evidence)\b)|^\W*(?:the |an? |interval |previously |now "
    r"){0,3}(?:resolved|absent)\b)|(?P<other>\b(?:not|never)\b)"  # not: of what, is not known
)
_AFTER = re.compile(  # what is said of what precedes it; the last counts
    rf"(?P<uncertain>{_EXCLUDED}|\?"
    rf"|\bnot(?: be| been)? (?:well|clearly|definitely|reliably|confidently)(?: be)? {_SEEN}\b"
    r"|\b(?:may|might|could(?! not)|versus|vs|unlikely|resected|removed|excised|drained)\b"
    r"|\b(?:possible|probable|likely|suspected|questionable|equivocal|doubtful|uncertain|unclear)(?=\W*$| (?:in|on|at|"
    rf"present)\b))|(?P<absent>\b(?:not|no longer|never)(?: be| been| \w+ly){{0,4}} {_SEEN}\b|\bnot{_LY} (?:recurred|"
    r"returned|reappeared|developed)\b|(?<!\bthe )(?<!\ba )(?<!\ban )\b(?:resolved|cleared|disappeared|gone|absent|"
    r"excluded|ruled out)\b|^[ -]free\b|(?:^ |\b(?:is|are|was|were|appears?|remains?)(?: of| within| \w+ly)? )(?:normal"
    rf"|negative|unremarkable)\b)|(?P<present>\bnow{_LY} {_SEEN}\b|\b(?:recurred|returned|reappeared)\b)"
)
_HARD = (  # where a clause ends, and with it what was said before
    r"[;:]|\b(?:but|however|yet|whereas|except|apart from|aside from|other than|besides|where|still|instead|(?:which|"
    r"although|though|while)(?! [^,;:]{1,80}, (?:is|are|was|were|has|have|can|could)\b))\b"
    r"|(?:,(?: and| with| or)?|\band)(?= (?:no|not|without|there)\b)"
)
_CUT = re.compile(rf"(?P<hard>{_HARD})|,(?: (?:and|or|nor|with))?\b|[,{_MARK}]|\b(?:and|with)\b")
_LASTS = re.compile(  # says that it is there
    r"\b(?:unchanged|stable|persist\w*|remains?|known|old|(?:larger|smaller)(?! than \d)|has (?:increased|decreased|"
    r"grown|improved|worsened))\b"
)
_OWN = re.compile(  # a part that begins like a sentence of its own
    r"\W*(?:the|an?|his|her|this|that|small|mild|moderate|large|new|minimal|trace|tiny|\d\S*)\b"
)
_VERB = r"(?:is|are|was|were|has|have|had|can|could|remains?|appears?|measures?|lies|shows?)"
_PREDICATE = re.compile(rf"\b(?:{_VERB}|persist\w*|unchanged|stable|{_SEEN})\b")
_CLAUSE = re.compile(rf"(?:(?!\b(?:or|nor|that|which|who|as|than|if)\b)[^:;])*?\b{_VERB}\b")  # its subject and its verb
_GOES_ON = re.compile(rf"\W*(?:{_VERB}|now|not|no longer|resolved|cleared|gone|absent)\b")
_LABEL = re.compile(r"\s*(?::|\s[-–])\s*([^;]*)")  # "Pneumothorax: none."
_NO = re.compile(
    rf"(?:none|nil|absent|negative|0|-|resolved|no(?: longer)? (?:evidence|sign|{_SEEN})|not {_SEEN})(?!\w)|no\W*$"
)
_YES = re.compile(
    r"(?:\+|yes|present|positive|seen|noted|small|mild|moderate|large|tiny|trace|minimal|right|left|bilateral|in|at|on|"
    r"unchanged|stable|new|an?|one|two|three|multiple|several|few|larger|smaller|increas\w*|decreas\w*|persist\w*|[1-9])"
    r"(?!\w)|\s*$"
)
_SIDES = re.compile(
    r"\b(effusions?): ([^,;.]{1,40}) (?:on|at) the (left|right)(?:,| and| but|;){1,2} ([^,;.]{1,40}) (?:on|at) the "
    r"(left|right)\b"
)


def _read(sentence: str, terms: Mapping[str, Term]) -> Iterator[Mention]:
    """What a sentence says of each finding that it names."""
    text = " ".join(sentence.lower().replace("’", "'").split())
    text = text.replace("cannot", "can not").replace("can't", "can not").replace("n't", " not")
    text = _SIDES.sub(r"\3 \1: \2; \5 \1: \4", text)
    if len(text) > _LONGEST:
        named = (name for name, term in terms.items() if any(re.search(p, text) for p in (*term.patterns, *term.broad)))
        yield from (Mention(name, UNCERTAIN) for name in named)
        return
    exact = {name: _found(text, term.patterns) for name, term in {**CHEST, **terms}.items()}
    taken = [span for spans in exact.values() for span in spans]
    named = taken + [span for term in terms.values() for span in _found(text, term.broad)]
    if not named:
        return
    clauses = _Clauses(text, named)
    for name, term in terms.items():
        spans = [(span, False) for span in exact[name]]
        if not spans:  # such as an effusion of which no side is said
            open_ = _found(text, term.broad)
            spans = [(at, True) for at in open_ if all(at[1] <= other[0] or at[0] >= other[1] for other in taken)]
        states = [clauses.state(span, exact[name]) for span, _ in spans]
        states = [UNCERTAIN if broad and s == PRESENT else s for s, (_, broad) in zip(states, spans, strict=True)]
        if term.inverted:
            states = [_ORDER[2 - _ORDER.index(state)] if state else "" for state in states]
        yield from (Mention(name, state) for state in dict.fromkeys(states) if state)


def _found(text: str, patterns: Iterable[str]) -> list[tuple[int, int]]:
    """(start, end) of what the patterns find; of places that overlap the longest."""
    spans = sorted((m.span() for p in patterns for m in re.finditer(p, text)), key=lambda span: span[0] - span[1])
    kept: list[tuple[int, int]] = []
    for start, end in spans:
        if all(end <= other[0] or start >= other[1] for other in kept):
            kept.append((start, end))
    return sorted(kept)


class _Part(NamedTuple):
    """What lies between two cuts of a sentence."""

    start: int
    end: int
    joint: str
    """What stands before it: ",", "and", "with" or the like; "" where a clause begins."""


class _Clauses:
    """A sentence in clauses and parts, and what they say of a finding that is named at a place."""

    def __init__(self, text: str, named: list[tuple[int, int]]):
        self.text = _NO_NEGATION.sub(lambda found: " " * len(found[0]), text)
        self.named = named
        self.cuts = list(_CUT.finditer(self.text))

    def state(self, span: tuple[int, int], same: list[tuple[int, int]]) -> str:
        """The state of a finding named at ``span``; "" where nothing is said of it. ``same``: all places where it is
        named."""
        part, earlier, later = self._around(span)
        before, after = self.text[part.start : span[0]], self.text[span[1] : part.end]
        label = _LABEL.match(self.text, span[1])
        if label and not re.sub(r"[\W\d]|pleural|lung|pulmonary", "", before):
            return self._answer(label, any(start > span[1] for start, _ in same))
        after += "".join(f" {said}" for said in self._said_on(later))
        said = [found.lastgroup for found in _AFTER.finditer(after)]
        last = said[-1] if said else ""
        own = self._own_cue(before, self.text[span[0] : span[1]]) or self._carried(part, span, earlier)
        if own == "unsaid":
            return ""
        if last == UNCERTAIN:
            return UNCERTAIN
        if own == ABSENT:  # denied twice is said of something else
            of_another = re.search(r"\b(?:(?:the|this|that|these) (?:\w+ )?$|(?:after|following|since)\b)", before)
            of_another = of_another and re.search(
                r"\b(?:no|without)\b(?! (?:longer|(?:evidence|signs?) (?:of|for) (?:the|this|that|these))\b)", before
            )
            return UNCERTAIN if last == ABSENT or of_another else ABSENT
        if last == ABSENT:
            return ABSENT
        if own:
            return UNCERTAIN
        return self._list_ends(self.text[part.start : part.end], later) or PRESENT

    def _around(self, span: tuple[int, int]) -> tuple[_Part, list[_Part], list[_Part]]:
        """The part that a place lies in, and those of its clause before (the nearest first) and after it."""
        left = [cut for cut in self.cuts if cut.end() <= span[0]]
        right = [cut for cut in self.cuts if cut.start() >= span[1]]
        earlier, end = [], 0
        own = _Part(left[-1].end() if left else 0, right[0].start() if right else len(self.text), _joint(left))
        while left and not left[-1]["hard"]:
            end = left.pop().start()
            earlier.append(_Part(left[-1].end() if left else 0, end, _joint(left)))
        later = []
        for place, cut in enumerate(right):
            if cut["hard"]:
                break
            end = right[place + 1].start() if place + 1 < len(right) else len(self.text)
            later.append(_Part(cut.end(), end, cut[0].strip(", ") or ","))
        return own, earlier, later

    def _names(self, part: _Part) -> int | None:
        """Where a part first names a finding; None where it names none."""
        return min((start for start, _ in self.named if part.start <= start < part.end), default=None)

    @staticmethod
    def _own_cue(before: str, inside: str) -> str:
        """The state that what stands before a finding in its part, or among its own words, gives it."""
        found = _BEFORE.search(before)
        if re.search(r"\bnormal $", before):
            return ABSENT
        if found and found.lastgroup == "other" and not before[found.end() :].strip():
            return ABSENT
        if not found:
            found = _BEFORE.search(inside) or re.search(r"\bresolved\b", inside)
            if found and (found.lastgroup or "other") == "other":
                return ABSENT
        return "" if not found else UNCERTAIN if found.lastgroup == "other" else str(found.lastgroup)

    def _carried(self, part: _Part, span: tuple[int, int], earlier: list[_Part]) -> str:
        """The state that the parts before give a finding of a list."""
        mine, after = self.text[part.start : part.end], self.text[span[1] : part.end]
        if _LASTS.search(self.text[part.start : span[0]]) or _LASTS.search(after):
            return ""
        alone = bool(_OWN.match(mine)) or part.joint in ("with", _MARK)
        if alone and _PREDICATE.search(mine):
            return ""
        begins = part.joint == "," and bool(_CLAUSE.match(mine))  # "No nodule, mass is present."
        for place, other in enumerate(earlier):
            text, names = self.text[other.start : other.end], self._names(other)
            cue = next(
                (
                    found.lastgroup
                    for found in _BEFORE.finditer(text)
                    if names is None or found.lastgroup != "other" or other.start + found.start() < names
                ),
                None,
            )
            if cue == ABSENT and begins:
                return UNCERTAIN if place else ""  # of a longer list it may be the end
            if cue:
                return "unsaid" if cue == "unsaid" else ABSENT if cue == ABSENT and not alone else UNCERTAIN
            alone = alone or bool(_LASTS.search(text)) or bool(_OWN.match(text))
        return ""

    def _said_on(self, later: list[_Part]) -> Iterator[str]:
        """The parts after a finding that go on with it: "..., 5 mm before, has resolved"."""
        for part in later:
            if self._names(part) is not None:
                return
            text = self.text[part.start : part.end]
            if _GOES_ON.match(text):
                yield text

    def _list_ends(self, mine: str, later: list[_Part]) -> str:
        """What the end of a list says of a finding that it begins with: "A, B and C have resolved"; "" for nothing."""
        if _PREDICATE.search(mine):
            return ""
        for part in later:
            names = self._names(part)
            text = self.text[part.start : part.end]
            if part.joint in ("with", _MARK) or names is None or _BEFORE.search(self.text[part.start : names]):
                return ""
            said = [found.lastgroup for found in _AFTER.finditer(text)]
            if said:
                whole = part.joint.endswith(("and", "or", "nor")) and not re.search(r"\b(?:has|is|was)\b", text)
                return "" if said[-1] == PRESENT else str(said[-1]) if whole else UNCERTAIN
            if _PREDICATE.search(text):
                return ""
        return ""

    @staticmethod
    def _answer(label: re.Match[str], again: bool) -> str:
        """The state of a finding that a form names with an answer after it; ``again``: which names it too."""
        answer = label[1].strip(" .")
        if again:
            return ""
        if _NO.match(answer):
            return ABSENT
        return PRESENT if _YES.match(answer) and not _AFTER.search(f" {answer}") else UNCERTAIN


def _joint(cuts: list[re.Match[str]]) -> str:
    return "" if not cuts or cuts[-1]["hard"] else cuts[-1][0].strip(", ") or ","
