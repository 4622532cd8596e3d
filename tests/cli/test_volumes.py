"""Volumes on the command line: studies as NIfTI, zip and folder are taught, measured and read whole."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest

from nearl.data.sets.labelled import resolve_splits
from nearl.runs import RunFolder
from tests.support.scans import nifti, series

RIGHT, DOWN = np.array([1, 0, 0]), np.array([0, 1, 0])


def write_studies(folder, train=15, test=5):
    """A folder of studies with labels.csv: in some a slice is bright ("spot"), some are light throughout ("light")."""
    rng = np.random.default_rng(0)
    (folder / "studies").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", "spot", "light"])
        for i in range(train + test):
            spot, light = i % 2 == 0, i // 2 % 2 == 0
            body = rng.normal(-500 + 500 * light, 60, (20, 18, 8))
            body[:, :, rng.integers(8)] += 900 * spot
            body[:2], body[-2:] = -1000, 700  # air and bone, by which it is known as a CT
            body, name = body.astype(np.int16), f"study_{i:02d}"
            if i % 5 < 3:
                name += ".nii.gz" if i % 5 else ".nii"
                data = nifti(body, np.diag([2, 2, 3, 1]))
                (folder / "studies" / name).write_bytes(data if name.endswith(".nii") else _packed(data))
            else:
                files = series(body, RIGHT, DOWN)
                if i % 5 == 3:
                    name += ".zip"
                    with zipfile.ZipFile(folder / "studies" / name, "w") as packed:
                        for k, data in enumerate(files):
                            packed.writestr(f"{k}.dcm", data)
                else:
                    (folder / "studies" / name).mkdir()
                    for k, data in enumerate(files):
                        (folder / "studies" / name / f"IM{k:03d}").write_bytes(data)
            table.writerow([f"studies/{name}", "train" if i < train else "test", int(spot), int(light)])
    return folder


def _packed(data):
    import gzip

    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as file:
        file.write(data)
    return out.getvalue()


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return write_studies(tmp_path_factory.mktemp("volumes") / "data")


def test_a_study_is_a_folder_a_zip_or_a_nifti(studies):
    train, test = resolve_splits(studies, findings=True, studies=True)
    assert (len(train), len(test)) == (15, 5) and not train.problems
    assert {len(record.stack) for record in train.records} == {8}, "every slice of each"
    assert len({record.digest for record in train.records}) == 15
    (one,) = {part.size for part in train.records[0].stack}
    assert max(one) <= 256
    one_slice, _ = resolve_splits(studies, findings=True)
    assert len(one_slice) < 15 and not any(record.stack for record in one_slice.records), "as for other methods"


def test_volumes_are_taught_measured_and_read(nearl, studies, model, tmp_path):
    out = tmp_path / "run"
    quick = ["--method", "bridge", "--steps", 30, "--lr", 0.01, "--keep-images"]
    status, text, err = nearl("finetune", studies, *quick, "--out", out, *model, "--json")
    result = json.loads(text)
    assert status == 0 and "findings from the marks" in err
    assert result["method"] == "bridge" and result["held_out"]["n"] >= 2
    _, lines, _ = nearl("finetune", "--resume", "--keep-images", "--out", out, *model)
    assert f"Taught with {15 - result['held_out']['n']} images" in lines
    meta = json.loads((out / "adapter" / "adapter.json").read_text())
    assert meta["config"]["options"]["atoms"] == meta["tensors"]["bank"][0]

    status, text, _ = nearl("evaluate", studies, "--adapter", out, *model, "--json")
    result = json.loads(text)
    assert status == 0 and result["n"] == 5 and result["macro_auroc"] == result["adapted"]["macro_auroc"]
    assert [row["finding"] for row in result["per_finding"]] == ["spot", "light"]
    whole = next(row for row in result["per_finding"] if row["finding"] == "light")
    assert whole["auroc"] == 1.0, "a light volume is told from a dark one"

    status, text, _ = nearl("predict", studies / "studies" / "study_00.nii", "--adapter", out, *model, "--json")
    (row,) = json.loads(text)["predictions"]
    assert status == 0 and set(row["findings"]) == {"spot", "light"} and "slice" not in row
    status, text, err = nearl(
        "predict", studies / "studies" / "study_00.nii", "--adapter", out, *model, "--aggregate", "mean"
    )
    assert status and not text and "as a whole" in err  # its thresholds are those of whole studies
    (studies / "studies" / "study_04" / "notes.png").write_bytes(b"damaged")
    status, text, _ = nearl("predict", studies / "studies" / "study_04", "--adapter", out, *model, "--json")
    rows = json.loads(text)["predictions"]
    assert [(row["name"], row["error"] is None) for row in rows] == [("study_04", True), ("notes.png", False)]
    job = RunFolder(out).job()
    assert set(job.slices) == {8} and len(job.images) == 8 * 15 and [job.shown(0), job.shown(2)] == [4, 20]


def test_synthetic_volumes_come_with_labels_and_reports(nearl, tmp_path):
    out = tmp_path / "made"
    assert nearl("phantoms", "thorax-volumes", "--out", out, "--train", 1, "--test", 1)[0] == 0
    train, test = resolve_splits(out, findings=True, studies=True)
    assert len(train.records[0].stack) == 32 and len(test) == 1 and len(train.findings) == 12
    with (out / "labels.csv").open() as file:
        assert "SYNTHETIC" in next(csv.DictReader(file))["report"]
