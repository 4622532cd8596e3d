"""Small inputs after public bug reports, read as their list says (../shared/cases; skipped where they are absent)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from nearl.data.images import ImageRecord, decode, decode_many
from nearl.errors import NearlError

CASES = Path(os.environ.get("NEARL_CASES", Path(__file__).parents[3] / "shared" / "cases"))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not here (set NEARL_CASES)")


def path(case: int) -> list[Path]:
    """The files of a case, in the order of their names."""
    (folder,) = CASES.glob(f"{case:02d}-*")
    return sorted(file for file in folder.iterdir() if file.is_file())


def read(case: int, file: int = 0) -> list[ImageRecord]:
    records, problems = decode_many([path(case)[file]])
    assert not problems
    return records


def one(case: int, file: int = 0) -> ImageRecord:
    (record,) = read(case, file)
    return record


def says(record: ImageRecord, words: str) -> bool:
    return any(words in note for note in record.notes)


def width_of(record: ImageRecord, axis: int, above: float) -> float:
    """How far something brighter than its surroundings reaches along an array axis, in mm."""
    values = record.scan.voxels[0].astype(np.float64)
    inside = np.nonzero((values > above).any(axis=tuple(i for i in range(3) if i != axis)))[0]
    return (inside.max() - inside.min() + 1) * record.scan.spacing[axis]


def phases() -> None:
    """Moment 1 holds only phase 1 (0 HU in the body), moment 2 only phase 2 (50 HU)."""
    record = one(2)
    assert record.scan.frames == 2 and record.slices() == 20
    for moment, body in enumerate((0, 50)):
        assert all(body in np.unique(image) for image in record.scan.voxels[moment])
        assert not any(50 - body in np.unique(image) for image in record.scan.voxels[moment])


def incomplete() -> None:
    """No slice of phase 2 stands among those of phase 1; both can be reached, and are named."""
    whole, part = read(3)
    assert (whole.slices(), part.slices()) == (12, 11) and whole.name != part.name
    assert says(part, "lacks 1 of 12 slices") and says(whole, "lack slices")


def colours() -> None:
    """Red top left, green top right, blue bottom left, grey bottom right, as Pillow decodes the bare JPEG."""
    record = one(4)
    ds = pydicom.dcmread(path(4)[0])
    from pydicom.encaps import get_frame

    bare = Image.open(io.BytesIO(get_frame(ds.PixelData, 0, number_of_frames=1))).convert("RGB")
    assert np.array_equal(record.pixels, np.asarray(bare))
    for (row, column), channel in (((8, 8), 0), ((8, 56), 1), ((56, 8), 2)):
        assert record.pixels[row, column].argmax() == channel and np.ptp(record.pixels[row, column].astype(int)) > 100
    assert np.ptp(record.pixels[56, 56].astype(int)) < 10


def table() -> None:
    """White is 4095."""
    record = one(5)
    assert record.view.window.function == "TABLE" and record.pixels.max() > 250


def straight() -> None:
    """The sphere is round in sagittal, and what was done is said."""
    for file in (0, 1):
        record = one(7, file)
        assert says(record, "straight above") and "sagittal" in record.scan.planes
    assert width_of(record, 0, -900) == pytest.approx(width_of(record, 1, -900), abs=5)


def positron() -> None:
    """The automatic window comes from physical values of all slices: 0 to 40000."""
    window = one(8).scan.auto()
    assert window.center + window.width / 2 == pytest.approx(40_000, rel=0.02)
    assert window.center - window.width / 2 == pytest.approx(0, abs=100)


def pages() -> None:
    assert says(one(10, 0), "Only the first") and says(one(10, 1), "missing")


def deep() -> None:
    record = one(11)
    assert record.pixels.max() > 200 and says(record, "12 of 16 bits")


def display_range() -> None:
    record = one(12)
    assert record.view.window.name == "Auto" and np.ptp(record.pixels) > 200 and says(record, "almost nothing")
    assert "From the file" in [window.name for window in record.scan.presets()]


def hounsfield() -> None:
    record = one(13)
    assert record.scan.modality == "CT" and {"Lung", "Bone"} <= {window.name for window in record.scan.presets()}


def two_series() -> None:
    records = read(20)
    assert sorted(record.slices() for record in records) == [6, 12] and records[0].name != records[1].name


def mosaic() -> None:
    record = one(22)
    assert says(record, "mosaic") and record.letters == {}


def spacing_changes() -> None:
    records = read(23)
    assert [record.slices() for record in records] == [10, 10] and records[0].name != records[1].name
    assert {record.scan.spacing[1:] for record in records} == {(2.0, 1.0), (1.0, 0.5)}
    assert all(says(record, "pixel spacing") for record in records)


def planar() -> None:
    record = one(28)
    stored = np.frombuffer(pydicom.dcmread(path(28)[0]).PixelData, np.uint8).reshape(64, 64, 3)
    assert np.array_equal(record.pixels, stored)


def rare() -> None:
    with pytest.raises(NearlError, match=r"64-bit floating-point.*save it as"):
        decode(path(31)[0])


READ: dict[int, Callable[[], None]] = {
    2: phases, 3: incomplete, 4: colours, 5: table, 7: straight, 8: positron, 10: pages, 11: deep, 12: display_range,
    13: hounsfield, 20: two_series, 22: mosaic, 23: spacing_changes, 28: planar, 31: rare,
}  # fmt: skip


@pytest.mark.parametrize("case", READ, ids=lambda case: f"{case:02d}-{READ[case].__name__}")
def test_a_case_is_read_as_its_list_says(case):
    READ[case]()
