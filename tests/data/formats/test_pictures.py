"""Decoding: what is read, what is refused, and in which words."""

from __future__ import annotations

import gzip
import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearl.data.formats.pictures import MAX_PIXELS
from nearl.data.images import ImageRecord, decode, decode_many, decode_one, decode_picture
from nearl.errors import NearlError
from tests.support.scans import png16


def encode(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def scene(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Detailed enough that a cut-off file lacks pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def refusal(data: bytes, name: str = "scan.png") -> str:
    with pytest.raises(NearlError) as caught:
        decode_one(data, name)
    text = str(caught.value)
    assert name in text and "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP", "JPEG", "GIF"])
def test_every_format_is_read_whatever_the_file_is_called(format):
    options = {"lossless": True} if format == "WEBP" else {}
    record = decode_one(encode(scene(), format, **options), "folder/scan.xyz")
    assert record.name == "scan.xyz" and record.size == (40, 30)
    assert record.pixels.shape == (30, 40, 3) and record.pixels.dtype == np.uint8
    if format not in ("JPEG", "GIF"):
        assert np.array_equal(record.pixels, np.asarray(scene()))
        assert record.notes == ()
    assert record.image().mode == "RGB"


def test_records_are_equal_by_content_and_cannot_be_changed():
    a, b = decode_one(encode(scene(), "PNG"), "a.png"), decode_one(encode(scene(), "BMP"), "b.bmp")
    assert a.digest == b.digest
    wide, tall = np.zeros((20, 40, 3), np.uint8), np.zeros((40, 20, 3), np.uint8)
    assert ImageRecord.from_pixels("x", wide).digest != ImageRecord.from_pixels("x", tall).digest
    with pytest.raises(ValueError):
        a.pixels[0, 0, 0] = 1


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP", "JPEG", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_truncated_files_are_refused_by_name(format, share):
    data = encode(scene(size=(120, 90)), format)
    assert "cut short" in refusal(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_header_is_refused_before_decoding():
    assert "megapixels" in refusal(png_header(20_000, 20_000))
    text = refusal(png_header(10_000, 9_000))  # below Pillow's own limit
    assert "10000 x 9000" in text and MAX_PIXELS < 10_000 * 9_000


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_tiny_pictures_are_refused(size):
    assert f"{size[0]} x {size[1]}" in refusal(encode(Image.new("RGB", size), "PNG"))


def test_other_files_are_refused_in_one_polite_sentence():
    assert "empty" in refusal(b"")
    assert "PNG, JPEG" in refusal(b"hello, this is not an image at all")
    assert "PNG, JPEG" in refusal(b"\x1f\x8b broken gzip")
    assert "DICOM" in refusal(bytes(128) + b"DICM" + bytes(300))
    assert "PDF" in refusal(b"%PDF-1.7 " + bytes(300))
    assert "DICOM" in refusal(b"II*\x00" + bytes(124) + b"DICM" + bytes(300)), "a TIFF posing in a DICOM preamble"
    nifti = bytearray(400)
    nifti[344:348] = b"n+1\0"
    assert "NIfTI" in refusal(bytes(nifti))
    assert "NIfTI" in refusal(gzip.compress(bytes(nifti)))


def test_paths_that_cannot_be_read(tmp_path):
    with pytest.raises(NearlError, match=r"^nowhere\.png does not exist"):
        decode_one(tmp_path / "nowhere.png")
    with pytest.raises(NearlError, match="is a folder"):
        decode_one(tmp_path)
    (tmp_path / "there.png").write_bytes(encode(scene(), "PNG"))
    assert decode_one(str(tmp_path / "there.png")).name == "there.png"


def test_cmyk_jpeg_keeps_its_colours():
    red = Image.new("RGB", (32, 32), (200, 30, 30))
    for data in (encode(red.convert("CMYK"), "JPEG", quality=95), encode(red.convert("CMYK"), "TIFF")):
        record = decode_one(data, "print.jpg")
        assert np.abs(record.pixels.astype(int) - (200, 30, 30)).max() <= 12
        assert any("CMYK" in note for note in record.notes)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_stretched_by_its_own_range(format):
    values = np.tile(np.linspace(900, 2100, 64).astype(np.uint16), (64, 1))
    record = decode_one(encode(Image.fromarray(values), format), "deep.png")
    row = record.pixels[0, :, 0].astype(int)
    assert row[0] == 0 and row[-1] == 255 and (np.diff(row) >= 0).all() and 110 < row[32] < 145
    assert any("stretched" in note for note in record.notes)


def test_float_grey_with_gaps_and_flat_grey():
    values = np.tile(np.linspace(-1, 1, 64, dtype=np.float32), (64, 1))
    values[0, 0] = np.nan
    record = decode_one(encode(Image.fromarray(values), "TIFF"), "map.tif")
    assert record.pixels[5, 0, 0] == 0 and record.pixels[5, -1, 0] == 255
    flat = decode_one(encode(Image.fromarray(np.full((32, 32), 500, np.uint16)), "PNG"), "flat.png")
    assert flat.pixels.max() == 0


def test_16_bit_tiff_with_white_as_zero_is_turned_round():
    values = np.tile(np.linspace(0, 4000, 64).astype(np.uint16), (64, 1))
    record = decode_one(encode(Image.fromarray(values), "TIFF", tiffinfo={262: 0}), "film.tif")
    assert record.pixels[0, 0, 0] == 255 and record.pixels[0, -1, 0] == 0


def test_transparent_parts_become_black():
    half = Image.new("RGBA", (32, 32), (255, 255, 255, 255))
    half.paste((255, 255, 255, 0), (0, 0, 16, 32))
    grey = half.convert("LA")
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([255, 255, 255, 250, 250, 250])
    palette.paste(0, (0, 0, 16, 32))
    for data in (encode(half, "PNG"), encode(grey, "PNG"), encode(palette, "PNG", transparency=0)):
        record = decode_one(data, "cutout.png")
        assert record.pixels[5, 2].tolist() == [0, 0, 0] and record.pixels[5, 29].min() >= 250
        assert record.notes == ("Transparent parts are shown on black.",)
    assert decode_one(encode(scene("RGBA"), "PNG"), "opaque.png").notes == ()


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_a_film_shows_its_first_frame_and_keeps_the_others(format):
    first, second = Image.new("RGB", (32, 32), (250, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 250))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(first, format, save_all=True, append_images=[second], **options)
    for record in (decode_one(data, "film"), decode_picture(data, "film")):
        assert record.pixels[5, 5, 0] > 240 and record.pixels[5, 5, 2] < 10
    assert any("first" in note for note in record.notes)
    film = decode_one(data, "film")
    assert film.slices() == 2 and film.slice_number == 0
    later = film.slice_at(1)
    assert later.pixels[5, 5, 2] > 240 and later.pixels[5, 5, 0] < 10 and later.digest != film.digest
    assert film.slice_at(99).slice_number == 1 and film.still().scan is None


def test_deep_pages_keep_their_numbers():
    pages = [Image.fromarray(np.full((20, 30), value, np.uint16)) for value in (100, 900, 4000)]
    film = decode_one(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]), "stack.tif")
    assert film.slices() == 3 and [int(film.scan.values("acquired", 0, t)[0, 0]) for t in range(3)] == [100, 900, 4000]
    assert film.slice_at(0).pixels.max() == 0 and film.slice_at(2).pixels.min() == 255


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG"])
def test_exif_orientation_is_applied_once(format):
    picture = Image.new("RGB", (60, 40), "black")
    picture.paste("white", (0, 0, 60, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    record = decode_one(encode(picture, format, exif=exif), "phone.jpg")
    assert record.size == (40, 60)
    assert record.pixels[30, 35, 0] > 240 and record.pixels[30, 5, 0] < 15
    assert any("upright" in note for note in record.notes)


def test_one_bad_file_is_named_and_the_rest_goes_on(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    good.write_bytes(encode(scene(), "PNG"))
    bad.write_bytes(b"nonsense")
    records, problems = decode_many([good, bad, ("inner/c.jpg", encode(scene(), "JPEG")), ("d.png", b"")])
    assert [record.name for record in records] == ["good.png", "c.jpg"]
    assert [problem.name for problem in problems] == ["bad.png", "d.png"]
    assert all(problem.name in problem.reason for problem in problems)


def test_max_side_shrinks_and_says_so():
    record = decode_one(encode(scene(size=(300, 200)), "PNG"), "big.png", max_side=150)
    assert record.size == (150, 100) and "300 x 200" in record.notes[0]
    assert decode_one(encode(scene(size=(100, 90)), "PNG"), "small.png", max_side=150).size == (100, 90)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_pictures_are_the_same_in_this_process_and_in_the_worker(format):
    data = encode(scene(), format)
    here, there = decode_picture(data, "a.b"), decode_one(data, "a.b")
    assert np.array_equal(here.pixels, there.pixels) and here.digest == there.digest and here.notes == there.notes


def test_everything_in_a_zip_and_in_a_folder(tmp_path):
    for name, format in (("b.png", "PNG"), ("a.jpg", "JPEG"), ("sub/c.bmp", "BMP")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(encode(scene(), format))
    (tmp_path / "set" / "notes.txt").write_text("Dear colleague")
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    for source in (tmp_path / "set", Path(archive), Path(archive).read_bytes()):
        records, problems = decode_many([("set", source)])
        assert [record.name for record in records] == ["a.jpg", "b.png", "c.bmp"]
        assert [problem.name for problem in problems] == ["notes.txt"]
        assert len(decode(source)) == 3
    with pytest.raises(NearlError, match="holds 3 images"):
        decode_one(Path(archive))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NearlError, match="holds no files"):
        decode(tmp_path / "empty")


def tiff16(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    pytest.importorskip("tifffile").imwrite(buffer, values, photometric="rgb", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [9, 10, 12, 15, 16])
def test_deep_colours_use_the_bits_that_are_used(bits):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**bits, (30, 40, 3)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    wanted = values * (255 / (2**bits - 1))
    alpha = np.concatenate([values, np.full((30, 40, 1), 65535, np.uint16)], axis=-1)
    files = [png16(values), png16(alpha)]
    files += [tiff16(values, byteorder=order, compression=packed) for order in "<>" for packed in (None, "zlib")]
    for data in files:
        record = decode_one(data)
        assert np.abs(record.pixels - wanted).max() <= 1
        assert any("of 16 bits" in note for note in record.notes) == (bits < 16)


def test_deep_grey_beside_alpha_keeps_its_bits():
    """Values that Pillow's eight bits would show as three steps, and transparent ones that are not judged by."""
    values = np.full((40, 40, 2), 65535, np.uint16)
    values[..., 0] = np.arange(40) * 15 + 1000
    values[:8, :, 0], values[:8, :, 1] = 60_000, 0
    record = decode_one(png16(values))
    assert len(np.unique(record.pixels[8:])) > 35 and not record.pixels[:8].any()
    assert {note.split()[0] for note in record.notes} == {"More", "Transparent"}
    values[..., 1] = 0
    assert not decode_one(png16(values)).pixels.any()


def test_an_image_that_is_nearly_black_is_called_so():
    mask = np.zeros((30, 40), np.uint8)
    mask[5:9] = 1
    assert "nearly black" in decode_one(encode(Image.fromarray(mask), "PNG")).notes[0]
    assert decode_one(encode(Image.fromarray(mask * 200), "PNG")).notes == ()


@pytest.mark.parametrize(
    ("dtype", "words"),
    [("f8", "64-bit floating"), ("f2", "16-bit floating"), ("i8", "64-bit"), ("c8", "complex"), ("u8", "64-bit whole")],
)
def test_a_tiff_of_rare_numbers_is_called_what_it_is(dtype, words):
    tifffile = pytest.importorskip("tifffile")
    for options in ({}, {"bigtiff": True}, {"byteorder": ">"}):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.ones((30, 40), dtype), **options)
        text = refusal(buffer.getvalue(), "scan.tif")
        assert words in text and "save it as" in text


def test_a_tiff_of_deep_planes_is_refused_and_one_of_32_bits_keeps_its_upper_half():
    values = np.random.default_rng(0).integers(0, 4096, (3, 30, 40)).astype(np.uint16)
    assert "plane by plane" in refusal(tiff16(values, planarconfig="separate"), "scan.tif")
    buffer = io.BytesIO()
    ramp = np.linspace(0, 2**32 - 1, 30 * 40).reshape(30, 40).astype(np.uint32)
    pytest.importorskip("tifffile").imwrite(buffer, ramp)
    assert (np.diff(decode_one(buffer.getvalue()).pixels[:, 0, 0].astype(int)) >= 0).all()


def test_signed_bytes_and_short_palettes_of_a_tiff():
    tifffile = pytest.importorskip("tifffile")

    def tiff(values: np.ndarray, **options) -> bytes:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, **options)
        return buffer.getvalue()

    ramp = np.tile(np.arange(256, dtype=np.uint8), (30, 1))
    assert "8-bit signed" in refusal(tiff((ramp.astype(int) - 128).astype(np.int8)), "scan.tif")
    colours = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)]).astype(np.uint16)  # 8 bits, not 16
    for pages in (ramp, np.stack([ramp, ramp[:, ::-1]])):
        shown = decode_one(tiff(pages, photometric="palette", colormap=colours))
        assert np.array_equal(shown.pixels, colours.T[ramp])
    assert np.array_equal(shown.at(frame=1).pixels, colours.T[ramp[:, ::-1]])


def test_tiny_numbers_are_stretched_too():
    values = np.linspace(0, 1e-15, 30 * 40, dtype=np.float32).reshape(30, 40)
    assert len(np.unique(decode_one(encode(Image.fromarray(values), "TIFF")).pixels)) > 200
