"""A teaching run: start it, find it again, and look at its results, with images and maps; files to download."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.engine import Engine
from app.events import GONE, Act, Press
from app.html import views
from app.predict.actions import prompt_set_from
from app.teach.images import actions as gathering
from app.teach.shelf import actions as shelf
from app.visitor.workspace import Workspace
from app.work.run import TEACH, RunView, check_idle
from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from PIL import Image

    from app.visitor.shelf import Entry
    from nearl.methods import Card
    from nearl.report import Report

NEARL = "nearl"
UNTAUGHT = "zero-shot"
BEFORE, AFTER = "before", "after"
MOMENTS = (BEFORE, AFTER)
REPORTS = ("html", "pdf", "csv")


@dataclass(frozen=True)
class Choice:
    """How to teach: what the page lets a visitor choose."""

    preset: str = "balanced"
    """How long, as the `preset` of a `nearl.runs.job.Job`."""
    hold_out: float = 0.25
    """Proportion of every class that is kept aside to measure with."""
    group_by: str = ""
    """How file names tell which images belong together, see `app.teach.images.actions.plan`."""
    augment: str = "gentle"
    """Small random changes to the images: "none", "gentle" or "strong"."""
    flip: bool = False
    """Whether left and right are swapped too."""
    steps: int | None = None
    """None: those of the preset."""
    lr: float | None = None
    """Learning rate; None: that of the preset."""
    early_stop: bool = True
    """Stop when the training loss no longer falls."""
    method: str = NEARL
    """A name of `nearl.methods`."""

    def how(self) -> dict:
        """What `nearl.runs.make_job` takes of it."""
        from nearl.train.recipe import PATIENCE

        changes = {"augment": self.augment, "flip": self.flip, "patience": PATIENCE if self.early_stop else 0}
        asked = {name: value for name, value in (("steps", self.steps), ("lr", self.lr)) if value is not None}
        return {"methods": [self.method], "preset": self.preset, "recipe": changes | asked}


def methods() -> list[Card]:
    """The cards of all methods that learn something, NEARL first; not the ablations, which are in Compare."""
    from nearl.methods import card, names

    found = [card(name) for name in names() if name != UNTAUGHT]
    return sorted((c for c in found if not c.ablates), key=lambda c: c.name != NEARL)


# ---- a run


def start(engine: Engine, workspace: Workspace, value: dict | None, choice: Choice) -> RunView:
    """Queue a run with the images that are there and these prompts. When it is done, its adapter goes into use, unless
    the check speaks against it.

    NearlError with one sentence where it cannot be done.
    """
    if choice.method == UNTAUGHT:
        raise NearlError("Zero-shot learns nothing, so there is nothing to teach; choose another method.")
    data, test = workspace.support.needed(), workspace.support.held_out
    if workspace.seen_set not in ("", workspace.support.version):
        raise NearlError("These images were changed in another tab; reload the page to see what you teach with.")
    check_idle(workspace, TEACH)
    if blocking := gathering.check(workspace).blocking:
        raise NearlError(blocking)
    prompt_set = prompt_set_from(value).for_classes(data.classes)
    split = gathering.plan(workspace, choice.hold_out, choice.group_by)
    gathering.keep_prompts(workspace, value)
    backbone = engine.backbone(workspace)
    from nearl.runs import make_job

    images, held = numbered(data, "image"), numbered(test, "test image")
    with engine.device_lock:
        job = make_job(backbone, images, held, prompt_set, split, **choice.how())
    workspace.shelf.check_room()
    return engine.queue.start(workspace, TEACH, job, data=digests(data), test=digests(test), choice=asdict(choice))


def numbered(data: LabelledSet | None, word: str) -> LabelledSet | None:
    """The same set with numbers for the names of files and patients, as it may be written to disk."""
    if data is None:
        return None
    records = [replace(record, name=f"{word} {number}") for number, record in enumerate(data.records, start=1)]
    return replace(data, records=records, problems=[], name=data.name if data.ours else "your images from Teach")


def digests(data: LabelledSet | None) -> list[str]:
    """What tells the images of a set from all others, in its order."""
    return [record.digest for record in data.records] if data is not None else []


def current(workspace: Workspace) -> RunView | None:
    """The run that is at work, or the last one; found again after a reload and after a restart of the server."""
    return RunView.latest(workspace, TEACH)


def chosen(workspace: Workspace) -> Choice | None:
    """How the run that is at work, or the last one, was to teach; None where that is unknown, or its method is not
    offered any more."""
    run = current(workspace)
    kept = {} if run is None else run.notes.choice
    if kept.get("method") not in {card.name for card in methods()}:
        return None
    return Choice(**{f.name: kept[f.name] for f in fields(Choice) if f.name in kept})


def ended_since(workspace: Workspace) -> tuple[str, Entry | None] | None:
    """(state, adapter or None) of the last run, where it has ended and the page shows the result of another adapter;
    None else, and where its adapter was deleted."""
    run, entry = current(workspace), opened(workspace)
    if run is None or entry is None or not (now := run.look()).finished or now.adapter_key == entry.id:
        return None
    own = workspace.shelf.entry(now.adapter_key) if now.adapter_key else None
    return None if now.adapter_key and own is None else (now.state, own)


def opened(workspace: Workspace) -> Entry | None:
    """The adapter on the shelf whose result the page shows; None for that of the last run."""
    return workspace.shelf.entry(workspace.opened) if workspace.opened else None


def run_of(workspace: Workspace, key: str) -> RunView | None:
    """The run that an adapter on the shelf came from; None for one that was brought, or is of a comparison."""
    runs = RunView.kept(workspace, TEACH)
    return next((run for run in runs if key in (run.notes.shelf or {}).values()), None)


def on_show(workspace: Workspace) -> RunView | None:
    """The run whose result the page shows."""
    entry = opened(workspace)
    return current(workspace) if entry is None else run_of(workspace, entry.id)


def pressed_result(workspace: Workspace, pressed: Press) -> tuple[RunView | None, Entry | None]:
    """The run and the adapter whose result a button belongs to, which need not be those on show: another page of the
    visitor may have taught since. None for what the result never had, or an adapter that was deleted. NearlError if
    neither is there."""
    data = pressed.data
    run = next((run for run in RunView.kept(workspace, TEACH) if run.key == data.get("run")), None)
    entry = workspace.shelf.entry(data.get("item"))
    if run is None and (entry is None or data.get("run")):
        raise NearlError("This result is no longer kept; reload the page to see the one that is.")
    return run, entry


def report_of(workspace: Workspace, run: RunView | None, entry: Entry | None) -> Report:
    """What there is to report of a run, or what an adapter says of itself. NearlError where there is nothing."""
    from nearl.report import Report

    if run is not None:
        return replace(Report.from_run(run.folder), rows=run.rows or [])
    if entry is None:
        raise NearlError("There is no result yet; teach first.")
    meta = workspace.shelf.load(entry.id).meta
    return Report(meta, meta.get("metrics"))


def kept_aside(run: RunView) -> int:
    """How many images a run keeps aside to measure with; 0 where its files are damaged."""
    try:
        return len(run.folder.about.held)
    except NearlError:
        return 0


def taught_with(run: RunView | None, entry: Entry) -> int:
    """How many images an adapter was taught with: those of its run, else as many as it says itself."""
    try:
        return entry.taught if run is None else len(run.folder.about.split.support)
    except NearlError:  # the run's files are damaged
        return entry.taught


def use(engine: Engine, workspace: Workspace, entry: Entry | None) -> None:
    """Put the adapter of a result to use, where the check did not do so by itself."""
    if entry is None:
        raise NearlError(GONE)
    shelf.use(engine, workspace, entry.id)


def measured(run: RunView | None) -> RunView:
    """The same run, where it has results. NearlError where there is none or nothing was measured."""
    if run is None:
        raise NearlError(
            "The images behind these figures are not here: the adapter was not taught in Teach on this page."
        )
    if run.rows is None:
        raise NearlError("There is no result yet; teach first.")
    return run


# ---- its results


@dataclass(frozen=True)
class Cell:
    """The images behind one number of a result, and the one of them that is on show."""

    truth: str
    """Their class, or what is true of a finding."""
    said: str
    """The class as which they were read, or what is said of a finding."""
    when: str
    """BEFORE or AFTER teaching."""
    rows: list[dict]
    """What the result says of each of them."""
    row: int
    """The place of the image on show in the result."""
    class_name: str
    """The class, or finding, whose map is on show."""
    map_when: str
    """The moment of that map; "" for none."""


def cell(run: RunView, pressed: Press) -> Cell:
    """What was pressed: a number (CELL), a mistake or an image of a cell (ROW), or a map of it (MAP). Of findings,
    which have no cells, a wrong answer alone."""
    if "findings" in run.results:
        return _wrong_answer(run, pressed)
    classes, rows = run.results["classes"], run.rows
    when = BEFORE if pressed.data.get("when") == BEFORE else AFTER
    if "truth" in pressed.data:
        truth, said = pressed.pick("truth", classes), pressed.pick("said", classes)
    else:
        row = pressed.pick("row", rows)
        truth, said = row["truth"], row[when]
    shown = [row for row in rows if row["truth"] == truth and row[when] == said]
    place = pressed.number("row", shown[0]["index"] if shown else 0)
    name = pressed.pick("class", classes) if "class" in pressed.data else said
    moment = "" if pressed.act is Act.CELL else when
    if pressed.act is Act.MAP:
        moment = pressed.one_of("map", MOMENTS)
    return Cell(truth, said, when, shown, place, name, moment)


def _wrong_answer(run: RunView, pressed: Press) -> Cell:
    from nearl.measure.findings import mistakes

    row = pressed.number("row")
    found = next((one for one in mistakes(run.rows, run.results) if one.row["index"] == row), None)
    if found is None:
        raise NearlError(GONE)
    moment = pressed.one_of("map", MOMENTS) if pressed.act is Act.MAP else AFTER
    return Cell(*found.words, AFTER, [found.row], row, found.finding, moment)


def row_record(run: RunView, row: int) -> ImageRecord:
    """The image of a row, while it is still among those that were brought. NearlError afterwards."""
    stored, support = run.numbered_rows or [], run.workspace.support
    if not 0 <= row < len(stored):
        raise NearlError("There is no such image in this result; reload the page.")
    digest = run.digest(stored[row]["file"])
    for data in (support.held_out, support.data):
        for record in data.records if data is not None else ():
            if record.digest == digest:
                return record
    raise NearlError("This image was removed since; bring it again to see it.")


def row_map(engine: Engine, run: RunView, row: int, class_name: str, adapted: bool) -> tuple[str | None, str]:
    """(data address of the map's layer or None, what it shows in words) of one image, with the run's own adapter."""
    record = row_record(run, row)
    from nearl.explain import gradcam, heat_layer
    from nearl.methods import restore
    from nearl.reading.classifier import Classifier

    adapter = run.folder.outcome().adapter
    backbone = engine.models.get(engine.home(run.workspace, adapter.meta["backbone"]))
    prompt_set = PromptSet.from_dict(adapter.meta["prompts"])
    if class_name not in prompt_set.classes:
        raise NearlError("There is no such class in this result; reload the page.")
    with engine.device_lock:
        classifier = Classifier(backbone, prompt_set, restore(backbone, adapter))
        heatmap = gradcam(classifier, record, list(prompt_set.classes).index(class_name), adapted=adapted)
    moment = f"{AFTER if adapted else BEFORE} teaching"
    if not heatmap.values.any():
        return None, f"No part of the image supports “{class_name}”, {moment}: the map is empty"
    return views.data_uri(heat_layer(heatmap)), f"Where it looked for “{class_name}”, {moment}"


def report_file(
    workspace: Workspace,
    run: RunView | None,
    entry: Entry | None,
    kind: str,
    names: bool = False,
    pictures: bool = False,
) -> Path:
    """A result as a file to download, of a kind in REPORTS; without `names` images are called by numbers, and only
    with `pictures` are mistakes shown."""
    from nearl import report

    content = report_of(workspace, run, entry)
    if kind == "csv" and not content.rows:
        raise NearlError("There are no predictions of single images with this adapter; take the report instead.")
    if pictures and run is not None:
        content.picture = lambda row: _picture(run, row["index"])
    path = workspace.download(f"nearl-{'predictions' if kind == 'csv' else 'report'}.{kind}")
    if kind == "pdf":
        report.pdf(content, path)
    elif kind == "csv":
        path.write_text(report.csv(content.rows, names=names), encoding="utf-8-sig")
    else:
        path.write_text(report.html(content, names=names), encoding="utf-8")
    return path


def _picture(run: RunView, row: int) -> Image.Image | None:
    """The image of a row, None where it was removed since."""
    try:
        return row_record(run, row).image()
    except NearlError:
        return None
