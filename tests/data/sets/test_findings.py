"""Tables that mark several findings of an image: what is read of them, and what each unusable one is told."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nearl.data.checks import check
from nearl.data.sets.columns import Columns
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import resolve_splits
from nearl.data.splits import plan_findings
from nearl.errors import NearlError

GOOD = "file,nodule,mass\na.png,1,1\nb.png,0,\nc.png,,0\nd.png,0,1\n"


@pytest.fixture
def folder(tmp_path):
    """Writes a table beside four images -> the folder."""
    for i, name in enumerate("abcd"):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")

    def write(table):
        (tmp_path / "labels.csv").write_text(table)
        return tmp_path

    return write


def test_marks_are_present_absent_or_unknown(folder):
    data, test = resolve_splits(folder(GOOD), findings=True)
    assert isinstance(data, FindingsSet) and test is None and not data.problems
    assert data.findings == ["nodule", "mass"] and data.classes == ["nodule", "without nodule", "mass", "without mass"]
    found = {record.name: label for record, label in zip(data.records, data.labels, strict=True)}
    assert found == {"a.png": (0, 2), "b.png": (1,), "c.png": (3,), "d.png": (1, 2)}
    assert data.counts() == {"nodule": 1, "without nodule": 2, "mass": 2, "without mass": 1}
    part = data.subset([0])
    assert isinstance(part, FindingsSet) and part.labels == [data.labels[0]]
    other = data.aligned(["mass", "cyst"])
    assert other.findings == ["mass", "cyst"] and set(other.labels) == {(0,), (1,), ()}
    assert not check(data).blocking


def test_one_mark_in_every_row_is_a_class_and_without_the_word_nothing_has_changed(folder):
    table = "file,x,y\na.png,1,0\nb.png,0,1\nc.png,1,0\nd.png,0,1\n"
    for findings in (True, False):
        data, _ = resolve_splits(folder(table), findings=findings)
        assert not isinstance(data, FindingsSet) and data.counts() == {"x": 2, "y": 2}
    with pytest.raises(NearlError, match="nearl finetune"):
        resolve_splits(folder(GOOD))


ONE_HOT = {
    "empty for absent": "file,x,y\na.png,1,\nb.png,,1\nc.png,1,\nd.png,,1\n",
    "one cell forgotten": "file,x,y\na.png,1,0\nb.png,0,1\nc.png,1,\nd.png,0,1\n",
    "nan for absent": "file,x,y\na.png,1.00,nan\nb.png,NA,1.00\nc.png,1.00,nan\nd.png,nan,1.00\n",
}


@pytest.mark.parametrize("name", ONE_HOT)
def test_a_column_for_each_class_may_have_empty_cells(name, folder):
    data, _ = resolve_splits(folder(ONE_HOT[name]), findings=True)
    assert not isinstance(data, FindingsSet) and data.counts() == {"x": 2, "y": 2}


@pytest.mark.parametrize("first", ["lesion", "case", "study", "severity", "fracture_grade", "main finding"])
def test_a_column_of_marks_is_a_finding_whatever_its_name(first, folder):
    table = f"file,{first},mass\na.png,1,1\nb.png,0,1\nc.png,0,0\nd.png,1,0\n"
    data, _ = resolve_splits(folder(table), findings=True)
    assert isinstance(data, FindingsSet) and data.findings == [first, "mass"] and data.groups is None
    if first not in ("lesion", "case", "study"):
        named, _ = resolve_splits(folder(table), findings=True, columns=Columns(label=first))
        assert not isinstance(named, FindingsSet) and len(named.classes) == 2


def test_a_label_and_a_patient_stay_what_they_are_beside_marks(folder):
    table = "file,patient_id,label,male\na.png,0,1,1\nb.png,0,0,1\nc.png,1,0,0\nd.png,1,1,0\n"
    data, _ = resolve_splits(folder(table), findings=True)
    assert not isinstance(data, FindingsSet) and data.classes == ["0", "1"] and set(data.groups) == {"0", "1"}


def test_cells_without_a_value_are_unknown_and_numbers_are_marks(folder):
    table = "file,nodule,mass\na.png,1.00,NA\nb.png,0.00,nan\nc.png,N/A,1\nd.png,1.,0\n"
    data, _ = resolve_splits(folder(table), findings=True)
    found = {record.name: label for record, label in zip(data.records, data.labels, strict=True)}
    assert found == {"a.png": (0,), "b.png": (1,), "c.png": (2,), "d.png": (0, 3)}


def test_a_column_of_marks_and_words_is_named(folder):
    table = "file,nodule,mass,age\na.png,1,1,1\nb.png,maybe,0,44\nc.png,maybe,0,52\nd.png,0,1,0\n"
    data, _ = resolve_splits(folder(table), findings=True)
    said = [note for note in data.notes if "maybe" in note]
    assert data.findings == ["mass"] and len(said) == 1 and "“nodule”" in said[0]
    assert not any("“age”" in note for note in data.notes)


def test_parts_and_words_for_marks(folder):
    table = "file,split,nodule,mass\na.png,train,yes,true\nb.png,train,no,-1\nc.png,test,1.0,0\nd.png,test,0,0\n"
    data, test = resolve_splits(folder(table), findings=True)
    assert (len(data), len(test)) == (2, 2) and data.findings == test.findings
    assert sorted(data.labels) == [(0, 2), (1,)]


MANY = "file," + ",".join(f"f{i}" for i in range(40)) + "\n"
MANY += "".join(f"{name}.png," + ",".join(str((i + k) % 2) for i in range(40)) + "\n" for k, name in enumerate("abcd"))
HOSTILE = {
    "a value that is no mark": (GOOD.replace("d.png,0,1", "d.png,2,1"), "“2” for “nodule” in line 5"),
    "a finding of which nothing is known": (
        "file,nodule,mass\na.png,1,\nb.png,0,\nc.png,1,\nd.png,0,\n",
        "says of no image whether it has “mass”",
    ),
    "a value below an empty line": (GOOD.replace("d.png,0,1", "\nd.png,2,1"), "“2” for “nodule” in line 6"),
    "a finding called as the absence of another": (GOOD.replace("nodule,mass", "nodule,without nodule"), "without nod"),
    "two columns of one finding": (GOOD.replace("nodule,mass", "mass,Mass"), "two columns for “Mass”"),
    "no file that is there": (GOOD.replace(".png", ".jpg").replace("a.", "x.").replace("b.", "y.").replace("c.", "z.")
                              .replace("d.", "w."), "fits an image"),
    "too many": (MANY, "at most 32"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_an_unusable_table_is_refused_in_a_sentence(name, folder):
    table, gist = HOSTILE[name]
    with pytest.raises(NearlError, match=r"labels\.csv") as refused:
        resolve_splits(folder(table), findings=True)
    assert gist in str(refused.value) and str(refused.value).rstrip(")").endswith(".")


def test_rows_that_cannot_be_used_are_named_and_the_rest_is_read(folder):
    table = GOOD + "e.png,1,0\na.png,0,1\nc.png,,0\n"
    data, _ = resolve_splits(folder(table.replace("d.png,0,1", "d.png,,")), findings=True)
    said = " ".join(problem.reason for problem in data.problems)
    assert "e.png is in labels.csv but is not among the files" in said
    assert "a.png has 2 different labels" in said and "d.png has no label" in said
    assert sorted(record.name for record in data.records) == ["b.png", "c.png"]


def test_a_finding_without_positives_cannot_be_taught(folder):
    data, _ = resolve_splits(folder(GOOD.replace("a.png,1,1", "a.png,0,1")), findings=True)
    assert "“nodule” is present in no image" in check(data).blocking


def test_a_held_out_part_has_both_answers_of_every_finding_and_no_copies_on_both_sides():
    rng = np.random.default_rng(0)
    labels = [tuple(2 * k + int(rng.random() > 0.25) for k in range(6) if rng.random() < 0.9) for _ in range(60)]
    split = plan_findings(labels, 0.25, seed=1, duplicates=[(0, 1), (5, 6, 7)])
    assert split.kind == "held-out" and len(split.held) == 15
    assert sorted(split.held + split.support) == list(range(60))
    for part in (split.held, split.support):
        counts = np.bincount([c for i in part for c in labels[i]], minlength=12)
        assert counts.min() >= 2
    for copies in ((0, 1), (5, 6, 7)):
        assert len({i in split.held for i in copies}) == 1
    assert plan_findings(labels, 0.25, 1, duplicates=[(0, 1), (5, 6, 7)]) == split
    assert plan_findings(labels, 0.25, 2).held != split.held
    assert plan_findings(labels, 0.0).kind == "none" and plan_findings(labels[:3]).kind == "none"
