"""Mosaics are taken apart as nibabel does, or called mosaics where they do not say how."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pydicom
import pytest
from nibabel.nicom.dicomwrappers import wrapper_from_data

from nearl.data.images import decode_many, decode_one
from tests.support.scans import mosaic, written


@pytest.fixture
def slices() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (11, 24, 20)).astype(np.uint16)


@pytest.mark.parametrize("normal", [(0, 0, 1), (0, 0, -1)])
def test_a_mosaic_is_taken_apart_as_by_nibabel(slices, normal):
    data = mosaic(slices, normal)
    record = decode_one(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = wrapper_from_data(pydicom.dcmread(io.BytesIO(data)))
        assert other.is_mosaic and np.array_equal(np.moveaxis(other.get_data(), -1, 0), slices)
        head = (np.diag([-1, -1, 1, 1]) @ other.affine)[2, 2]
    assert record.slices() == 11 and record.scan.spacing == (4.0, 3.0, 2.0) and "taken apart" in record.notes[0]
    shown = record.scan.voxels[0]
    assert np.array_equal(shown, slices if normal[2] > 0 else slices[::-1]) and np.sign(head) == normal[2]
    assert record.letters["right"] == "L"


def test_mosaics_of_one_series_are_moments(slices):
    files = [mosaic(slices + i, AcquisitionTime=f"1200{i:02d}", InstanceNumber=i) for i in range(4)]
    (record,), problems = decode_many([(f"{i}", files[i]) for i in (2, 0, 3, 1)])
    assert not problems and np.array_equal(record.scan.voxels, np.stack([slices + i for i in range(4)]))


def test_a_mosaic_that_does_not_say_enough(slices):
    plain = decode_one(mosaic(slices, private=False))
    assert plain.scan.voxels.shape == (1, 1, 96, 80) and plain.letters == {} and "mosaic" in plain.notes[0]
    film = decode_one(mosaic(slices, normal=None))  # how the slices follow one another is unknown
    assert film.slices() == 11 and film.scan.planes == ("axial",) and film.letters["right"] == "L"
    broken = pydicom.dcmread(io.BytesIO(mosaic(slices)))
    broken[0x0029, 0x1010].value = b"SV10\4\3\2\1" + b"\xff" * 40
    broken[0x0019, 0x100A].value = 9999
    assert decode_one(written(broken)).scan.voxels.shape == (1, 1, 96, 80)


@pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2"])
def test_a_grid_of_united_imaging_is_taken_apart(slices, syntax):
    """It does not call itself a mosaic."""
    ds = pydicom.dcmread(io.BytesIO(mosaic(slices, private=False)))
    ds.ImageType, ds.Manufacturer = ["ORIGINAL", "PRIMARY", "M"], "UIH"
    ds.private_block(0x0065, "Image Private Header", create=True).add_new(0x50, "DS", "11")
    record = decode_one(written(ds, syntax))
    assert np.array_equal(record.scan.voxels[:, 0], slices) and "taken apart" in record.notes[0]
