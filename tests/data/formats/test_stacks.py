"""Which slices form a volume: by what the files say and where they lie, whatever order and names they come in."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from nearl.data.formats import FORMATS
from nearl.data.formats.base import File
from nearl.data.images import ImageRecord, decode_many, decode_one
from tests.support.scans import CT, MR, dataset, enhanced, written

PLACES = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


def slice_of(value: int, z: float, corner: tuple[float, float] = (0.0, 0.0), kind: str = MR, **tags) -> bytes:
    """A slice with one value all over, except a frame of zeros."""
    pixels = np.zeros((20, 24), np.int16)
    pixels[2:-2, 2:-2] = value
    tags = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [2.0, 1.0], **tags}
    ds = dataset(pixels, kind=kind, **{"ImagePositionPatient": [*corner, z], **tags})
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"{value} {z} {tags}"])
    return written(ds)


def read(files: list[bytes], seed: int = 0) -> list[ImageRecord]:
    """What a shuffled study becomes, without problems; the largest volumes first."""
    order = np.random.default_rng(seed).permutation(len(files))
    records, problems = decode_many([(f"{number}", files[number]) for number in order])
    assert not problems
    assert len({record.name for record in records}) == len(records)
    return sorted(records, key=lambda record: -record.scan.voxels.size)


def held(record: ImageRecord) -> list[list[int]]:
    """The value of every slice, [moment][slice]."""
    return record.scan.voxels[:, :, 10, 12].tolist()


def study(tags_of, moments: int = 3, places=PLACES, **tags) -> list[bytes]:
    """Files of several moments; every slice holds 100 x moment + place. tags_of(moment, place) gives its fields."""
    return [
        slice_of(100 * m + p, z, **tags, **tags_of(m, p)) for m in range(1, moments + 1) for p, z in enumerate(places)
    ]


WAYS = {  # what tells moments apart, and how a file says it
    "temporal position": lambda m, p: {"TemporalPositionIdentifier": m},
    "trigger": lambda m, p: {"TriggerTime": 100.0 * m},
    "trigger that differs a little": lambda m, p: {"TriggerTime": 100.0 * m + p},
    "acquired, slice by slice": lambda m, p: {"AcquisitionTime": f"1200{m:02d}.{p}"},
    "acquired, all moments of a slice in turn": lambda m, p: {"AcquisitionTime": f"12{p:02d}{m:02d}"},
    "acquired after midnight": lambda m, p: {
        "AcquisitionDate": ("20250101", "20250102", "20250102")[m - 1],
        "AcquisitionTime": ("235950", "000010", "000030")[m - 1],
    },
    "content": lambda m, p: {"ContentTime": f"12{m:02d}{p:02d}"},
    "reference": lambda m, p: {"FrameReferenceTime": 1000.0 * m},
    "b-value": lambda m, p: {"DiffusionBValue": 500.0 * m},
    "echo": lambda m, p: {"EchoTime": 10.0 * m},
    "cardiac phase": lambda m, p: {"NominalPercentageOfCardiacPhase": 30.0 * m},
    "acquisition": lambda m, p: {"AcquisitionNumber": m},
    "number": lambda m, p: {"InstanceNumber": 10 * m + p},
    "number, all moments of a slice in turn": lambda m, p: {"InstanceNumber": 10 * p + m},
}


@pytest.mark.parametrize("way", WAYS)
def test_moments_are_never_mixed(way):
    (record,) = read(study(WAYS[way]))
    assert held(record) == [[100 * m + p for p in range(len(PLACES))] for m in (1, 2, 3)]


def test_several_ways_at_once():
    """Two echoes of three phases, and a diffusion series whose directions are told apart by their number alone."""
    both = [
        slice_of(100 * m + 10 * e + p, z, TriggerTime=50.0 * m, EchoTime=4.0 + 5 * e, InstanceNumber=1)
        for m in (1, 2, 3) for e in (0, 1) for p, z in enumerate(PLACES)
    ]  # fmt: skip
    (record,) = read(both)
    assert [row[0] for row in held(record)] == [100, 200, 300, 110, 210, 310]
    assert all(np.diff(row).tolist() == [1] * 5 for row in held(record)) and any("echo" in n for n in record.notes)
    diffusion = study(lambda m, p: {"DiffusionBValue": 0.0 if m == 1 else 1000.0, "InstanceNumber": 10 * m + p}, 4)
    assert [row[0] for row in held(read(diffusion)[0])] == [100, 200, 300, 400]


@pytest.mark.parametrize("way", ["temporal position", "trigger", "acquired, slice by slice", "number"])
@pytest.mark.parametrize("missing", [0, 3, 5])
def test_a_moment_that_lacks_a_slice_stays_apart_and_is_named(way, missing):
    files = study(WAYS[way], 2)
    del files[missing]
    whole, part = read(files, missing)
    assert held(whole) == [[200 + p for p in range(6)]]
    assert held(part) == [[100 + p for p in range(6) if p != missing]]
    assert any("Moment 1 of 2 lacks 1 of 6 slices" in note for note in part.notes)
    assert any("images of their own" in note for note in whole.notes)


def test_nothing_tells_them_apart():
    """All images can be reached, and the notes say that nothing says which belong together."""
    files = [*study(lambda m, p: {}, 2), slice_of(300, 0.0)]
    records = read(files)
    assert sorted(v for record in records for row in held(record) for v in row) == sorted(
        [100 * m + p for m in (1, 2) for p in range(6)] + [300]
    )
    assert any("nothing in the files says" in note for note in records[0].notes)


def test_files_that_begin_alike_are_not_read_once_for_every_other_one():
    ds = dataset(np.zeros((200, 200), np.int16), ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[1.0, 1.0])
    ds.ImagePositionPatient, data, reads = [0, 0, 0], written(ds), []

    def reader(number: int) -> Callable[[], bytes]:
        return lambda: reads.append(number) or data[:-4] + number.to_bytes(4, "little")

    known = FORMATS["DICOM"]
    files = [File(0, f"{number}", reader(number), data[:65_536], known) for number in range(40)]
    known.together(files)
    assert len(reads) <= 5 * len(files)


def test_exact_copies_are_left_out_and_named():
    files = study(lambda m, p: {"InstanceNumber": p}, 1)
    (record,) = read([*files, files[2], files[4]])
    assert held(record) == [[100 + p for p in range(6)]] and any("2 of the files are copies" in n for n in record.notes)


DIFFERENT = {  # volumes of one series that lie at the same places, or between each other's slices
    "pixel spacing": ({"PixelSpacing": [2.0, 1.0]}, {"PixelSpacing": [1.0, 0.5]}),
    "direction": ({}, {"ImageOrientationPatient": [1, 0, 0, 0, -1, 0]}),
    "kind of image": ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}),
    "slice thickness": ({"SliceThickness": 5.0}, {"SliceThickness": 2.5}),
    "frame of reference": ({"FrameOfReferenceUID": "1.2"}, {"FrameOfReferenceUID": "1.3"}),
}


@pytest.mark.parametrize("what", DIFFERENT)
@pytest.mark.parametrize("turns", [False, True])
def test_parts_that_differ_are_volumes_of_their_own(what, turns):
    """Whether one follows the other or their slices lie in turns."""
    places = [5.0 * i for i in range(8)]
    which = [i % 2 if turns else i // 4 for i in range(8)]
    files = [slice_of(10 + i, z, **DIFFERENT[what][which[i]], InstanceNumber=i) for i, z in enumerate(places)]
    records = read(files)
    if what == "direction":
        assert len(records) == 2
    else:
        wanted = sorted([10 + i for i in range(8) if which[i] == part] for part in (0, 1))
        assert sorted(held(record)[0] for record in records) == wanted
    assert all(any(what in note for note in record.notes) for record in records)


def test_acquisitions_that_interleave_are_taken_apart_and_those_that_follow_are_not():
    places = [2.5 * i for i in range(10)]
    turns = [slice_of(i, z, AcquisitionNumber=1 + i % 2) for i, z in enumerate(places)]
    records = read(turns)
    assert sorted(held(record)[0] for record in records) == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert all(any("interleave" in n and "acquisition number" in n for n in record.notes) for record in records)
    timed = [slice_of(i, z, kind=CT, AcquisitionTime=f"12000{i % 2}") for i, z in enumerate(places)]
    assert len(read(timed)) == 2  # a CT acquires its slices in order of position
    mr = [slice_of(i, z, AcquisitionTime=f"12000{i % 2}") for i, z in enumerate(places)]
    assert len(read(mr)) == 1  # slices of one MR volume are acquired in turns
    (record,) = read([slice_of(i, z, AcquisitionNumber=1 + i // 5) for i, z in enumerate(places)])
    assert held(record) == [list(range(10))] and any("2 acquisitions" in note for note in record.notes)


def test_a_field_that_would_tear_a_volume_to_pieces_is_not_believed():
    bogus = [
        slice_of(p, z, TemporalPositionIdentifier=p, AcquisitionNumber=p, ImageType=["DERIVED", "SECONDARY", str(p)],
                 FrameOfReferenceUID=f"1.2.{p}", EchoTime=5.0 + p, TriggerTime=7.0 * p, AcquisitionTime=f"12000{p}")
        for p, z in enumerate(PLACES)
    ]  # fmt: skip
    (record,) = read(bogus)
    assert held(record) == [list(range(6))]


def test_series_without_their_number_and_series_that_share_it():
    nameless = [slice_of(p, z, SeriesInstanceUID="", SeriesNumber=3) for p, z in enumerate(PLACES)]
    assert [held(r) for r in read(nameless)] == [[list(range(6))]]
    shared = [slice_of(10 * s + p, z, SeriesNumber=s) for s in (1, 2) for p, z in enumerate(PLACES)]
    assert sorted(held(r)[0][0] for r in read(shared)) == [10, 20]
    lone = [slice_of(7, 50.0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])]
    axial = [slice_of(p, z, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]) for p, z in enumerate(PLACES)]
    assert [len(held(r)[0]) for r in read([*axial, *lone])] == [6, 1]


def test_images_of_one_place_are_a_film_only_where_they_are_moments():
    cine = [slice_of(m, 0.0, TriggerTime=40.0 * m) for m in range(5)]
    (film,) = read(cine)
    assert held(film) == [[m] for m in range(5)] and film.slices() == 5
    assert len(read([slice_of(m, 0.0, InstanceNumber=m) for m in range(5)])) == 5


def test_frames_of_one_file_are_sorted_by_what_their_groups_say():
    """An enhanced object with two phases, listed in turns, and one that lacks a frame."""
    frames = np.stack([np.full((20, 24), 100 * m + p, np.int16) for p in range(4) for m in (1, 2)])
    positions = [10.0 * p for p in range(4) for _ in (1, 2)]

    def labelled(data: bytes, order: list[int]) -> bytes:
        import io

        import pydicom

        ds = pydicom.dcmread(io.BytesIO(data))
        for number, group in zip(order, ds.PerFrameFunctionalGroupsSequence, strict=True):
            content = Dataset()
            content.TemporalPositionIndex = number
            group.FrameContentSequence = [content]
            group.PixelValueTransformationSequence[0].RescaleIntercept = 0
        return written(ds)

    record = decode_one(labelled(enhanced(frames, positions), [1, 2] * 4))
    assert held(record) == [[100, 101, 102, 103], [200, 201, 202, 203]]
    records, problems = decode_many([("e.dcm", labelled(enhanced(frames[1:], positions[1:]), [2, *[1, 2] * 3]))])
    assert not problems and [held(r) for r in records] == [[[200, 201, 202, 203]], [[101, 102, 103]]]
    assert [record.name for record in records] == ["e.dcm (1 of 2)", "e.dcm (2 of 2)"]


# ---- within the plane


def sphere(shift, places: int = 24, step: float = 2.0) -> list[bytes]:
    """A ball in slices whose corner moves by shift(number) mm in (x, y); its place in the patient stays."""
    files = []
    for number in range(places):
        z, (dx, dy) = number * step, shift(number)
        y, x = np.meshgrid(np.arange(40) * 2.0 + dy, np.arange(40) * 2.0 + dx, indexing="ij")
        pixels = np.where((x - 40) ** 2 + (y - 40) ** 2 + (z - 24) ** 2 < 20**2, 800, 0).astype(np.int16)
        ds = dataset(pixels, kind=MR, InstanceNumber=number, PixelSpacing=[2.0, 2.0])
        ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [dx, dy, z]
        files.append(written(ds))
    return files


SHIFTS = {
    "none": lambda number: (0.0, 0.0),
    "tilted gantry": lambda number: (0.0, -1.4 * number),
    "both ways": lambda number: (0.9 * number, 0.7 * number),
    "a jump halfway": lambda number: (0.0, 16.0 * (number >= 12)),
}


@pytest.mark.parametrize("way", SHIFTS)
def test_slices_that_drift_in_their_plane_are_put_straight(way):
    (record,) = read(sphere(SHIFTS[way]))
    ball = record.scan.voxels[0] > 400
    rows, columns = np.nonzero(ball.any(axis=(0, 2)))[0], np.nonzero(ball.any(axis=(0, 1)))[0]
    assert abs(len(rows) - 20) <= 1 and abs(len(columns) - 20) <= 1  # 40 mm across in 2 mm pixels, as in the patient
    assert bool(way != "none") == any("straight above" in note for note in record.notes)
    assert abs(int(ball.sum()) - sum(_count(n) for n in range(24))) <= 60  # no voxel is lost


def _count(number: int) -> int:
    y, x = np.meshgrid(np.arange(40) * 2.0, np.arange(40) * 2.0, indexing="ij")
    return int(((x - 40) ** 2 + (y - 40) ** 2 + (number * 2.0 - 24) ** 2 < 20**2).sum())


def test_a_drift_that_cannot_be_undone_is_said():
    (record,) = read(sphere(lambda number: (0.0, 400.0 * (number >= 12))))
    assert record.scan.voxels.shape[2:] == (40, 40) and any("sheared" in note for note in record.notes)


UNPLACED = {  # fields of a slice at a place of a moment, and what the order is said to follow
    "slice location": (lambda m, p: {"SliceLocation": 5.0 * p, "TemporalPositionIdentifier": m}, "slice location"),
    "number": (lambda m, p: {"InstanceNumber": 10 * m + p, "TemporalPositionIdentifier": m}, "image number"),
    "number in turns": (lambda m, p: {"InstanceNumber": 3 * p + m, "EchoTime": 10.0 * m}, "image number"),
    "number that begins again": (lambda m, p: {"InstanceNumber": p + 1, "AcquisitionNumber": m}, "image number"),
}


@pytest.mark.parametrize("way", UNPLACED)
@pytest.mark.parametrize("lacking", ["ImagePositionPatient", "ImageOrientationPatient"])
def test_slices_without_a_position_are_ordered_by_what_else_they_say(way, lacking):
    fields, words = UNPLACED[way]
    gone = {lacking: None, "ImagePositionPatient": None}
    (record,) = read(study(lambda m, p: {**fields(m, p), **gone}, moments=2))
    assert held(record) == [[100 * m + p for p in range(len(PLACES))] for m in (1, 2)]
    assert any(words in note for note in record.notes) and record.scan.spacing[0] is None
    assert record.scan.planes == (("axial",) if lacking == "ImagePositionPatient" else ("acquired",))


def test_slices_without_a_position_or_any_order_stay_single():
    gone = {"ImagePositionPatient": None}
    assert len(read([slice_of(p, z, **gone) for p, z in enumerate(PLACES)])) == len(PLACES)
    same = [slice_of(p, z, InstanceNumber=1, SliceLocation=0.0, **gone) for p, z in enumerate(PLACES)]
    views = [slice_of(p, z, kind="1.2.840.10008.5.1.4.1.1.1", InstanceNumber=p, **gone) for p, z in enumerate(PLACES)]
    assert len(read(same)) == len(read(views)) == len(PLACES)


def test_slices_sent_twice_under_other_numbers_are_one():
    twice = [slice_of(p, z, SOPInstanceUID="1.2", InstanceNumber=n) for n in (1, 50) for p, z in enumerate(PLACES)]
    (record,) = read(twice)
    assert held(record) == [list(range(6))] and any("6 of the files are copies" in note for note in record.notes)
    (record,) = read(
        [slice_of(p, z, RescaleIntercept=m, TemporalPositionIdentifier=m) for m in (1, 2) for p, z in enumerate(PLACES)]
    )
    assert record.scan.frames == 2


def test_real_and_imaginary_images_of_one_series_are_apart():
    """GE says which they are in a private field alone."""
    files = []
    for part in (2, 3):
        for place, z in enumerate(PLACES):
            ds = pydicom.dcmread(io.BytesIO(slice_of(100 * part + place, z)))
            ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", part)
            files.append(written(ds))
    assert [held(record) for record in read(files)] == [[[100 * n + p for p in range(6)]] for n in (2, 3)]
