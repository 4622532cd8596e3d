"""Phantoms: repeatable, varied, and different between the classes on the lesion alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearl.data.images import decode_picture
from nearl.data.phantoms.kinds import CLASSES, KINDS, make_phantom, phantom_set, write_examples, write_phantom_folder
from nearl.data.sets.labelled import resolve_splits
from nearl.errors import NearlError
from nearl.prompts import PromptSet, ready_sets

EACH = pytest.mark.parametrize("kind", KINDS)
EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    for _ in range(pixels):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


@EACH
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(kind):
    one, again, other = make_phantom(kind, True, 3), make_phantom(kind, True, 3), make_phantom(kind, True, 4)
    assert np.array_equal(one.pixels, again.pixels) and np.array_equal(one.mask, again.mask)
    assert one.caption == again.caption and not np.array_equal(one.pixels, other.pixels)
    assert not np.array_equal(one.mask, other.mask)


@EACH
@pytest.mark.parametrize("size", [64, 224, 333])
def test_shapes_for_any_size(kind, size):
    for lesion in (False, True):
        phantom = make_phantom(kind, lesion, 1, size)
        assert phantom.pixels.shape == (size, size, 3) and phantom.pixels.dtype == np.uint8
        assert phantom.mask.shape == (size, size) and phantom.mask.dtype == bool
        assert phantom.has_lesion == lesion == bool(phantom.mask.any())
        assert 20 < phantom.pixels.mean() < 235 and phantom.pixels.std() > 15


@EACH
def test_the_classes_differ_on_the_lesion_alone(kind):
    for seed in range(6):
        ill, well = make_phantom(kind, True, seed), make_phantom(kind, False, seed)
        change = np.abs(ill.pixels.astype(int) - well.pixels.astype(int)).max(axis=2)
        assert change[ill.mask].mean() > 8, "the lesion can be seen"
        assert change[ill.mask].mean() > 5 * change[~ill.mask].mean()
        reach = grown(ill.mask, 24 if kind == "chest_xray" else 6)  # soft borders; a hazy opacity has wide ones
        if kind == "ultrasound":  # the shadow lies below the mass, never above or beside it
            top = ill.mask.any(axis=1).argmax()
            reach |= grown(ill.mask.any(axis=0, keepdims=True), 30) & (np.arange(224)[:, None] >= top)
        assert change[~reach].max(initial=0) <= 1


@EACH
def test_a_lesion_is_a_small_part_and_its_details_tell_where(kind):
    places = set()
    for seed in range(12):
        phantom = make_phantom(kind, True, seed)
        share, (x, y) = phantom.mask.mean(), phantom.details["centre"]
        assert 0.001 < share < (0.3 if kind == "skin" else 0.12)
        rows, columns = np.nonzero(phantom.mask)
        assert columns.min() <= x <= columns.max() and rows.min() <= y <= rows.max()
        assert phantom.details["area"] == phantom.mask.sum()
        for key in ("place", "size", "shape", "brightness"):
            assert phantom.details[key] in phantom.caption
        assert phantom.caption.startswith("synthetic ")
        places.add(phantom.details["place"])
    assert len(places) > 2
    assert ", no " in make_phantom(kind, False, 0).caption


@EACH
def test_overall_brightness_does_not_give_the_class_away(kind):
    means = [[make_phantom(kind, lesion, seed, 64).pixels.mean() for seed in range(24)] for lesion in (False, True)]
    assert abs(np.mean(means[0]) - np.mean(means[1])) < 0.5 * np.std(means[0])


def test_grey_kinds_are_grey_and_smears_and_skin_are_not():
    for kind in KINDS:
        pixels = make_phantom(kind, True, 0).pixels
        assert (np.ptp(pixels, axis=2).max() == 0) == (kind not in ("smear", "skin"))


def test_bad_arguments():
    for arguments in (("brain", True, 0), ("smear", True, -1), ("smear", True, 0, 63), ("smear", True, 0, 4096)):
        with pytest.raises(NearlError):
            make_phantom(*arguments)
    with pytest.raises(NearlError):
        phantom_set("smear", 0)


def test_a_set_has_both_classes_and_no_scene_twice():
    made = phantom_set("ct_slice", 4, seed=2, size=64)
    assert tuple(made.classes) == CLASSES and made.counts() == {"no lesion": 4, "lesion": 4}
    assert len({record.digest for record in made.records}) == 8
    assert PromptSet.from_dict(made.prompts).classes == CLASSES
    other = phantom_set("ct_slice", 4, seed=3, size=64)
    assert not {r.digest for r in made.records} & {r.digest for r in other.records}


def test_a_folder_is_a_labelled_set_marked_as_synthetic(tmp_path):
    folder = write_phantom_folder(tmp_path / "made", "smear", train=3, test=2, seed=1, size=64)
    train, test = resolve_splits(folder)
    assert train.counts() == {"lesion": 3, "no lesion": 3} and test.counts() == {"lesion": 2, "no lesion": 2}
    assert not train.problems and not test.problems
    assert not {r.digest for r in train.records} & {r.digest for r in test.records}
    assert {r.digest for r in train.records} == {r.digest for r in phantom_set("smear", 3, 1, 64).records}
    assert PromptSet.load(folder / "prompts.json") == PromptSet.from_dict(train.prompts)
    for path in folder.rglob("*.png"):
        assert "SYNTHETIC" in Image.open(path).text["Comment"]
    with pytest.raises(NearlError, match="already exists"):
        write_phantom_folder(folder, "smear")


def check_examples(folder: Path) -> None:
    entries = json.loads((folder / "synthetic.json").read_text(encoding="utf-8"))
    assert {entry["kind"] for entry in entries} == set(KINDS)
    assert {entry["file"] for entry in entries} == {path.name for path in folder.glob("*.png")}
    for entry in entries:
        assert entry["title"] and entry["prompts"] in ready_sets()
        path = folder / entry["file"]
        assert decode_picture(path).size == (224, 224) and path.stat().st_size < 60_000
        assert "SYNTHETIC" in Image.open(path).text["Comment"]


def test_the_examples_that_are_shipped():
    check_examples(EXAMPLES)


def test_examples_can_be_made_again(tmp_path):
    write_examples(tmp_path)
    check_examples(tmp_path)
    for path in tmp_path.glob("*.png"):
        made, shipped = decode_picture(path).pixels.astype(int), decode_picture(EXAMPLES / path.name).pixels.astype(int)
        assert np.abs(made - shipped).mean() < 3
