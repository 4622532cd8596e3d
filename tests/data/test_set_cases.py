"""Labelled sets as people publish them: layouts, tables, encodings. Each is read as its makers mean it, or named.

The made-up ones are drawn here; those in the shared folder of cases run where it is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nearl.data.charsets import encoding_of
from nearl.data.sets.columns import Columns, ColumnsError
from nearl.data.sets.edit import merge, rename
from nearl.data.sets.labelled import LabelledSet, from_files, from_table, resolve_splits, table_splits
from nearl.errors import NearlError
from tests.support.hostile import named_in, packed, png, written

Counts = dict[str, int]
CASES = Path(os.environ.get("NEARL_CASES", Path(__file__).parents[3] / "shared" / "cases"))


def pictures(*names: str) -> dict[str, bytes]:
    return {name: png(100 + 3 * place, (24, 20)) for place, name in enumerate(names)}


def classes(*folders: str, suffix: str = ".png") -> dict[str, bytes]:
    """Two images in each folder."""
    return pictures(*(f"{folder}/{number}{suffix}" for folder in folders for number in (1, 2)))


def beside(table: str, *names: str, codec: str = "utf-8", called: str = "labels.csv") -> dict[str, bytes]:
    """Images called a.png to f.png, or `names`, in a folder beside a table."""
    names = names or tuple(f"images/{letter}.png" for letter in "abcdef")
    return {**pictures(*names), called: table.encode(codec)}


@dataclass
class Case:
    """`files`: what the zip holds, or a function that writes it; `said`: gists of problems and notes; `quiet`: nothing
    else is said."""

    name: str
    files: dict[str, bytes] | Callable[[Path], None]
    train: Counts = field(default_factory=dict)
    test: Counts | None = None
    said: tuple[str, ...] = ()
    groups: int = 0  # distinct patients
    quiet: bool = False
    columns: Columns | None = None


HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization\n" + "".join(
    f"H{i // 2},ISIC_{i},{'nv' if i % 2 else 'mel'},histo,50,male,back\n" for i in range(6)
)
ISIC = "image,MEL,NV,BCC\n" + "".join(f"ISIC_{i},{i % 2}.0,{1 - i % 2}.0,0.0\n" for i in range(6))
NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,\n" + "".join(
    f"0000{i}_000.png,{('Effusion|Mass', 'No Finding')[i % 2]},0,{i // 3},58,\n" for i in range(6)
)
SPLIT = "file,label,split\n" + "".join(
    f"{c},{'xy'[i % 2]},{'train' if i < 4 else 'test'}\n" for i, c in enumerate("abcdef")
)
ABCD = tuple(f"{letter}.png" for letter in "abcd")
ISICS = tuple(f"ISIC_{i}.jpg" for i in range(6))
XY = {"x": 2, "y": 2}
LAYOUTS = [
    Case("Training and Testing", classes("Training/x", "Training/y", "Testing/x", "Testing/y"), XY, XY, quiet=True),
    Case("train and val", classes("TRAIN/x", "TRAIN/y", "Val/x"), XY, {"x": 2, "y": 0}, ("no test folder",)),
    Case(
        "Train, Valid and Test",
        classes("d/Train/x", "d/Train/y", "d/Valid/x", "d/Test/y"),
        XY,
        {"x": 0, "y": 2},
        ("The folder Valid (2 files) is neither",),
    ),
    Case("names with words around", classes("train_images/x", "train_images/y", "Test Set/x"), XY, {"x": 2, "y": 0}),
    Case("a split folder twice", classes("seg/train/train/x", "seg/train/train/y"), XY, quiet=True),
    Case("folders doubled", classes("set/set/x", "set/set/y"), XY, quiet=True),
    Case(
        "a copy of the set inside it",
        classes("c/train/x", "c/train/y", "c/test/x", "c/c/train/x"),
        XY,
        {"x": 2, "y": 0},
        ("The folder c (2 files)",),
    ),
    Case(
        "classes spelt otherwise in test",
        classes("train/no_x", "train/Y", "test/No X", "test/y"),
        {"Y": 2, "no_x": 2},
        {"Y": 2, "no_x": 2},
    ),
    Case(
        "hospitals with the same classes",
        classes("north/x", "north/y", "south/x", "south/y"),
        {"north": 4, "south": 4},
        said=("same subfolders (x, y)",),
    ),
    Case(
        "masks beside images",
        {**classes("x", "y"), **classes("x", "y", suffix="_mask.png")},
        XY,
        said=("4 masks beside their images were left out",),
    ),
    Case(
        "masks of another kind",
        {**classes("x", "y", suffix=".jpg"), **classes("x", "y", suffix="_segmentation_1.png")},
        XY,
        said=("4 masks",),
    ),
    Case(
        "folders of masks within classes", classes("x/images", "x/masks", "y/images", "y/masks"), XY, said=("4 masks",)
    ),
    Case(
        "a folder of masks beside that of images",
        classes("d/images/x", "d/images/y", "d/masks/x", "d/masks/y"),
        XY,
        said=("4 masks",),
    ),
    Case("classes that are called mask", classes("mask", "no mask"), {"mask": 2, "no mask": 2}, quiet=True),
    Case(
        "loose images",
        {**classes("train/x", "train/y"), **pictures("train/l.png", "m.png")},
        XY,
        said=("l.png lies outside", "m.png lies outside"),
    ),
    Case(
        "a loose file without ending, a spreadsheet",
        {**classes("x", "y"), "IM0001": b"x", "labels.xlsx": b"x", "README": b"x"},
        XY,
        said=("IM0001 lies outside", "labels.xlsx is a spreadsheet"),
    ),
]
TABLES = [
    Case(
        "HAM10000",
        beside(HAM, *ISICS, called="HAM10000_metadata.csv"),
        {"mel": 3, "nv": 3},
        said=(
            "“image_id”, labels from “dx”, images that belong together from “lesion_id”.",
            "Not used: dx_type, age, sex",
        ),
        groups=3,
    ),
    Case("ISIC, one column a class", beside(ISIC, *ISICS), {"MEL": 3, "NV": 3}, said=("the marks in MEL, NV",)),
    Case(
        "NIH",
        beside(NIH, *(f"images/0000{i}_000.png" for i in range(6))),
        {"Effusion|Mass": 3, "No Finding": 3},
        said=("several labels in one cell", "“Patient ID”"),
        groups=2,
    ),
    Case(
        "labels with a comma that also stand alone",
        beside('file,label\na,x\nb,y\nc,"x, y"\nd,x\n', *ABCD),
        {"x": 2, "x, y": 1, "y": 1},
        said=("1 rows of labels.csv have several labels",),
    ),
    Case(
        "names without an ending",
        beside("file,label\na,x\nb,y\nc,x\nd,y\n", *(f"i/{c}.jpg" for c in "abcd")),
        XY,
        quiet=True,
    ),
    Case(
        "names in another case",
        beside("File;Label\nA.PNG;x\nB.jpeg;y\nC.png;x\nD.png;y\n", "a.png", "B.JPG", "c.PNG", "d.png"),
        XY,
        quiet=True,
    ),
    Case(
        "an ending for which two files fit",
        beside("file,label\na,x\nb,y\nc,x\n", "a.png", "a.jpg", "b.png", "c.png"),
        {"x": 1, "y": 1},
        said=("a of labels.csv could be one of 2 files",),
    ),
    Case(
        "patient_id",
        beside("file,label,patient_id\na,x,P0\nb,y,P0\nc,x,P1\nd,y,P1\n", *ABCD),
        XY,
        said=("images that belong together from “patient_id”",),
        groups=2,
    ),
    Case(
        "Subject",
        beside("Subject,filename,Diagnosis\nS,a,x\nT,b,y\nS,c,x\nT,d,y\n", *ABCD),
        XY,
        said=("“Subject”",),
        groups=2,
    ),
    Case(
        "unknown header, two columns",
        beside("scan no,what\na,x\nb,y\nc,x\nd,y\n", *ABCD),
        XY,
        said=("“scan no”, labels from “what”",),
    ),
    Case(
        "files found by content",
        beside("nr,study,dx\n1,a,x\n2,b,y\n3,c,x\n4,d,y\n", *ABCD),
        XY,
        said=("“study”, labels from “dx”",),
    ),
    Case(
        "columns that somebody named",
        beside("p,q,r\na,1,x\nb,2,y\nc,3,x\nd,4,y\n", *ABCD),
        XY,
        columns=Columns("p", "r"),
        said=("Not used: q",),
    ),
    Case(
        "a column of marks",
        beside("image,Pneumonia,age\na,1,5\nb,0,6\nc,1,7\nd,0,8\n", *ABCD),
        {"Pneumonia": 2, "no Pneumonia": 2},
        columns=Columns("", "Pneumonia"),
    ),
    Case("a column of splits", beside(SPLIT), XY, {"x": 1, "y": 1}, said=("train and test from “split”",)),
    Case(
        "a table in each split",
        {
            **pictures(*(f"{s}/{c}.png" for s in ("train", "test") for c in "ab")),
            "train/_classes.csv": b"filename,x,y\na.png,1,0\nb.png,0,1\n",
            "test/_classes.csv": b"filename,x,y\na.png,0,1\nb.png,0,1\n",
        },
        {"x": 1, "y": 1},
        {"x": 0, "y": 2},
    ),
    Case(
        "tables called train and test",
        {
            **pictures(*(f"images/{c}.png" for c in "abcd")),
            "train.csv": b"id_code,diagnosis\na,0\nb,1\n",
            "test.csv": b"id_code,diagnosis\nc,0\nd,1\n",
        },
        {"0": 1, "1": 1},
        {"0": 1, "1": 1},
    ),
    Case(
        "a table beside train and test folders",
        {**classes("train/x", "train/y"), "age.csv": b"file,label\n1,x\n"},
        XY,
        said=("age.csv was not used: the folders say",),
    ),
    Case(
        "very many rows without files",
        beside("file,label\na,x\nb,y\nc,x\nd,y\n" + "".join(f"z{i},x\n" for i in range(99)), *ABCD),
        XY,
        said=("99 rows of labels.csv name files that are not here: z0, z1, z2 and 96 more",),
    ),
]
TUMOURS = {
    "gbk": "良性 恶性",
    "cp932": "良性 悪性",
    "cp437": "bösartig mélanome",
    "cp866": "доброкачественная злокачественная",
}
NAMES = [
    *(
        Case(
            f"names in {codec}",
            named_in(codec, dict.fromkeys(f"{c}/{i}.png" for c in words.split() for i in (1, 2))),
            dict.fromkeys(words.split(), 2),
            quiet=True,
        )
        for codec, words in TUMOURS.items()
    ),
    *(
        Case(
            f"a table in {codec}",
            beside(
                "file,label\n" + "".join(f"{f},{words.split()[i % 2]}\n" for i, f in enumerate("abcd")),
                *ABCD,
                codec=codec,
            ),
            dict.fromkeys(words.split(), 2),
            said=(gist,) if gist else (),
        )
        for codec, words, gist in (
            ("gbk", "良性 恶性", "read as GBK (Chinese)"),
            ("cp932", "良性 悪性", "Shift-JIS"),
            ("big5", "良性 惡性", "Big5"),
            ("latin-1", "bösartig mélanome", ""),
            ("cp1251", TUMOURS["cp866"], "Windows-1251"),
            ("utf-16", "良性 恶性", ""),
        )
    ),
]
MADE_UP = [*LAYOUTS, *TABLES, *NAMES]


@pytest.mark.parametrize("case", MADE_UP, ids=[case.name for case in MADE_UP])
def test_a_set_is_read_as_it_is_meant(case, tmp_path):
    path = tmp_path / "set.zip"
    if isinstance(case.files, dict):
        path.write_bytes(packed(case.files))
    else:
        case.files(path)
    train, test = resolve_splits(path, fewest=1, columns=case.columns)
    assert train.counts() == case.train and (test and test.counts()) == case.test
    assert len(set(train.groups or ()) - {""}) == case.groups
    said = [problem.reason for problem in train.problems] + train.said()
    for gist in case.said:
        assert any(gist in sentence for sentence in said), said
    assert all(sentence.endswith(".") for sentence in said) and not (case.quiet and said), said


REFUSED = {
    "columns that nobody can guess": ("p,q,r\na,1,x\nb,2,y\n", "needs the columns file and label"),
    "marks in several columns, and rows without one": (
        "image,age,x,y\n" + "a,40,0,0\nb,50,1,1\nc,60,0,1\n",
        "The columns x, y hold only marks",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_is_not_plain_is_refused_with_its_columns(name, tmp_path):
    text, gist = REFUSED[name]
    path = tmp_path / "set.zip"
    path.write_bytes(packed(beside(text)))
    for fewest in (1, 2):  # as the page and as the command line ask
        with pytest.raises(ColumnsError, match=gist) as refused:
            resolve_splits(path, fewest)
    assert refused.value.header == text.splitlines()[0].split(",")
    with pytest.raises(ColumnsError, match="has no column “z”"):
        resolve_splits(path, columns=Columns("z", "r"))


def test_what_files_and_tables_say_when_they_are_chosen_one_by_one(tmp_path):
    folder = written(tmp_path / "set", {**classes("x"), **classes("x", suffix="_mask.png")})
    found = from_files({"x": sorted((folder / "x").iterdir())}, fewest=1)
    assert found.counts() == {"x": 2} and "2 masks" in found.problems[0].reason
    (tmp_path / "t.csv").write_text("image,dx,split\n1,a,train\n2,b,test\n")
    images = sorted((folder / "x").glob("?.png"))
    assert from_table(images, tmp_path / "t.csv").counts() == {"a": 1, "b": 1}
    (tmp_path / "u.csv").write_text("image,dx,split\n1,a,train\n2,a,test\n")
    train, test = table_splits(images, tmp_path / "u.csv", fewest=1)
    assert train.counts() == test.counts() == {"a": 1}
    renamed = rename(train, "a", "b")
    assert renamed.notes == train.notes != [] and merge(train, ["a"], "b").notes == train.notes


def test_an_accented_word_is_no_ideograph():
    for codec in ("latin-1", "cp1252"):
        for text in ("Ärzte", "größe", "naïve café", "ÉTÉ", "Kätzchen\nÖdem"):
            assert text.encode(codec).decode(encoding_of(text.encode(codec))) == text
    assert encoding_of("악성종양 양성종양".encode("cp949"), dos=True) == "cp949"
    assert encoding_of(bytes(range(128, 256))) in ("latin-1", "cp1252")


# ---- the shared cases

SHARED: dict[str, tuple[Counts, Counts | None, str]] = {  # file -> (train, test, gist of what is said)
    "01-teach-page-dead-class-names/Z18b.zip": ({"no tumor": 4, "no_tumor": 4}, None, ""),
    "06-training-testing-folders/Z06b.zip": ({"glioma": 8, "notumor": 8}, {"glioma": 8, "notumor": 8}, ""),
    "14-masks-taught-as-images/Z11.zip": ({"benign": 8, "malignant": 8}, None, "16 masks beside their images"),
    "15-names-in-a-national-code-page/V08.zip": ({"良性": 3, "恶性": 3}, None, "GBK"),
    "15-names-in-a-national-code-page/Z04.zip": ({"良性": 4, "恶性": 4}, None, ""),
    "16-csv-other-header-hidden-reason/V03b.zip": ({"melanoma": 3, "nevus": 3}, None, "labels from “dx”"),
    "16-csv-other-header-hidden-reason/V07.zip": ({"MEL": 3, "NV": 3}, None, "the marks in MEL, NV"),
    "17-csv-names-without-extension/V03.zip": ({"melanoma": 3, "nevus": 3}, None, ""),
    "18-csv-patient-id-unsaid/V10.zip": ({"melanoma": 3, "nevus": 3}, None, "“patient_id”"),
    "19-csv-multi-label-as-class/V05.zip": ({"Effusion|Mass": 2, "Mass": 2, "No Finding": 2}, None, "several labels"),
    "32-loose-image-lost/Z20.zip": ({"a": 4, "b": 4}, None, "loose.jpg lies outside"),
}


@pytest.mark.parametrize("file", SHARED)
def test_a_shared_case_is_read_as_it_is_meant(file):
    if not (CASES / file).is_file():
        pytest.skip("the shared cases are not here (set NEARL_CASES)")
    counts, test_counts, gist = SHARED[file]
    train, test = resolve_splits(CASES / file)
    assert train.counts() == counts and (test and test.counts()) == test_counts
    said = [problem.reason for problem in train.problems] + train.said()
    assert gist in " ".join(said) and bool(said) == bool(gist)


def test_a_hostile_table_leaves_a_sentence(tmp_path):
    path = tmp_path / "set.zip"
    for table in (
        b"\xff" * 99,
        b"file,label\n\x81,\x81\n",
        b",\n,,,\n",
        b"a" * 70_000,
        b'"',
        b"\n\n\n",
        b"file,file,label\na,b,c\n",
    ):
        path.write_bytes(packed({**pictures("images/a.png", "images/b.png"), "labels.csv": table}))
        try:
            found = resolve_splits(path)
        except NearlError as error:
            assert str(error).endswith((".", ".)"))
        else:
            assert isinstance(found[0], LabelledSet)
