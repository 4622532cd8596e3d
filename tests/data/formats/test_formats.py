"""The registry of file formats, with one that comes from outside the package."""

from __future__ import annotations

import numpy as np
import pytest

from nearl.data.formats import FORMATS
from nearl.data.images import decode_many, decode_one
from nearl.data.sandbox.client import SHARED, Sandbox
from nearl.data.sets.labelled import resolve_splits
from nearl.errors import NearlError
from tests.support import toy_format
from tests.support.hostile import packed, png, written
from tests.support.toy_format import toy

GREY = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30) % 200


@pytest.fixture
def plugged(monkeypatch):
    """The shared worker, started again so that it knows the toy format; without it afterwards."""
    monkeypatch.setenv("NEARL_PLUGINS", toy_format.__name__)
    SHARED.close()
    yield
    SHARED.close()


def test_formats_are_found_by_content_and_refused_in_words():
    assert {"DICOM", "PNG", "NIfTI"} <= set(FORMATS)
    records, problems = decode_many([("a", png()), ("b", b"%PDF-1.7 " + bytes(99)), ("c", b"nothing known")])
    assert [record.name for record in records] == ["a"] and [problem.name for problem in problems] == ["b", "c"]
    assert "PDF" in problems[0].reason and "DICOM" in problems[1].reason


def test_an_unknown_format_is_refused():
    box = Sandbox()
    try:
        with pytest.raises(NearlError, match="not an image that can be read"):
            decode_one(toy(GREY), "x.toy", sandbox=box)
    finally:
        box.close()


def test_a_format_from_outside_is_read_alone_in_zips_and_in_labelled_sets(plugged, tmp_path):
    record = decode_one(toy(GREY), "x.toy")
    assert np.array_equal(record.pixels[..., 1], GREY) and record.notes == ("A toy.",)
    archive = packed({"a.toy": toy(GREY), "b.png": png(), "bad.toy": toy(GREY)[:-1]})
    records, problems = decode_many([("all.zip", archive)])
    assert [found.name for found in records] == ["a.toy", "b.png"]
    assert [problem.name for problem in problems] == ["bad.toy"] and "cut short" in problems[0].reason
    files = {f"{label}/{i}.toy": toy(GREY + 40 * n + i) for n, label in enumerate(("a", "b")) for i in range(2)}
    (tmp_path / "set.zip").write_bytes(packed(files))
    for source in (written(tmp_path / "set", files), tmp_path / "set.zip"):
        found, _ = resolve_splits(source)
        assert found.counts() == {"a": 2, "b": 2} and not found.problems
