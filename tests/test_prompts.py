"""Prompt sets: what is accepted, what is refused, and what goes to disk and back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from nearl.data.phantoms.kinds import CLASSES, KINDS
from nearl.errors import NearlError
from nearl.prompts import (
    PromptSet,
    class_key,
    coverage,
    default_prompts,
    ready_sets,
    unknown_words,
    words,
)
from nearl.resources import ASSETS

BRAIN = PromptSet("brain", ("glioma", "other"), (("a  glioma ", "glioma\ntumour"), ("something; else",)))


def test_texts_are_tidied_and_templates_applied():
    assert BRAIN.texts() == [["a glioma", "glioma tumour"], ["something, else"]]
    framed = PromptSet("x", ("a", "b"), (("one", "two"), ("three {odd}",)), ("an MRI of {}", "{}, seen on MRI"))
    assert framed.texts() == [
        ["an MRI of one", "an MRI of two", "one, seen on MRI", "two, seen on MRI"],
        ["an MRI of three {odd}", "three {odd}, seen on MRI"],
    ]


def test_the_digest_follows_what_is_encoded():
    same = PromptSet("other name", BRAIN.classes, BRAIN.prompts, description="other words")
    assert same.digest == BRAIN.digest
    assert PromptSet("brain", BRAIN.classes, (("a",), ("b",))).digest != BRAIN.digest
    assert PromptSet("brain", ("glioma", "rest"), BRAIN.prompts).digest != BRAIN.digest
    assert PromptSet("brain", BRAIN.classes, BRAIN.prompts, ("an MRI of {}",)).digest != BRAIN.digest


@pytest.mark.parametrize(
    ("classes", "prompts", "templates", "words"),
    [
        ((), (), (), "no class"),
        (("a", "A "), (("x",), ("y",)), (), "twice"),
        (("a", " "), (("x",), ("y",)), (), "no name"),
        (("a", "b"), (("x",), ("  ",)), (), "“b” has an empty prompt"),
        (("a", "b"), (("x",), ()), (), "“b” has an empty prompt"),
        (("a", "b"), (("x",),), (), "2 classes"),
        (("a",), ((3,),), (), "must be text"),
        (("a",), (("x" * 301,),), (), "301 characters"),
        (("a",), (("x",) * 33,), (), "33 prompts"),
        (tuple(f"c{i}" for i in range(65)), (("x",),) * 65, (), "65 classes"),
        (("a",), (("x",),), ("no gap",), "must hold {}"),
        (("a",), (("x",),), ("{} {}",), "must hold {}"),
        (tuple(f"c{i}" for i in range(64)), (("x",) * 32,) * 64, ("{}", "a {}"), "4096 texts"),
        ("ab", (("x",), ("y",)), (), "must be a list"),
    ],
)
def test_refusals_are_one_sentence(classes, prompts, templates, words):
    with pytest.raises(NearlError) as caught:
        PromptSet("set", classes, prompts, templates)
    assert words in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("name", ["set.json", "set.yaml", "set.YML"])
def test_files_there_and_back(name, tmp_path):
    original = PromptSet("sét", ("glioma", "no"), (("a: b", "“c”"), ("no",)), ("{} - MRI",), "Why: because.")
    original.save(tmp_path / name)
    assert PromptSet.load(tmp_path / name) == original


def test_a_file_may_leave_things_out(tmp_path):
    (tmp_path / "mine.yaml").write_text("classes:\n- name: a\n  prompts: an a\n- {name: b, prompts: [x, y]}\n")
    loaded = PromptSet.load(tmp_path / "mine.yaml")
    assert loaded.name == "mine" and loaded.prompts == (("an a",), ("x", "y")) and loaded.templates == ()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"classes": {"a": ["x"]}}',
        '{"classes": ["a"]}',
        '{"classes": [{"prompts": ["x"]}]}',
        '{"classes": [{"name": "a"}]}',
        '{"classes": [{"name": "a", "prompts": 3}]}',
        '{"name": ["a"], "classes": [{"name": "a", "prompts": ["x"]}]}',
        "[" * 100_000,
        '{"x": "' + "y" * 1_000_001 + '"}',
    ],
)
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_bad_files_are_refused_by_name(text, suffix, tmp_path):
    path = tmp_path / f"broken.{suffix}"
    path.write_text(text)
    with pytest.raises(NearlError, match=rf"broken\.{suffix}"):
        PromptSet.load(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(NearlError, match=r"nowhere\.json does not exist"):
        PromptSet.load(tmp_path / "nowhere.json")
    (tmp_path / "picture.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(NearlError, match=r"picture\.json"):
        PromptSet.load(tmp_path / "picture.json")


def test_spellings_of_one_class_have_one_key():
    assert len({class_key(name) for name in ("Pituitary_tumor", "pituitary  tumour", "PITUITARY TUMOUR")}) == 1
    assert class_key("tumour") != class_key("no tumour")


def test_default_prompts_read_like_words():
    assert default_prompts(["pituitary_tumor", "glioma"]).texts() == [
        ["a medical image of pituitary tumor"],
        ["a medical image of glioma"],
    ]
    with pytest.raises(NearlError, match="twice"):
        default_prompts(["a", "A"])


@pytest.mark.parametrize("name", sorted(ready_sets()))
def test_ready_sets(name):
    loaded = PromptSet.load(ready_sets()[name])
    assert loaded.name == name and loaded.description
    assert all(3 <= len(prompts) <= 6 for prompts in loaded.prompts)
    every = [text for prompts in loaded.prompts for text in prompts]
    assert len(set(every)) == len(every), "the same prompt for two classes says nothing"
    raw = json.loads(ready_sets()[name].read_text(encoding="utf-8"))
    assert raw == loaded.to_dict(), "the file is in the form that save() writes"
    folder = Path(os.environ.get("NEARL_DATA", "../shared/data")) / name / "train"
    if folder.is_dir():  # a set of one class is asked against what else it might be
        classes = {path.name for path in folder.iterdir()}
        assert classes == set(loaded.classes) if len(classes) > 1 else len(loaded.classes) > 1


KEPT_OUT = {
    "colon_histology", "dermoscopy_melanoma", "leukocytes_aml", "malaria_cells", "osteosarcoma_histology",
    "skin_lesion_clinical",
}  # fmt: skip


def test_every_phantom_kind_and_every_set_of_the_embedded_model_has_prompts():
    trained = yaml.safe_load((ASSETS / "pretrain" / "config.yaml").read_text(encoding="utf-8"))["sets"]
    assert set(ready_sets()) >= set(trained) | KEPT_OUT
    for kind in KINDS:
        assert PromptSet.load(ready_sets()[f"phantom_{kind}"]).classes == CLASSES


def test_for_classes_reorders_and_refuses_what_does_not_match():
    both = PromptSet("p", ("a", "B"), (("first",), ("second",)), ("an image of {}",))
    turned = both.for_classes(["b", "A"])
    assert turned.classes == ("b", "A") and turned.prompts == (("second",), ("first",))
    assert turned.templates == both.templates
    spaced = PromptSet("p", ("no lesion",), (("x",),))
    assert spaced.for_classes(["No_lesion"]).classes == ("No_lesion",)
    with pytest.raises(NearlError, match="do not name the class “c”"):
        both.for_classes(["a", "b", "c"])
    with pytest.raises(NearlError, match="prompts for “b” but no images"):
        both.for_classes(["a"])


def test_a_ready_set_is_fitted_to_other_classes_of_its_kind():
    ready = PromptSet.load(ready_sets()["brain_mri_tumor"])
    fitted = ready.fitted_to(["Glioma", "no_lesion"])
    assert fitted.classes == ("Glioma", "no_lesion") and fitted.templates == ()
    assert fitted.prompts[0] == tuple(ready.texts()[0]) and fitted.prompts[1] == ("a brain MRI of no lesion",)
    kinds = {name: PromptSet.load(path).subject for name, path in ready_sets().items()}
    assert kinds["chest_xray_pneumonia"] == "a chest X-ray" and all(len(kind) < 40 for kind in kinds.values())


def test_words_that_a_model_does_not_know_are_named_once():
    text = "A T1-weighted MRI, grade 2, of Sjögren's xyzoma"
    assert words(text) == ["A", "T1-weighted", "MRI", "grade", "of", "Sjögren's", "xyzoma"]
    known = {"a", "t1-weighted", "mri", "grade", "of"}
    assert unknown_words([text, "XYZOMA mri"], lambda word: word.lower() in known) == ["Sjögren's", "XYZOMA"]
    assert coverage(text, lambda word: word.lower() in known) == pytest.approx(5 / 7)
    assert coverage("2 + 2", lambda word: False) == 1.0
