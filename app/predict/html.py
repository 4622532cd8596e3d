"""What the Predict tab shows: the reading, how far to trust it, all images at a glance, and scans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from app.engine import Engine
from app.html import render
from app.visitor.workspace import Workspace
from nearl.data.formats.volume import ACQUIRED, Scan
from nearl.data.formats.windows import THREE_CT
from nearl.data.images import ImageRecord
from nearl.reading.volumes import METHODS, VolumeReading, iter_volume

MOST_WORDS = 6  # unknown words named in one note
UNLIKE_SHORT = "unlike those taught on"
UNFAMILIAR = (
    "This image is unlike those the model has learned from, so until you teach it, its answer is little more than a "
    "guess. Some familiar images are flagged by mistake."
)
UNFAMILIAR_SHORT = "unlike what the model knows"
THREE = "three"
COLOURS = ("red", "green", "blue")
MOST_SLICES = 120  # that are read for the curve; of more, every second, third... (our choice)
TOGETHER = {"top-k": "Best five slices", "mean": "Mean", "max": "Best slice"}


# --- the reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """The reading of one image."""

    classes: Sequence[str]
    before: Sequence[float]  # probability of each class before teaching
    after: Sequence[float] | None = None  # the same after teaching, None without an adapter
    untaught: Sequence[str] = ()  # classes that teaching did not cover
    unknown: Sequence[str] = ()  # words of the prompts that the model was never trained on
    trusted: str = ""  # of `trust`
    closer: Sequence[tuple[str, str]] = ()  # (name, title) of ready sets whose prompts are closer to the image
    unfamiliar: bool = False  # the image is unlike those that the model has learned from


def reading(r: Reading) -> str:
    """The reading in a sentence, its bars and what they mean."""
    taught = r.after is not None
    return render(
        "predict/reading.html",
        classes=r.classes,
        before=_shares(r.before),
        after=_shares(r.after) if taught else None,
        untaught=[name for name in r.classes if name in set(r.untaught)] if taught else [],
        unknown=_unknown(r.unknown),
        trusted=r.trusted,
        closer=r.closer,
        unfamiliar=UNFAMILIAR if r.unfamiliar and not taught else "",
    )


def _shares(p: Sequence[float]) -> list[float]:
    return np.asarray(p).tolist()


def _unknown(words: Sequence[str]) -> str:
    if not words:
        return ""
    listed = ", ".join(f"“{word}”" for word in words[:MOST_WORDS]) + (" and others" if len(words) > MOST_WORDS else "")
    noun = "word" if len(words) == 1 else "words"
    return f"The model ignores the unknown {noun} {listed}; use other words or a larger model."


def reading_empty(has_image: bool) -> str:
    words = (
        "Check that the classes below fit this image, then press “Read the image”."
        if has_image
        else "The reading appears here once there is an image."
    )
    return render("predict/waiting.html", words=words, busy=False)


def reading_busy(loading: bool) -> str:
    words = "The model is still loading; the reading follows." if loading else "Reading the image."
    return render("predict/waiting.html", words=words, busy=True)


def trust(
    calibrated: bool,
    coverage: float | None,
    among: Sequence[str] | None,
    unlike: bool | None,
    edited: bool,
    notes: Sequence[str],
) -> str:
    """How far the shares after teaching can be trusted, for one image; None where it was not measured.

    `among`: the classes that hold the true one as often as `coverage` (0..1) says; `unlike`: whether the image is
    unlike those taught with; `edited`: the prompts are no longer those it was measured with; `notes`: what is missing
    and why, first of all the edit.
    """
    first = 1 if edited else 0
    return render(
        "predict/trust.html", calibrated=calibrated, coverage=coverage, among=among, unlike=unlike, edited=edited,
        warnings=notes[:first], notes=notes[first:],
    )  # fmt: skip


def table(
    files: Sequence[str],
    classes: Sequence[str],
    before: np.ndarray,
    after: np.ndarray | None,
    unlike: Sequence[bool] | None = None,
    closer: Sequence[Sequence[str]] = (),
    unfamiliar: Sequence[bool] | None = None,
) -> str:
    """All images at a glance: the closest class of each, before and after teaching.

    `before`, `after`: probabilities (B, C); `unlike`: which images are unlike those taught with; `closer`: for each
    the ready sets that fit it better; `unfamiliar`: which are unlike those that the model has learned from.
    """

    def doubt(i: int) -> str:
        if unfamiliar and unfamiliar[i] and after is None:
            return UNFAMILIAR_SHORT
        return "other prompts fit better" if closer and closer[i] else ""

    rows = [
        (
            name,
            _shares(before[i]),
            doubt(i),
            None if after is None else _shares(after[i]),
            UNLIKE_SHORT if unlike and unlike[i] else "",
        )
        for i, name in enumerate(files)
    ]
    return render("predict/table.html", classes=classes, rows=rows, taught=after is not None)


# --- scans -----------------------------------------------------------------------------------------------------------


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


def marks(record: ImageRecord, box: tuple[float, float, float, float] | None) -> str:
    """The patient's sides at the edges and the part that the model sees where that is not the whole, as an SVG."""
    width, height = record.size
    letter = max(width, height) * 0.05
    places = {
        "left": (letter * 0.3, height / 2, "start"), "right": (width - letter * 0.3, height / 2, "end"),
        "top": (width / 2, letter, "middle"), "bottom": (width / 2, height - letter * 0.4, "middle"),
    }  # fmt: skip
    if box is not None:
        left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
        whole = right - left >= width - 1 and bottom - top >= height - 1
        box = None if whole else (left, top, right, bottom)
    if not record.letters and box is None:
        return ""
    sides = ", ".join(f"{letters} at the {side}" for side, letters in record.letters.items())
    return render(
        "predict/marks.html", width=width, height=height, letter=letter, box=box,
        texts=[(*places[side], letters) for side, letters in record.letters.items()],
        label=f"Sides of the patient: {sides}" if sides else "The part that the model sees",
    )  # fmt: skip


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
    return "The model gets three windows as red, green and blue, which it never learned from; this is an experiment."


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
    found = workspace.viewing.volume(volume_key(workspace)) if record is not None else None
    if found is None:
        return ""
    name = name if name in found.classes else found.classes[0]
    taught = found.adapted is not None
    shares = (found.adapted if taught else found.frozen)[:, found.classes.index(name)]
    method = method if method in METHODS else METHODS[-1]
    whole = len(found.numbers) >= found.total
    before, after = found.aggregate(method) if whole else ([], None)
    return render(
        "predict/volume.html",
        name=name,
        what="frame" if is_film(record) else "slice",
        columns=list(zip(found.numbers, _shares(shares), strict=True)),
        shown=record.slice_number,
        taught=taught,
        whole=whole,
        total=found.total,
        together=TOGETHER[method].lower(),
        classes=found.classes,
        before=_shares(before),
        after=None if after is None else _shares(after),
        untaught=workspace.viewing.classifier.untaught() if taught else [],
    )
