"""Folders of DICOM slices in a labelled set: which are one study, and what is said of what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from nearl.data.images import decode_one
from nearl.data.sets.labelled import resolve_splits
from nearl.errors import NearlError
from tests.support.hostile import png
from tests.support.scans import dataset, nifti, series, written

RIGHT, DOWN = np.array([1, 0, 0]), np.array([0, 1, 0])


def body(seed=0, depth=4):
    return np.random.default_rng(seed).integers(-900, 900, (20, 18, depth)).astype(np.int16)


def patient(folder, seed=0, ending=".dcm"):
    folder.mkdir(parents=True)
    for number, data in enumerate(series(body(seed), RIGHT, DOWN)):
        (folder / f"{number}{ending}").write_bytes(data)


@pytest.fixture
def patients(tmp_path):
    for number in range(4):
        patient(tmp_path / f"p{number}", number)
    return tmp_path


def test_the_slices_of_a_patient_are_the_study_and_what_lies_beside_is_named(tmp_path):
    for label in ("lesion", "normal"):
        for number in range(2):
            patient(tmp_path / label / f"p{number}", number + 2 * (label == "normal"), ["", ".dcm"][number])
    (tmp_path / "lesion" / "p0" / "preview.png").write_bytes(png(90, (24, 20)))
    (tmp_path / "normal" / "p1" / "4.dcm").write_bytes(b"damaged")
    data, _ = resolve_splits(tmp_path, studies=True)
    assert [len(record.parts) for record in data.records] == [4] * 4
    assert [record.name for record in data.records] == ["p0", "p1"] * 2
    (problem,) = data.problems
    assert "preview.png" in problem.reason and "p0" in problem.reason
    assert [bool(record.notes) for record in data.records] == [False, False, False, True]
    assert "4.dcm" in data.records[3].notes[0]


@pytest.mark.parametrize("kind", ["dicom", "png"])
@pytest.mark.parametrize("divided", [False, True])
def test_single_images_in_class_folders_are_studies_of_their_own(tmp_path, kind, divided):
    rng = np.random.default_rng(0)
    for part in ("train", "test") if divided else (".",):
        for label in ("lesion", "normal"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(3):
                values = rng.integers(0, 900, (16, 16)).astype(np.uint16)
                data = png(60 + 5 * number, (24, 20)) if kind == "png" else written(dataset(values))
                (tmp_path / part / label / f"IM{number}").write_bytes(data)
    data, test = resolve_splits(tmp_path, studies=True)
    assert data.labels == [0] * 3 + [1] * 3 and {len(record.parts) for record in data.records} == {1}
    assert (test is not None) == divided and not data.problems


def test_a_table_names_the_folder_or_slices_that_agree(patients):
    table = patients / "labels.csv"
    for cells in (["p0", "p1", "p2", "p3"], [f"p{p}/{k}.dcm" for p in range(4) for k in range(4)]):
        table.write_text("file,label\n" + "".join(f"{c},{'ab'[int(c[1]) % 2]}\n" for c in cells))
        data, _ = resolve_splits(patients, studies=True)
        assert data.labels == [0, 0, 1, 1] and not data.problems
        assert {len(record.parts) for record in data.records} == {4}
    table.write_text(table.read_text().replace("p0/1.dcm,a", "p0/1.dcm,b"))
    data, _ = resolve_splits(patients, studies=True)
    assert len(data.records) == 3 and data.problems[0].name == "p0" and "different labels" in data.problems[0].reason
    table.write_text("file,label\n0.dcm,a\n1.dcm,b\n")
    with pytest.raises(NearlError, match=r"0\.dcm"):
        resolve_splits(patients, studies=True)


def test_a_study_says_which_moment_is_read_and_which_slices_are_empty():
    films = np.random.default_rng(0).integers(0, 500, (16, 16, 6, 3)).astype(np.int16)
    assert any("1 of 3" in note for note in decode_one(nifti(films, np.eye(4)), "a.nii").study().notes)
    holed = body(depth=6).astype(np.float32)
    holed[:, :, 2] = np.nan
    assert any("1 of 6" in note for note in decode_one(nifti(holed, np.eye(4)), "a.nii").study().notes)
    plain = decode_one(nifti(body(depth=6), np.eye(4)), "a.nii")
    assert plain.study().notes == plain.notes
