"""Scans on the page: which plane, slice and window is drawn, the marks over the picture, and the reading of all slices.

What is drawn is the record itself, so the model sees exactly what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from app.engine import Engine
from app.html import views
from app.html.views import esc, per_cent
from app.visitor.workspace import Workspace
from nearl.data.formats.volume import ACQUIRED, Scan
from nearl.data.formats.windows import THREE_CT
from nearl.data.images import ImageRecord
from nearl.reading.volumes import METHODS, VolumeReading, iter_volume

THREE = "three"
COLOURS = ("red", "green", "blue")
MOST_SLICES = 120  # that are read for the curve; of more, every second, third... (our choice)
TOGETHER = {"top-k": "Best five slices", "mean": "Mean", "max": "Best slice"}


def selected(workspace: Workspace) -> ImageRecord | None:
    """The image on show, if it is a scan."""
    record = workspace.viewing.record
    return record if record is not None and record.scan is not None else None


def windows(scan: Scan) -> list[tuple[str, str]]:
    """(label, key) of the windows to offer, the scan's own first; none for colour."""
    found = [(window.name, window.name) for window in scan.presets()]
    if scan.modality == "CT" and found:
        found.append(("Three at once", THREE))
    return found


def window_key(record: ImageRecord) -> str | None:
    """The key of the window in use."""
    window = record.view.window
    return THREE if isinstance(window, tuple) else window.name if window else None


def planes(scan: Scan) -> list[tuple[str, str]]:
    """(label, key) of the planes."""
    return [(plane.capitalize(), plane) for plane in scan.planes]


def is_film(record: ImageRecord) -> bool:
    """True where the slider walks through moments, not places."""
    return record.scan.slices(record.view.plane) == 1


def look(workspace: Workspace, what: str, value: str | bool | int | None) -> None:
    """Change one thing of how the selected scan is drawn: window (by key), invert, plane, number or moment (from 1).

    A new plane begins at its middle slice.
    """
    with workspace.lock:
        record = selected(workspace)
        if record is None or value is None:
            return
        if what == "window":
            found = THREE_CT if value == THREE else next((w for w in record.scan.presets() if w.name == value), None)
            changes = {"window": found or record.view.window}
        elif what == "invert":
            changes = {"invert": bool(value)}
        elif what == "plane":
            if value not in record.scan.planes or value == record.view.plane:
                return
            changes = {"plane": value, "index": record.scan.slices(value) // 2}
        else:
            changes = {"frame" if what == "moment" or is_film(record) else "index": int(value) - 1}
        workspace.viewing.redraw(record.at(**changes))


# --- over and under the picture --------------------------------------------------------------------------------------


def marks(record: ImageRecord, box: tuple[float, float, float, float] | None) -> str:
    """The patient's sides at the edges, and the part that the model sees where that is not the whole, as an SVG."""
    width, height = record.size
    size = max(width, height) * 0.05
    places = {
        "left": (size * 0.3, height / 2, "start"), "right": (width - size * 0.3, height / 2, "end"),
        "top": (width / 2, size, "middle"), "bottom": (width / 2, height - size * 0.4, "middle"),
    }  # fmt: skip
    shapes = "".join(
        f'<text x="{places[side][0]:.1f}" y="{places[side][1]:.1f}" text-anchor="{places[side][2]}" '
        f'font-size="{size:.1f}" stroke-width="{size / 6:.1f}">{esc(letters)}</text>'
        for side, letters in record.letters.items()
    )
    if box is not None:
        left, top = max(box[0], 0), max(box[1], 0)
        right, bottom = min(box[2], width), min(box[3], height)
        if right - left < width - 1 or bottom - top < height - 1:
            shapes += (
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
                f'stroke-width="{size / 12:.1f}"><title>The model sees what is inside</title></rect>'
            )
    if not shapes:
        return ""
    sides = ", ".join(f"{letters} at the {side}" for side, letters in record.letters.items())
    label = f"Sides of the patient: {sides}" if sides else "The part that the model sees"
    return f'<svg class="marks" viewBox="0 0 {width} {height}" role="img" aria-label="{esc(label)}">{shapes}</svg>'


def facts(record: ImageRecord) -> list[str]:
    """Plane, slice, window and spacing in words, for the line under the picture."""
    if record.scan is None:
        return []
    scan, view, words = record.scan, record.view, []
    if record.slices() > 1:
        where = (
            "Frame" if is_film(record) else "Slice" if view.plane == ACQUIRED else f"{view.plane.capitalize()} slice"
        )
        words.append(f"{where} {record.slice_number + 1} of {record.slices()}")
    if isinstance(view.window, tuple):
        names = ", ".join(f"{w.name.lower()} {colour}" for w, colour in zip(view.window, COLOURS, strict=True))
        words.append(f"Three windows as colours: {names}")
    elif view.window is not None:
        words.append(f"Window: {view.window.words}")
    if view.invert:
        words.append("inverted")
    rows, columns = scan.pixel_spacing(view.plane)
    if rows and columns:
        words.append(f"{rows:.3g} × {columns:.3g} mm a pixel")
    return words


def caution(record: ImageRecord) -> str:
    """What colour means where it is not the scan's own."""
    if record.scan is None or not isinstance(record.view.window, tuple):
        return ""
    return "The model gets three windows as red, green and blue; it learnt from ordinary pictures, so this is a trial."


# --- all slices ------------------------------------------------------------------------------------------------------


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


def volume_html(workspace: Workspace, name: str | None, method: str) -> str:
    """The share of one class in every slice, to click on, and the shares of all slices together."""
    record = selected(workspace)
    reading = workspace.viewing.volume(volume_key(workspace)) if record is not None else None
    if reading is None:
        return ""
    name = name if name in reading.classes else reading.classes[0]
    column = reading.classes.index(name)
    taught = reading.adapted is not None
    shares = (reading.adapted if taught else reading.frozen)[:, column]
    what = "frame" if is_film(record) else "slice"
    buttons = "".join(
        _column(number, float(share), what, number == record.slice_number)
        for number, share in zip(reading.numbers, shares, strict=True)
    )
    columns = (
        f'<div class="columns {"after" if taught else "before"}" role="group" '
        f'aria-label="Share of {esc(name)} in every {what}">{buttons}</div>'
    )
    if len(reading.numbers) < reading.total:
        words = f"Reading {what} {len(reading.numbers)} of {reading.total}"
        return f'<div class="per-slice" role="status">{columns}<p>{words}</p></div>'
    method = method if method in METHODS else METHODS[-1]
    frozen, adapted = reading.aggregate(method)
    missing = set(workspace.viewing.classifier.untaught()) if taught else set()
    bars = views.bars(reading.classes, frozen, adapted, missing)
    return (
        f'<div class="per-slice">{columns}<p>Share of “{esc(name)}” in every {what}, {"after" if taught else "before"} '
        f"teaching. Press a column to go there.</p>"
        f"<h3>{reading.total} {what}s together: {TOGETHER[method].lower()}</h3>{bars}</div>"
    )


def _column(number: int, share: float, what: str, pressed: bool) -> str:
    words = f"{what.capitalize()} {number + 1}: {per_cent(share)}"
    return (
        f'<button type="button" data-pick="{number}" aria-pressed="{"true" if pressed else "false"}" '
        f'aria-label="{words}" title="{words}"><i style="height:{100 * share:.1f}%"></i></button>'
    )
