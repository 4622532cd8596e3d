"""The Predict tab: the image at the left, its reading and the prompts at the right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gradio as gr

from app.context import (
    DECODE,
    DEVICE,
    MAP_CONTROLS,
    QUIET,
    SET_STRENGTH,
    Context,
    away,
    calls,
    mark_prompts,
    prompt_editor,
    seen,
)
from app.events import INPUT, Components, Opening, Press, bump, guarded
from app.examples import Example, example_list
from app.html import render, views
from app.predict import actions as reading
from app.predict import findings
from app.predict import html as predict_views
from app.predict.actions import AFTER, BEFORE, OFF, MapChoice
from app.predict.scan import tab as scan
from app.predict.scan.tab import ScanPart
from app.predict.study import tab as study
from app.visitor import uploads
from app.visitor.workspace import Workspace
from nearl.backbones.catalogue import own_windows
from nearl.errors import NearlError
from nearl.resources import ASSETS

MARK_STALE = "() => document.getElementById('reading')?.classList.add('stale')"
CAME = "() => nearl.came('viewer')"
MARK_FRESH = "() => nearl.fresh()"
SHOW_VIEWER = "() => window.scrollTo(0, 0)"
SHOW_READING = """() => {  // unless it is looked at already: then somebody may be about to press something there
  const reading = document.getElementById("reading"), { top, bottom } = reading.getBoundingClientRect();
  const seen = Math.min(bottom, innerHeight) - Math.max(top, 0);
  if (!document.querySelector("#predict-message .error") && seen < Math.min(bottom - top, innerHeight / 3))
    reading.scrollIntoView({ block: "nearest" });
}"""
ACCEPTED = "Your images: PNG, JPEG, TIFF, DICOM, NIfTI, or a zip"
NOT_READ = "The image has not been read with what is in use now: press “Read the image”."
RECOGNISING = "Finding out what kind of image this is."
CONFIRM = "These images show no names, dates or faces, and I may share them"


@dataclass
class PredictTab(Components):
    """The tab's components, by what they show."""

    viewer: gr.HTML
    controls: gr.Column
    when: gr.Radio
    about: gr.Radio
    filmstrip: gr.HTML
    problems: gr.HTML
    message: gr.HTML
    reading: gr.HTML
    table: gr.HTML
    editor: gr.HTML
    upload: gr.File
    examples: gr.HTML = field(metadata=INPUT)
    button: gr.Button = field(metadata=INPUT)
    scan: ScanPart
    report: study.ReportPart


def build(ctx: Context, opened: Opening) -> None:
    """The tab. `opened`: the event of a page that opens, after which the session is known."""
    examples = example_list(ASSETS)
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=11):
            problems = gr.HTML("", js_on_load=None, elem_id="predict-problems")
            with gr.Column(elem_classes="lightbox"):
                viewer = gr.HTML(views.viewer_empty(), js_on_load=None, elem_id="viewer")
                scan_controls = scan.build()
                with gr.Column(elem_classes=away(MAP_CONTROLS)) as controls:
                    with gr.Row():
                        when = gr.Radio(
                            [("No map", OFF)], value=OFF, label="Where it looked", scale=3, elem_id="map-when"
                        )
                        about = gr.Radio([], label="for the class", scale=2, elem_id="map-class")
                    strength = gr.Slider(
                        0, 100, 55, step=1, label="Strength of the map, per cent", elem_id="map-strength", buttons=[]
                    )
                filmstrip = gr.HTML("", js_on_load=calls("pick.js"), elem_id="filmstrip")
            with gr.Column(elem_classes="sources"):
                public = bool(os.environ.get("SPACE_ID"))
                confirmed = gr.Checkbox(label=CONFIRM, value=not public, visible=public, elem_id="upload-confirm")
                upload = gr.File(label=ACCEPTED, file_count="multiple", elem_id="upload", height=120)
                gr.HTML(render("predict/check_list.html"), js_on_load=None)
                thumbs = [(e.thumb, f"{e.label}, synthetic" if e.synthetic else e.label) for e in examples]
                gr.HTML(views.section("Examples", "Real and synthetic"), js_on_load=None, elem_id="examples-head")
                shelf = gr.HTML(
                    views.strip(thumbs, -1, "Examples, real ones first"),
                    js_on_load=calls("pick.js"), elem_id="examples",
                )  # fmt: skip
        with gr.Column(elem_classes="right", min_width=280, scale=9):
            result = gr.HTML(predict_views.reading_empty(False), js_on_load=calls("pick.js"), elem_id="reading")
            report = study.build(ctx)
            table = gr.HTML("", js_on_load=None, elem_id="reading-table")
            gr.HTML(views.section("Classes and prompts"), js_on_load=None)
            with gr.Column():
                editor = prompt_editor("predict", ctx.default_prompts, ctx.ready_prompts, beside=ctx.beside)
                editor.input(None, js=MARK_STALE, api_visibility="private")
                mark_prompts(ctx, editor)
            with gr.Column(elem_classes="action"):
                message = gr.HTML("", js_on_load=None, elem_id="predict-message")
                button = gr.Button("Read the image", variant="primary", elem_id="read")
    tab = PredictTab(
        viewer, controls, when, about, filmstrip, problems, message, result, table, editor, upload, shelf, button,
        scan_controls, report,
    )  # fmt: skip
    strength.input(None, strength, None, js=SET_STRENGTH, api_visibility="private")
    _wire_images(ctx, tab, examples, confirmed)
    _wire_map(ctx, tab)
    _wire_scan(ctx, tab)
    _wire_return(ctx, tab, opened)


def _show(tab: PredictTab, workspace: Workspace) -> dict:
    """Everything the tab shows of a workspace but a map, as updates by component; all of one moment."""
    with workspace.lock:
        return _shown(tab, workspace)


def _shown(tab: PredictTab, workspace: Workspace) -> dict:
    return {
        tab.viewer: predict_views.viewer_html(workspace),
        tab.controls: seen(workspace.viewing.prediction is not None, MAP_CONTROLS),
        tab.filmstrip: predict_views.filmstrip_html(workspace),
        tab.problems: predict_views.problems_html(workspace),
        tab.message: "",
        tab.reading: predict_views.reading_html(workspace),
        tab.table: predict_views.table_html(workspace),
        **scan.show(tab.scan, workspace),
        **study.show(tab.report, workspace),
    }


def _map_choices(tab: PredictTab, workspace: Workspace, choice: MapChoice) -> tuple[MapChoice, dict]:
    """The map that can be shown now, as near as possible to the one chosen, and the radios that offer it."""
    with workspace.lock:
        prediction = workspace.viewing.prediction
        if prediction is None:
            return MapChoice(), {}
        name, names = reading.shown_class(workspace), findings.offered(workspace)
    whens = [("No map", OFF), ("Before teaching", BEFORE)]
    if prediction.adapted is not None:
        whens.append(("After teaching", AFTER))
    when = choice.when if choice.when in dict(whens).values() else BEFORE
    updates = {
        tab.when: gr.update(choices=whens, value=when),
        tab.about: gr.update(choices=names, value=name),
    }
    return MapChoice(when, name), updates


def _mapped(ctx: Context, tab: PredictTab, workspace: Workspace, choice: MapChoice, of: tuple) -> Iterator[dict]:
    """The image, said to be waiting for its map, then with it, or without where that fails; nothing where another one,
    or another reading, has taken the place of `of` (`reading.on_show`) meanwhile: its own event shows that."""
    same = lambda: all(now is then for now, then in zip(reading.on_show(workspace), of, strict=True))  # noqa: E731
    if not same():
        return
    if words := reading.awaited(workspace, choice):
        yield {tab.viewer: predict_views.viewer_html(workspace, (None, words))}
    try:
        layer = reading.map_layer(ctx.engine, workspace, choice)
    except Exception:
        yield {tab.viewer: predict_views.viewer_html(workspace)}  # which no longer waits for it
        raise
    shown = {tab.viewer: predict_views.viewer_html(workspace, layer)}
    if same():
        yield shown


def _read(ctx: Context, tab: PredictTab, workspace: Workspace, value: dict | None, choice: MapChoice) -> Iterator[dict]:
    """Read the images and show first the reading, then the map, which takes longer."""
    if workspace.viewing.records and workspace.viewing.prediction is None:
        yield {tab.reading: predict_views.reading_busy(ctx.engine.state(workspace) == "loading")}
    reading.read(ctx.engine, workspace, value)
    of = reading.on_show(workspace)
    choice, updates = _map_choices(tab, workspace, choice)
    shown = _show(tab, workspace)
    for control in tab.scan.looks.values():  # one that was moved meanwhile is not set back
        shown.pop(control, None)
    yield {**shown, **updates}
    if choice.when != OFF:
        yield from _mapped(ctx, tab, workspace, choice, of)


def _read_new(
    ctx: Context, tab: PredictTab, workspace: Workspace, value: dict | None, choice: MapChoice
) -> Iterator[dict]:
    """What is shown of images that were just brought: their reading where the classes fit, else what kind they are of.
    Classes of other images are never asked about without a word."""
    if reading.recognisable(ctx.engine, workspace):
        yield {tab.reading: predict_views.reading_busy(False, RECOGNISING)}
    found, asked = reading.recognise(ctx.engine, workspace, value), workspace.viewing.prompts is not None
    redrawn = found is not None or (workspace.viewing.records and own_windows(ctx.engine.chosen(workspace)))
    if redrawn and workspace.viewing.record.scan is not None:
        yield _show(tab, workspace)  # in another window, maybe
    if workspace.viewing.records and asked and (found is None or found.fits):
        yield from _read(ctx, tab, workspace, value, choice)
    elif found is not None:
        yield _show(tab, workspace)
    elif reading.fitting(ctx.engine, workspace, value):
        yield {tab.reading: predict_views.reading_html(workspace)}


# ---- events


def _wire_images(ctx: Context, tab: PredictTab, examples: list[Example], confirmed: gr.Checkbox) -> None:
    """Bring images, read them, and choose one."""
    session, outputs = ctx.session, [ctx.session, *tab.outputs]

    def without_message(key: str, *_) -> dict:
        return {session: ctx.workspace(key).id, tab.upload: None, **_show(tab, ctx.workspace(key))}

    def reading_alone(key: str, *_) -> dict:
        return {tab.reading: predict_views.reading_html(ctx.workspace(key))}

    @guarded(tab.problems, without_message)
    def on_upload(key: str, paths: list[str] | None, sure: bool, value: dict, when: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        try:
            if not sure:
                raise NearlError(f"Nothing was read: first tick “{CONFIRM}”, then bring the images again.")
            new = reading.bring(workspace, paths or [], stay=True)
        finally:
            uploads.forget(paths or [])
        left_out = {tab.problems: predict_views.problems_html(workspace)}
        yield {session: workspace.id, tab.upload: None, **(_show(tab, workspace) if new else left_out)}
        if new:
            yield from _read_new(ctx, tab, workspace, value, MapChoice(when))

    @guarded(tab.problems, without_message)
    def on_example(key: str, when: str, event: gr.EventData) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        example = Press.of(event).pick("pick", examples)
        prompts = workspace.viewing.prompts if workspace.shelf.adapter is not None else None
        value = example.prompts if prompts is None else prompts.to_dict()
        yield {tab.editor: value, tab.upload: None}  # once, so that an edit made while it is read stays
        reading.bring(workspace, [example.path], example.synthetic, example.credit)
        reading.recognise(ctx.engine, workspace, value)  # of a scan, the view
        yield {session: workspace.id, **_show(tab, workspace)}
        yield from _read(ctx, tab, workspace, value, MapChoice(BEFORE if when == OFF else when))

    def asked(workspace: Workspace, value: dict, when: str) -> Iterator[dict]:
        """Read; the first time with a map, which can be turned off."""
        first = workspace.viewing.prediction is None
        yield from _read(ctx, tab, workspace, value, MapChoice(BEFORE if first and when == OFF else when))

    @guarded(tab.message, reading_alone)
    def on_read(key: str, value: dict, when: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        yield {session: workspace.id}
        yield from asked(workspace, value, when)

    @guarded(tab.message, reading_alone)
    def on_closer(key: str, when: str, event: gr.EventData) -> Iterator[dict]:
        """Read with the ready set that the note beside the reading offered."""
        value = ctx.ready_prompts[Press.of(event).one_of("pick", list(ctx.ready_prompts))]
        yield {tab.editor: value}
        yield from asked(ctx.workspace(key), value, when)

    @guarded(tab.message)
    def on_pick(key: str, value: dict, when: str, event: gr.EventData) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        workspace.viewing.select(Press.of(event).number("pick"))
        reading.recognise_shown(ctx.engine, workspace)
        of, (choice, updates) = reading.on_show(workspace), _map_choices(tab, workspace, MapChoice(when))
        yield {**_show(tab, workspace), **updates}
        yield from _mapped(ctx, tab, workspace, choice, of)
        if reading.fitting(ctx.engine, workspace, value):
            yield {tab.reading: predict_views.reading_html(workspace)}

    def wire(trigger: Callable, fn: Callable, inputs: list, lane: dict = DEVICE) -> gr.events.Dependency:
        return trigger(fn, [session, *inputs], outputs, trigger_mode="always_last", **lane)

    for trigger in (tab.examples.click, tab.upload.upload):  # first, since the page begins an event at another's end
        trigger(None, js=SHOW_VIEWER, api_visibility="private")
    for event in (
        wire(tab.upload.upload, on_upload, [tab.upload, confirmed, tab.editor, tab.when], DECODE),
        wire(tab.examples.click, on_example, [tab.when]),
        wire(tab.reading.click, on_closer, [tab.when]),
    ):
        event.then(None, js=MARK_FRESH, api_visibility="private")
    for trigger in (tab.button.click, tab.editor.submit):
        event = wire(trigger, on_read, [tab.editor, tab.when]).then(None, js=MARK_FRESH, api_visibility="private")
        event.then(None, js=SHOW_READING, api_visibility="private")
    wire(tab.filmstrip.click, on_pick, [tab.editor, tab.when]).then(None, js=CAME, api_visibility="private")


def _wire_map(ctx: Context, tab: PredictTab) -> None:
    """Lay a map of another class, or of another moment, over the image. One event draws both, so that of two quick
    choices the last is on show."""
    asked = gr.State(0)  # changes when a class was chosen

    @guarded(tab.message)
    def on_map(key: str, when: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        with workspace.lock:
            if workspace.viewing.prediction is None:  # other images, or another page has put another adapter to use
                yield {tab.message: views.message(NOT_READ)}
                return
            of, choice = reading.on_show(workspace), MapChoice(when, reading.shown_class(workspace))
        yield from _mapped(ctx, tab, workspace, choice, of)

    @guarded(tab.message)
    def on_class(key: str, about: str) -> dict:
        ctx.workspace(key).maps.pick(about or "")
        return {asked: bump()}

    drawn, last = [tab.viewer, tab.message], {"trigger_mode": "always_last"}
    tab.about.input(on_class, [ctx.session, tab.about], [asked, tab.message], **last, **QUIET)
    gr.on([tab.when.input, asked.change], on_map, [ctx.session, tab.when], drawn, **last, **DEVICE)


def _wire_scan(ctx: Context, tab: PredictTab) -> None:
    """Read and map a scan that is drawn in another way."""

    def drawn_again(workspace: Workspace, when: str, about: str, follow: list) -> Iterator[dict]:
        """First the image and the controls that follow, then what the model says of it, then the map.

        Again where the scan was changed meanwhile: what two events draw may reach the page in either order.
        """
        drawn, choice = None, MapChoice(when, about)
        while drawn is not workspace.viewing.record:
            drawn = workspace.viewing.record
            now = scan.show(tab.scan, workspace, about)
            yield {tab.viewer: predict_views.viewer_html(workspace), **{c: now[c] for c in follow if c in now}}
            if workspace.viewing.prediction is None:
                continue
            reading.read(ctx.engine, workspace, workspace.viewing.prompts.to_dict(), drawn)
            of = reading.on_show(workspace)
            if of[0] is not drawn or of[1] is None:
                continue
            yield {
                tab.reading: predict_views.reading_html(workspace),
                tab.table: predict_views.table_html(workspace),
                tab.scan.curve: scan.below(workspace, about),
            }
            if choice.when != OFF:
                name = reading.shown_class(workspace)
                for layer in _mapped(ctx, tab, workspace, MapChoice(when, name), of):
                    yield {tab.about: gr.update(value=name), **layer}

    outputs = [tab.viewer, tab.about, tab.reading, tab.table, tab.message, *tab.scan.outputs]
    scan.wire(ctx, tab.scan, (tab.when, tab.about), tab.message, drawn_again, outputs)


def _wire_return(ctx: Context, tab: PredictTab, opened: Opening) -> None:
    """The images are read again when another adapter is in use, and shown again on a page that is reloaded."""

    def again(workspace: Workspace) -> Iterator[dict]:
        prompts = workspace.viewing.prompts
        value = ctx.default_prompts if prompts is None else prompts.to_dict()
        yield {tab.editor: value, **_show(tab, workspace)}
        if workspace.viewing.records and prompts is not None:
            yield from _read(ctx, tab, workspace, value, MapChoice(AFTER))

    @guarded(tab.message)
    def on_changed(key: str, known: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        if (reads := reading.reads_with(ctx.engine, workspace)) != known:  # else only the shelf has changed, or prompts
            yield {shown: reads}
            yield from again(workspace)

    @guarded(tab.message)
    def on_open(key: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        yield {shown: reading.reads_with(ctx.engine, workspace)}
        if workspace.viewing.page_shown() or workspace.shelf.in_use:
            yield from again(workspace)

    shown = gr.State("")  # what this page was last read with
    outputs = [shown, *tab.outputs]
    ctx.changed.change(on_changed, [ctx.session, shown], outputs, trigger_mode="always_last", **DEVICE)
    opened.then(on_open, ctx.session, outputs, **DEVICE)
