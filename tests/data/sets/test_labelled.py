"""Labelled sets from folders, files and zips: layouts, named problems, and zips that mean harm."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearl.data import archives
from nearl.data.sets.edit import drop_class, join, merge, relabel, remove, rename
from nearl.data.sets.labelled import MAX_SIDE, LabelledSet, from_files, from_table, resolve_splits
from nearl.errors import NearlError
from tests.support.scans import body, dataset, nifti, written


def png(shade: int = 100, size: tuple[int, int] = (20, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def source(kind: str, tmp_path: Path, files: dict[str, bytes]) -> Path:
    return write(tmp_path / "set", files) if kind == "folder" else pack(tmp_path / "set.zip", files)


def load(path: Path) -> LabelledSet:
    return resolve_splits(path)[0]


BOTH = pytest.mark.parametrize("kind", ["folder", "zip"])
CLASSES = {"b_cat/2.PNG": png(2), "b_cat/1.png": png(1), "a_dog/deep/3.jpeg": png(3)}


@BOTH
@pytest.mark.parametrize("prefix", ["", "outer/", "outer/inner/"])
def test_class_folders_under_any_prefix(kind, prefix, tmp_path):
    files = {prefix + name: data for name, data in CLASSES.items()}
    litter = {"__MACOSX/b_cat/._1.png": b"x", prefix + "b_cat/.DS_Store": b"x", prefix + "a_dog/Thumbs.db": b"x"}
    found = load(source(kind, tmp_path, {**files, **litter, "README.md": b"x"}))
    assert found.classes == ["a_dog", "b_cat"] and found.labels == [0, 1, 1]
    assert [record.name for record in found.records] == ["3.jpeg", "1.png", "2.PNG"]
    assert found.counts() == {"a_dog": 1, "b_cat": 2} and found.problems == []


@BOTH
def test_train_and_test(kind, tmp_path):
    files = {f"set/{split}/{name}": data for split in ("train", "test") for name, data in CLASSES.items()}
    files["set/test/b_cat/9.png"] = png(9)
    files["set/val/b_cat/9.png"] = png(9)
    files["set/prompts.json"] = json.dumps({"classes": []}).encode()
    path = source(kind, tmp_path, files)
    train, test = resolve_splits(path)
    assert len(train) == 3 and len(test) == 4 and train.classes == test.classes
    assert train.prompts == test.prompts == {"classes": []}
    assert [problem.name for problem in train.problems] == ["val"]


@BOTH
def test_only_class_folders_have_no_test_split(kind, tmp_path):
    train, test = resolve_splits(source(kind, tmp_path, CLASSES))
    assert len(train) == 3 and test is None


def test_test_classes_follow_those_of_train(tmp_path):
    files = {"train/a/1.png": png(1), "train/b/1.png": png(2), "train/c/1.png": png(3), "test/c/1.png": png(4)}
    train, test = resolve_splits(write(tmp_path / "one", files))
    assert test.classes == train.classes == ["a", "b", "c"] and test.labels == [2]
    assert {problem.name for problem in test.problems} == {"a", "b"}
    with pytest.raises(NearlError, match="“d”"):
        resolve_splits(write(tmp_path / "two", {**files, "test/d/1.png": png(5)}))


@BOTH
def test_one_bad_file_is_named_and_the_rest_goes_on(kind, tmp_path):
    found = load(source(kind, tmp_path, {**CLASSES, "b_cat/bad.png": b"nonsense", "loose.png": png()}))
    assert len(found) == 3
    assert {problem.name for problem in found.problems} == {"bad.png", "loose.png"}
    assert all(problem.name in problem.reason for problem in found.problems)


@BOTH
def test_classes_without_an_image_are_named(kind, tmp_path):
    path = source(kind, tmp_path, {**CLASSES, "ruined/bad.png": b"nonsense"})
    if kind == "folder":
        (path / "empty").mkdir()
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("empty/", b"")
    found = load(path)
    assert found.classes == ["a_dog", "b_cat"]
    reasons = {problem.name: problem.reason for problem in found.problems}
    assert "no image" in reasons["empty"] and "can be read" in reasons["ruined"]


@BOTH
@pytest.mark.parametrize(
    "files", [{"a/1.png": png()}, {"a/1.png": png(), "b/1.png": b"nonsense"}, {"train/a/1.png": png()}]
)
def test_one_class_is_not_enough(kind, files, tmp_path):
    with pytest.raises(NearlError, match="at least two classes"):
        load(source(kind, tmp_path, files))


@BOTH
def test_no_class_folder_and_a_class_in_two_spellings(kind, tmp_path):
    with pytest.raises(NearlError, match="no class folders"):
        load(source(kind, tmp_path / "one", {"1.png": png()}) if kind == "folder" else pack(tmp_path / "z", {}))
    found = load(source(kind, tmp_path, {"Glioma/1.png": png(), "glioma/2.png": png(), "x /1.png": png()}))
    assert found.counts() == {"Glioma": 2, "x": 1} and "Glioma and glioma differ only" in found.notes[0]


@BOTH
def test_broken_prompts_are_named_and_the_images_stay(kind, tmp_path):
    found = load(source(kind, tmp_path, {**CLASSES, "prompts.json": b"{"}))
    assert found.prompts is None and [problem.name for problem in found.problems] == ["prompts.json"]


def test_missing_sources(tmp_path):
    with pytest.raises(NearlError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(NearlError, match="nowhere"):
        load(tmp_path / "nowhere.zip")
    (tmp_path / "fake.zip").write_bytes(b"PK no")
    with pytest.raises(NearlError, match=r"fake\.zip is not a zip"):
        resolve_splits(tmp_path / "fake.zip")


def test_large_pictures_are_shrunk(tmp_path):
    found = load(write(tmp_path, {**CLASSES, "a_dog/big.png": png(5, (900, 600))}))
    assert max(max(record.size) for record in found.records) == MAX_SIDE


def test_from_files_and_subset(tmp_path):
    write(tmp_path, CLASSES)
    cats = [tmp_path / "b_cat/1.png", str(tmp_path / "b_cat/2.PNG")]
    found = from_files({"dog": [tmp_path / "a_dog/deep/3.jpeg"], "cat": cats})
    assert found.classes == ["cat", "dog"] and found.labels == [0, 0, 1]
    part = found.subset([2, 0])
    assert part.labels == [1, 0] and part.classes == found.classes and part.records[0] is found.records[2]
    with pytest.raises(NearlError, match="twice"):
        from_files({"cat": cats, " Cat": cats})
    with pytest.raises(NearlError, match="no name"):
        from_files({"cat": cats, " ": cats})


# ---- zips that mean harm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../a_dog/x.png", "/a_dog/x.png", "a_dog/../../x.png", "C:/x/y.png", "..\\a\\x.png"])
def test_entries_that_lead_outside_refuse_the_whole_zip(name, tmp_path):
    with pytest.raises(NearlError, match="leads outside"):
        load(pack(tmp_path / "evil.zip", {**CLASSES, name: png()}))


def test_links_and_nested_archives_are_named_and_skipped(tmp_path):
    path = pack(tmp_path / "set.zip", {**CLASSES, "a_dog/more.zip": b"PK"})
    link = zipfile.ZipInfo("a_dog/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    found = load(path)
    assert len(found) == 3
    reasons = {problem.name: problem.reason for problem in found.problems}
    assert "archive" in reasons["more.zip"] and "link" in reasons["link.png"]


def test_limits(tmp_path, monkeypatch):
    path = pack(tmp_path / "set.zip", CLASSES)
    monkeypatch.setattr(archives, "MAX_UNPACKED", 100)
    with pytest.raises(NearlError, match="unpacks to more"):
        load(path)
    monkeypatch.setattr(archives, "MAX_ENTRIES", 2)
    with pytest.raises(NearlError, match="entries"):
        load(path)


def test_an_entry_that_unpacks_to_far_too_much_is_named(tmp_path):
    found = load(pack(tmp_path / "set.zip", {**CLASSES, "a_dog/bomb.png": bytes(3_000_000)}))
    assert len(found) == 3 and "unpacks" in found.problems[0].reason


def test_an_entry_that_lies_about_its_size_is_named(tmp_path):
    path = pack(tmp_path / "set.zip", {**CLASSES, "a_dog/liar.png": png(7, (200, 200))})
    size = len(png(7, (200, 200)))
    data = path.read_bytes()
    assert data.count(size.to_bytes(4, "little")) >= 2
    path.write_bytes(data.replace(size.to_bytes(4, "little"), (40).to_bytes(4, "little")))
    found = load(path)
    assert len(found) == 3 and [problem.name for problem in found.problems] == ["liar.png"]


def test_damaged_and_locked_entries_are_named(tmp_path):
    path = pack(tmp_path / "set.zip", CLASSES)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("a_dog/worn.png", png(77))
        archive.writestr("a_dog/locked.png", png(78))
    data = bytearray(path.read_bytes())
    worn = data.index(b"a_dog/worn.png") + 40
    data[worn] ^= 0xFF
    entry = data.rindex(b"a_dog/locked.png") - 46  # its record in the central directory
    data[entry + 8] |= 1
    path.write_bytes(bytes(data))
    found = load(path)
    reasons = {problem.name: problem.reason for problem in found.problems}
    assert len(found) == 3 and "damaged" in reasons["worn.png"] and "password" in reasons["locked.png"]


def test_nothing_is_written_to_disk(tmp_path, monkeypatch):
    path = pack(tmp_path / "set.zip", CLASSES)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    load(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_real_set():
    path = Path(os.environ.get("NEARL_DATA", "../shared/data")) / "blood_wbc"
    if not path.is_dir():
        pytest.skip("no shared data here")
    train, test = resolve_splits(path)
    assert train.counts() == {"eosinophil": 61, "lymphocyte": 22, "monocyte": 14, "neutrophil": 140}
    assert test.counts() == {"eosinophil": 26, "lymphocyte": 9, "monocyte": 6, "neutrophil": 60}
    assert not train.problems and not test.problems
    assert not {r.digest for r in train.records} & {r.digest for r in test.records}
    assert all(isinstance(record.pixels, np.ndarray) for record in train.records)


def test_scans_are_taught_with_as_pictures(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "volume.nii").write_bytes(nifti(body(), np.eye(4)))
        (tmp_path / label / "slice.dcm").write_bytes(written(dataset(np.full((20, 30), 7, np.uint16))))
    found = load(tmp_path)
    assert found.counts() == {"a": 2, "b": 2} and not found.problems
    assert all(record.scan is None for record in found.records)  # the numbers behind them are not kept
    assert any("of 24 slices" in note for record in found.records for note in record.notes)


# ---- tables, one class at a time, and changing a set ------------------------------------------------------------


def test_a_table_with_patients(tmp_path):
    write(tmp_path, {f"{i}.png": png(40 * i) for i in (1, 2, 3, 4)})
    (tmp_path / "labels.csv").write_text("Patient;File;Label\np1;1.png;dog\np1;2.png;cat\n;3.png;Dog\np2;4.png;cat\n")
    pictures = sorted(tmp_path.glob("*.png"))
    found = from_table(pictures, tmp_path / "labels.csv")
    assert found.classes == ["cat", "dog"] and found.labels == [0, 0, 1, 1] and not found.problems
    assert [record.name for record in found.records] == ["2.png", "4.png", "1.png", "3.png"]
    assert found.groups == ["p1", "p2", "p1", ""] and found.subset([3, 0]).groups == ["", "p1"]
    among = from_table([*pictures, tmp_path / "labels.csv"])
    folder, test = resolve_splits(tmp_path)
    zipped = load(pack(tmp_path / "all.zip", {path.name: path.read_bytes() for path in tmp_path.iterdir()}))
    assert test is None
    for other in (among, folder, zipped, from_table([tmp_path / "all.zip"])):
        assert (other.classes, other.labels, other.groups) == (found.classes, found.labels, found.groups)


def test_train_and_test_folders_outweigh_a_table_and_a_table_outweighs_other_folders(tmp_path):
    files = {f"{split}/{name}": data for split in ("train", "test") for name, data in CLASSES.items()}
    table = b"file,label\nb_cat/1.png,x\nb_cat/2.PNG,y\na_dog/deep/3.jpeg,x\n"
    train, test = resolve_splits(pack(tmp_path / "a.zip", {**files, "labels.csv": table}))
    assert train.classes == ["a_dog", "b_cat"] and len(test) == 3
    found = load(pack(tmp_path / "b.zip", {**CLASSES, "labels.csv": table, "prompts.json": b"{}"}))
    assert found.counts() == {"x": 2, "y": 1} and not found.problems and found.prompts == {}
    notes = load(pack(tmp_path / "c.zip", {**CLASSES, "notes.csv": b"a,b\n1,2\n"}))
    assert len(notes) == 3 and [problem.name for problem in notes.problems] == ["notes.csv"]


def test_one_class_at_a_time(tmp_path):
    write(tmp_path, CLASSES)
    zipped = pack(tmp_path / "more.zip", {"x/5.png": png(5), "6.png": png(6), "bad.png": b"x"})
    with pytest.raises(NearlError, match="at least two classes"):
        from_files({"cat": [zipped]})
    cats = from_files({"Cat": [tmp_path / "b_cat/1.png", zipped]}, fewest=1)
    assert cats.counts() == {"Cat": 3} and [problem.name for problem in cats.problems] == ["bad.png"]
    both = join(cats, load(tmp_path))
    assert both.classes == ["Cat", "a_dog", "b_cat"] and both.labels == [0, 0, 0, 1, 2, 2] and both.groups is None
    again = join(both, from_files({"  cAT ": [tmp_path / "b_cat/2.PNG"]}, fewest=1))
    assert again.counts() == {"Cat": 4, "a_dog": 1, "b_cat": 2}
    assert [problem.name for problem in again.problems] == ["bad.png", "more.zip"]


def test_changing_a_set(tmp_path):
    data = load(write(tmp_path, {**CLASSES, "c_cow/7.png": png(7)}))
    data.groups = ["d", "c1", "c2", "cow"]
    names = [record.name for record in data.records]
    assert rename(data, "B_CAT", " house   cat ").classes == ["a_dog", "house cat", "c_cow"]
    assert rename(data, "b_cat", "B_Cat").classes[1] == "B_Cat"
    merged = merge(data, ["c_cow", "a_dog"], "not a cat")
    assert merged.classes == ["not a cat", "b_cat"] and merged.labels == [0, 1, 1, 0]
    assert merge(data, ["b_cat", "c_cow"], "B_CAT").classes == ["a_dog", "B_CAT"]
    less = remove(data, [0, 2])
    assert less.classes == data.classes and less.labels == [1, 2] and less.groups == ["c1", "cow"]
    moved = relabel(data, [1], "a_dog")
    assert moved.labels == [0, 0, 1, 2] and relabel(data, [1], "kitten").counts()["kitten"] == 1
    dropped = drop_class(data, "b_cat")
    assert dropped.classes == ["a_dog", "c_cow"] and dropped.labels == [0, 1] and dropped.groups == ["d", "cow"]
    assert data.labels == [0, 1, 1, 2] and [record.name for record in data.records] == names  # itself unchanged
    grouped = join(data, replace(less, groups=None))
    assert grouped.groups == ["d", "c1", "c2", "cow", "", ""]
