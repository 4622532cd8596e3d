"""What the pixels are is believed over what the header says of them, in agreement with decoders that are not ours."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from nearl.data.formats import codestream
from nearl.data.images import decode_many, decode_one
from nearl.errors import NearlError
from tests.support.codestreams import JPEG, corners, packed, wrapped
from tests.support.scans import MR, US, dataset, written

JPEG2000, BIG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.2"


def bare(jpeg: bytes) -> bytes:
    """A JPEG without its APP markers."""
    out, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        (size,) = struct.unpack(">H", jpeg[at + 2 : at + 4])
        out += b"" if 0xE0 <= jpeg[at + 1] <= 0xEF else jpeg[at : at + 2 + size]
        at += 2 + size
    return out + jpeg[at:]


def adobe(jpeg: bytes, transform: int) -> bytes:
    return jpeg[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + jpeg[2:]


def named(jpeg: bytes, names: bytes) -> bytes:
    """A JPEG whose three components have these names."""
    out, at = bytearray(jpeg), 2
    while True:
        start, step = {0xC0: (at + 10, 3), 0xC2: (at + 10, 3), 0xDA: (at + 5, 2)}.get(out[at + 1], (0, 0))
        if start:
            out[start : start + 3 * step : step] = names
        if out[at + 1] == 0xDA:
            return bytes(out)
        at += 2 + struct.unpack(">H", out[at + 2 : at + 4])[0]


RGB = bare(packed(quality=95, keep_rgb=True))
YBR = bare(packed(quality=95))
STREAMS = {
    "JFIF": packed(quality=95), "no marker": YBR, "Adobe says YCbCr": adobe(YBR, 1), "Adobe says RGB": adobe(RGB, 0),
    "named RGB": named(RGB, b"RGB"), "named 0, 1, 2": named(YBR, bytes([0, 1, 2])),
    "progressive": packed(quality=95, progressive=True), "half the colours": packed(quality=95, subsampling=1),
}  # fmt: skip


LIES = (
    {}, {"PlanarConfiguration": None}, {"PlanarConfiguration": 1}, {"SamplesPerPixel": 1}, {"Rows": 32},
    {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}, {"BitsStored": None, "HighBit": None},
)  # fmt: skip


@pytest.mark.parametrize("stream", STREAMS)
def test_colours_of_a_jpeg_are_those_of_its_own_markers(stream):
    frame = STREAMS[stream]
    wanted = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB"))
    assert np.abs(wanted[8, 8].astype(int) - (220, 30, 30)).max() < 8
    for photometric in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        assert np.array_equal(decode_one(wrapped(frame, photometric)).pixels, wanted), photometric
    for lie in LIES:
        assert np.array_equal(decode_one(wrapped(frame, "RGB", **lie)).pixels, wanted), lie


def test_grey_in_a_header_of_colours_and_colours_in_one_of_grey():
    grey = packed(mode="L", quality=95)
    wanted = np.asarray(Image.open(io.BytesIO(grey)))
    shown = decode_one(wrapped(grey, "RGB")).pixels
    assert (shown[..., 0] == shown[..., 2]).all() and np.abs(shown[..., 0].astype(int) - wanted).max() <= 2
    colour = decode_one(wrapped(STREAMS["JFIF"], "MONOCHROME2")).pixels
    assert np.array_equal(colour, np.asarray(Image.open(io.BytesIO(STREAMS["JFIF"])).convert("RGB")))


@pytest.mark.parametrize("transformed", [0, 1])
def test_colours_of_jpeg_2000(transformed):
    frame = packed("JPEG2000", mct=transformed, irreversible=False, no_jp2=True)
    assert codestream.look(frame).colour == ("RGB" if transformed else "")
    for photometric in ("RGB", "YBR_RCT", "YBR_ICT", "MONOCHROME2", *["YBR_FULL"] * transformed):
        assert np.array_equal(decode_one(wrapped(frame, photometric, JPEG2000)).pixels, corners()), photometric


def test_bits_of_the_codestream():
    deep = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "JPEG2000", irreversible=False, no_jp2=True)
    for lie in ({}, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, {"BitsStored": 12, "HighBit": 11}):
        scan = decode_one(wrapped(buffer.getvalue(), "MONOCHROME2", JPEG2000, deep, **lie)).scan
        assert np.array_equal(scan.voxels[0, 0], deep), lie


def test_the_codestream_says_how_the_pixels_are_packed():
    """Whatever the transfer syntax says: another one of fragments, or that there are none."""
    lossless = packed("JPEG2000", irreversible=False, no_jp2=True)
    data = wrapped(lossless, "RGB", JPEG2000)
    for said in (JPEG, "1.2.840.10008.1.2.1\0\0\0", "1.2.840.10008.1.2.4.80"):
        other = data.replace(JPEG2000.encode(), said.encode())
        assert other != data and np.array_equal(decode_one(other).pixels, corners()), said
    native = written(dataset(corners(), "RGB", US))
    other = native.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x16\x00" + JPEG.encode())
    assert other != native and np.array_equal(decode_one(other).pixels, corners())


def test_floating_point_pixels_alone_and_in_a_series():
    values = np.random.default_rng(0).normal(0, 1, (4, 30, 40)).astype(np.float32)
    files = []
    for number, image in enumerate(values):
        ds = dataset(image, kind=MR, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], ImagePositionPatient=[0, 0, number])
        ds.add_new("FloatPixelData", "OF", image.tobytes())
        for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            del ds[name]
        files.append((f"{number}", written(ds)))
    assert np.array_equal(decode_one(files[2][1]).scan.voxels[0, 0], values[2])
    (record,), problems = decode_many(files)
    assert not problems and np.array_equal(record.scan.voxels[0], values)


@pytest.mark.parametrize("cut", [0, 1, 3, 10, 30, 150, 400])
def test_a_codestream_that_breaks_off_says_nothing(cut):
    for frame in (*STREAMS.values(), packed("JPEG2000", no_jp2=True)):
        found = codestream.look(frame[:cut])
        assert found is None or (found.rows, found.columns) == (64, 64)


# ---- fields that are missing or wrong, uncompressed


@pytest.mark.parametrize(
    "missing",
    [
        ["PlanarConfiguration"], ["SamplesPerPixel"], ["BitsStored", "HighBit"], ["BitsAllocated"], ["HighBit"],
        ["PixelRepresentation"], ["PhotometricInterpretation"],
        ["SamplesPerPixel", "PlanarConfiguration", "PixelRepresentation", "BitsStored", "HighBit"],
    ],
)  # fmt: skip
def test_missing_fields_get_their_only_sensible_value(missing):
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    grey = np.random.default_rng(1).integers(0, 4096, (30, 40)).astype(np.uint16)
    for pixels, photometric in ((rgb, "RGB"), (grey, "MONOCHROME2")):
        ds = dataset(pixels, photometric, US, **({} if pixels is rgb else {"BitsStored": 12}))
        for name in missing:
            ds.pop(name, None)
        record = decode_one(written(ds))
        assert np.array_equal(record.scan.voxels[0, 0], pixels), (photometric, missing)


def test_the_number_of_bytes_is_believed_over_fields_that_do_not_fit_it():
    rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    full = dataset(ycbcr, "YBR_FULL_422", US)  # not halved, whatever it says
    wanted = np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB"))
    assert np.abs(decode_one(written(full)).pixels.astype(int) - wanted).max() <= 2
    grey = rgb[..., 0].copy()
    three = dataset(grey, "MONOCHROME2", US)
    three.SamplesPerPixel, three.PhotometricInterpretation, three.PlanarConfiguration = 3, "RGB", 0
    assert np.array_equal(decode_one(written(three)).pixels[..., 1], grey)
    one = dataset(rgb, "RGB", US)
    one.SamplesPerPixel = 1
    assert np.array_equal(decode_one(written(one)).pixels, rgb)
    wide = dataset(grey, "MONOCHROME2", US)
    wide.BitsAllocated = 16  # 8 bits are stored, and are there
    assert np.array_equal(decode_one(written(wide)).scan.voxels[0, 0], grey)
    short = dataset(grey.astype(np.uint16), "MONOCHROME2", US, BitsStored=12)
    short.PixelData = short.PixelData[: len(short.PixelData) // 2]
    with pytest.raises(NearlError, match="cut short"):
        decode_one(written(short))


# ---- which bits of a number are its own


def test_numbers_at_the_high_end_of_their_bytes():
    stored = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)
    high = dataset(stored << 4, kind=MR, BitsStored=12)
    high.HighBit = 15
    assert np.array_equal(decode_one(written(high)).scan.voxels[0, 0], stored)
    untrue = dataset(stored, kind=MR, BitsStored=12)
    untrue.HighBit = 15  # they are at the low end
    assert np.array_equal(decode_one(written(untrue)).scan.voxels[0, 0], stored)


def test_signs_overlays_and_more_bits_than_are_said():
    signed = np.random.default_rng(0).integers(-2048, 2048, (30, 40)).astype(np.int16)
    short = dataset(signed & 0x0FFF, kind=MR, BitsStored=12)  # the sign is in the twelfth bit alone
    assert short.PixelRepresentation == 1
    assert np.array_equal(decode_one(written(short)).scan.voxels[0, 0], signed)
    long = dataset(signed, kind=MR, BitsStored=12)
    assert np.array_equal(decode_one(written(long)).scan.voxels[0, 0], signed)
    unsigned = (signed + 2048).astype(np.uint16)
    drawn = dataset(unsigned | (0x8000 * (np.arange(40) % 5 == 0)).astype(np.uint16), kind=MR, BitsStored=12)
    drawn.add_new((0x6000, 0x0100), "US", 1)
    drawn.add_new((0x6000, 0x0102), "US", 15)  # an overlay in the bits that are not stored
    assert np.array_equal(decode_one(written(drawn)).scan.voxels[0, 0], unsigned)
    long.HighBit = 15  # and yet they lie at the low end
    assert np.array_equal(decode_one(written(long)).scan.voxels[0, 0], signed)
    wide = dataset(unsigned * 16, kind=MR, BitsStored=12)  # says 12, uses 16
    wide.HighBit = 11
    assert np.array_equal(decode_one(written(wide)).scan.voxels[0, 0], unsigned * 16)


def test_deep_colours_that_use_fewer_bits_than_are_said():
    rgb = np.random.default_rng(0).integers(0, 4096, (30, 40, 3)).astype(np.uint16)
    rgb[0, 0] = 4095
    for bits in (12, 16):
        shown = decode_one(written(dataset(rgb, "RGB", US, BitsStored=bits))).pixels
        assert np.abs(shown - rgb * (255 / 4095)).max() <= 0.51


# ---- tables


def palette(stored: np.ndarray, tables: list[bytes], bits: int, first: int = 0, count: int = 256) -> bytes:
    ds = dataset(stored, "PALETTE COLOR", US)
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        ds.add_new(
            f"{name}PaletteColorLookupTableDescriptor", "US" if first >= 0 else "SS", [count % 65536, first, bits]
        )
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", table)
    return written(ds)


def test_palettes_whatever_they_say_of_their_entries():
    stored = np.tile(np.arange(40, dtype=np.uint8), (20, 1))
    wanted = np.random.default_rng(2).integers(0, 256, (256, 3)).astype(np.uint8)
    wanted[0] = 255
    layouts = {
        "bytes": [wanted[:, i].tobytes() for i in range(3)],
        "words, the low byte only": [wanted[:, i].astype("<u2").tobytes() for i in range(3)],
        "words, the high byte only": [(wanted[:, i].astype("<u2") << 8).tobytes() for i in range(3)],
        "words, both": [(wanted[:, i].astype("<u2") * 257).tobytes() for i in range(3)],
        "words of 12 bits": [(wanted[:, i].astype(int) * 4095 // 255).astype("<u2").tobytes() for i in range(3)],
    }
    for words, tables in layouts.items():
        for bits in (8, 16):
            shown = decode_one(palette(stored, tables, bits)).pixels.astype(int)
            assert np.abs(shown - wanted[stored]).max() <= 1, (words, bits)
    ds = dataset(stored, "PALETTE COLOR", US)
    for i, name in enumerate(("Red", "Green", "Blue")):
        ds.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        ds.add_new(f"{name}PaletteColorLookupTableData", "OW", layouts["words, both"][i])
    assert np.array_equal(decode_one(written(ds)).pixels, (apply_color_lut(stored, ds) / 257).round())
    later = decode_one(palette(stored, [t[:20] for t in layouts["bytes"]], 8, first=10, count=20)).pixels
    assert np.array_equal(later, wanted[np.clip(stored.astype(int) - 10, 0, 19)])


def displayed(entries: object, descriptor: list[int], vr: str = "US", **tags) -> np.ndarray:
    ds = dataset(np.tile(np.arange(64, dtype=np.uint16) * 64, (64, 1)), kind=MR, BitsStored=12, **tags)
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", descriptor)
    item.add_new("LUTData", vr, entries)
    ds.VOILUTSequence = [item]
    return decode_one(written(ds)).pixels[..., 0]


@pytest.mark.parametrize("factor", [256, 257])
def test_dark_colours_of_a_palette_stay_dark(factor):
    """8 bits in the upper byte, or in both, that need fewer than the 16 bits which the entries have."""
    stored = np.tile(np.arange(40, dtype=np.uint8), (20, 1))
    entries = (np.arange(256) % 41 * factor).astype("<u2").tobytes()
    shown = decode_one(palette(stored, [entries] * 3, 16)).pixels
    assert np.abs(shown[0, :, 0].astype(int) - np.arange(40)).max() <= 1


def test_display_tables_that_use_less_or_more_than_they_say():
    ramp = np.arange(4096)
    wanted = np.round(np.tile(np.arange(64) * 64, (64, 1)) * 255 / 4095)
    for entries, descriptor, vr in (
        (ramp.tolist(), [4096, 0, 12], "US"),
        (ramp.tolist(), [4096, 0, 16], "US"),  # says 16 bits
        (ramp.astype("<u2").tobytes(), [4096, 0, 16], "OW"),
        ((ramp * 16).tolist(), [4096, 0, 12], "US"),  # says 12 bits, uses 16
        ((ramp // 16).tolist(), [4096, 0, 16], "US"),  # 8 bits
        ((ramp // 16).astype(np.uint8).tobytes(), [4096, 0, 8], "OW"),
        (((ramp // 16)[1::2] * 256 + (ramp // 16)[::2]).tolist(), [4096, 0, 8], "US"),  # two in a word
    ):
        assert np.abs(displayed(entries, descriptor, vr) - wanted).max() <= 8, (descriptor, vr)
    below = displayed(ramp.tolist(), [4096, 65536 - 1024, 12], RescaleSlope=1, RescaleIntercept=-1024)  # is -1024
    assert np.abs(below - wanted).max() <= 1


# ---- padding


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_outside_the_automatic_window(photometric):
    inside = np.random.default_rng(0).integers(0, 1000, (40, 40)).astype(np.int16)
    for padding, limit, value in (
        (-2000, None, -2000),
        (65536 - 2000, None, -2000),
        (-2000, -1800, -1900),
        (3000, None, 3000),
    ):
        stored = inside.copy()
        stored[:12] = value
        ds = dataset(stored, photometric, MR)
        ds.add_new("PixelPaddingValue", "US" if padding > 32767 else "SS", padding)
        if limit is not None:
            ds.add_new("PixelPaddingRangeLimit", "SS", limit)
        record = decode_one(written(ds))
        window = record.view.window
        assert window.center - window.width / 2 >= 0 and window.center + window.width / 2 <= 1000, (padding, limit)
        assert (record.pixels[:12] == 0).all() and np.ptp(record.pixels[12:]) == 255
        assert (record.at(invert=True).pixels[:12] == 255).all()


def test_padding_among_the_values_is_not_believed():
    stored = np.random.default_rng(0).integers(-500, 500, (40, 40)).astype(np.int16)
    stored[:12] = 0
    ds = dataset(stored, "MONOCHROME2", MR)
    ds.add_new("PixelPaddingValue", "SS", 0)
    assert (decode_one(written(ds)).pixels[:12] > 100).all()


def test_a_slope_of_zero_is_not_believed():
    stored = np.random.default_rng(0).integers(0, 500, (40, 40)).astype(np.int16)
    assert np.array_equal(
        decode_one(written(dataset(stored, kind=MR, RescaleSlope=0))).scan.values("acquired", 0), stored
    )
