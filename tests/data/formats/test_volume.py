"""Volumes through the classifier, windows, and the real files where they are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from nearl.cli.main import main
from nearl.data.formats.volume import letters_of, opposite
from nearl.data.formats.windows import PRESETS, Window, to_grey
from nearl.data.images import decode, decode_many, decode_one
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from nearl.reading.volumes import aggregate, read_volume
from tests.support.scans import body, directions, nifti, series

DATA = Path(os.environ.get("NEARL_DATA", Path(__file__).parents[4] / "shared" / "data"))
real = pytest.mark.skipif(not (DATA / "dicom").is_dir(), reason="the real files are not here (set NEARL_DATA)")


@pytest.fixture
def volume():
    return decode_one(nifti(body(), np.eye(4)), "body.nii")


# --- windows and letters ---------------------------------------------------------------------------------------------


def test_windows_cut_where_they_say():
    values = np.array([-1e9, 0.0, 49.0, 50.0, 51.0, 100.0, 1e9, np.nan, np.inf])
    assert to_grey(values, Window("w", 50, 100)).tolist() == [0, 0, 125, 128, 130, 255, 255, 0, 255]
    assert to_grey(values, Window("w", 50, 1, "LINEAR")).tolist()[:6] == [0, 0, 0, 255, 255, 255]
    sigmoid = to_grey(values, Window("w", 50, 100, "SIGMOID"))
    assert sigmoid[3] == 128 and (np.diff(sigmoid[:7].astype(int)) >= 0).all()
    assert all(window.width > 0 for window in PRESETS.values()) and len(PRESETS) == 6


def test_letters():
    assert letters_of(np.array([1.0, 0, 0])) == "L" and letters_of(np.array([0, -0.9, 0.43])) == "AH"
    assert letters_of(np.array([0.05, 0, -1.0])) == "F" and opposite("PL") == "AR"


# --- volumes ---------------------------------------------------------------------------------------------------------


def test_aggregation_by_hand():
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], np.float32)
    assert np.allclose(aggregate(shares, "mean"), [0.5, 0.5])
    assert np.allclose(aggregate(shares, "max"), np.array([0.9, 0.8]) / 1.7)
    assert np.allclose(aggregate(shares, "top-k", 2), np.array([0.65, 0.7]) / 1.35)
    assert np.allclose(aggregate(shares, "top-k", 99), aggregate(shares, "mean"))
    for method, k, rows in (("median", 1, shares), ("top-k", 0, shares), ("mean", 1, shares[:0])):
        with pytest.raises(NearlError):
            aggregate(rows, method, k)


def test_every_slice_is_read_as_it_is_shown(tiny, volume):
    classifier = Classifier(tiny("clip"), default_prompts(["a", "b", "c"]))
    shown = volume.at(plane="coronal", window=Window("w", 100, 300))
    steps = []
    reading = read_volume(classifier, shown, progress=lambda done, total: steps.append((done, total)))
    assert reading.numbers == list(range(18)) and steps == [(16, 18), (18, 18)]
    alone = classifier.predict([shown.slice_at(7)])
    assert np.allclose(reading.frozen[7], alone.frozen[0]) and reading.adapted is None
    assert np.allclose(reading.frozen.sum(1), 1, atol=1e-5)
    assert np.allclose(reading.aggregate("top-k", 3)[0].sum(), 1)
    assert read_volume(classifier, shown, every=5).numbers == [1, 6, 11, 16]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_volume(classifier, shown, progress=stop)


def test_the_model_gets_exactly_what_is_shown(tiny, volume):
    backbone = tiny("clip")
    classifier = Classifier(backbone, default_prompts(["a", "b"]))
    for view in (volume, volume.at(index=2), volume.at(invert=True), volume.at(window=Window("w", 0, 50))):
        wanted = backbone.normalise(backbone.to_uint8(view.image())[None])
        assert np.array_equal(classifier.pixels([view]).cpu().numpy(), wanted.cpu().numpy())
        assert np.array_equal(np.asarray(view.image()), view.scan.render(view.view))
    digests = {view.digest for view in (volume, volume.at(index=2), volume.at(invert=True))}
    assert len(digests) == 3


def test_views_stay_inside_the_volume(volume):
    assert volume.slice_at(10_000).slice_number == volume.slices() - 1 and volume.slice_at(-3).slice_number == 0
    assert volume.at(plane="nowhere").view.plane == "axial"
    small = decode_one(nifti(body(), np.diag([1, 1, 3, 1])), max_side=40).at(plane="coronal")
    assert small.size == (11, 40)
    with pytest.raises(ValueError):
        volume.scan.voxels[0, 0, 0, 0] = 1


def test_a_volume_on_the_command_line(checkpoints, tmp_path, capsys):
    path = tmp_path / "body.nii"
    path.write_bytes(nifti(body(), np.eye(4)))
    folder = tmp_path / "series"
    folder.mkdir()
    for i, data in enumerate(series(body(), *directions()[2])):
        (folder / f"{i}.dcm").write_bytes(data)
    prompts = tmp_path / "prompts.json"
    default_prompts(["a", "b"]).save(prompts)
    words = [*("--backbone", f"local-dir:{checkpoints('clip')}"), "--prompts", str(prompts), "--json"]

    def run(*more: str) -> list[dict]:
        main(["predict", *map(str, more), *words])
        return json.loads(capsys.readouterr().out)["predictions"]

    (row,) = run(path, "--aggregate", "top-k", "--top-k", "3", "--plane", "sagittal", "--every", "2")
    assert row["of"] == 20 and [s["slice"] for s in row["slices"]] == list(range(1, 20, 2))
    assert sum(row["frozen"].values()) == pytest.approx(1, abs=1e-5) and row["aggregate"] == "top-k"
    best = sorted((s["frozen"]["a"] for s in row["slices"]), reverse=True)[:3]
    other = sorted((s["frozen"]["b"] for s in row["slices"]), reverse=True)[:3]
    assert row["frozen"]["a"] == pytest.approx(sum(best) / (sum(best) + sum(other)), abs=1e-4)
    middle, same = run(path, folder, "--slice", "3", "--window", "auto")
    assert middle["slice"] == 3 and middle["of"] == 24 and same["of"] in (18, 20, 24) and same["error"] is None
    (by_hand,), (automatic,) = run(path, "--window=-600/1500"), run(path, "--window", "lung")
    assert by_hand["frozen"] == automatic["frozen"] != middle["frozen"]
    with pytest.raises(SystemExit):
        run(path, "--window", "40/0")
    assert "a centre and a width" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(path, "--slice", "99")
    assert "there is no slice 99" in capsys.readouterr().out


def test_zips_of_a_series(tmp_path):
    for i, data in enumerate(series(body(), *directions()[5])):
        (tmp_path / "in" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "deep" / f"{i}.dcm").write_bytes(data)
    (tmp_path / "in" / "DICOMDIR").write_bytes(b"x")
    archive = shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "in")
    (record,), problems = decode_many([Path(archive)])
    assert record.name == "study.zip" and np.array_equal(record.scan.ras()[0], body()) and not problems


# --- the real files --------------------------------------------------------------------------------------------------

REFUSED = {"liver.dcm": "segmentation", "emri_small_jpeg_2k_lossless_too_short.dcm": "cut short"}
UPSIDE_DOWN = ("explicit_VR-UN.dcm",)  # stored with the front of the patient below


@real
def test_every_real_dicom_file_is_drawn_as_pydicom_draws_it_or_refused():
    files = sorted((DATA / "dicom").glob("*.dcm"))
    records, problems = decode_many(files)
    assert {p.name for p in problems} == set(REFUSED) and all(REFUSED[p.name] in p.reason for p in problems)
    by_name = {record.name: record for record in records}
    assert len(by_name) == len(files) - 2
    for name, record in by_name.items():
        ds = pydicom.dcmread(DATA / "dicom" / name)
        scan = record.scan
        stored = pixel_array(ds)
        stored = stored.reshape(-1, ds.Rows, ds.Columns, *stored.shape[3 if scan.colour and stored.ndim == 4 else 9 :])
        if scan.colour or name == "eCT_Supplemental.dcm":  # palettes and scales of its frames have tests of their own
            continue
        for frame in range(scan.frames):
            values = apply_modality_lut(stored[frame], ds)
            values = values[::-1] if name in UPSIDE_DOWN else values
            assert np.array_equal(scan.values(record.view.plane, 0, frame), values), name
        if "WindowWidth" in ds:
            shown = np.asarray(apply_voi_lut(apply_modality_lut(stored[0], ds), ds, prefer_lut=False), np.float64)
            slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
            low, high = intercept, (2**ds.BitsStored - 1) * slope + intercept
            grey = np.floor((shown - low) / (high - low) * 255 + 0.5)
            grey = 255 - grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey
            assert np.array_equal(record.pixels[..., 0], grey), name
    assert by_name["MR2_UNCR.dcm"].digest == by_name["MR2_J2KR.dcm"].digest
    family = [record for name, record in by_name.items() if name.startswith("emri_small")]
    assert len(family) == 4
    for frame in range(10):
        assert len({record.at(frame=frame).digest for record in family}) == 1


@real
def test_the_real_colours():
    for name in ("color-pl.dcm", "OBXXXX1A_rle_2frame.dcm"):
        ds = pydicom.dcmread(DATA / "dicom" / name)
        stored = pixel_array(ds)
        if name.startswith("OBX"):
            from pydicom.pixels import apply_color_lut

            stored = (apply_color_lut(stored, ds) / 257.0).round().astype(np.uint8)[0]
        scan = decode_one(DATA / "dicom" / name).scan
        assert np.array_equal(scan.values("acquired", 0), stored), name


@real
def test_the_real_series_is_one_volume():
    folder = DATA / "dicom_series" / "chest_ct_lidc"
    (record,) = decode(folder)
    parts = sorted((pydicom.dcmread(f) for f in folder.glob("*.dcm")), key=lambda ds: ds.ImagePositionPatient[2])
    for number, ds in enumerate(parts):
        assert np.array_equal(record.scan.values("axial", number), apply_modality_lut(pixel_array(ds), ds))
    assert record.slices() == 20 and record.scan.spacing[0] == pytest.approx(1, abs=1e-3)
    assert record.view.window.center == -450 and record.letters["right"] == "L"


@real
def test_every_real_nifti_file_lies_as_nibabel_lays_it():
    for path in sorted((DATA / "nifti").iterdir()):
        record = decode_one(path)
        image = nibabel.as_closest_canonical(nibabel.load(path))
        wanted = image.get_fdata()
        wanted = wanted if wanted.ndim == 4 else wanted[..., None]
        for frame in range(record.scan.frames):
            volume = wanted[..., frame]
            for index in range(volume.shape[2]):
                assert np.allclose(record.scan.values("axial", index, frame), volume[::-1, ::-1, index].T, rtol=1e-6)
        assert np.allclose(record.scan.ras()[1], image.header.get_zooms()[:3], rtol=1e-4)
