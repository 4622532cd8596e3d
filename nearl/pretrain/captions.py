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
import yaml

from nearl.errors import NearlError
from nearl.resources import ASSETS

WORDINGS = yaml.safe_load((ASSETS / "pretrain" / "wordings.yaml").read_text(encoding="utf-8"))
DROPPABLE = frozenset(WORDINGS["droppable"])


class Caption(NamedTuple):
    """A text and what it is true of."""

    text: str
    true_of: np.ndarray  # bool [concepts of the grammar]
    requires: dict[str, str]  # attributes that an image must also have: "place", "size", "shape", "brightness"


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
            return self._write("modality", family, {}, rng, np.ones_like(members))
        if kind < 0.3:
            absent = [f for f in self.findings if "names" in f[0] and not f[1][concept] and (f[1] & members).any()]
            absent += [(entry, np.zeros_like(members)) for entry, of in self.never if of == at]
            if absent:
                finding, true_of = absent[rng.integers(len(absent))]
                caption = self._write("negation", family, finding, rng, ~true_of)
                return caption._replace(true_of=caption.true_of & members)
        present = [f for f in self.findings if f[1][concept]]
        named = [f for f in present if "names" in f[0]]
        if attributes and named and rng.random() < 0.5:
            finding, true_of = self._telling(named, rng)
            return self._write("attributes", family, finding, rng, true_of, attributes)
        return self._say(family, *self._telling(present, rng), rng)

    def contrast(self, concept: int, rng: np.random.Generator) -> tuple[str, str]:
        """Draw a caption of what images of the concept show, and one that denies it or says something else of them."""
        families = [i for i, (_, members) in enumerate(self.families) if members[concept]]
        at = families[rng.integers(len(families))]
        family, members = self.families[at]
        finding, true_of = self._telling([f for f in self.findings if f[1][concept]], rng)
        shown = self._say(family, finding, true_of, rng).text
        others = [f for f in self.findings if not f[1][concept] and (f[1] & members).any()]
        others += [(entry, np.zeros_like(members)) for entry, of in self.never if of == at]
        if finding.get("names") and (not others or rng.random() < 0.5):
            return shown, self._write("negation", family, finding, rng, ~true_of).text
        if not others:
            others = [f for f in self.findings if not f[1][concept]]
        return shown, self._say(family, *others[rng.integers(len(others))], rng).text

    def _say(self, family: dict, finding: dict, true_of: np.ndarray, rng: np.random.Generator) -> Caption:
        forms = [form for form in ("names", "statements", "qualities") if finding.get(form)]
        form = forms[rng.integers(len(forms))]
        wordings = {"names": "finding", "statements": "statement", "qualities": "quality"}[form]
        return self._write(wordings, family, finding, rng, true_of)

    @staticmethod
    def _telling(findings: list[tuple[dict, np.ndarray]], rng: np.random.Generator) -> tuple[dict, np.ndarray]:
        """Draw one of them: the fewer classes share a finding, the more it says, and the more often it is drawn."""
        weight = np.array([1 / true_of.sum() for _, true_of in findings])
        return findings[rng.choice(len(findings), p=weight / weight.sum())]

    def distractor(self, rng: np.random.Generator) -> Caption | None:
        """Draw a caption that is true of no concept, or None where the config has no such finding."""
        if not self.never:
            return None
        finding, at = self.never[rng.integers(len(self.never))]
        family, members = self.families[at]
        return self._write("finding", family, finding, rng, np.zeros_like(members))

    def _write(
        self,
        kind: str,
        family: dict,
        finding: dict,
        rng: np.random.Generator,
        true_of: np.ndarray,
        attributes: dict[str, str] | None = None,
    ) -> Caption:
        """Fill in one of the wordings of a kind; a text that names scan or place is true only where that name fits."""
        template, scan, place = _pick(WORDINGS[kind], rng), _pick(family["scan"], rng), _pick(family["place"], rng)
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
        """Every phrase that captions are made of, for collecting the vocabulary."""
        entries = [entry for entry, _ in self.families + self.findings + self.never]
        forms = ("scan", "place", "names", "statements", "qualities")
        phrases = [phrase for entry in entries for form in forms for phrase in entry.get(form) or []]
        phrases += [phrase + "s" for phrase in phrases]
        phrases += [phrase.replace(a, b) for phrase in phrases for a, b in WORDINGS["spellings"]]
        kinds = ("finding", "attributes", "attribute_words", "statement", "quality", "modality", "negation", "openings")
        fixed = [text for kind in kinds for text in WORDINGS[kind]]
        return phrases + [text.replace("{", " ").replace("}", " ") for text in fixed]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _article(noun: str) -> str:
    """Return "a glioma", "an MRI"; plurals, negations and nouns with an article of their own stay as they are."""
    first = noun.split(" ")[0]
    if not noun or first in {"a", "an", "the", "no", "not"} or (noun.endswith("s") and not noun.endswith("ss")):
        return noun
    vowel = noun[0].lower() in "aeiou" or first.split("-")[0] in {"MRI", "MR", "X", "x", "H&E", "NSCLC"}
    return f"{'an' if vowel else 'a'} {noun}"


def _many(noun: str, rng: np.random.Generator) -> str:
    """Return, one time in ten, the plural of a noun that no "with" or "of" follows."""
    if rng.random() < 0.9 or noun[-1:] in ("", "s", "x") or set(noun.split()) & {"of", "with", "in", "at", "to", "and"}:
        return noun
    return noun + "s"


def _roughen(text: str, rng: np.random.Generator) -> str:
    """Vary the spelling, drop small words, swap halves, add an opening or a full stop, at random."""
    for british, american in WORDINGS["spellings"]:
        if british in text and rng.random() < 0.5:
            text = text.replace(british, american)
    if rng.random() < 0.15 and not text.startswith(("this", "there", "no")):
        text = f"{_pick(WORDINGS['openings'], rng)} {text}"
    if rng.random() < 0.15 and "free of" not in text:
        text = " ".join(word for word in text.split() if word not in DROPPABLE or rng.random() < 0.5) or text
    if ", " in text and rng.random() < 0.3:
        text = ", ".join(reversed(text.split(", ")))
    return text + "." if rng.random() < 0.15 else text


class CompactVocabulary:
    """The few hundred tokens of a large byte-pair vocabulary that the captions use, as ids without gaps.

    Training with the compact ids keeps the optimiser small; `expand` writes the rows back to their places in the full
    table. Id 0 stands for every other token: its row remains zero, so a word that the tower never saw adds no direction
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
        """The compact ids, int64 [C, L], of C texts.

        With `rng`, a share `unknown` of the texts gets an unknown word, so that the tower learns to ignore it.
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
        """Compact table [len(self), D] -> full table [full_size, D], zero where a token is unknown."""
        full = compact.new_zeros(self.full_size, compact.shape[1])
        full[self.known] = compact[1:]
        return full


def tell(
    grammar: CaptionGrammar, labels: torch.Tensor, attributes: list, distractors: int, rng: np.random.Generator
) -> list[Caption]:
    """Draw one true caption per view, and up to `distractors` that are true of no image."""
    captions = [grammar.sample(c, rng, facts) for c, facts in zip(labels.tolist(), attributes, strict=True)]
    return captions + [c for c in (grammar.distractor(rng) for _ in range(distractors)) if c]
