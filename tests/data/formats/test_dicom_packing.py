"""How the pixels of a DICOM file are packed is seen from them, whatever its header says."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from nearl.data.images import decode_one
from nearl.errors import NearlError
from tests.support.codestreams import JPEG_12, packed, wrapped
from tests.support.scans import US, dataset, written

DEEP = np.add.outer(120 * np.arange(16), 90 * np.arange(24))  # what JPEG_12 shows


@pytest.mark.parametrize("signed", [0, 1])
def test_a_jpeg_of_12_bits_is_read(signed):
    """Unless it is one of colours, which is called what it is."""
    pixels = DEEP.astype(np.uint16)
    file = wrapped(JPEG_12, "MONOCHROME2", "1.2.840.10008.1.2.4.51", pixels, BitsStored=12, PixelRepresentation=signed)
    wanted = DEEP - 4096 * (DEEP > 2047) if signed else DEEP
    assert np.array_equal(decode_one(file).scan.voxels[0, 0], wanted)
    frame = bytearray(packed(mode="RGB"))
    frame[frame.index(b"\xff\xc0") + 1 : frame.index(b"\xff\xc0") + 5] = b"\xc1\x00\x11\x0c"
    with pytest.raises(NearlError, match="no decoder installed here knows; export it uncompressed"):
        decode_one(wrapped(bytes(frame), "RGB", "1.2.840.10008.1.2.4.51", np.zeros((64, 64, 3), np.uint16)))


@pytest.mark.parametrize("colours", [False, True])
def test_a_jpeg_with_bytes_between_its_markers_is_refused(colours):
    """And not by the end of the process, as some decoders do."""
    frame = packed(mode="RGB" if colours else "L")
    at = frame.index(b"\xff\xdb")
    frame = frame[:at] + bytes(range(1, 19)) + frame[at:]
    for syntax in ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70"):
        pixels = np.zeros((64, 64, 3) if colours else (64, 64), np.uint8)
        with pytest.raises(NearlError, match="damaged"):
            decode_one(wrapped(frame, "RGB" if colours else "MONOCHROME2", syntax, pixels))


def test_there_are_as_many_frames_as_the_pixels_hold():
    grey = np.random.default_rng(0).integers(0, 255, (3, 20, 24), dtype=np.uint8)
    for said in (None, 1, 2):
        ds = dataset(grey, NumberOfFrames=3)
        ds.NumberOfFrames = said
        assert np.array_equal(decode_one(written(ds)).scan.voxels[:, 0], grey)
    ds = dataset(grey, NumberOfFrames=3)
    ds.NumberOfFrames = 4
    with pytest.raises(NearlError, match="cut short"):
        decode_one(written(ds))
    ds = pydicom.dcmread(io.BytesIO(wrapped(packed(mode="L"), "MONOCHROME2", pixels=np.zeros((64, 64), np.uint8))))
    ds.PixelData = encapsulate([packed(mode="L"), packed(mode="L", quality=5)])
    assert decode_one(written(ds)).slices() == 2


def test_one_frame_in_pieces_or_without_its_end():
    for mode, photometric, pixels in (
        ("L", "MONOCHROME2", np.zeros((64, 64), np.uint8)),
        ("RGB", "YBR_FULL_422", None),
    ):
        frame = packed(mode=mode)
        wanted = decode_one(wrapped(frame, photometric, pixels=pixels)).pixels
        cut = len(frame) // 4 * 2
        pieces = pydicom.dcmread(io.BytesIO(wrapped(frame, photometric, pixels=pixels)))
        pieces.PixelData = encapsulate([frame[:cut], frame[cut:]], has_bot=False)
        assert np.array_equal(decode_one(written(pieces)).pixels, wanted)
        assert np.array_equal(decode_one(wrapped(frame[:-2], photometric, pixels=pixels)).pixels, wanted)
        with pytest.raises(NearlError, match="cut short"):
            decode_one(wrapped(frame[:-60], photometric, pixels=pixels))


def test_pixels_that_are_not_packed_as_their_syntax_says():
    grey = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    assert np.array_equal(decode_one(wrapped(grey.tobytes(), "MONOCHROME2", pixels=grey)).scan.voxels[0, 0], grey)
    bare = dataset(grey, kind=US)
    bare.PixelData = packed(mode="L", quality=100) + b"\0" * (len(packed(mode="L", quality=100)) % 2)
    wanted = np.asarray(Image.open(io.BytesIO(packed(mode="L", quality=100))))
    assert np.array_equal(decode_one(written(bare)).scan.voxels[0, 0], wanted)
