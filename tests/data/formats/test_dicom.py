"""DICOM: the same pixels as by pydicom's own functions, upright and right, and what is refused in which words."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import UID, RLELossless

from nearl.data.formats.windows import PRESETS, THREE_CT
from nearl.data.images import decode, decode_many, decode_one
from nearl.errors import NearlError
from tests.support.scans import CT, MR, US, body, dataset, directions, enhanced, series, written

IMPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
STORAGE = "1.2.840.10008.5.1.4.1.1."


def by_pydicom(data: bytes, frame: int | None = None) -> np.ndarray:
    """uint8 grey by pydicom's modality and VOI functions, turned round for MONOCHROME1."""
    ds = pydicom.dcmread(io.BytesIO(data))
    stored = pixel_array(ds) if frame is None else pixel_array(ds, index=frame)
    values = apply_modality_lut(stored, ds)
    shown = np.asarray(apply_voi_lut(values, ds), np.float64)
    if "VOILUTSequence" in ds:
        low, high = 0, 2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1
    else:
        half = 2 ** (ds.BitsStored - 1)
        low, high = (-half, half - 1) if ds.PixelRepresentation else (0, 2 * half - 1)
        slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
        low, high = low * slope + intercept, high * slope + intercept
    grey = np.floor((shown - low) / (high - low) * 255 + 0.5).astype(np.uint8)
    return 255 - grey if ds.PhotometricInterpretation == "MONOCHROME1" else grey


def refusal(data: bytes, name: str = "scan.dcm") -> str:
    with pytest.raises(NearlError) as caught:
        decode(data, name)
    text = str(caught.value)
    assert name in text and "\n" not in text and text.endswith(".")
    return text


def ramp(dtype: str, bits: int, shape=(40, 50)) -> np.ndarray:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.startswith("i") else (0, 2**bits - 1)
    values = np.linspace(low, high, shape[0] * shape[1]).round().astype(dtype)
    return np.random.default_rng(0).permutation(values).reshape(shape)


@pytest.mark.parametrize(
    ("dtype", "bits"), [("u1", 8), ("i1", 8), ("u2", 10), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16)]
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("scale", [None, (1, -1024), (0.37, 12.5)])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_every_kind_of_grey_is_drawn_as_pydicom_draws_it(dtype, bits, photometric, scale, function):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if dtype.startswith("i") else (0, 2**bits)
    slope, intercept = scale or (1, 0)
    tags = {} if scale is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    center, width = slope * (low + 0.4 * (high - low)) + intercept, slope * 0.31 * (high - low)
    tags |= {"WindowCenter": round(center, 3), "WindowWidth": round(width, 3), "VOILUTFunction": function}
    data = written(dataset(ramp(dtype, bits), photometric, MR, BitsStored=bits, **tags))
    record = decode_one(data)
    assert np.array_equal(record.pixels[..., 0], by_pydicom(data)) and np.ptp(record.pixels) > 200
    assert (record.pixels == record.pixels[..., :1]).all()
    ds = pydicom.dcmread(io.BytesIO(data))
    assert np.array_equal(record.scan.values("acquired", 0), apply_modality_lut(pixel_array(ds), ds))


@pytest.mark.parametrize("syntax", [IMPLICIT, BIG, DEFLATED, None])
def test_uncompressed_syntaxes_and_files_without_a_preamble(syntax):
    data = written(dataset(ramp("i2", 16), WindowCenter=0, WindowWidth=30000))
    again = pydicom.dcmread(io.BytesIO(data))
    if syntax == BIG:
        again = dataset(ramp("i2", 16).astype(">i2"), WindowCenter=0, WindowWidth=30000)
        again.file_meta.TransferSyntaxUID = UID(BIG)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, again, implicit_vr=False, little_endian=False)
    other = buffer.getvalue() if syntax == BIG else written(again, syntax) if syntax else data[132:]
    assert decode_one(other).digest == decode_one(data).digest
    if syntax is None:
        bare = io.BytesIO()
        plain = pydicom.dcmread(io.BytesIO(data))
        pydicom.dcmwrite(bare, Dataset(plain), implicit_vr=True, little_endian=True)
        assert decode_one(bare.getvalue()).digest == decode_one(data).digest


def test_compressed_syntaxes():
    picture = ramp("u1", 8, (64, 48))
    plain = decode_one(written(dataset(picture, WindowCenter=128, WindowWidth=256)))
    ds = dataset(picture, WindowCenter=128, WindowWidth=256)
    ds.compress(RLELossless)
    assert decode_one(written(ds)).digest == plain.digest
    for syntax, format, options in (
        ("1.2.840.10008.1.2.4.90", "JPEG2000", {"irreversible": False, "no_jp2": True}),
        ("1.2.840.10008.1.2.4.50", "JPEG", {"quality": 100}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format, **options)
        ds = dataset(picture, WindowCenter=128, WindowWidth=256)
        ds.PixelData = encapsulate([buffer.getvalue()])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        difference = decode_one(written(ds)).pixels.astype(int) - plain.pixels
        assert np.abs(difference).max() <= (2 if format == "JPEG" else 0)


def test_tables_for_values_and_for_display():
    stored = ramp("u2", 8)
    ds = dataset(stored, kind=MR, BitsStored=8)
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [200, 30, 12], list(range(4000, 0, -20))
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    ds.VOILUTSequence = [item]
    data = written(ds)
    assert np.array_equal(decode_one(data).pixels[..., 0], by_pydicom(data))
    ds = dataset(stored, kind=MR, BitsStored=8, WindowCenter=500, WindowWidth=900)
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [256, 0, 16], [(i * i) % 1000 for i in range(256)], "US"
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    ds.ModalityLUTSequence = [item]
    record = decode_one(written(ds))
    assert np.array_equal(record.scan.values("acquired", 0), (stored.astype(int) ** 2) % 1000)


def test_colours():
    rgb = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    assert np.array_equal(decode_one(written(dataset(rgb, "RGB", US))).pixels, rgb)
    planar = dataset(rgb, "RGB", US)
    planar.PlanarConfiguration, planar.PixelData = 1, rgb.transpose(2, 0, 1).tobytes()
    assert np.array_equal(decode_one(written(planar)).pixels, rgb)
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    shown = decode_one(written(dataset(ycbcr, "YBR_FULL", US))).pixels
    assert np.abs(shown.astype(int) - np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB"))).max() <= 2
    film = dataset(np.stack([rgb, 255 - rgb]), "RGB", US, NumberOfFrames=2)
    record = decode_one(written(film))
    assert record.slices() == 2 and np.array_equal(record.slice_at(1).pixels, 255 - rgb)
    assert np.array_equal(record.at(invert=True).pixels, 255 - rgb)


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(bits):
    stored = np.tile(np.arange(40, dtype=np.uint8), (20, 1))
    ds = dataset(stored, "PALETTE COLOR", US)
    wanted = np.random.default_rng(2).integers(0, 256, (256, 3)).astype(np.uint8)
    for i, name in enumerate(("Red", "Green", "Blue")):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        ds[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
        table = wanted[:, i].astype("<u2") * (257 if bits == 16 else 1)
        entries = table.tobytes() if bits == 16 else wanted[:, i].tobytes()
        setattr(ds, f"{name}PaletteColorLookupTableData", entries)
    assert np.array_equal(decode_one(written(ds)).pixels, wanted[stored])


@pytest.mark.parametrize(
    "right_down", directions(), ids=lambda pair: "".join(f"{v[np.abs(v).argmax()]:+.0f}" for v in pair)
)
def test_a_series_in_every_direction_becomes_the_same_volume(right_down):
    voxels = body()
    files = series(voxels, *right_down, RescaleSlope=1, RescaleIntercept=0, WindowCenter=500, WindowWidth=2000)
    (record,), problems = decode_many([(f"{i}.dcm", data) for i, data in enumerate(files)])
    assert not problems
    values, spacing = record.scan.ras()
    assert np.array_equal(values, voxels) and spacing == (2.0, 1.5, 1.0)
    assert record.scan.planes == ("axial", "coronal", "sagittal")
    hung = {  # rows down, columns right, as at a reading station
        "axial": (voxels[::-1, ::-1, 11].T, {"left": "R", "right": "L", "top": "A", "bottom": "P"}),
        "coronal": (voxels[::-1, 18 - 1 - 6, ::-1].T, {"left": "R", "right": "L", "top": "H", "bottom": "F"}),
        "sagittal": (voxels[20 - 1 - 9, ::-1, ::-1].T, {"left": "A", "right": "P", "top": "H", "bottom": "F"}),
    }
    for (plane, (wanted, letters)), index in zip(hung.items(), (11, 6, 9), strict=True):
        view = record.at(plane=plane, index=index)
        assert np.array_equal(record.scan.values(plane, index), wanted), plane
        assert view.letters == letters
        rows, columns = record.scan.pixel_spacing(plane)
        assert view.size[0] / view.size[1] == pytest.approx(
            wanted.shape[1] * columns / (wanted.shape[0] * rows), rel=0.05
        )


@pytest.mark.parametrize("right_down", directions()[::5])
def test_one_slice_alone_hangs_as_in_its_volume(right_down):
    files = series(body(), *right_down, WindowCenter=500, WindowWidth=2000)
    volume = decode_many([(str(i), data) for i, data in enumerate(files)])[0][0]
    single = decode_one(files[0])
    pictures = [volume.at(plane=single.view.plane, index=i) for i in range(volume.scan.slices(single.view.plane))]
    assert single.digest in [picture.digest for picture in pictures] and single.letters == pictures[0].letters


def test_frames_with_positions_are_sorted_and_keep_their_own_scale():
    frames = np.stack([np.full((20, 30), value, np.int16) for value in (100, 200, 300)])
    record = decode_one(enhanced(frames, [20.0, 0.0, 10.0]))
    scan = record.scan
    assert record.slices() == 3 and scan.spacing[0] == 10
    assert [scan.values("axial", i)[0, 0] for i in range(3)] == [210, 320, 100]
    assert scan.values("coronal", 3)[:, 0].tolist() == [100, 320, 210]
    twice = decode_one(enhanced(np.concatenate([frames, frames + 1]), [0, 10, 20, 0, 10, 20]))
    assert twice.scan.frames == 2 and twice.scan.values("axial", 0, 1)[0, 0] == 101 + 30
    mixed = decode_one(enhanced(frames, [0, 0, 10]))  # not one frame at every place: a film
    assert mixed.scan.frames == 3 and mixed.slices() == 3


def test_series_with_gaps_doubles_and_strangers():
    files = series(body(), *directions()[2])
    apart = [(f"{i}", data) for i, data in enumerate(files)]
    note = decode_many(apart[3:])[0][0].notes
    assert any("evenly spaced" in words for words in note)
    other = written(dataset(ramp("u2", 12), kind=MR, BitsStored=12, SeriesInstanceUID="1.2.3"))
    records, problems = decode_many([("x", other), *apart, ("again", files[0])])
    assert [record.slices() for record in records] == [1, len(files)] and not problems
    assert any("is a copy of another" in words for words in records[1].notes)
    records, problems = decode_many([("bad.dcm", files[4][:-200]), *apart[:4], *apart[5:]])
    assert [record.slices() for record in records] == [len(files) - 1]
    assert len(problems) == 1 and problems[0].reason.startswith("bad.dcm is a DICOM file")
    records, _ = decode_many([("a", files[0]), ("b", files[0])])  # one place is not a volume
    assert [record.slices() for record in records] == [1, 1]


def test_windows_presets_and_what_goes_into_the_model():
    hounsfield = ramp("i2", 12)
    record = decode_one(written(dataset(hounsfield)))
    assert record.view.window == PRESETS["abdomen"]
    names = [window.name for window in record.scan.presets()]
    assert names == ["Abdomen", "Lung", "Mediastinum", "Bone", "Brain", "Stroke", "Auto"]
    three = record.at(window=THREE_CT).pixels
    for channel, window in enumerate(THREE_CT):
        share = np.clip((hounsfield - window.center) / window.width + 0.5, 0, 1)
        assert np.array_equal(three[..., channel], np.floor(share * 255 + 0.5))
        assert np.array_equal(three[..., channel], record.at(window=window).pixels[..., 0])
    assert np.array_equal(record.at(invert=True).pixels, 255 - record.pixels)
    low, high = np.percentile(hounsfield, (0.5, 99.5))
    mr = decode_one(written(dataset(hounsfield, kind=MR)))
    assert [window.name for window in mr.scan.presets()] == ["Auto"]
    assert mr.view.window.center == pytest.approx((low + high) / 2) and mr.view.window.width == pytest.approx(
        high - low
    )
    own = decode_one(written(dataset(hounsfield, WindowCenter=[30, 40], WindowWidth=[100, "0"])))
    assert [window.name for window in own.scan.presets()][:2] == ["From the file", "Lung"]
    padded = hounsfield.copy()
    padded[:30] = -2048
    mr = decode_one(written(dataset(padded, kind=MR, PixelPaddingValue=-2048)))
    assert mr.view.window.center - mr.view.window.width / 2 > -2048


def test_letters_and_shape_of_projections():
    picture = ramp("u2", 12, (40, 40))
    film = decode_one(
        written(dataset(picture, kind=STORAGE + "1", PatientOrientation=["L", "F"], PixelAspectRatio=[2, 1]))
    )
    assert film.letters == {"left": "R", "right": "L", "top": "H", "bottom": "F"} and film.size == (40, 80)
    assert decode_one(written(dataset(picture))).letters == {}
    assert decode_one(written(dataset(picture, PatientOrientation=["<b>", "F"]))).letters == {}
    oblique = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]
    assert decode_one(written(dataset(picture, ImageOrientationPatient=oblique))).letters["right"] == "LP"
    askew = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert decode_one(written(dataset(picture, ImageOrientationPatient=askew))).letters == {}


def test_warnings_of_what_may_be_in_the_picture():
    picture = ramp("u1", 8)
    region = Dataset()
    region.RegionLocationMinX0 = 3
    notes = decode_one(
        written(dataset(picture, kind=US, BurnedInAnnotation="YES", SequenceOfUltrasoundRegions=[region]))
    ).notes
    assert "burned" in notes[0] and "region" in notes[1]
    assert "often" in decode_one(written(dataset(picture, kind=US))).notes[0]
    assert decode_one(written(dataset(picture, kind=US, BurnedInAnnotation="NO"))).notes == ()
    assert decode_one(written(dataset(picture, kind=CT))).notes == ()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("88.11", "structured report"), ("88.59", "key-object"), ("66.4", "segmentation"), ("481.3", "structure set"),
        ("481.2", "dose"), ("481.5", "radiotherapy"), ("104.1", "PDF"), ("104.3", "document"), ("11.1", "presentation"),
        ("9.1.1", "waveform"), ("77.1.6", "whole-slide"), ("66", "raw"), ("4.2", "spectroscopy"),
    ],
)  # fmt: skip
def test_objects_that_are_no_images_are_named(kind, words):
    assert words in refusal(written(dataset(ramp("u2", 12), kind=STORAGE + kind)))


def test_other_refusals():
    good = dataset(ramp("u2", 12))
    data = written(good)
    for cut in (200, 400, len(data) // 2, len(data) - 50):
        assert "cut short" in refusal(data[:cut])
    huge = dataset(ramp("u2", 12))
    huge.Rows, huge.Columns = 60_000, 60_000
    assert "60000 x 60000" in refusal(written(huge))
    many = dataset(ramp("u2", 12))
    many.NumberOfFrames = 10_000_000
    assert "10000000 frames" in refusal(written(many))
    assert "only 8 x 8" in refusal(written(dataset(np.zeros((8, 8), np.uint16))))
    locked = Dataset()
    locked.EncryptedContent = b"xx"
    secret = dataset(ramp("u2", 12), kind=STORAGE + "2")
    secret.EncryptedAttributesSequence = [locked]
    del secret.Rows, secret.Columns, secret.PixelData
    assert "encrypted" in refusal(written(secret))
    assert "encrypted" in refusal(bytes.fromhex("308006092a864886f70d010703a080") + bytes(400))
    mask = dataset(np.zeros((32, 32), np.uint8))
    mask.BitsAllocated = mask.BitsStored = 1
    assert "mask" in refusal(written(mask))
    odd = dataset(ramp("u2", 12), "HSV")
    assert "not read here" in refusal(written(odd))


def test_videos_and_unknown_compression():
    for syntax, words in (("1.2.840.10008.1.2.4.102", "video"), ("1.2.3.4.5", "DICOM file")):
        ds = dataset(ramp("u1", 8))
        ds.PixelData = encapsulate([b"nothing"])
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, ds, implicit_vr=False, little_endian=True)
        assert words in refusal(buffer.getvalue())


def test_a_deflated_bomb_is_refused_before_it_unfolds():
    head = written(dataset(ramp("u2", 12)), DEFLATED)
    start = head.index(b"\x02\x00\x10\x00UI")
    meta = head[: start + 8 + int.from_bytes(head[start + 6 : start + 8], "little")]
    packer = zlib.compressobj(9, wbits=-15)
    bomb = b"".join([packer.compress(bytes(10_000_000)) for _ in range(40)] + [packer.flush()])
    length = int.from_bytes(meta[140:144], "little")
    rest = head[144 + length :]
    data = head[: len(head) - len(rest)] + bomb
    assert len(data) < 500_000
    assert "grows far beyond" in refusal(data)
