"""What the Predict tab shows of a volume that was read as one study, and of a report beside a reading."""

from __future__ import annotations

from app.html import render
from app.predict import findings
from app.predict.study import actions as study
from app.predict.study.actions import Line, Studied
from app.visitor.workspace import Workspace
from nearl.data.formats.volume import ACQUIRED, View
from nearl.data.images import ImageRecord

TOP = 5  # slices that are named
FLAT = 1.5  # times an equal part of the attention: below that no slice stands out (our choice)
STATES = ("present", "uncertain", "absent", study.UNSAID)
CLOUDS = {"frozen": "before teaching", "taught": "after teaching", "rebuilt": "rebuilt from the bank"}
WIDTH, HEIGHT, EDGE = 200.0, 140.0, 10.0  # of a drawing
CLOSES = 0.02  # by which a gap has to change to be called smaller (our choice)
AUROCS = ("0.647", "0.703")  # macro, with and without the bank: docs/bridge.md, which a test compares


def slices(workspace: Workspace) -> str:
    """Which slices of the study fired, a column for each, to go to; "" for anything else."""
    found, record = workspace.viewing.studied, workspace.viewing.record
    if found is None or found.inside is None or record is None:
        return ""
    weights, views = found.inside.attention.tolist(), found.inside.views
    highest = max(weights)
    columns = [
        {
            "pick": -1 - i,
            "number": _number(record, view),
            "times": weight * len(weights),
            "height": weight / highest,
            "shown": _is_shown(record, view),
        }
        for i, (weight, view) in enumerate(zip(weights, views, strict=True))
    ]
    top = sorted(columns, key=lambda column: -column["times"])[:TOP]
    return render(
        "predict/study_slices.html", columns=columns, top=top, what=_what(record), flat=top[0]["times"] < FLAT
    )  # fmt: skip


def _what(record: ImageRecord) -> str:
    """What the viewer steps through: a "slice" or a "frame"."""
    return "frame" if record.scan.slices(record.study_view.plane) == 1 else "slice"


def _number(record: ImageRecord, view: View) -> int:
    """The number of a slice or frame as the viewer counts them, from 1."""
    return (view.frame if _what(record) == "frame" else view.index) + 1


def _is_shown(record: ImageRecord, view: View) -> bool:
    own = record.view
    return (own.plane, own.index, own.frame) == (view.plane, view.index, view.frame)


def section(workspace: Workspace) -> str:
    """Under the reading of a volume: what of it was read as one study, the atoms that fired, and images and prompts as
    clusters; without an adapter that reads volumes, how to get one. "" for other images."""
    viewing = workspace.viewing
    record, found = viewing.record, viewing.studied
    if viewing.prediction is None or not study.is_volume(record):
        return ""
    if found is None:
        return render("predict/study_none.html", taught=viewing.prediction.adapted is not None)
    inside, view = found.inside, found.view
    gaps, count = _clusters(found), len(inside.views) if inside is not None else None
    total = record.scan.frames if _what(record) == "frame" else record.scan.slices(view.plane)
    frozen, last = (gaps[0]["gap"], gaps[-1]["gap"]) if gaps else (0.0, 0.0)
    return render(
        "predict/study.html",
        what=_what(record),
        count=count,
        total=total,
        plane="" if view.plane == ACQUIRED else view.plane,
        coloured=isinstance(view.window, tuple),
        notes=found.notes[1:] if count is not None and count < total else found.notes,  # the first says that
        synthetic=viewing.classifier.method.taught.synthetic,
        atoms=[
            {
                "number": atom.number + 1,
                "share": atom.share,
                "prompts": atom.prompts,
                "slices": [_number(record, inside.views[i]) for i in atom.slices],
            }
            for atom in (inside.atoms if inside is not None else ())
        ],
        bank=inside.bank if inside is not None else 0,
        spread=max(1, round(inside.spread)) if inside is not None else 0,
        clusters=gaps,
        width=WIDTH,
        height=HEIGHT,
        closes=bool(inside is not None and inside.bank and last < frozen - CLOSES),
        aurocs=AUROCS,
    )


def _clusters(found: Studied) -> list[dict]:
    """A drawing of slices and prompts for each space, all in the plane of the first and to one scale, with the gap."""
    if found.inside is None:
        return []
    from nearl.measure.gap import Plane, gap_length

    clouds = found.inside.clouds
    first = next(iter(clouds.values()))
    if min(first.images.shape[0] + first.texts.shape[0], first.images.shape[1]) < 2:
        return []
    plane = Plane.fit(first.images, first.texts)
    spots = {name: [plane.project(x).tolist() for x in cloud] for name, cloud in clouds.items()}
    every = [spot for both in spots.values() for some in both for spot in some]
    left, low = (min(spot[k] for spot in every) for k in (0, 1))
    wide, high = (max(max(spot[k] for spot in every) - least, 1e-6) for k, least in ((0, left), (1, low)))
    scale = min((WIDTH - 2 * EDGE) / wide, (HEIGHT - 2 * EDGE) / high)
    left, low = left + (wide - WIDTH / scale) / 2, low + (high - HEIGHT / scale) / 2

    def placed(some: list) -> list[tuple[float, float]]:
        return [((x - left) * scale, HEIGHT - (y - low) * scale) for x, y in some]

    return [
        {"words": CLOUDS[name], "gap": gap_length(*clouds[name]), "images": placed(both[0]), "texts": placed(both[1])}
        for name, both in spots.items()
    ]


# ---- the report


def box(workspace: Workspace) -> str:
    """Where a report is typed or pasted in, beside a reading of findings; "" without one. It is the same for all
    readings of an image, so that what is typed stays."""
    viewing = workspace.viewing
    if viewing.prediction is None or findings.asked(workspace) is None or viewing.record is None:
        return ""
    return render("predict/report_box.html", of=study.image_of(viewing.record), longest=study.LONGEST)


def summary(workspace: Workspace, lines: list[Line]) -> str:
    """What the report says of each finding, to edit, beside what the reading says."""
    viewing = workspace.viewing
    record, whole = viewing.record, viewing.studied is not None
    taught = viewing.prediction is not None and viewing.prediction.adapted is not None
    of = "the whole study" if whole else "this image"
    if not whole and record is not None and study.is_volume(record):
        of = f"{_what(record)} {record.slice_number + 1}"
    return render(
        "predict/report.html", lines=lines, states=STATES, unsaid=study.UNSAID, of=of,
        when="after" if taught else "before", named=any(line.said != study.UNSAID for line in lines),
    )  # fmt: skip
