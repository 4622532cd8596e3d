"""What the controls of a scan do, without a browser, and what is said of its slices."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from app.predict.scan import actions as scanning
from app.predict.scan import html as scan_views
from nearl.data.formats.windows import BY_HAND, Window
from nearl.data.images import decode_one
from nearl.errors import NearlError
from nearl.reading.volumes import VolumeReading
from tests.support.scans import CT, MR, US, body, dataset, nifti, written


def shown(workspace, data: bytes):
    workspace.viewing.bring([decode_one(data, "scan")], [])
    return lambda: workspace.viewing.record


@pytest.mark.parametrize("kind", [CT, MR])
def test_a_window_by_hand(workspace, kind):
    record = shown(workspace, written(dataset(body()[:, :, 3].copy(), kind=kind)))
    center, width = scanning.limits(record())
    assert (center, width) == pytest.approx((record().view.window.center, record().view.window.width), rel=1e-4)
    scanning.look(workspace, "width", 80)
    scanning.look(workspace, "center", -20)
    assert record().view.window == Window(BY_HAND, -20.0, 80.0) and scanning.limits(record()) == (-20, 80)
    wanted = np.clip((record().scan.values(record().view.plane, 0) + 20) / 80 + 0.5, 0, 1) * 255
    assert np.abs(record().pixels[..., 0] - wanted).max() <= 0.51
    assert scanning.windows(record())[-1] == (BY_HAND, BY_HAND) and scanning.window_key(record()) == BY_HAND
    before = record()
    for what, value in (("width", 0), ("width", -5), ("center", float("nan"))):
        with pytest.raises(NearlError, match="width above zero"):
            scanning.look(workspace, what, value)
    assert record() is before
    scanning.look(workspace, "window", "Auto")
    assert record().view.window == record().scan.auto() and BY_HAND not in dict(scanning.windows(record()))


def test_a_scan_and_its_slice_that_differ_are_explained(workspace):
    record = shown(workspace, nifti((body() * 3 - 100).astype(np.int16), np.eye(4)))
    numbers = list(range(record().slices()))
    slices = np.tile(np.float32([0.2, 0.8]), (len(numbers), 1))
    slices[0] = 0.9, 0.1
    alone = SimpleNamespace(classes=["a", "b"], frozen=slices[:1], adapted=None, claims=None)
    workspace.viewing.keep(alone, [[]])
    whole = VolumeReading(["a", "b"], numbers, len(numbers), slices, None)
    workspace.viewing.keep_volume(scanning.volume_key(workspace), whole)
    words = scan_views.curve(workspace, "a")
    assert "closest to “a”, all slices together to “b”" in words and "five slices" in words
    workspace.viewing.keep(SimpleNamespace(classes=["a", "b"], frozen=slices[1:2], adapted=None, claims=None), [[]])
    assert "all slices together to" not in scan_views.curve(workspace, "a")


def test_three_windows_colours_and_volumes(workspace, monkeypatch):
    record = shown(workspace, nifti((body() * 3 - 100).astype(np.int16), np.eye(4)))
    scanning.look(workspace, "window", scanning.THREE)
    auto = record().scan.auto()
    assert scanning.limits(record()) == pytest.approx((auto.center, auto.width), rel=1e-4)
    scanning.look(workspace, "width", 500)
    assert record().view.window.width == 500 and record().view.window.name == BY_HAND
    scanning.look(workspace, "number", 5)
    assert record().view.window.width == 500 and record().slice_number == 4
    monkeypatch.setattr("app.predict.scan.actions.three_windows", lambda name: (Window("A", 0, 100),) * 3)
    scanning.look(workspace, "window", scanning.THREE)
    assert record().view.window[0].name == "A" and scanning.window_key(record()) == scanning.THREE
    colours = shown(workspace, written(dataset(np.zeros((20, 20, 3), np.uint8), "RGB", US)))
    assert scanning.limits(colours()) is None and scanning.windows(colours()) == []
    scanning.look(workspace, "width", 500)
    assert colours().view.window is None
