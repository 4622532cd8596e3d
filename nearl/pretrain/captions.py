"""Captions for pretraining: what can be said of an image of a known class, in many wordings, and where else it is true.

A `CaptionGrammar` is built from the `families` and `findings` of a pretraining config. A *concept* is one class of one
set, written `set/class`. A caption is a text plus the set of concepts it is true of, so that "a brain MRI", "a brain
tumour" and "no meningioma" are positives of more than one class and a contrastive batch never punishes a true pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
import torch

from nearl.errors import NearlError

# {n} a finding as a noun, {an} the same with its article, {s} a scan, {as} with its article, {p} the place
FINDING = (
    *["{n}"] * 3,
    *["{an}", "{as} of {an}", "{as} with {an}", "{as} showing {an}", "{n} on {s}", "{n}, {s}", "{s}, {n}"] * 2,
    "{n} {s}",
    "{s} {n}",
    "{s}: {n}",
    "{s} of {n}",
    "{s} with {n}",
    "{s} showing {n}",
    "there is {an}",
    "this is {an}",
    "this is {as} of {an}",
    "{an} in the {p}",
    "{n} in {p}",
    "{n} of the {p}",
    "the {p} shows {an}",
    "{as} of a patient with {an}",
    "a patient with {n}",
    "a person who has {an}",
    "findings of {n}",
    "evidence of {n}",
    "signs of {n} in {as}",
    "findings consistent with {n}",
    "diagnosis: {n}",
    "the diagnosis is {n}",
    "{as} that contains {an}",
    "{s} diagnosed as {n}",
    "an image of {an}",
    "an example of {n}",
    "{s} depicting {an}",
    "{s} demonstrating {n}",
    "{as} revealing {an}",
    "{n} seen on {s}",
    "{n} visible in {as}",
    "{an} is present",
    "{an} is seen",
    "{s} positive for {n}",
    "suspicious for {n}",
    "suggestive of {n}",
    "consistent with {n}",
    "features of {n}",
    "typical appearance of {n}",
    "a case of {n}",
    "a typical {n}",
    "probable {n}",
    "likely {n}",
    "the patient has {n}",
)
# {q} words of size, shape and brightness, {aq} the same with an article, {w} where in the picture
ATTRIBUTES = (
    *["{q} {n}", "{aq} {n} in the {w}", "{n} in the {w}", "{aq} {n}"] * 2,
    "{s} with {aq} {n}",
    "{s} with {aq} {n} in the {w}",
    "{s} with {n} in the {w}",
    "{s}, {q} {n}",
    "{n}, {q}",
    "{w}: {n}",
    "the {n} is {q}",
    "the {n} is in the {w}",
    "the {n} lies in the {w}",
)
# {t} a statement that stands alone ("the lungs are clear")
STATEMENT = (*["{t}"] * 3, "{s}, {t}", "{s}: {t}", "{t}, {s}", "{as}. {t}", "{as}, {t}", "{t} on {as}", "findings: {t}")
# {a} an adjective ("normal", "malignant") of the scan, the place or the subject
QUALITY = (
    *["{a}", "{a} {s}", "{aa} {s}"] * 2,
    "{a} {p}",
    "{aa} {p}",
    "{s}, {a}",
    "{as} of {aa} {p}",
    "{as} that is {a}",
    "the {p} is {a}",
    "the {p} looks {a}",
    "this {s} is {a}",
    "{a} findings on {s}",
    "{a}, {s}",
    "{as}: {a}",
    "{a} case, {s}",
)
MODALITY = ("{s}", "{as}", "this is {as}", "an image: {s}", "{s} of a patient", "{s} image", "{p}", "{as} of the {p}")
NEGATION = (
    *["no {n}", "without {n}", "{as} without {an}", "{as} with no {n}", "no evidence of {n}"] * 2,
    "{s}, no {n}",
    "no sign of {an}",
    "no signs of {n} on {s}",
    "there is no {n}",
    "{as} that does not show {an}",
    "not {an}",
    "{n} is absent",
    "negative for {n}",
    "{s} negative for {n}",
    "free of {n}",
    "{n} ruled out",
    "absence of {n}",
    "{s} lacking {n}",
    "{n} not seen",
    "{n} is not present",
    "no {n} is seen",
    "no {n} visible",
    "no {n} in the {p}",
    "the {p} without {n}",
    "the {s} shows no {n}",
    "nothing to suggest {n}",
    "does not have {n}",
    "the patient does not have {n}",
    "unlikely to be {n}",
    "excludes {n}",
)
ATTRIBUTE_WORDS = (
    "upper lower middle left right centre small medium-sized large of the picture image",
    "round oval lobulated irregular spiculated bright dark ring-shaped dense hazy solid faint nearly black dark grey",
    "double-ring amoeboid dotted purple brown light pale reddish black sharp soft mixed",
)
OPENINGS = (
    "a picture of",
    "a photo of",
    "image of",
    "medical image:",
    "radiology,",
    "a scan:",
    "an example of",
    "shown:",
)
SPELLINGS = (("tumour", "tumor"), ("oedema", "edema"), ("x-ray", "xray"), ("x-ray", "x ray"), ("haem", "hem"))
DROPPABLE = frozenset(["a", "an", "the", "of", "with", "on", "in", "showing", "is", "this", "image", "there"])


class Caption(NamedTuple):
    """A text, for every concept of the grammar whether it is true of it (bool [n_concepts]), and what else it asks for.

    requires: attributes that an image must have beside its concept ("place", "size", "shape", "brightness").
    """

    text: str
    true_of: np.ndarray
    requires: dict[str, str]


class CaptionGrammar:
    """Writes captions for the concepts that `families` and `findings` cover.

    `families`: name -> {concepts: [pattern], scan: [noun], place: [noun]}.
    `findings`: name -> {true_of: [pattern], names: [noun], statements: [text], qualities: [adjective]}.
    Patterns are shell-style (`brain_mri_tumor/*`). Raises NearlError if a concept has no family or no finding.
    """

    def __init__(self, concepts: Sequence[str], families: dict[str, dict], findings: dict[str, dict]):
        self.concepts = list(concepts)
        self.families = [(entry, self._matching(entry["concepts"])) for entry in families.values()]
        self.findings = [(entry, self._matching(entry["true_of"])) for entry in findings.values() if entry["true_of"]]
        self.never = [(entry, list(families).index(entry["of"])) for entry in findings.values() if not entry["true_of"]]
        for i, concept in enumerate(self.concepts):
            if not any(members[i] for _, members in self.families) or not any(true[i] for _, true in self.findings):
                raise NearlError(
                    f"The pretraining config says nothing about '{concept}': add it to a family and a finding."
                )

    def _matching(self, patterns: Iterable[str]) -> np.ndarray:
        return np.array([any(fnmatchcase(concept, pattern) for pattern in patterns) for concept in self.concepts])

    def sample(self, concept: int, rng: np.random.Generator, attributes: dict[str, str] | None = None) -> Caption:
        """Draw one true caption for the concept with this index, perhaps about the `attributes` of an image of it."""
        families = [i for i, (_, members) in enumerate(self.families) if members[concept]]
        at = families[rng.integers(len(families))]
        family, members = self.families[at]
        kind = rng.random()
        if kind < 0.1:
            return self._write(MODALITY, family, {}, rng, np.ones_like(members))
        if kind < 0.3:
            absent = [f for f in self.findings if "names" in f[0] and not f[1][concept] and (f[1] & members).any()]
            absent += [(entry, np.zeros_like(members)) for entry, of in self.never if of == at]
            if absent:
                finding, true_of = absent[rng.integers(len(absent))]
                caption = self._write(NEGATION, family, finding, rng, ~true_of)
                return caption._replace(true_of=caption.true_of & members)
        present = [f for f in self.findings if f[1][concept]]
        named = [f for f in present if "names" in f[0]]
        if attributes and named and rng.random() < 0.5:
            finding, true_of = self._telling(named, rng)
            return self._write(ATTRIBUTES, family, finding, rng, true_of, attributes)
        finding, true_of = self._telling(present, rng)
        forms = [form for form in ("names", "statements", "qualities") if finding.get(form)]
        form = forms[rng.integers(len(forms))]
        templates = {"names": FINDING, "statements": STATEMENT, "qualities": QUALITY}[form]
        return self._write(templates, family, finding, rng, true_of)

    @staticmethod
    def _telling(findings: list[tuple[dict, np.ndarray]], rng: np.random.Generator) -> tuple[dict, np.ndarray]:
        """One of them: the fewer classes a finding is shared by, the more it says, and the oftener it is drawn."""
        weight = np.array([1 / true_of.sum() for _, true_of in findings])
        return findings[rng.choice(len(findings), p=weight / weight.sum())]

    def distractor(self, rng: np.random.Generator) -> Caption | None:
        """Draw a caption that is true of no concept, or None where the config has no such finding."""
        if not self.never:
            return None
        finding, at = self.never[rng.integers(len(self.never))]
        family, members = self.families[at]
        return self._write(FINDING, family, finding, rng, np.zeros_like(members))

    def _write(
        self,
        templates: Sequence[str],
        family: dict,
        finding: dict,
        rng: np.random.Generator,
        true_of: np.ndarray,
        attributes: dict[str, str] | None = None,
    ) -> Caption:
        """Fill in one of the templates; a text that names the scan or the place is true only where that name fits."""
        template, scan, place = _pick(templates, rng), _pick(family["scan"], rng), _pick(family["place"], rng)
        noun, quality = (_pick(finding.get(form) or [""], rng) for form in ("names", "qualities"))
        for form, word, slots in (("scan", scan, ("{s}", "{as}")), ("place", place, ("{p}",))):
            if any(slot in template for slot in slots):
                true_of = true_of & np.any([m for entry, m in self.families if word in entry[form]], axis=0)
        requires: dict[str, str] = {}
        if "q}" in template:
            words = [key for key in ("size", "shape", "brightness") if rng.random() < 0.5] or ["size"]
            requires |= {key: attributes[key] for key in words}
        words = " ".join(requires.values())
        if "{w}" in template:
            requires["place"] = attributes["place"]
        text = template.format(
            **{"n": _many(noun, rng), "an": _article(noun), "s": _many(scan, rng), "as": _article(scan), "p": place},
            **{"t": _pick(finding.get("statements") or [""], rng), "a": quality, "aa": _article(quality)},
            **{"q": words, "aq": _article(words), "w": requires.get("place")},
        )
        return Caption(_roughen(text, rng), true_of, requires)

    def phrases(self) -> list[str]:
        """Every phrase a caption can be made of, for collecting the vocabulary."""
        entries = [entry for entry, _ in self.families + self.findings + self.never]
        forms = ("scan", "place", "names", "statements", "qualities")
        phrases = [phrase for entry in entries for form in forms for phrase in entry.get(form) or []]
        phrases += [phrase + "s" for phrase in phrases]
        phrases += [phrase.replace(a, b) for phrase in phrases for a, b in SPELLINGS]
        fixed = (*FINDING, *ATTRIBUTES, *ATTRIBUTE_WORDS, *STATEMENT, *QUALITY, *MODALITY, *NEGATION, *OPENINGS)
        return phrases + [text.replace("{", " ").replace("}", " ") for text in fixed]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _article(noun: str) -> str:
    """ "a glioma", "an MRI"; plurals, negations and nouns that have an article already stay as they are."""
    first = noun.split(" ")[0]
    if not noun or first in {"a", "an", "the", "no", "not"} or (noun.endswith("s") and not noun.endswith("ss")):
        return noun
    vowel = noun[0].lower() in "aeiou" or first.split("-")[0] in {"MRI", "MR", "X", "x", "H&E", "NSCLC"}
    return f"{'an' if vowel else 'a'} {noun}"


def _many(noun: str, rng: np.random.Generator) -> str:
    """Now and then the plural of a noun without a "with" or "of" behind it."""
    if rng.random() < 0.9 or noun[-1:] in ("", "s", "x") or set(noun.split()) & {"of", "with", "in", "at", "to", "and"}:
        return noun
    return noun + "s"


def _roughen(text: str, rng: np.random.Generator) -> str:
    """Spelling variants, dropped little words, swapped halves, openings, a closing period."""
    for british, american in SPELLINGS:
        if british in text and rng.random() < 0.5:
            text = text.replace(british, american)
    if rng.random() < 0.15 and not text.startswith(("this", "there", "no")):
        text = f"{_pick(OPENINGS, rng)} {text}"
    if rng.random() < 0.15 and "free of" not in text:
        text = " ".join(word for word in text.split() if word not in DROPPABLE or rng.random() < 0.5) or text
    if ", " in text and rng.random() < 0.3:
        text = ", ".join(reversed(text.split(", ")))
    return text + "." if rng.random() < 0.15 else text


class CompactVocabulary:
    """The few hundred tokens of a large byte-pair vocabulary that the captions use, as ids without gaps.

    Training with the compact ids keeps the optimiser small; `expand` writes the rows back to their places in the full
    table. Id 0 stands for every other token: its row is and stays zero, so a word the tower never saw adds no direction
    of its own. Compact ids keep the order of the full ids, so the end-of-text token remains the largest.
    """

    def __init__(self, tokenizer: Callable[[list[str]], torch.Tensor], phrases: list[str], full_size: int):
        self.tokenizer, self.full_size = tokenizer, full_size
        used = tokenizer(phrases).unique()
        self.known = used[used > 0]  # 0 is the padding
        self.lookup = torch.zeros(full_size, dtype=torch.long)
        self.lookup[self.known] = torch.arange(1, len(self.known) + 1)

    def __len__(self) -> int:
        return len(self.known) + 1

    def encode(self, texts: list[str], rng: np.random.Generator | None = None, unknown: float = 0.0) -> torch.Tensor:
        """Compact ids int64 [B, context] of the texts.

        With `rng`, a share `unknown` of the texts gets an unknown word somewhere, so that the tower learns to read on.
        """
        full = self.tokenizer(texts)
        ids = self.lookup[full]
        if rng is not None:
            for row in np.flatnonzero(rng.random(len(texts)) < unknown):
                end = int(full[row].argmax())
                if end + 1 < ids.shape[1]:
                    at = int(rng.integers(1, end + 1))
                    ids[row, at + 1 :] = ids[row, at:-1].clone()
                    ids[row, at] = 0
        return ids

    def expand(self, compact: torch.Tensor) -> torch.Tensor:
        """Compact table [len(self), width] -> full table [full_size, width], zero where a token is unknown."""
        full = compact.new_zeros(self.full_size, compact.shape[1])
        full[self.known] = compact[1:]
        return full


def tell(
    grammar: CaptionGrammar, labels: torch.Tensor, attributes: list, distractors: int, rng: np.random.Generator
) -> list[Caption]:
    """One true caption per view, and up to `distractors` that are true of no image."""
    captions = [grammar.sample(c, rng, facts) for c, facts in zip(labels.tolist(), attributes, strict=True)]
    return captions + [c for c in (grammar.distractor(rng) for _ in range(distractors)) if c]
