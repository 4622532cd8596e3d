"""Which window comes first: the file's own unless it shows almost nothing, and by the values of all slices."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from nearl.data.formats.windows import PRESETS, Window, by_hand, leaves_little, looks_like_ct
from nearl.data.images import decode_many, decode_one
from tests.support.scans import CT, MR, dataset, enhanced, nifti, written

PET = "1.2.840.10008.5.1.4.1.1.128"


def body(low: float = 4000.0, high: float = 22_000.0, dtype=np.float32) -> np.ndarray:
    """[X, Y, Z]: noise between two values in a block, the lower one around it."""
    voxels = np.full((40, 48, 8), float(low))
    voxels[8:32, 10:38, 1:7] = np.random.default_rng(0).uniform(low, high, (24, 28, 6))
    return voxels.astype(dtype)


def slice_of(kind: str = MR, **tags) -> bytes:
    return written(dataset(body(0, 3000, np.uint16)[:, :, 4].copy(), kind=kind, **tags))


BLIND = {
    "cal_max below all values": lambda: nifti(body(), np.eye(4), cal_min=0, cal_max=255),
    "cal_max far above them": lambda: nifti(body(0, 1), np.eye(4), cal_min=0, cal_max=32767),
    "cal_min and cal_max of one value": lambda: nifti(body(), np.eye(4), cal_min=5000, cal_max=5001),
    "a window one value wide": lambda: slice_of(WindowCenter=1500, WindowWidth=1),
    "a window below all values": lambda: slice_of(WindowCenter=-9000, WindowWidth=100),
    "a window for more bits": lambda: slice_of(WindowCenter=32768, WindowWidth=65536),
    "a sigmoid of no width": lambda: slice_of(WindowCenter=1500, WindowWidth=0.5, VOILUTFunction="SIGMOID"),
    "a window of a CT": lambda: slice_of(CT, RescaleIntercept=-1024, WindowCenter=9000, WindowWidth=1),
    "a display table of one value": lambda: slice_of(VOILUTSequence=[table([4095] * 4096)]),
    "a display table of two values": lambda: slice_of(VOILUTSequence=[table([0] * 2000 + [4095] * 2096)]),
    "frames of which the middle one has no window": lambda: frames([(1500, 3000), (5, 1), (1500, 3000)]),
    "8 bits that use 10 values": lambda: written(dataset((body(0, 10)[:, :, 4]).astype(np.uint8), kind=MR)),
}  # fmt: skip


def table(entries: list[int]) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), 0, 12])
    item.add_new("LUTData", "US", entries)
    return item


def frames(windows: list[tuple[float, float]]) -> bytes:
    """Frames that each have a window of their own."""
    import io

    import pydicom

    voxels = np.moveaxis(body(0, 3000, np.uint16)[:, :, 2:5], -1, 0).copy()
    ds = pydicom.dcmread(io.BytesIO(enhanced(voxels, [0.0, 1.0, 2.0])))
    for group, (center, width) in zip(ds.PerFrameFunctionalGroupsSequence, windows, strict=True):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = center, width
        group.FrameVOILUTSequence = [window]
    return written(ds)


@pytest.mark.parametrize("what", BLIND)
def test_a_window_that_leaves_almost_nothing_comes_last(what):
    record = decode_one(BLIND[what]())
    offered = record.scan.presets()
    assert record.view.window == offered[0] and offered[0].name == "Auto", what
    assert len(offered) > 1 and offered[1].name in ("From the file", "As stored in the file", "Full range")
    assert any("almost nothing" in note and "still offered" in note for note in record.notes)
    assert np.ptp(record.pixels) > 200 and len(np.unique(record.pixels)) > 9


SEEING = {
    "cal_min and cal_max of the values": lambda: nifti(body(), np.eye(4), cal_min=4000, cal_max=20_000),
    "a narrow window": lambda: slice_of(WindowCenter=1500, WindowWidth=400),
    "a wide window": lambda: slice_of(WindowCenter=4096, WindowWidth=8192),
    "a display table": lambda: slice_of(VOILUTSequence=[table(list(range(4096)))]),
    "a mask": lambda: nifti((body() > 4000).astype(np.uint8), np.eye(4), cal_min=0, cal_max=1),
    "8 bits": lambda: written(dataset((body(0, 250)[:, :, 4]).astype(np.uint8), kind=MR)),
}


@pytest.mark.parametrize("what", SEEING)
def test_a_window_that_shows_something_comes_first(what):
    record = decode_one(SEEING[what]())
    assert record.view.window.name in ("From the file", "As stored in the file", "Full range") and not record.notes


def test_a_window_for_ct_that_shows_nothing_of_these_values_comes_later():
    values = (body(0, 60, np.int16) - 1024).astype(np.int16)  # air alone
    record = decode_one(written(dataset(values[:, :, 4].copy(), kind=CT)))
    assert record.view.window.name == "Auto" and "Abdomen" in [window.name for window in record.scan.presets()]


def test_a_ct_without_air_is_not_in_hounsfield_units():
    for values in (body(0, 255, np.uint8), body(0, 4000, np.uint16)):  # a screenshot, and one without its rescale
        record = decode_one(written(dataset(values[:, :, 4].copy(), kind=CT)))
        assert record.view.window.name == "Auto" and "Abdomen" in [window.name for window in record.scan.presets()]


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8", "u2"])
def test_a_ct_is_known_by_its_values(dtype):
    hounsfield = body(-1000, 1500)
    fields = {}
    if dtype == "u2":
        hounsfield, fields = hounsfield + 1024, {"scl_slope": 1, "scl_inter": -1024}
    if dtype[0] == "f":
        hounsfield[0, 0] = np.nan
    record = decode_one(nifti(hounsfield.astype(dtype), np.eye(4), **fields))
    assert record.scan.modality == "CT" and record.view.window == PRESETS["abdomen"]
    assert any("Hounsfield" in note for note in record.notes)
    other = decode_one(written(dataset(body(-1000, 1500, np.int16)[:, :, 4].copy(), kind="1.2.840.10008.5.1.4.1.1.7")))
    assert other.view.window == PRESETS["abdomen"]  # a secondary capture, of modality OT
    assert looks_like_ct(np.array([-32768.0, -32768.0, -1000.0, 1500.0]))  # what was not measured
    for low, high in ((0, 1500), (-1000, 50), (-5000, 1500), (-1000, 100_000)):
        assert not looks_like_ct(np.array([low, high, np.nan]))
    mr = decode_one(written(dataset(body(-1000, 1500, np.int16)[:, :, 4].copy(), kind=MR)))
    assert mr.scan.modality == "MR" and mr.view.window.name == "Auto"


def test_the_automatic_window_is_of_physical_values_of_all_slices():
    """Slices of a PET have scales of their own, of one file or of many."""
    stored = np.random.default_rng(0).integers(0, 1001, (6, 32, 32)).astype(np.uint16)
    slopes = [0.01, 0.02, 0.05, 5.0, 40.0, 0.01]
    files = []
    for number, (image, slope) in enumerate(zip(stored, slopes, strict=True)):
        ds = dataset(image, kind=PET, RescaleSlope=slope, RescaleIntercept=0, InstanceNumber=number)
        ds.Modality, ds.PixelSpacing = "PT", [2.0, 2.0]
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3.0 * number]
        files.append((f"{number}", written(ds)))
    (record,), _ = decode_many(files)
    window = record.scan.auto()
    low, high = np.percentile(stored * np.array(slopes)[:, None, None], (0.5, 99.5))
    assert window.center + window.width / 2 == pytest.approx(high, rel=0.02)
    assert window.center - window.width / 2 == pytest.approx(low, abs=1)


def test_what_leaves_little_by_hand():
    values = np.linspace(0, 1000, 5000)
    auto = Window("Auto", 500, 1000)
    for window, little in (((500, 1000), False), ((500, 100), False), ((500, 8), True), ((-50, 90), True),
                           ((500, 30_000), True), ((500, 9000), False)):  # fmt: skip
        assert leaves_little(values, Window("w", *window), auto) == little, window
    flat = np.full(100, 7.0)
    assert not leaves_little(flat, Window("w", 0, 1), Window("Auto", 7, 1e-12))
    assert not leaves_little(np.array([np.nan]), Window("w", 0, 1), auto)


def test_a_window_by_hand():
    assert by_hand(40, 400) == Window("Set by hand", 40.0, 400.0)
    assert Window("Auto", 20_000, 40_000).words == "Auto, 20,000 / 40,000"
    assert Window("Auto", -0.5, 1234.56).words == "Auto, -0.5 / 1235"
    for center, width in ((0, 0), (0, -3), (np.nan, 1), (0, np.inf)):
        assert by_hand(center, width) is None


@pytest.mark.parametrize("width", [0, -5])
def test_a_window_that_is_none_is_said_to_be_left_out(width):
    record = decode_one(slice_of(CT, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=width))
    assert any("not a valid one" in note for note in record.notes) and np.ptp(record.pixels) > 200
    assert not any("not a valid one" in note for note in decode_one(slice_of(CT, RescaleIntercept=-1024)).notes)


def test_a_scan_without_a_number_says_so():
    record = decode_one(nifti(np.full((20, 18, 4), np.nan, np.float32), np.eye(4)))
    assert not record.pixels.any() and any("No value" in note for note in record.notes)


def test_a_scan_of_one_value_says_so():
    record = decode_one(written(dataset(np.full((30, 40), 7, np.uint16), kind=MR)))
    assert any("is the same" in note for note in record.notes) and record.view.window.words == "Auto"
    assert not any("is the same" in note for note in decode_one(slice_of(MR)).notes)


@pytest.mark.parametrize(("step", "own"), [(10, True), (1000, False)])
def test_windows_of_the_slices_that_have_nothing_in_common_are_not_used(step, own):
    files = []
    for place in range(5):
        pixels = np.arange(30 * 40, dtype=np.int16).reshape(30, 40) % 300 + step * place
        one = dataset(pixels, kind=MR, WindowCenter=150 + step * place, WindowWidth=300)
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, float(place)]
        one.PixelSpacing = [1.0, 1.0]
        files.append((f"{place}.dcm", written(one)))
    (record,), problems = decode_many(files)
    assert not problems and any("windows of their own" in note for note in record.notes) == (not own)
    assert record.view.window.name == ("From the file" if own else "Auto")
