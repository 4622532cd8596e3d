"""`predict` on a folder: every file by its path, a table that can be resumed, and an exit status that tells."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from nearl.cli import predict
from tests.support.hostile import packed, png
from tests.support.scans import nifti, series


@pytest.fixture
def folder(tmp_path, data):
    """Two images of one name in two folders, one with a name like a formula, a zip of two, a CT series, a file that is
    no image and one that is damaged."""
    root = tmp_path / "images"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
    images = sorted((data / "test" / "lesion").iterdir())
    shutil.copy(images[0], root / "a" / "1.png")
    shutil.copy(images[1], root / "b" / "1.png")
    shutil.copy(images[2], root / "=SUM(A1).png")
    (root / "two.zip").write_bytes(packed({"x.png": png(90), "y.png": png(120)}))
    voxels = np.random.default_rng(0).integers(0, 1000, (24, 24, 4)).astype(np.int16)
    for number, content in enumerate(series(voxels, np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))):
        (root / "b" / f"slice{number}.dcm").write_bytes(content)
    (root / "labels.csv").write_text("file,label\n")
    (root / "damaged.png").write_text("not an image")
    return root


GOOD = ["=SUM(A1).png", "a/1.png", "b/1.png", "b/slice0.dcm", "two.zip: x.png", "two.zip: y.png"]


def table(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_is_named_and_the_status_tells_of_failures(nearl, folder, model, adapter):
    words = ("predict", folder, "--adapter", adapter, *model)
    status, out, err = nearl(*words, "--json")
    told = json.loads(out)
    good = [row for row in told["predictions"] if row["error"] is None]
    assert status == 1 and "1 of 7 files" in err
    assert sorted(row["name"] for row in good) == GOOD and {row["file"] for row in good} == {str(folder)}
    assert [row["part"] for row in good] == [1, 2, 3, 4, 5, 6]
    (failed,) = (row for row in told["predictions"] if row["error"])
    assert failed["name"] == "damaged.png" and told["left_out"] == ["labels.csv"] and "labels.csv" in err
    status, out, _ = nearl(*words)
    assert {"a/1.png", "b/1.png"} <= set(out.splitlines()) and "b/slice0.dcm, slice 3 of 4" in out
    (folder / "damaged.png").unlink()
    assert nearl(*words)[0] == 0


def test_a_table_is_safe_and_goes_on_where_it_was(nearl, refused, folder, model, adapter, tmp_path, monkeypatch):
    out = tmp_path / "tables" / "out.csv"
    words = ("predict", folder, "--adapter", adapter, *model, "--csv", out)
    monkeypatch.setattr(predict, "MANY", 3)
    read, seen = predict._read, []

    def interrupted(classifier, record, args):
        seen.append(record.name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read(classifier, record, args)

    with monkeypatch.context() as patch:
        patch.setattr(predict, "_read", interrupted)
        status, _, err = nearl(*words)
        assert status == 130 and "--resume" in err
    early = [row["file"] for row in table(out) if not row["error"]]
    assert early == ["'=SUM(A1).png", "a/1.png", "b/1.png"]  # a formula is a text

    assert "--resume" in refused(*words)
    monkeypatch.setattr(predict, "_read", lambda *args: seen.append(args[1].name) or read(*args))
    seen.clear()
    status, said, err = nearl(*words, "--resume", "--json")
    rows, told = table(out), json.loads(said)
    assert status == 1 and told["kept"] == len(early) and "read 9/9" in err
    assert len(seen) == len(GOOD) - len(early)  # what the table had was not read again
    names = [(row["file"].lstrip("'"), row["part"]) for row in rows if not row["error"]]
    assert sorted(": ".join(filter(None, name)) for name in names) == GOOD
    by_name = {row["name"]: row for row in told["predictions"]}
    for row in rows:
        if row["error"]:
            assert row["file"] == "damaged.png" and "damaged.png" in row["error"] and not row["answer"]
            continue
        shares = {name: float(row[f"after: {name}"]) for name in ("lesion", "no lesion")}
        assert row["answer"] == max(shares, key=shares.get) and sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert row["notice"] and row["made with"] and float(row["before: lesion"]) <= 1
        name = ": ".join(filter(None, (row["file"], row["part"])))
        if name in by_name:
            assert by_name[name]["adapted"] == pytest.approx(shares)
    assert [row["slice"] for row in rows if row["file"] == "b/slice0.dcm"] == ["3 of 4"]

    Image.new("L", (64, 64), 90).save(folder / "damaged.png")  # it is mended
    seen.clear()
    status, said, _ = nearl(*words, "--resume")
    assert status == 0 and seen == ["damaged.png"] and not any(row["error"] for row in table(out))
    earlier = [{key: value for key, value in row.items() if key != "guess"} for row in table(out)]
    lost = earlier.pop()  # of a table of an earlier version, which was not finished
    with out.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(lost), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(earlier)
    status, _, err = nearl(*words, "--resume")
    assert status == 0 and "earlier version" in err and "“guess”" in err
    assert [{**row, "guess": ""} for row in table(out)[:-1]] == [{**row, "guess": ""} for row in earlier]
    assert {key: table(out)[-1][key] for key in lost} == lost and not any(row["guess"] for row in table(out)[:-1])

    assert "another model" in refused(*words, "--resume", "--window", "lung")
    assert "give --csv" in refused("predict", folder, "--adapter", adapter, *model, "--resume")


def test_what_to_be_careful_about_is_in_the_table(nearl, data, tmp_path):
    image = next((data / "test" / "lesion").iterdir())
    Image.open(image).rotate(45).save(tmp_path / "odd.png")
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps({"classes": [{"name": c, "prompts": [c]} for c in ("+lesion", "cyst")]}))
    words = ("predict", tmp_path / "odd.png", "--prompts", prompts, "--csv", tmp_path / "t.csv")
    status, said, _ = nearl(*words, "--json")
    (row,), (told,) = table(tmp_path / "t.csv"), json.loads(said)["predictions"]
    assert status == 0 and row["file"] == str(tmp_path / "odd.png") and "after: cyst" not in row
    assert bool(row["flags"]) == (row["guess"] == "yes") == told["unfamiliar"]
    assert list(row).index("guess") == list(row).index("answer") + 1
    assert row["answer"].lstrip("'") == max(told["frozen"], key=told["frozen"].get)


def test_a_folder_without_images(nearl, refused, model, adapter, tmp_path):
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "notes.txt").write_text("none")
    status, out, _ = nearl("predict", tmp_path / "only", "--adapter", adapter, *model, "--json")
    assert status == 2 and "holds no files" in json.loads(out)["predictions"][0]["error"]


def test_the_moment_that_was_read_is_told(nearl, model, adapter, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 1000, (24, 24, 4, 2)).astype(np.int16)
    (tmp_path / "heart.nii").write_bytes(nifti(voxels, np.eye(4)))
    words = ("predict", tmp_path / "heart.nii", "--adapter", adapter, *model)
    assert "slice 3 of 4, moment 1 of 2" in nearl(*words)[1]
    told = json.loads(nearl(*words, "--aggregate", "mean", "--csv", tmp_path / "t.csv", "--json")[1])["predictions"][0]
    assert (told["moment"], told["moments"]) == (1, 2)
    assert table(tmp_path / "t.csv")[0]["slice"] == "mean of 4, moment 1 of 2"
