"""What the Predict tab shows of a scan: marks over the image, facts under it, and the reading of all slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.html import render
from app.predict.scan.actions import is_film, selected, volume_key
from app.visitor.workspace import Workspace
from nearl.backbones.catalogue import REGISTRY, own_windows
from nearl.data.formats.volume import ACQUIRED
from nearl.data.images import ImageRecord
from nearl.reading.volumes import METHODS

COLOURS = ("red", "green", "blue")
EDGES = {  # where in the viewer a side's letters are: x, y, and by how many pixels they are moved
    "left": ("0", "50%", 8, 5, "start"), "right": ("100%", "50%", -8, 5, "end"),
    "top": ("50%", "0", 0, 16, "middle"), "bottom": ("50%", "100%", 0, -8, "middle"),
}  # fmt: skip
TOGETHER = {"top-k": "Best five slices", "mean": "Mean", "max": "Best slice"}  # how slices are put together


def marks(record: ImageRecord, box: tuple[float, float, float, float] | None) -> str:
    """The patient's sides at the edges and the part that the model sees where that is not the whole, as an SVG."""
    width, height = record.size
    if box is not None:
        left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
        whole = right - left >= width - 1 and bottom - top >= height - 1
        box = None if whole else (left, top, right, bottom)
    if not record.letters and box is None:
        return ""
    sides = ", ".join(f"{letters} at the {side}" for side, letters in record.letters.items())
    return render(
        "predict/marks.html", width=width, height=height, box=box,
        texts=[(*EDGES[side], letters) for side, letters in record.letters.items()],
        label=f"Sides of the patient: {sides}" if sides else "The part that the model sees",
    )  # fmt: skip


def facts(record: ImageRecord) -> list[str]:
    """Plane, slice, window and spacings in words, for the line under the image."""
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
    apart = scan.slice_spacing(view.plane)
    if apart and record.slices() > 1 and not is_film(record):
        words.append(f"slices {apart:.3g} mm apart")
    return words


def caution(record: ImageRecord) -> str:
    """What colour means where it is not the scan's own; "" for windows that a model was trained with."""
    if record.scan is None or not isinstance(record.view.window, tuple):
        return ""
    if record.view.window in [own_windows(name) for name in REGISTRY]:
        return ""
    return "The model gets three windows as red, green and blue, which it never learned from; this is an experiment."


def curve(workspace: Workspace, name: str | None) -> str:
    """The share of one class in every slice, to click on, and the shares of all slices together."""
    record = selected(workspace)
    found = workspace.viewing.volume(volume_key(workspace)) if record is not None else None
    if found is None:
        return ""
    name = name if name in found.classes else found.classes[0]
    taught = found.adapted is not None
    shares = (found.adapted if taught else found.frozen)[:, found.classes.index(name)]
    together = workspace.viewing.together
    method = together if together in METHODS else METHODS[-1]
    whole, each = (
        len(found.numbers) >= found.total,
        2 if found.findings else 1,
    )  # present, and absent, which is the rest
    before, after = found.aggregate(method) if whole else ([], None)
    differ = ""
    if whole and not found.findings:
        differ = _differ(workspace, found.classes, before if after is None else after)
    return render(
        "predict/volume.html",
        name=name,
        what="frame" if is_film(record) else "slice",
        columns=list(zip(found.numbers, shares.tolist(), strict=True)),
        shown=record.slice_number,
        taught=taught,
        whole=whole,
        total=found.total,
        together=TOGETHER[method].lower(),
        classes=found.classes[::each],
        before=np.asarray(before)[::each].tolist(),
        after=None if after is None else np.asarray(after)[::each].tolist(),
        untaught=workspace.viewing.classifier.untaught() if taught else [],
        differ=differ,
    )


HOW = {
    "top-k": "the five slices in which each class has its highest share",
    "mean": "all slices alike",
    "max": "the one slice in which each class has its highest share",
}


def _differ(workspace: Workspace, classes: Sequence[str], together: Sequence[float]) -> str:
    """Why all slices together and the slice on show give different answers; "" where they agree."""
    prediction, place = workspace.viewing.prediction, workspace.viewing.selected
    if prediction is None or list(prediction.classes) != list(classes):
        return ""
    alone = (prediction.frozen if prediction.adapted is None else prediction.adapted)[place]
    whole, one = classes[int(np.argmax(together))], classes[int(np.argmax(alone))]
    if whole == one:
        return ""
    return (
        f"The slice on show is closest to “{one}”, all slices together to “{whole}”: the answer above is of that slice "
        f"alone, this one counts {HOW[workspace.viewing.together if workspace.viewing.together in HOW else 'mean']}. "
        "A finding may be in a few slices only, and the model was never trained on whole scans, so look at the curve."
    )
