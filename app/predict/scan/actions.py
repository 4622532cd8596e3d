"""What the controls of a scan do: draw another slice, window or plane, and read all slices.

What is drawn is the record itself, so the model sees exactly what is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from app.engine import Engine
from app.visitor.workspace import Workspace
from nearl.backbones.catalogue import three_windows
from nearl.data.formats.volume import Scan
from nearl.data.formats.windows import BY_HAND, Window, by_hand
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.reading.volumes import VolumeReading, iter_volume

THREE = "three"
MOST_SLICES = 120  # that are read for the curve; of more, every second, third... (our choice)


def selected(workspace: Workspace) -> ImageRecord | None:
    """The image on show, if it is a scan."""
    record = workspace.viewing.record
    return record if record is not None and record.scan is not None else None


def windows(record: ImageRecord) -> list[tuple[str, str]]:
    """(label, key) of the windows to offer, the scan's default first; none for colour."""
    found = [(window.name, window.name) for window in record.scan.presets()]
    if record.scan.modality == "CT" and found:
        found.append(("Three at once", THREE))
    if window_key(record) == BY_HAND:
        found.append((BY_HAND, BY_HAND))
    return found


def window_key(record: ImageRecord) -> str | None:
    """The key of the window in use."""
    window = record.view.window
    return THREE if isinstance(window, tuple) else window.name if window else None


def limits(record: ImageRecord) -> tuple[float, float] | None:
    """Centre and width of the window in use; those of the automatic one where it has none; None for colour."""
    if record.scan.colour:
        return None
    window = _plain(record)
    return float(f"{window.center:.6g}"), float(f"{window.width:.6g}")


def _plain(record: ImageRecord) -> Window:
    """The window in use, or the automatic one instead of a table or of three at once."""
    window = record.view.window
    return window if isinstance(window, Window) and window.function != "TABLE" else record.scan.auto()


def planes(scan: Scan) -> list[tuple[str, str]]:
    """(label, key) of the planes."""
    return [(plane.capitalize(), plane) for plane in scan.planes]


def is_film(record: ImageRecord) -> bool:
    """True where the slider walks through moments, not places."""
    return record.scan.slices(record.view.plane) == 1


# ---- drawing


def look(workspace: Workspace, what: str, value: str | bool | int | None) -> None:
    """Draw the selected scan in another way. `what`: a key of LOOKS; `value`: that of its control."""
    with workspace.lock:
        record = selected(workspace)
        if record is not None and value is not None:
            three = what == "window" and value == THREE
            changes = {"window": _three(workspace)} if three else LOOKS[what](record, value)
            workspace.viewing.redraw(record.at(**changes))


def _window(record: ImageRecord, key: str) -> dict:
    found = next((w for w in record.scan.presets() if w.name == key), None)
    return {"window": found or record.view.window}


def _three(workspace: Workspace) -> tuple[Window, ...]:
    """The windows of "Three at once": those of the model's training images, where it has some."""
    classifier = workspace.viewing.classifier
    return three_windows("" if classifier is None else classifier.backbone.name)


def _limit(record: ImageRecord, value: float, width: bool) -> dict:
    """A window by hand with one of its two numbers changed. NearlError where it is no window."""
    if record.scan.colour:
        return {}
    now = _plain(record)
    found = by_hand(now.center if width else value, value if width else now.width)
    if found is None:
        raise NearlError("A window needs a centre and a width above zero; change the number.")
    return {"window": found}


def _plane(record: ImageRecord, plane: str) -> dict:
    """A new plane begins at its middle slice."""
    if plane not in record.scan.planes or plane == record.view.plane:
        return {}
    return {"plane": plane, "index": record.scan.slices(plane) // 2}


def _number(record: ImageRecord, number: int) -> dict:
    return {"frame" if is_film(record) else "index": int(number) - 1}


# the changes of `ImageRecord.at`, by control; numbers count from 1
LOOKS: dict[str, Callable[[ImageRecord, Any], dict]] = {
    "window": _window,
    "center": partial(_limit, width=False),
    "width": partial(_limit, width=True),
    "invert": lambda record, on: {"invert": bool(on)},
    "plane": _plane,
    "number": _number,
    "moment": lambda record, number: {"frame": int(number) - 1},
}


# ---- all slices


def volume_key(workspace: Workspace) -> tuple:
    """What a reading of all slices depends on."""
    record = selected(workspace)
    view = record.view
    place = () if is_film(record) else (view.plane, view.frame)
    adapter = workspace.shelf.adapter.version if workspace.shelf.adapter is not None else None
    prompts = workspace.viewing.prompts.digest if workspace.viewing.prompts is not None else None
    return id(record.scan), place, view.window, view.invert, prompts, adapter


def step(record: ImageRecord) -> int:
    """Every how many slices one is read for the curve."""
    return -(-record.slices() // MOST_SLICES)


def read_all(engine: Engine, workspace: Workspace) -> Iterator[VolumeReading]:
    """Read the slices of the scan on show, batch by batch; the whole reading stays in the workspace."""
    record, key = selected(workspace), volume_key(workspace)
    steps = iter_volume(workspace.viewing.classifier, record, step(record))
    while True:
        with engine.device_lock:
            reading = next(steps, None)
        if reading is None:
            return
        workspace.viewing.keep_volume(key, reading)
        yield reading
