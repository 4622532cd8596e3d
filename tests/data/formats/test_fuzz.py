"""Thousands of damaged files: each is read or refused in one sentence, within the worker's limits."""

from __future__ import annotations

import gzip
import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, RLELossless

from nearl.data.sandbox.client import Sandbox
from tests.support.codestreams import JPEG, JPEG_12, wrapped
from tests.support.scans import (
    MR,
    US,
    body,
    dataset,
    directions,
    enhanced,
    mosaic,
    nifti,
    phases,
    png16,
    series,
    written,
)  # fmt: skip

INPUTS = int(os.environ.get("NEARL_FUZZ", 1300))
MEMORY, SECONDS = 1_500_000_000, 60.0  # a hang, not a busy machine
SPLICES = (b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xfe\xff\x00\xe0", b"\x00\x80", b"1e999")


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def zipped(files: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, data in enumerate(files):
            archive.writestr(f"{number}.dcm", data)
    return buffer.getvalue()


def tables(stored: np.ndarray) -> tuple[bytes, bytes]:
    """An image with a palette, and one with a display table and padding."""
    ramp = np.arange(256, dtype="<u2").tobytes()
    coloured = dataset(stored, "PALETTE COLOR", US)
    for name in ("Red", "Green", "Blue"):
        coloured.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        coloured.add_new(f"{name}PaletteColorLookupTableData", "OW", ramp)
    shown = dataset(stored.astype(np.uint16), kind=MR, BitsStored=12)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 0, 16])
    item.add_new("LUTData", "OW", ramp)
    shown.VOILUTSequence = [item]
    shown.add_new("PixelPaddingValue", "US", 0)
    shown.add_new("PixelPaddingRangeLimit", "US", 3)
    return written(coloured), written(shown)


def compressed(picture: np.ndarray, syntax: str, format: str, **options) -> bytes:
    ds = dataset(picture, "RGB" if picture.ndim == 3 else "MONOCHROME2")
    ds.PixelData = encapsulate([saved(Image.fromarray(picture), format, **options)])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return written(ds)


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    """Small sound files of every kind."""
    rng = np.random.default_rng(0)
    grey, rgb = rng.integers(0, 255, (24, 32), dtype=np.uint8), rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    deep = (grey.astype(np.uint16) * 200).astype(np.uint16)
    rle = dataset(grey)
    rle.compress(RLELossless)
    palette, display = tables(grey)
    sheared = np.eye(4)
    sheared[1, 2] = 0.5
    pages = [Image.fromarray(deep), Image.fromarray(deep + 1)]
    volume = nifti(body((17, 18, 4)), np.eye(4))
    unsaid = dataset(np.stack([deep] * 3), NumberOfFrames=3)
    unsaid.NumberOfFrames = 1
    return {
        "dicom": written(dataset(deep, WindowCenter=40, WindowWidth=400, RescaleSlope=1, RescaleIntercept=-9)),
        "implicit": written(dataset(deep), "1.2.840.10008.1.2"),
        "deflated": written(dataset(deep), "1.2.840.10008.1.2.1.99"),
        "colour": written(dataset(rgb, "RGB", US)),
        "enhanced": enhanced(rng.integers(0, 99, (3, 20, 20), dtype=np.uint16), [0.0, 1.0, 2.0]),
        "rle": written(rle),
        "jpeg": compressed(grey, "1.2.840.10008.1.2.4.50", "JPEG"),
        "jpeg2000": compressed(grey, "1.2.840.10008.1.2.4.90", "JPEG2000", irreversible=False, no_jp2=True),
        "nifti": volume,
        "packed nifti": gzip.compress(volume, mtime=0),
        "png": saved(Image.fromarray(deep), "PNG"),
        "tiff": saved(Image.fromarray(rgb), "TIFF", compression="tiff_lzw"),
        "tiff pages": saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "gif": saved(Image.fromarray(grey), "GIF", save_all=True, append_images=[Image.fromarray(255 - grey)]),
        "webp": saved(Image.fromarray(rgb), "WEBP"),
        "bmp": saved(Image.fromarray(rgb), "BMP"),
        "zip": zipped(series(body((18, 16, 4)), *directions()[0])),
        "phases": zipped(phases(3, 1)),
        "mosaic": mosaic(deep[None, :20, :20].repeat(3, axis=0)),
        "palette": palette,
        "display table": display,
        "jpeg colours": compressed(rgb, "1.2.840.10008.1.2.4.50", "JPEG"),
        "jpeg2000 colours": compressed(rgb, "1.2.840.10008.1.2.4.90", "JPEG2000", irreversible=False, no_jp2=True),
        "sheared nifti": nifti(body((17, 18, 8)), sheared),
        "deep png": png16(rgb.astype(np.uint16) * 16),
        "deep grey and alpha": png16(rgb[..., :2].astype(np.uint16) * 200),
        "slices without positions": zipped(
            [written(dataset(deep + i, kind=MR, SliceLocation=5.0 * i, InstanceNumber=i)) for i in range(3)]
        ),
        "jpeg of 12 bits": wrapped(
            JPEG_12, "MONOCHROME2", f"{JPEG[:-2]}51", np.zeros((16, 24), np.uint16), BitsStored=12
        ),
        "frames that are not said": written(unsaid),
    }


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to six random changes: bytes, cuts, repeats, splices; mostly near the beginning, where the headers are."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 7))):
        if not out:
            break
        reach = len(out) if rng.random() < 0.4 else min(len(out), 700)
        at, kind = int(rng.integers(reach)), int(rng.integers(6))
        if kind == 0:
            out[at] = int(rng.integers(256))
        elif kind == 1:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            splice = SPLICES[int(rng.integers(len(SPLICES)))]
            out[at : at + len(splice)] = splice
        elif kind == 3 and rng.random() < 0.3:
            del out[max(at, 20) :]
        elif kind == 4:
            del out[at : at + int(rng.integers(1, 9))]
        else:
            piece = out[at : at + int(rng.integers(1, 64))]
            out[at:at] = piece
    return bytes(out)


@pytest.mark.timeout(280)
def test_damaged_files_are_read_or_refused(seeds):
    box, rng = Sandbox(memory=MEMORY, seconds=SECONDS, workers=1), np.random.default_rng(20260101)
    read = refused = died = 0
    try:
        for kind, data in seeds.items():
            records, problems = box.read([(kind, data)])
            assert records and not problems, kind
        for number in range(INPUTS):
            kind = list(seeds)[number % len(seeds)]
            records, problems = box.read([(f"{number}.bin", mutated(seeds[kind], rng))])
            assert records or problems, (number, kind)
            for _, problem in problems:
                assert "\n" not in problem.reason and problem.reason.endswith("."), (number, kind, problem.reason)
                assert len(problem.reason) < 400
                died += "made the decoder fail" in problem.reason or box.started > 1
                assert "took too long" not in problem.reason, (number, kind)
            for _, record in records:
                assert record.pixels.dtype == np.uint8 and record.pixels.ndim == 3
            read, refused = read + bool(records), refused + bool(problems)
    finally:
        box.close()
    assert read > INPUTS // 20 and refused > INPUTS // 4  # the changes neither spare nor break everything
    assert box.peak < MEMORY and died == 0
    print(f"{INPUTS} inputs: {read} read, {refused} refused, {died} killed a worker; peak {box.peak / 1e6:.0f} MB")


@pytest.mark.timeout(120)
def test_sound_files_are_read_among_damaged_ones(seeds):
    """Many files at a time, loose and in a zip, in turns of one file each: every sound one is there once, in order."""
    box, rng = Sandbox(memory=MEMORY, seconds=SECONDS, turn=0.0), np.random.default_rng(20260102)
    kinds = ["nifti", "packed nifti", "png", "tiff", "tiff pages", "gif", "webp", "bmp"]  # one image in each, alone
    try:
        for _ in range(INPUTS // 260):
            sound = {f"{i}.sound": seeds[kind] for i, kind in enumerate(rng.choice(kinds, 6))}
            damaged = {f"{i}.bin": mutated(seeds[kind], rng) for i, kind in enumerate(rng.choice(kinds, 10))}
            names = list(rng.permutation([*sound, *damaged]))
            files = {name: (sound | damaged)[name] for name in names}
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as archive:
                for name, data in files.items():
                    archive.writestr(name, data)
            for sources, order in ((list(files.items()), names), ([("all.zip", buffer.getvalue())], sorted(names))):
                records, problems = box.read(sources)
                found = [record.name for _, record in records if record.name.endswith("sound")]
                assert found == [name for name in order if name in sound]
                assert len(records) + len(problems) >= len(files)
    finally:
        box.close()
