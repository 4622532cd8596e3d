"""The Predict tab: the image at the left, its reading and the prompts at the right."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from app.context import DEVICE, QUIET, Context, asset_text, away, prompt_editor, seen
from app.events import Press, guarded
from app.examples import Example, example_list
from app.html import render, views
from app.predict import actions as reading
from app.predict import html as reading_views
from app.predict import scan
from app.predict.actions import AFTER, BEFORE, OFF, MapChoice
from app.visitor import uploads
from app.visitor.workspace import Workspace
from nearl.errors import NearlError
from nearl.resources import ASSETS

CONTROLS = "map-controls"
MARK_STALE = "() => document.getElementById('reading')?.classList.add('stale')"
MARK_FRESH = """() => {
  if (!document.querySelector("#predict-message .error")) document.getElementById("reading")?.classList.remove("stale");
}"""
SHOW_VIEWER = "() => { if (window.innerWidth <= 720) window.scrollTo(0, 0); }"  # there the shelf moves below it
SHOW_READING = """() => {  // unless it is looked at already: then somebody may be about to press something there
  const reading = document.getElementById("reading"), { top, bottom } = reading.getBoundingClientRect();
  const seen = Math.min(bottom, innerHeight) - Math.max(top, 0);
  if (!document.querySelector("#predict-message .error") && seen < Math.min(bottom - top, innerHeight / 3))
    reading.scrollIntoView({ block: "nearest" });
}"""
ACCEPTED = "Your images: PNG, JPEG, TIFF, DICOM, NIfTI, or a zip"
CONFIRM = "These images show no names, dates or faces, and I may share them"
SET_STRENGTH = "(v) => { document.documentElement.style.setProperty('--map-strength', v / 100); return []; }"


@dataclass
class PredictTab:
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
    examples: gr.HTML
    button: gr.Button
    scan: scan.ScanControls

    @property
    def outputs(self) -> list:
        return [
            self.viewer, self.controls, self.when, self.about, self.filmstrip, self.problems, self.message,
            self.reading, self.table, self.editor, self.upload, *self.scan.outputs,
        ]  # fmt: skip


def build(ctx: Context, opened: gr.events.Dependency) -> None:
    """The tab. `opened`: the event of a page that opens, after which the session is known."""
    examples = example_list(ASSETS)
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=11):
            with gr.Column(elem_classes="lightbox"):
                viewer = gr.HTML(views.viewer_empty(), js_on_load=None, elem_id="viewer")
                scan_controls = scan.build()
                with gr.Column(elem_classes=away(CONTROLS)) as controls:
                    with gr.Row():
                        when = gr.Radio(
                            [("No map", OFF)], value=OFF, label="Where it looked", scale=3, elem_id="map-when"
                        )
                        about = gr.Radio([], label="for the class", scale=2, elem_id="map-class")
                    strength = gr.Slider(
                        0, 100, 55, step=1, label="Strength of the map, per cent", elem_id="map-strength", buttons=[]
                    )
                filmstrip = gr.HTML("", js_on_load=asset_text("pick.js"), elem_id="filmstrip")
            problems = gr.HTML("", js_on_load=None, elem_id="predict-problems")
            with gr.Column(elem_classes="sources"):
                public = bool(os.environ.get("SPACE_ID"))
                confirmed = gr.Checkbox(label=CONFIRM, value=not public, visible=public, elem_id="upload-confirm")
                upload = gr.File(label=ACCEPTED, file_count="multiple", elem_id="upload", height=120)
                gr.HTML(render("predict/check_list.html"), js_on_load=None)
                thumbs = [(e.thumb, e.label) for e in examples]
                gr.HTML(views.section("Examples", "Synthetic"), js_on_load=None)
                shelf = gr.HTML(
                    views.strip(thumbs, -1, "Examples, made up by a program"),
                    js_on_load=asset_text("pick.js"), elem_id="examples",
                )  # fmt: skip
        with gr.Column(elem_classes="right", min_width=280, scale=9):
            result = gr.HTML(reading_views.reading_empty(False), js_on_load=asset_text("pick.js"), elem_id="reading")
            table = gr.HTML("", js_on_load=None, elem_id="reading-table")
            gr.HTML(views.section("Classes, in your words"), js_on_load=None)
            editor = prompt_editor("predict", ctx.default_prompts, ctx.ready_prompts)
            with gr.Column(elem_classes="action"):
                message = gr.HTML("", js_on_load=None, elem_id="predict-message")
                button = gr.Button("Read the image", variant="primary", elem_id="read")
    tab = PredictTab(
        viewer, controls, when, about, filmstrip, problems, message, result, table, editor, upload, shelf, button,
        scan_controls,
    )  # fmt: skip
    strength.input(None, strength, None, js=SET_STRENGTH, api_visibility="private")
    _wire(ctx, tab, examples, confirmed)
    scan.wire(ctx, tab)
    _wire_return(ctx, tab, opened)


def show(tab: PredictTab, workspace: Workspace, layer: tuple[str | None, str] = (None, ""), error: str = "") -> dict:
    """Everything the tab shows of a workspace, as updates by component."""
    ready = workspace.viewing.prediction is not None
    return {
        tab.viewer: reading.viewer_html(workspace, layer),
        tab.controls: seen(ready, CONTROLS),
        tab.filmstrip: reading.filmstrip_html(workspace),
        tab.problems: views.problem_list(workspace.viewing.problems),
        tab.message: views.message(error, "error"),
        tab.reading: reading.reading_html(workspace),
        tab.table: reading.table_html(workspace),
        **scan.show(tab.scan, workspace),
    }


def map_choices(tab: PredictTab, workspace: Workspace, choice: MapChoice) -> tuple[MapChoice, dict]:
    """The map that can be shown now, as near as possible to the one chosen, and the radios that offer it."""
    prediction = workspace.viewing.prediction
    if prediction is None:
        return MapChoice(), {}
    whens = [("No map", OFF), ("Before teaching", BEFORE)]
    if prediction.adapted is not None:
        whens.append(("After teaching", AFTER))
    name = choice.class_name if choice.class_name in prediction.classes else reading.closest(workspace)
    when = choice.when if choice.when in dict(whens).values() else BEFORE
    updates = {
        tab.when: gr.update(choices=whens, value=when),
        tab.about: gr.update(choices=list(prediction.classes), value=name),
    }
    return MapChoice(when, name), updates


def read_and_show(
    ctx: Context, tab: PredictTab, workspace: Workspace, value: dict | None, choice: MapChoice
) -> Iterator[dict]:
    """Read the images and show first the shares, then the map, which takes longer."""
    try:
        if workspace.viewing.records and workspace.viewing.prediction is None:
            yield {tab.reading: reading_views.reading_busy(ctx.engine.state == "loading")}
        reading.read(ctx.engine, workspace, value)
        choice, updates = map_choices(tab, workspace, choice)
        shown = show(tab, workspace)
        for control in tab.scan.choices.values():  # moved meanwhile, it is not set back
            shown.pop(control, None)
        yield {**shown, **updates}
        if choice.when != OFF:
            yield {tab.viewer: reading.viewer_html(workspace, reading.map_layer(ctx.engine, workspace, choice))}
    except Exception as error:
        message = views.message(reading.sentence(error), "error")
        yield {tab.message: message, tab.reading: reading.reading_html(workspace)}


def show_adapter(ctx: Context, tab: PredictTab, workspace: Workspace) -> Iterator[dict]:
    """Show the images that are there, and what the adapter in use, or its absence, does to them."""
    value = workspace.viewing.prompts.to_dict() if workspace.viewing.prompts else ctx.default_prompts
    yield {tab.editor: value, **show(tab, workspace)}
    if workspace.viewing.records and workspace.viewing.prompts is not None:
        yield from read_and_show(ctx, tab, workspace, value, MapChoice(AFTER))


def _wire_return(ctx: Context, tab: PredictTab, opened: gr.events.Dependency) -> None:
    """The images are read again when another adapter is in use, and shown again on a page that is reloaded."""

    @guarded(tab.message)
    def on_adapter(key: str) -> Iterator[dict]:
        yield from show_adapter(ctx, tab, ctx.workspace(key))

    @guarded(tab.message)
    def on_open(key: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        if workspace.state.get("in_use") or workspace.returning:
            workspace.returning = False
            yield from show_adapter(ctx, tab, workspace)

    ctx.changed.change(on_adapter, ctx.session, tab.outputs, trigger_mode="always_last", **DEVICE)
    opened.then(on_open, ctx.session, tab.outputs, concurrency_limit=None, **QUIET)


def _wire(ctx: Context, tab: PredictTab, examples: list[Example], confirmed: gr.Checkbox) -> None:
    session = ctx.session
    chosen = [tab.when, tab.about]

    def on_upload(key: str, paths: list[str] | None, sure: bool, value: dict, when: str, about: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        try:
            for update in _bring(workspace, paths or [], False, value, MapChoice(when, about), sure):
                yield {tab.upload: None, **update}
        finally:
            uploads.forget(paths or [])

    def on_example(key: str, when: str, event: gr.EventData) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        example = Press.of(event).pick("pick", examples)
        value = example.prompts
        if workspace.shelf.adapter is not None and workspace.viewing.prompts is not None:
            value = workspace.viewing.prompts.to_dict()
        yield {tab.editor: value, tab.upload: None}  # once, so that an edit made while it is read stays
        yield from _bring(workspace, [example.path], True, value, MapChoice(BEFORE if when == OFF else when))

    def _bring(
        workspace: Workspace,
        paths: list[str | Path],
        synthetic: bool,
        value: dict,
        choice: MapChoice,
        sure: bool = True,
    ) -> Iterator[dict]:
        try:
            if not sure:
                raise NearlError(f"Nothing was read: first tick “{CONFIRM}”, then bring the images again.")
            reading.bring(workspace, paths, synthetic)
        except Exception as error:
            yield {session: workspace.id, **show(tab, workspace, error=reading.sentence(error))}
            return
        yield {session: workspace.id, **show(tab, workspace)}
        if workspace.viewing.records and (synthetic or workspace.viewing.prompts is not None):
            yield from read_and_show(ctx, tab, workspace, value, choice)

    def on_read(key: str, value: dict, when: str, about: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        first = workspace.viewing.prediction is None
        choice = MapChoice(BEFORE if first and when == OFF else when, about)
        yield {session: workspace.id}
        yield from read_and_show(ctx, tab, workspace, value, choice)

    def on_closer(key: str, when: str, event: gr.EventData) -> Iterator[dict]:
        """Read with the ready set that the note beside the reading offered."""
        value = ctx.ready_prompts[Press.of(event).one_of("pick", list(ctx.ready_prompts))]
        yield {tab.editor: value}
        yield from read_and_show(ctx, tab, ctx.workspace(key), value, MapChoice(when))

    def on_pick(key: str, when: str, about: str, event: gr.EventData) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        workspace.viewing.select(Press.of(event).pick("pick", range(len(workspace.viewing.records))))
        yield show(tab, workspace)
        yield from on_map(key, when, about)

    def on_map(key: str, when: str, about: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        try:
            layer = reading.map_layer(ctx.engine, workspace, MapChoice(when, about))
            yield {tab.viewer: reading.viewer_html(workspace, layer)}
        except Exception as error:
            yield {tab.message: views.message(reading.sentence(error), "error")}

    outputs = [session, *tab.outputs]

    def wire(trigger: Callable, fn: Callable, inputs: list) -> gr.events.Dependency:
        return trigger(fn, [session, *inputs], outputs, trigger_mode="always_last", **DEVICE)

    bring = wire(tab.upload.upload, on_upload, [tab.upload, confirmed, tab.editor, *chosen])
    bring.then(None, js=MARK_FRESH, api_visibility="private")
    wire(tab.examples.click, on_example, [tab.when]).then(None, js=MARK_FRESH, api_visibility="private")
    for trigger in (tab.button.click, tab.editor.submit):
        event = wire(trigger, on_read, [tab.editor, *chosen]).then(None, js=MARK_FRESH, api_visibility="private")
        event.then(None, js=SHOW_READING, api_visibility="private")
    for trigger in (tab.examples.click, tab.upload.upload):
        trigger(None, js=SHOW_VIEWER, api_visibility="private")
    wire(tab.reading.click, on_closer, [tab.when]).then(None, js=MARK_FRESH, api_visibility="private")
    wire(tab.filmstrip.click, on_pick, chosen)
    wire(tab.when.input, on_map, chosen)
    wire(tab.about.input, on_map, chosen)
    tab.editor.input(None, js=MARK_STALE, api_visibility="private")
