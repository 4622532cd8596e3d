"""The check of a set: copies of every kind are found, different pictures are not, and the sentences say so."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearl.data.checks import check
from nearl.data.images import ImageRecord, decode_picture
from nearl.data.likeness import near_pairs
from nearl.data.phantoms.kinds import KINDS, make_phantom, phantom_set
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import plan
from nearl.prompts import MAX_CLASSES


def jpeg(picture: Image.Image, quality: int = 45) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def cut(picture: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    return picture.crop((left, top, picture.width - right, picture.height - bottom))


EDITS = {
    "re-encoded": jpeg,
    "half": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "a third": lambda picture: picture.resize((picture.width // 3, picture.height // 3)),
    "larger": lambda picture: picture.resize((380, 380)),
    "brighter": lambda picture: picture.point([min(255, int(v * 1.15 + 12)) for v in range(256)] * 3),
    "darker": lambda picture: picture.point([int(v * 0.75) for v in range(256)] * 3),
    "cropped": lambda picture: cut(picture, 9, 7, 5, 9),
    "left side cut": lambda picture: cut(picture, 11, 0, 0, 0),
    "all": lambda picture: jpeg(EDITS["darker"](cut(picture, 6, 3, 4, 6).resize((200, 200))), 75),
}  # fmt: skip


def record(picture: Image.Image, name: str = "copy.png") -> ImageRecord:
    return ImageRecord.from_pixels(name, np.asarray(picture.convert("RGB")))


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[ImageRecord]]:
    return {kind: phantom_set(kind, 10).records for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_found_whatever_was_done_to_them_and_nothing_else(kind, drawn):
    others = drawn[kind]
    edited = [record(edit(picture.image())) for edit in EDITS.values() for picture in others[:1]]
    wanted = [(0, place) for place in range(len(edited))]
    assert sorted(near_pairs(others, edited)) == sorted(wanted)
    assert sorted(near_pairs(edited, others)) == sorted((place, i) for i, place in wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_different_phantoms_are_not_copies(kind, drawn):
    assert near_pairs(drawn[kind]) == []


def test_different_patients_are_not_copies():
    folder = Path(os.environ.get("NEARL_DATA", "../shared/data")) / "chest_xray_pneumonia"
    if not folder.is_dir():
        pytest.skip("no shared data here")
    paths = sorted(folder.rglob("*.jpg"))[::16]
    assert len(paths) > 50
    assert near_pairs([decode_picture(path) for path in paths]) == []


def test_equal_pictures_are_not_near_and_flat_ones_are_like_nothing(drawn):
    first = drawn["ct_slice"][0]
    assert near_pairs([first, first]) == [] and near_pairs([]) == [] and near_pairs([first]) == []
    flat = [record(Image.new("RGB", (80, 80), (shade,) * 3)) for shade in (0, 0, 90, 255)]
    assert near_pairs([*flat, first]) == []
    assert near_pairs([record(first.image().transpose(Image.Transpose.FLIP_LEFT_RIGHT)), first]) == []


def made(records: list[ImageRecord], labels: list[int], classes: tuple[str, ...] = ("a", "b")) -> LabelledSet:
    named = [replace(item, name=f"{i}.png") for i, item in enumerate(records)]
    return LabelledSet(list(classes), named, labels)


def test_everything_at_once(drawn):
    smear = drawn["smear"]
    copy = record(jpeg(smear[0].image()))
    data = made([*smear[:12], smear[1], copy, smear[2]], [0] * 12 + [0, 0, 1])
    test = made([record(jpeg(smear[5].image())), smear[6], smear[15]], [0, 0, 1])
    found = check(data, test)
    assert found.counts == {"a": 14, "b": 1}
    assert found.duplicates == [(1, 12), (2, 14)] and found.near == [(0, 13)] and found.conflicts == [(2, 14)]
    assert found.in_test == [5, 6] and found.small == [] and found.sides == (224, 224, 224, 224)
    assert found.blocking == ""
    gist = ["more than one label (2.png, 14.png)", "1 image is in a class more than once (1.png, 12.png)",
            "2 images look like copies of one another (0.png, 13.png)", "2 images are also among the test images",
            "“b” has only 1 image;", "There are 14 images of “a” and 1 of “b”"]  # fmt: skip
    assert len(found.cautions) == len(gist)
    assert all(part in caution for part, caution in zip(gist, found.cautions, strict=True))
    split = plan(data.labels, given=3, leaked=found.in_test)
    assert not {5, 6} & set(split.support) and len(split.support) == 13


def test_copies_of_copies_stay_on_one_side(drawn):
    skin = drawn["skin"]
    records = [*skin, *(record(jpeg(item.image(), quality)) for item in skin[:6] for quality in (60, 80))]
    data = made(records, [i % 2 for i in range(20)] + [i % 2 for i in range(6) for _ in range(2)])
    found = check(data)
    assert found.near == [(i, 20 + 2 * i, 21 + 2 * i) for i in range(6)] and not found.conflicts
    for seed in range(5):
        split = plan(data.labels, 0.3, seed, duplicates=[*found.duplicates, *found.near])
        assert split.kind == "held-out"
        assert all(len({i in split.held for i in group}) == 1 for group in found.near)


def test_few_small_and_uneven(drawn):
    small = [record(item.image().resize((60, 90))) for item in drawn["ultrasound"][:5]]
    found = check(made([*small, *drawn["ultrasound"][5:10]], [0] * 3 + [1] * 7))
    assert found.small == [0, 1, 2, 3, 4] and found.sides == (60, 224, 90, 224)
    assert "too few to keep some aside" in found.cautions[0] and "smaller than 64 pixels" in found.cautions[-1]


def test_a_class_without_test_images_is_named(drawn):
    data, test = made(drawn["smear"], [i % 2 for i in range(20)]), made(drawn["skin"][:2], [0, 0])
    assert any("“b”" in caution and "test images" in caution for caution in check(data, test).cautions)
    assert not any("test images" in caution for caution in check(data).cautions)


def test_what_cannot_be_taught(drawn):
    some = drawn["smear"][:2]
    assert "at least two classes" in check(made(some, [0, 0], ("a",))).blocking
    assert "“b” has no images" in check(made(some, [0, 0])).blocking
    many = tuple(f"class {i}" for i in range(MAX_CLASSES + 1))
    assert f"{MAX_CLASSES + 1} classes" in check(made(some, [0, 1], many)).blocking
    assert "twice" in check(made(some, [0, 1], ("brain tumor", "brain_tumor"))).blocking
    assert "101 characters" in check(made(some, [0, 1], ("a" * 101, "b"))).blocking
    empty = check(LabelledSet([], [], []))
    assert empty.blocking and empty.sides == (0, 0, 0, 0) and empty.cautions == []


def test_a_lesion_drawn_into_the_same_scene_is_a_conflict():
    scenes = [make_phantom("skin", bool(seed % 2), seed // 2) for seed in range(8)]
    records = [ImageRecord.from_pixels(f"{i}.png", scene.pixels) for i, scene in enumerate(scenes)]
    assert all(len(group) == 2 for group in check(made(records, [i % 2 for i in range(8)])).conflicts)
