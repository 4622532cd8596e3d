"""What the text tower does not read of prompts, and classes that it cannot tell apart by them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nearl.backbones import load_backbone
from nearl.prompts import PromptSet, default_prompts
from nearl.reading.words import same_prompts, text_notes, unread

CASES = Path(os.environ.get("NEARL_CASES", Path(__file__).parents[3] / "shared" / "cases"))
FILLING = "a scan of the brain in two " * 9


def asked(templates=(), **classes: str) -> PromptSet:
    return PromptSet("any", tuple(classes), tuple((text,) for text in classes.values()), templates)


def test_what_lies_beyond_the_context_length_is_named(backbone):
    """Of every tower family: the words that are named are those that make no difference."""
    prompts = asked(long=FILLING + "with no tumor", short="a scan")
    (found,) = unread(backbone, prompts)
    assert found.class_name == "long" and found.rest.endswith("with no tumor") and found.prompt.endswith(found.rest)
    read = found.prompt.removesuffix(found.rest)
    assert backbone.unread([read]) == [""] and backbone.unread([read + found.rest.split()[0]]) != [""]
    assert backbone.read_as([found.prompt]) == backbone.read_as([read + found.rest.replace("tumor", "sign")])
    assert not unread(backbone, asked(short="a scan")) and backbone.unread([]) == []
    (of_template,) = unread(backbone, asked(templates=(FILLING + " {}",), short="a scan of no tumor"))
    assert of_template.rest.endswith("no tumor")


def test_of_a_text_without_spaces_the_end_is_named(tiny):
    backbone, text = tiny("clip"), "nospaces" * 30
    (rest,) = backbone.unread([text])
    assert 0 < len(rest) < len(text) and text.endswith(rest)
    assert backbone.read_as([text]) == backbone.read_as([text.removesuffix(rest) + "q" * len(rest)])


def test_classes_in_a_script_that_the_model_does_not_know_are_the_same_to_it():
    embedded = load_backbone("embedded")
    prompts = default_prompts(["良性", "恶性"])
    found = same_prompts(embedded, prompts)
    assert found or embedded.read_as(prompts.texts()[0]) != embedded.read_as(prompts.texts()[1])
    assert all(embedded.knows(word) is False for word in ("良性", "恶性"))


def test_classes_with_the_same_prompt_to_the_model_are_named(tiny):
    backbone = tiny("clip")
    assert same_prompts(backbone, asked(a="a scan", b="A  Scan", c="the lung")) == [("a", "b")]
    filled = "a scan of the brain in two " * 3 + "scan "
    cut = asked(a=filled + "no tumor", b=filled + "pneumonia")
    assert same_prompts(backbone, cut) == [("a", "b")]
    notes = text_notes(backbone, cut)
    assert len(notes) == 3 and all(note.endswith(".") for note in notes)
    assert "no tumor" in notes[0] and "pneumonia" in notes[1] and "“a” and “b”" in notes[2]
    assert text_notes(backbone, asked(a="a scan", b="the lung")) == []
    many = asked(**{name: "a scan" for name in "abcd"})
    assert text_notes(backbone, many)[-1].startswith("3 more pairs")


def test_words_that_the_model_does_not_know_tell_nothing_apart():
    embedded = load_backbone("embedded")
    a, b = ["qxzzv", "wvkkq"]
    assert not embedded.knows(a) and not embedded.knows(b)
    seen = embedded.read_as([f"an MRI of {a}", f"an MRI of {b}", "an MRI of a glioma"])
    assert (seen[0] == seen[1]) == (len(embedded.tokenizer.encode(a)) == len(embedded.tokenizer.encode(b)))
    assert seen[2] not in seen[:2]


def test_the_shared_case_is_named():
    file = CASES / "21-prompt-cut-unsaid" / "long.json"
    if not file.is_file():
        pytest.skip("the shared cases are not here (set NEARL_CASES)")
    notes = text_notes(load_backbone("embedded"), PromptSet.from_dict(json.loads(file.read_text())))
    assert "normal" in notes[0] and "glioma" in notes[1] and "“a” and “b”" in notes[2]
