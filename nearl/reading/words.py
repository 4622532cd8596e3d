"""What the text tower makes of prompts: words beyond its context length, classes whose prompts are the same to it."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

from nearl.backbones import Backbone
from nearl.prompts import PromptSet

MOST = 3  # classes or pairs named in sentences
SHOWN = 60  # characters of unread text in a sentence


class Unread(NamedTuple):
    """A text that the text tower reads only in part."""

    class_name: str
    prompt: str  # the whole text, template included
    rest: str  # the words that are not read


def unread(backbone: Backbone, prompts: PromptSet) -> list[Unread]:
    """The texts of a prompt set that are longer than the text tower reads."""
    return [
        Unread(name, text, rest)
        for name, texts in zip(prompts.classes, prompts.texts(), strict=True)
        for text, rest in zip(texts, backbone.unread(texts), strict=True)
        if rest
    ]


def same_prompts(backbone: Backbone, prompts: PromptSet) -> list[tuple[str, str]]:
    """Pairs of classes that have a prompt in common, as the text tower reads it: up to its context length, in its
    spelling, and without telling words apart that it does not know."""
    seen = [set(backbone.read_as(texts)) for texts in prompts.texts()]
    return [(a, b) for (a, x), (b, y) in combinations(zip(prompts.classes, seen, strict=True), 2) if x & y]


def text_notes(backbone: Backbone, prompts: PromptSet) -> list[str]:
    """The same in sentences for people."""
    notes = []
    long = unread(backbone, prompts)
    for found in long[:MOST]:
        rest = found.rest if len(found.rest) <= SHOWN else found.rest[:SHOWN].rstrip() + "…"
        notes.append(
            f"The model reads only the beginning of a prompt of “{found.class_name}”; it does not read “{rest}”. "
            "Shorten the prompt."
        )
    if len(long) > MOST:
        notes.append(f"{len(long) - MOST} more prompts are too long for the model.")
    pairs = same_prompts(backbone, prompts)
    for a, b in pairs[:MOST]:
        notes.append(f"“{a}” and “{b}” have a prompt that is the same to the model; say what tells them apart.")
    if len(pairs) > MOST:
        notes.append(f"{len(pairs) - MOST} more pairs of classes have a prompt in common.")
    return notes
