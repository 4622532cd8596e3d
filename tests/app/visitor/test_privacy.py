"""Names, numbers, dates and places planted in every kind of file must be nowhere in what is kept, written or said."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from nibabel import Nifti1Image
from nibabel.nifti1 import Nifti1Extension
from PIL import Image, PngImagePlugin
from pydicom import dcmread
from pydicom.dataset import Dataset

from nearl.cli.main import main
from nearl.data.images import decode_many
from nearl.prompts import default_prompts
from tests.support.app_server import serve
from tests.support.scans import MR, US, body, dataset, directions, mosaic, phases, series, written

MARK = "Zzyzx"  # in everything that was planted
PLANTED = {
    "PatientName": f"{MARK}^Anna", "PatientID": f"{MARK}-4711", "PatientBirthDate": "19491231", "StudyDate": "20031117",
    "ContentDate": "20031117", "InstitutionName": f"{MARK} Hospital", "ReferringPhysicianName": f"{MARK}^Doc",
    "AccessionNumber": f"{MARK}77", "StudyDescription": f"{MARK} knee", "SeriesDescription": f"{MARK} ax",
    "ImageComments": f"{MARK} wrote this", "StationName": MARK, "WindowCenterWidthExplanation": f"{MARK} W",
    "PatientOrientation": [f"{MARK}", "F"], "BodyPartExamined": MARK.upper(), "DeviceSerialNumber": f"{MARK}9",
}  # fmt: skip
DATES = ("19491231", "20031117", "1949-12-31", "2003-11-17")
NAME = f"{MARK}_Anna_19491231"


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def planted() -> dict[str, bytes]:
    """One file of every kind with marks wherever it can carry text."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    for tag in (0x010E, 0x013B, 0x8298, 0x9286):  # description, artist, copyright, comment
        exif[tag] = f"{MARK} 19491231"
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", f"{MARK} 19491231")
    text.add_itxt("Comment", f"{MARK}", "en", MARK)
    private = dataset(np.random.default_rng(1).integers(0, 4000, (40, 40), dtype=np.uint16), **PLANTED)
    block = private.private_block(0x0009, MARK.upper(), create=True)
    block.add_new(1, "LO", f"{MARK} private")
    private.file_meta.PrivateInformationCreatorUID = "1.2.3"
    nested = Dataset()
    nested.PatientName = f"{MARK}^Nested"
    private.RequestAttributesSequence = [nested]
    sound = dataset(np.asarray(picture), "RGB", US, BurnedInAnnotation="YES", **PLANTED)
    volume = Nifti1Image(body(), np.eye(4))
    volume.header["descrip"], volume.header["aux_file"], volume.header["db_name"] = f"{MARK} 2003", MARK, MARK
    volume.header["intent_name"] = MARK
    volume.header.extensions.append(Nifti1Extension("comment", f"{MARK} 19491231".encode()))
    slices = series(body(), *directions()[0], **PLANTED)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for number, data in enumerate(slices):
            packed.writestr(f"{MARK}/{NAME}_{number}.dcm", data)
        packed.writestr(f"{MARK}/{NAME}.txt", f"{MARK}")
        packed.comment = MARK.encode()
    times = io.BytesIO()
    with zipfile.ZipFile(times, "w") as packed:
        for number, data in enumerate(phases(2, 1, **PLANTED, AcquisitionDate="20031117", ProtocolName=MARK)):
            packed.writestr(f"{NAME}_{number}.dcm", data)
    tiles = np.random.default_rng(2).integers(0, 900, (3, 20, 20)).astype(np.uint16)
    unplaced = io.BytesIO()
    with zipfile.ZipFile(unplaced, "w") as packed:
        for number in range(3):
            ds = dataset(tiles[number], kind=MR, InstanceNumber=number, **PLANTED)
            packed.writestr(f"{NAME}_{number}.dcm", written(ds))
    grid = dcmread(io.BytesIO(mosaic(tiles, private=False, **PLANTED)))
    grid.ImageType = ["ORIGINAL", "PRIMARY", MARK.upper()]
    grid.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "3")
    grid.WindowCenter, grid.WindowWidth = 40, -1
    return {
        "unplaced.zip": unplaced.getvalue(),
        "grid.dcm": written(grid),
        "phases.zip": times.getvalue(),
        "mosaic.dcm": mosaic(tiles, **PLANTED),
        "dcm": written(private),
        "us.dcm": written(sound),
        "nii": volume.to_bytes(),
        "zip": archive.getvalue(),
        "png": saved(picture, "PNG", pnginfo=text, exif=exif),
        "jpg": saved(picture, "JPEG", exif=exif, comment=MARK.encode()),
        "tif": saved(picture, "TIFF", tiffinfo={270: f"{MARK} 19491231", 315: MARK}),
        "gif": saved(picture, "GIF", comment=MARK.encode()),
        "webp": saved(picture, "WEBP", exif=exif, xmp=f"<x>{MARK}</x>".encode()),
        "broken.dcm": written(private)[:-900],
        "sr.dcm": written(dataset(np.zeros((20, 20), np.uint16), kind="1.2.840.10008.5.1.4.1.1.88.11", **PLANTED)),
    }


def labelled() -> bytes:
    """A labelled set as a zip: images, masks, a table that names patients, rows and files that do not fit it."""
    pictures = [data for ending, data in planted().items() if ending in ("dcm", "png", "jpg")]
    rows, out = ["file,label,patient_name,comment"], io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(12):
            archive.writestr(f"{NAME}/{NAME}_{number}.x", pictures[number % 3])
            rows.append(f"{NAME}_{number}.x,{'ab'[number % 2]},{MARK} Anna {number // 2},{MARK} wrote this")
        rows += [f"{NAME}_bad.png,a,{MARK},", f"{NAME}_gone.png,a,{MARK},", f"{NAME}_0.x,,{MARK},"]
        for name in ("bad.png", "0_mask.x", "more.txt", "more.xlsx"):
            archive.writestr(f"{NAME}/{NAME}_{name}", b"no image")
        archive.writestr(f"{NAME}/{NAME}.csv", "\n".join(rows))
        archive.writestr(f"{NAME}/{NAME}_other.csv", f"{MARK},{MARK}2\n{MARK},{MARK}\n")
    return out.getvalue()


def hits(text: str | bytes) -> list[str]:
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    return [mark for mark in (MARK, MARK.upper(), MARK.lower(), *DATES) if mark in text]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("planted")
    for ending, data in planted().items():
        assert hits(data) or ending.endswith("zip"), ending
        (folder / f"{NAME}.{ending}").write_bytes(data)
    return sorted(folder.iterdir())


def everything(value: object, depth: int = 0) -> str:
    """All that can be reached from a value, as text; numbers as their bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes().decode("latin-1")
    if dataclasses.is_dataclass(value):
        return everything({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, depth + 1)
    if isinstance(value, dict):
        return " ".join(everything(k, depth) + everything(v, depth + 1) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(everything(item, depth + 1) for item in value)
    return str(value)


def test_nothing_but_the_name_shown_on_screen_survives_decoding(files):
    records, problems = decode_many([(f"image {i}", path) for i, path in enumerate(files)])
    assert len(records) == len(files) - 2 + 1  # a moment that lacks a slice is an image of its own
    for record in records:
        kept = everything(dataclasses.replace(record, name=""))
        assert not hits(kept), record.name
    assert {problem.name.split()[0] for problem in problems} <= {"image", f"{NAME}.txt"}
    assert not any(hits(p.reason) for p in problems if p.name.startswith("image"))
    burned = [note for record in records for note in record.notes if "burned" in note]
    assert len(burned) == 1


def test_the_command_line_writes_no_names(files, checkpoints, tmp_path, capfd):
    prompts = tmp_path / "prompts.json"
    default_prompts(["a", "b"]).save(prompts)
    model = ["--backbone", f"local-dir:{checkpoints('clip')}", "--prompts", str(prompts)]
    out = tmp_path / "maps"
    scan = next(path for path in files if path.name.endswith(f"{NAME}.dcm"))
    main(["explain", str(scan), "--class", "a", "--out", str(out), *model, "--json"])
    said = json.loads(capfd.readouterr().out)
    assert said.pop("file") == str(scan)  # what the caller typed
    assert not hits(json.dumps(said))
    for path in out.rglob("*"):
        assert not hits(path.name) and not hits(path.read_bytes())


def test_nothing_that_the_app_writes_logs_or_answers_holds_a_name(files, checkpoints, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(temporary))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(temporary / "gradio"))
    task = tmp_path / f"{NAME}.zip"
    task.write_bytes(labelled())
    prompts = default_prompts(["a", "b"]).to_dict()
    answers = []
    with serve(f"local-dir:{checkpoints('clip')}", tmp_path / "app.log") as server:
        client = Client(server.url, verbose=False, download_files=str(tmp_path / "downloads"))
        answers.append(client.predict([handle_file(path) for path in files], prompts, api_name="/predict"))
        assert len(answers[0]["predictions"]) == len(files) + 2
        answers.append(client.predict(handle_file(task), None, "quick", api_name="/teach"))
        assert answers[1]["state"] == "done"
        assert any("has no label in the table" in words for words in answers[1]["left_out"])
        adapter = client.predict(api_name="/download_adapter")
        answers.append(client.predict(handle_file(files[0]), None, "quick", api_name="/teach"))
        answers.append(client.predict(handle_file(files[0]), api_name="/use_adapter"))
        with zipfile.ZipFile(adapter) as archive:
            for entry in archive.namelist():
                assert not hits(entry) and not hits(archive.read(entry)), entry
        left = [path for path in temporary.rglob("*") if path.is_file()]
        for path in left:
            assert not hits(path.name) and not hits(path.read_bytes()), path
        assert not hits(server.console())
    for answer in answers:
        assert not hits(json.dumps(answer)), answer
