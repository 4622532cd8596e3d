"""More ways in which people lay out labelled images and write their tables: read as they are meant, or named."""

from __future__ import annotations

import pytest

from nearl.data.sets.columns import Columns
from nearl.data.sets.labelled import resolve_splits
from nearl.data.sets.layouts import without_masks
from nearl.errors import NearlError
from tests.support.hostile import packed, png

XY = {"x": 2, "y": 2}
ABCD = ("a.png", "b.png", "c.png", "d.png")


def pictures(*names: str) -> dict[str, bytes]:
    return {name: png(60 + 3 * place, (24, 20)) for place, name in enumerate(names)}


def classes(*folders: str) -> dict[str, bytes]:
    return pictures(*(f"{folder}/{number}.png" for folder in folders for number in (1, 2)))


def table(text: str, *names: str, codec: str = "utf-8") -> dict[str, bytes]:
    return {**pictures(*(names or ABCD)), "labels.csv": text.encode(codec)}


def rows(header: str, *cells: str) -> str:
    """A table whose rows name the files a to d in turn."""
    return header + "\n" + "".join(f"{name},{cell}\n" for name, cell in zip("abcd", cells, strict=False))


VARIETIES = {  # files, images of each class, those for tests, a gist of what is said, columns that somebody chose
    "train and test inside the classes": (classes("x/train", "x/test", "y/train", "y/test"), XY, XY, ""),
    "images of train and test": (
        classes("images/train/x", "images/train/y", "images/test/x"),
        XY,
        {"x": 2, "y": 0},
        "",
    ),
    "two spellings of a class": (
        classes("x", "X", "y "),
        {"X": 4, "y": 2},
        None,
        "differ only in upper and lower case",
    ),
    "patients with classes in them": (
        pictures("p1/x/1.png", "p1/y/1.png", "p2/x/1.png", "p2/y/1.png", "p3/x/1.png"),
        {"p1": 2, "p2": 2, "p3": 1},
        None,
        "have the same subfolders (x, y)",
    ),
    "boxes of objects": (
        {**classes("x", "y"), "annotations.json": b"{}", "data.yaml": b"names: [x]"},
        XY,
        None,
        "annotations.json was not read: labels are taken from folders, or from a CSV",
    ),
    "text beside an image of the same name": (
        {**classes("images/x", "images/y"), "labels/1.txt": b"0 .5 .5 .1 .1"},
        {"images": 4},
        None,
        "1.txt is not an image",
    ),
    "a table among the images of the only folder": (
        {f"set/{name}": data for name, data in table(rows("file,label", "x", "y", "x", "y")).items()},
        XY,
        None,
        "",
    ),
    "numbers that lost their zeros": (
        table("id,label\n1,x\n2.0,y\n3,x\n4,y\n", "0001.png", "0002.png", "0003.png", "0004.png"),
        XY,
        None,
        "",
    ),
    "cells without a value": (
        table(rows("file,label", "x", "nan", "NA", "y")),
        {"x": 1, "y": 1},
        None,
        "c has no label",
    ),
    "true and false": (
        table(rows("file,cancer", "True", "False", "True", "False")),
        {"cancer": 2, "no cancer": 2},
        None,
        "",
    ),
    "uncertain findings": (
        table(rows("Path,Edema,Mass", "1.0,0.0", "0.0,", "-1.0,", ",")),
        {"Edema": 1, "Edema uncertain": 1, "no Edema": 1},
        None,
        "d has no label",
        Columns("Path", "Edema"),
    ),
    "PAD-UFES": (
        table("patient_id,lesion_id,diagnostic,img_id\n1,5,x,a.png\n1,6,x,b.png\n2,7,y,c.png\n2,8,y,d.png\n"),
        XY,
        None,
        "labels from “diagnostic”, images that belong together from “patient_id”",
    ),
    "Messidor": (
        table(
            rows("Image name,Department,Retinopathy grade,Risk of macular edema", "X,0,1", "X,1,0", "X,0,0", "X,1,1")
        ),
        {"0": 2, "1": 2},
        None,
        "labels from “Retinopathy grade”. Not used: Department, Risk of macular edema",
    ),
    "paths of another machine": (
        table("file,label\nC:\\data\\a.png,x\n/home/me/b.png,y\nhttps://h/c.png,x\nd.png,y\n"),
        XY,
        None,
        "",
    ),
    "line breaks and separators in cells": (
        table(
            'file,"the\nlabel",about\na.png,"pleural\neffusion",x\u2028y\n'
            + "b.png,pleural effusion,\x0c1\nc.png,y,\nd.png,y,\n"
        ),
        {"pleural effusion": 2, "y": 2},
        None,
        "labels from “the label”",
    ),
    "numbers with and without decimals": (
        table(rows("file,label", "0", "1.0", "0.0", "1")),
        {"0": 2, "1": 2},
        None,
        "",
    ),
    "a code page that nobody can tell": (
        table(rows("file,label", "łagodny", "złośliwy", "łagodny", "złośliwy"), codec="cp1250"),
        {"z³oœliwy": 2, "³agodny": 2},
        None,
        "if names look wrong, save it as CSV (UTF-8)",
    ),
}


@pytest.mark.parametrize("name", VARIETIES)
def test_it_is_read_as_it_is_meant_and_nothing_is_dropped_unsaid(name, tmp_path):
    files, counts, test_counts, gist, *chosen = VARIETIES[name]
    path = tmp_path / "set.zip"
    path.write_bytes(packed(files))
    train, test = resolve_splits(path, fewest=1, columns=chosen[0] if chosen else None)
    assert train.counts() == counts and (test and test.counts()) == test_counts
    said = [problem.reason for problem in train.problems] + train.said()
    assert any(gist in sentence for sentence in said) if gist else not train.problems, said


@pytest.mark.parametrize("name", ["labels.txt", "labels.xlsx", "annotations.json"])
def test_a_set_without_a_table_says_which_file_may_hold_the_labels(name, tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(packed({**pictures(*ABCD), name: b"a.png\tx\n", "README.md": b"x"}))
    with pytest.raises(NearlError, match=rf"no class folders.*{name}.*CSV"):
        resolve_splits(path, fewest=1)


def test_masks_are_told_by_their_names_however_long_these_are():
    """In the time of a step for each character: a name may have a thousand, and a zip thousands of them."""
    long = "_" * 100_000
    names = [
        f"{long}1",
        "1_mask",
        "mask_2",
        "mask_mask",
        "gt",
        "weightgt",
        "3",
        "3.seg (2)",
        "mask",
        f"{long}mask",
        "1",
        "2",
    ]
    kept, problems = without_masks([(("x", f"{name}.png"), None) for name in names])
    assert [parts[1] for parts, _ in kept] == [
        f"{name}.png" for name in (f"{long}1", "gt", "weightgt", "3", "mask", f"{long}mask", "1", "2")
    ]
    assert len(problems) == 1 and problems[0].reason.startswith("4 masks")
