"""Odd tables of labels, odd folders, calls that cannot be: a sentence for each, and a good set is read afterwards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nearl.data.sets import tables
from nearl.data.sets.edit import drop_class, merge, relabel, remove, rename
from nearl.data.sets.labelled import LabelledSet, from_files, from_table, resolve_splits
from nearl.data.splits import groups_from_names, plan
from tests.support.hostile import GOOD, LEADS, PICTURES, Case, judge, lazy, packed, png, written, zipped

TABLE = "file,label\n1.png,cat\n2.png,cat\n3.png,horse\n4.png,horse\n"


def table(text: str | bytes, files: dict[str, bytes] | None = None) -> Callable[[Path], LabelledSet]:
    """The images 1.png to 4.png and labels.csv beside them."""
    data = text if isinstance(text, bytes) else text.encode()
    return zipped({**(PICTURES if files is None else files), "labels.csv": data})


MISSING = {"9.png": "is in labels.csv but is not among the files"}
TABLES = [
    Case("a table", table(TABLE)),
    Case("semicolons and a byte order mark", table("\ufeff" + TABLE.replace(",", ";"))),
    Case("tabs and capitals", table(TABLE.replace(",", "\t").replace("file\tlabel", "File \t LABEL"))),
    Case("a spreadsheet's first line", table("sep=;\r\n" + TABLE.replace(",", ";").replace("\n", "\r\n"))),
    Case("UTF-16", table(TABLE.encode("utf-16"))),
    Case("UTF-16 without its mark", table(TABLE.encode("utf-16-le"))),
    Case("Latin-1", table(TABLE.replace("cat", "Kätzchen").encode("latin-1")), counts={"Kätzchen": 2, "horse": 2}),
    Case("labels that differ in case and spaces", table(TABLE.replace("2.png,cat", "2.png,  CAT "))),
    Case("a label like a formula", table(TABLE.replace("cat", '"=1+1"')), counts={"=1+1": 2, "horse": 2}),
    Case(
        "paths of another machine",
        table(TABLE.replace("1.png", "C:\\Users\\me\\1.png").replace("2.png", "../../2.png")),
    ),
    Case("a folder around all", table(TABLE, {f"set/images/{name}": data for name, data in PICTURES.items()})),
    Case("names that fit no file", table(TABLE.replace(".png", ".tif")), refused="No row of labels.csv fits an image"),
    Case("a row without its file", table(TABLE + "9.png,cat\n"), named=MISSING),
    Case(
        "a file without its row",
        table(TABLE, {**PICTURES, "5.png": png(5)}),
        named={"5.png": "has no row in labels.csv"},
    ),
    Case("an empty label", table(TABLE + "5.png,\n", {**PICTURES, "5.png": png(5)}), named={"5.png": "has no label"}),
    Case("a row without a file name", table(TABLE + ",cat\n"), named={"A row": "has no file name"}),
    Case(
        "two labels for one file",
        table(TABLE + "5.png,cat\n5.png,horse\n", {**PICTURES, "5.png": png(5)}),
        named={"5.png": "2 different labels"},
    ),
    Case("one row twice", table(TABLE + "1.png,cat\n")),
    Case(
        "a name that two files have",
        table(TABLE + "5.png,cat\n", {**PICTURES, "a/5.png": png(5), "b/5.png": png(6)}),
        named={"5.png": "could be one of 2 files"},
    ),
    Case(
        "no such columns",
        table("a,b,c\n1,cat,x\n2,horse,x\n"),
        refused="needs the columns file and label in its first line",
    ),
    Case("2,500 columns", table("a," * 2500 + "\n1.png\n"), refused="more than 2000 columns"),
    Case(
        "short lines in a wide table",
        table("file,label" + "," * 1500 + "\n" + "1.png,cat\n" * 4000),
        refused="more than 4 million cells",
    ),
    Case("an empty table", table(""), refused="is empty"),
    Case("no rows", table("file,label\n"), refused="has no rows"),
    Case("a picture called table", table(png()), refused="is not a text file"),
    Case("a quote that never ends", table(TABLE + '5.png,"cat\n6.png,dog\n'), refused="damaged or not a CSV"),
    Case("a cell of 200 kB", table(TABLE + "5.png," + "x" * 200_000 + "\n"), refused="damaged or not a CSV"),
    Case(
        "160,000 rows",
        lazy(lambda: {**PICTURES, "labels.csv": b"file,label\n" + b"".join(b"%d,cat\n" % i for i in range(160_000))}),
        refused="160000 rows; at most",
    ),
    Case(
        "a table of 21 MB",
        lazy(lambda: {**PICTURES, "labels.csv": b"file,label\n" + os.urandom(10_500_000).hex().encode()}),
        refused="larger than 20 MB",
    ),
    Case(
        "two tables", zipped({**PICTURES, "a.csv": TABLE.encode(), "b.csv": TABLE.encode()}), refused="holds 2 tables"
    ),
    Case("one label only", table(TABLE.replace("horse", "cat")), refused="at least two classes"),
    Case("a table that does not exist", lambda folder: _beside(folder, None), refused="labels.csv cannot be read"),
    Case("no table at all", lambda folder: from_table([_picture(folder)]), refused="has no table of labels"),
]
CALLS = [
    Case("a broken link in a folder", lambda folder: _folder(folder, link="nowhere"), named={"x": "a broken link"}),
    Case("a pipe in a folder", lambda folder: _folder(folder, pipe=True), named={"x": "a special file"}),
    Case(
        "twelve folders deep",
        lambda folder: resolve_splits(written(folder, {**GOOD, "cat/" + "a/" * 12 + "x.png": png()}))[0],
        named={"a": "lies too deep"},
    ),
    Case("a link round in circles", lambda folder: _folder(folder, link="."), named={"x": "leads in circles"}),
    Case("a folder that does not exist", lambda folder: resolve_splits(folder / "no")[0], refused="does not exist"),
    Case(
        "a missing file",
        lambda folder: from_files({"cat": [folder / "1.png", _picture(folder)], "horse": [_picture(folder)]}),
        named={"1.png": "does not exist"},
        counts={"cat": 1, "horse": 1},
    ),
    Case(
        "a folder for a file",
        lambda folder: from_files({"cat": [folder, _picture(folder)], "horse": [_picture(folder)]}),
        named={"inside": "is a folder"},
        counts={"cat": 1, "horse": 1},
    ),
    Case(
        "a zip that means harm among the files",
        lambda folder: _harm_among_files(folder),
        named={"set.zip": LEADS},
        counts={"cat": 1, "horse": 1},
    ),
    Case("a class renamed to nothing", lambda folder: rename(_good(folder), "cat", " \t"), refused="has no name"),
    Case("a class renamed to another", lambda folder: rename(_good(folder), "cat", "HORSE"), refused="twice"),
    Case("a class that is not there", lambda folder: drop_class(_good(folder), "cow"), refused="no class “cow”"),
    Case("merged with nothing", lambda folder: merge(_good(folder), [], "all"), refused="Choose the classes"),
    Case(
        "all merged",
        lambda folder: merge(_good(folder), ["cat", "horse"], "all"),
        counts={"all": 4},
        blocking="at least two classes",
    ),
    Case("an image that is not there", lambda folder: remove(_good(folder), [4]), refused="no longer in the set"),
    Case(
        "an image before the first", lambda folder: relabel(_good(folder), [-1], "cat"), refused="no longer in the set"
    ),
    Case(
        "all images of a class removed",
        lambda folder: remove(_good(folder), [0, 1]),
        counts={"cat": 0, "horse": 2},
        blocking="“cat” has no images",
    ),
    *(
        Case(
            f"the pattern {pattern[:20]!r}",
            lambda folder, pattern=pattern: groups_from_names(["a" * 5000], pattern),
            refused=gist,
        )
        for pattern, gist in (
            ("(a+)+$", "too complicated"),
            ("(a|aa)*b", "too complicated"),
            ("(", "not a regular expression"),
            ("a" * 99, "1 to 80 characters"),
            ("", "1 to 80 characters"),
            ("a.*a", "round brackets"),
            ("(a)(b)", "round brackets"),
            ("(b)", "fits none"),
            ("_", "fits none"),
            (".*.*.*.*(b)", "too complicated"),
        )
    ),
    Case("more patients than images", lambda folder: plan([0, 1], groups=["a"]), refused="1 patients for 2 images"),
    Case(
        "every teaching image is a test image",
        lambda folder: plan([0, 1, 1], given=2, leaked=[0]),
        refused="Every image",
    ),
]


def _picture(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "7.png"
    path.write_bytes(png(7))
    return path


def _good(folder: Path) -> LabelledSet:
    return resolve_splits(written(folder / "good", GOOD))[0]


def _folder(folder: Path, link: str | None = None, pipe: bool = False) -> LabelledSet:
    root = written(folder / "set", GOOD)
    try:
        if link == ".":
            (root / "cat" / "x").symlink_to(root, target_is_directory=True)
        elif link:
            (root / "cat" / "x").symlink_to(root / link)
        if pipe:
            os.mkfifo(root / "cat" / "x")
    except (OSError, AttributeError, NotImplementedError):
        pytest.skip("this system has no such files")
    return resolve_splits(root)[0]


def _harm_among_files(folder: Path) -> LabelledSet:
    (folder / "set.zip").write_bytes(packed({"../x.png": png()}))
    return from_files({"cat": [folder / "set.zip", _picture(folder)], "horse": [_picture(folder)]})


def _beside(folder: Path, text: str | None) -> LabelledSet:
    paths = list(written(folder / "loose", PICTURES).iterdir())
    if text is not None:
        (folder / "labels.csv").write_text(text)
    return from_table(paths, folder / "labels.csv")


@pytest.mark.parametrize("case", [*TABLES, *CALLS], ids=[case.name for case in (*TABLES, *CALLS)])
def test_it_gets_its_sentence_and_a_good_set_is_read_afterwards(case, tmp_path):
    judge(case, tmp_path)


def test_the_tables_of_a_set_have_a_limit_together(monkeypatch):
    monkeypatch.setattr(tables, "MAX_ALL_BYTES", 2 * len(TABLE))
    files = [((f"{name}.csv",), lambda size: TABLE.encode()) for name in "abc"]
    found, problems = tables.read_tables(files)
    assert [each.name for each in found] == ["a.csv", "b.csv"]
    assert [problem.name for problem in problems] == ["c.csv"] and "too large" in problems[0].reason
