"""NIfTI: the same voxels as by nibabel's `as_closest_canonical` in every orientation, and what is refused."""

from __future__ import annotations

import gzip
import io

import nibabel
import numpy as np
import pytest

from nearl.data.formats.windows import PRESETS
from nearl.data.images import decode, decode_one
from nearl.errors import NearlError
from tests.support.scans import body, nifti, turns

SPACING = (2.0, 1.5, 1.0)


def laid(order: tuple[int, int, int], signs: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The body with its axes in another order and direction, and the affine that says so."""
    voxels = body().transpose(order)[tuple(slice(None, None, s) for s in signs)]
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * SPACING[world]
    return np.ascontiguousarray(voxels), affine


def canonical(data: bytes) -> tuple[np.ndarray, tuple]:
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(data))
    return image.get_fdata(), image.header.get_zooms()[:3]


def refusal(data: bytes) -> str:
    with pytest.raises(NearlError) as caught:
        decode(data, "brain.nii")
    text = str(caught.value)
    assert "brain.nii" in text and "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("turn", turns(), ids=lambda t: "".join(map(str, t[0])) + "".join("+-"[s < 0] for s in t[1]))
def test_every_orientation_is_brought_to_the_same_place(turn):
    voxels, affine = laid(*turn)
    data = nifti(voxels, affine)
    record = decode_one(data)
    values, spacing = record.scan.ras()
    wanted, zooms = canonical(data)
    assert np.array_equal(values, wanted) and np.allclose(spacing, zooms)
    assert np.array_equal(values, body()) and np.allclose(spacing, SPACING)
    assert np.array_equal(record.scan.values("axial", 11), body()[::-1, ::-1, 11].T)
    assert np.array_equal(record.scan.values("coronal", 6), body()[::-1, 18 - 1 - 6, ::-1].T)
    assert np.array_equal(record.scan.values("sagittal", 9), body()[20 - 1 - 9, ::-1, ::-1].T)
    assert record.at(plane="axial").letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("scale", [None, (0.5, -20)])
def test_every_number_keeps_its_value(dtype, scale):
    voxels = (body() % 120).astype(dtype)
    image = nibabel.Nifti1Image(voxels, np.diag([1, 1, 1, 1]), dtype=np.dtype(dtype))
    if dtype[0] == ">":
        image = nibabel.Nifti1Image(voxels, np.eye(4), nibabel.Nifti1Header(endianness=">"))
        image.set_data_dtype(voxels.dtype)
    data = bytearray(image.to_bytes())
    if scale:
        order = ">" if dtype[0] == ">" else "<"
        data[112:120] = np.array(scale, f"{order}f4").tobytes()
    record = decode_one(bytes(data))
    wanted, _ = canonical(bytes(data))
    assert np.allclose(record.scan.ras()[0], wanted, rtol=1e-6)
    for index in (0, 7):
        assert np.array_equal(record.scan.values("axial", index), wanted[::-1, ::-1, index].T)


def test_packed_second_version_four_dimensions_and_one_slice():
    moments = np.stack([body(), body() + 5], axis=-1)
    data = nifti(moments, np.eye(4), second=True)
    record = decode_one(gzip.compress(data))
    assert record.scan.frames == 2 and record.slices() == 24
    assert np.array_equal(record.scan.ras(1)[0], body() + 5)
    assert record.at(frame=1, index=3).digest == record.slice_at(3).at(frame=1).digest
    thin = decode_one(nifti(body()[:, :, 4:5], np.eye(4)))
    assert thin.scan.planes == ("axial",) and np.array_equal(thin.scan.values("axial", 0), body()[::-1, ::-1, 4].T)
    upright = decode_one(nifti(body()[9:10], np.eye(4)))
    assert upright.view.plane == "sagittal" and upright.letters["top"] == "H"
    flat = decode_one(nifti(body()[:, :, 4], np.eye(4)))
    assert flat.pixels.shape == (18, 20, 3)


def test_colours():
    voxels = np.random.default_rng(0).integers(0, 256, (20, 18, 2, 3), dtype=np.uint8)
    packed = np.ascontiguousarray(voxels).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    record = decode_one(nifti(packed, np.eye(4)))
    assert np.array_equal(record.at(plane="axial", index=1).pixels, voxels[::-1, ::-1, 1].transpose(1, 0, 2))


def test_units_windows_and_unknown_sides():
    record = decode_one(nifti(body(), np.diag([2e-3, 2e-3, 1e-3, 1]), xyzt_units=1))
    assert np.allclose(record.scan.ras()[1], (2, 2, 1))
    assert decode_one(nifti(body(), np.eye(4), cal_min=10, cal_max=90)).view.window.center == 50
    ct = decode_one(nifti((body() * 3 - 100).astype(np.int16), np.eye(4)))
    assert ct.view.window == PRESETS["abdomen"] and "Hounsfield" in ct.notes[0]
    unknown = decode_one(nifti(body(), np.eye(4), coded=False))
    assert unknown.letters == {} and "left and right" in unknown.notes[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lean", [0.0, 0.005, 0.5, -0.7])
def test_a_sheared_transform_is_undone_by_whole_voxels(axis, lean):
    """A ball drawn in the patient and cut along axes of which one leans is as high as it is wide and deep."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[(axis + 1) % 3, axis] = 2 * lean
    grid = np.moveaxis(np.indices((30, 30, 30)), 0, -1) @ affine[:3, :3].T
    middle = affine[:3, :3] @ (14, 14, 14)
    ball = (((grid - middle) ** 2).sum(axis=-1) < 15**2).astype(np.int16) * 500
    record = decode_one(nifti(ball, affine))
    values, spacing = record.scan.ras()
    across = [(np.ptp(np.nonzero(values > 250)[i]) + 1) * spacing[i] for i in range(3)]  # in mm
    assert max(across) - min(across) <= 4 and (values > 250).sum() == (ball > 0).sum()
    assert any("straight above" in note for note in record.notes) == (abs(lean) > 0.1)


def test_axes_that_all_lean_are_said():
    affine = np.array([[2, 0.5, 0.5, 0], [0.5, 2, 0.5, 0], [0.5, 0.5, 2, 0], [0, 0, 0, 1.0]])
    record = decode_one(nifti(body(), affine))
    assert record.scan.voxels.shape == (1, 24, 18, 20) and any("sheared" in note for note in record.notes)


def test_scales_that_are_no_numbers_are_not_believed():
    for scale in ((np.nan, 5.0), (2.0, np.nan), (0.0, 7.0), (np.inf, np.inf)):
        data = bytearray(nifti(body(), np.eye(4)))
        data[112:120] = np.array(scale, "<f4").tobytes()
        values, _ = decode_one(bytes(data)).scan.ras()
        assert np.array_equal(values, body() * (2 if scale[0] == 2 else 1)), scale


def test_lengths_without_a_sign_and_two_ways_to_lie():
    affine, mirrored = np.diag([2, 1.5, 1, 1.0]), np.diag([-2, 1.5, 1, 1.0])
    image = nibabel.Nifti1Image(body(), None)
    image.set_qform(affine, 1)
    image.set_sform(None, 0)
    data = image.to_bytes()
    for place, value in ((0, 0.0), (1, -2.0), (3, -1.0)):  # of pixdim: the handedness, where 0 means 1, and lengths
        other = bytearray(data)
        other[76 + 4 * place : 80 + 4 * place] = np.float32(value).tobytes()
        found = decode_one(bytes(other)).scan
        assert found.oriented and np.array_equal(found.ras()[0], body()) and found.spacing == (1.0, 1.5, 2.0)
    image.set_sform(affine, 1)
    assert not decode_one(image.to_bytes()).notes
    image.set_qform(mirrored, 1)
    contradicted = decode_one(image.to_bytes())
    assert "contradict" in contradicted.notes[0] and np.array_equal(contradicted.scan.ras()[0], body())


def test_refusals():
    data = nifti(body(), np.eye(4))
    assert "cut short" in refusal(data[:-10])
    assert "cut short" in refusal(gzip.compress(data)[:-200])
    assert "cut short" in refusal(data[:349])
    damaged = bytearray(data)
    damaged[108:112] = np.float32(1e9).tobytes()  # where the voxels begin
    assert "damaged" in refusal(bytes(damaged))
    lying = bytearray(data)
    lying[42:44] = (30_000).to_bytes(2, "little")
    assert "cut short" in refusal(bytes(lying))
    lying[44:46] = lying[46:48] = (30_000).to_bytes(2, "little")
    assert "more than can be held" in refusal(bytes(lying))
    lying[42:48] = (1000).to_bytes(2, "little") * 2 + (200).to_bytes(2, "little")
    assert "far less" in refusal(gzip.compress(bytes(lying)))
    half = bytearray(data)
    half[344:348] = b"ni1\0"
    assert "pair" in refusal(bytes(half))
    for code, words in ((32, "complex"), (1, "mask"), (1536, "128-bit"), (77, "unknown type")):
        typed = bytearray(data)
        typed[70:72] = code.to_bytes(2, "little")
        assert words in refusal(bytes(typed))
    assert "only" in refusal(nifti(np.zeros((4, 40, 4), np.int16), np.eye(4)))
    assert "dimensions" in refusal(nifti(np.zeros((20, 20, 2, 2, 2), np.int16), np.eye(4)))


def test_a_gzip_bomb_stops_at_what_the_header_declares():
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as stream:
        stream.write(nifti(body(), np.eye(4)))
        for _ in range(30):
            stream.write(bytes(10_000_000))
    assert np.array_equal(decode_one(bomb.getvalue()).scan.ras()[0], body())
