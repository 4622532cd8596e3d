"""The Teach tab: labelled images, words, how to teach and the shelf of adapters at the left; the run and its result at
the right. The run belongs to the workspace: a page that comes back, or a second one, finds it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from app.context import DEVICE, QUIET, Context, away, seen
from app.html import views
from app.predict import actions as reading
from app.predict import tab as predict
from app.teach import actions as teaching
from app.teach import adapters, images, publish, run
from app.teach import shelf_actions as adapting
from app.teach.parts import Controls, Pressed
from app.visitor import uploads
from app.visitor.workspace import Workspace

# After a file was put into the hidden button, press it.
DOWNLOAD = """() => {
  if (!["download", "report"].includes(document.body.dataset.act)) return;
  const button = document.querySelector("#slot");
  setTimeout(() => (button.matches("button, a") ? button : button.querySelector("button, a")).click(), 100);
}"""
SHOW_PROGRESS = "() => { document.getElementById('progress').scrollIntoView({ block: 'nearest' }); }"
SHOW_CELL = "() => { document.querySelector('#cell section, #cell .note')?.scrollIntoView({ block: 'nearest' }); }"


@dataclass
class TeachTab:
    images: images.ImagesPart
    controls: Controls
    run: run.RunPart
    shelf: adapters.ShelfPart

    @property
    def outputs(self) -> list:
        return [*self.images.outputs, *self.run.outputs, *self.shelf.outputs]


def build(ctx: Context, predict_tab: predict.PredictTab, tab_item: gr.Tab, opened: gr.events.Dependency) -> TeachTab:
    """The tab in `tab_item`. `opened`: the event of a page that opens, after which the session is known."""
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=1):
            gr.HTML(views.section("1. Images to learn from"), js_on_load=None)
            sources, found = images.build_sources()
            with gr.Column(elem_classes=away()) as words:
                gr.HTML(views.section("2. The classes, in your words"), js_on_load=None)
                editor = images.build_editor()
                gr.HTML(views.section("3. Teach"), js_on_load=None)
                controls = run.build_controls()
                buttons = run.build_buttons()
            with gr.Column(elem_classes="own-adapters"):
                shelf_part = adapters.build()
                published = publish.build() if publish.offered() else None
        with gr.Column(elem_classes="right", min_width=280, scale=1):
            result = run.build_result()
    tab = TeachTab(
        images.ImagesPart(editor=editor, words=words, **found), controls, run.RunPart(**buttons, **result), shelf_part
    )
    images.wire(ctx, tab.images, sources, controls)
    _wire_run(ctx, tab, predict_tab)
    _wire_shelf(ctx, tab, predict_tab)
    _wire_return(ctx, tab, predict_tab, tab_item, opened)
    if published:
        _wire_publish(ctx, tab, predict_tab, published, opened)
    return tab


def _wire_run(ctx: Context, tab: TeachTab, predict_tab: predict.PredictTab) -> None:
    session, part = ctx.session, tab.run
    outputs = [session, *tab.outputs, *predict_tab.outputs]

    def on_teach(key: str, value: dict, *values) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        before = workspace.shelf.in_use
        yield {session: workspace.id}
        yield from run.start(ctx, part, workspace, value, values)
        yield adapters.show(tab.shelf, workspace)
        if workspace.shelf.in_use != before:
            yield from predict.show_adapter(ctx, predict_tab, workspace)

    def on_cancel(key: str) -> dict:
        going_on = teaching.current(ctx.workspace(key))
        if going_on is not None:
            going_on.cancel()
        return {part.cancel: seen(False)}

    def on_cell(key: str, event: gr.EventData) -> dict:
        return run.cell(ctx, part, ctx.workspace(key), Pressed.of(event))

    def on_report(key: str, event: gr.EventData) -> dict:
        try:
            return {part.slot: run.report(ctx.workspace(key), Pressed.of(event))}
        except Exception as error:
            return {part.cell: views.message(reading.sentence(error), "error"), part.slot: None}

    def on_details(key: str, event: gr.EventData) -> dict:
        report = Pressed.of(event).act == "report"
        return on_report(key, event) if report else on_cell(key, event)

    inputs = [session, tab.images.editor, *tab.controls.outputs]
    part.teach.click(on_teach, inputs, outputs, concurrency_limit=None, **QUIET)
    part.teach.click(None, js=SHOW_PROGRESS, api_visibility="private")
    part.cancel.click(on_cancel, session, [part.cancel], concurrency_limit=None, **QUIET)
    for shown in (part.progress, part.cell):
        shown.click(on_cell, session, [part.cell], **DEVICE).then(None, js=SHOW_CELL, api_visibility="private")
    event = part.details.click(on_details, session, [part.cell, part.slot], **DEVICE)
    event.then(None, js=DOWNLOAD, api_visibility="private").then(None, js=SHOW_CELL, api_visibility="private")


def _wire_shelf(ctx: Context, tab: TeachTab, predict_tab: predict.PredictTab) -> None:
    session, part = ctx.session, tab.shelf
    outputs = [session, *tab.outputs, *predict_tab.outputs]

    def shown(workspace: Workspace, message: str = "") -> dict:
        return {**adapters.show(part, workspace, message), **run.show(tab.run, workspace)}

    def on_shelf(key: str, event: gr.EventData) -> Iterator[dict]:
        workspace, pressed = ctx.workspace(key), Pressed.of(event)
        try:
            if pressed.act == "compare":
                yield {part.comparison: adapters.compare(ctx, workspace, pressed), part.message: ""}
                return
            if pressed.act == "download":
                item = pressed.pick("item", workspace.shelf.items())
                yield {tab.run.slot: str(adapting.zip_file(workspace, item.id)), part.message: ""}
                return
            other = adapters.do(ctx, workspace, pressed)
        except Exception as error:
            words = views.message(reading.sentence(error), "error")
            yield {**adapters.show(part, workspace, words), tab.run.slot: None}
            return
        yield shown(workspace)
        if other:
            yield from predict.show_adapter(ctx, predict_tab, workspace)

    def on_upload(key: str, path: str | None) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        try:
            adapting.use(ctx.engine, workspace, adapting.add(ctx.engine, workspace, path))
        except Exception as error:
            yield {part.message: views.message(reading.sentence(error), "error"), part.upload: None}
            return
        finally:
            uploads.forget([path] if path else [])
        yield {session: workspace.id, **shown(workspace), part.upload: None}
        yield from predict.show_adapter(ctx, predict_tab, workspace)

    part.shelf.click(on_shelf, session, outputs, **DEVICE).then(None, js=DOWNLOAD, api_visibility="private")
    part.comparison.click(lambda: "", None, part.comparison, **QUIET)
    part.upload.upload(on_upload, [session, part.upload], outputs, **DEVICE)


def _wire_publish(
    ctx: Context,
    tab: TeachTab,
    predict_tab: predict.PredictTab,
    part: publish.PublishPart,
    opened: gr.events.Dependency,
) -> None:
    def fetched(workspace: Workspace) -> Iterator[dict]:
        yield {**adapters.show(tab.shelf, workspace), **run.show(tab.run, workspace)}
        yield from predict.show_adapter(ctx, predict_tab, workspace)

    publish.wire(ctx, part, fetched, [*tab.outputs, *predict_tab.outputs], opened)


def _wire_return(
    ctx: Context, tab: TeachTab, predict_tab: predict.PredictTab, tab_item: gr.Tab, opened: gr.events.Dependency
) -> None:
    """A page that is loaded again, or a second one, shows the workspace as it is and goes on watching its run."""
    outputs = [*tab.outputs, *predict_tab.outputs]

    def on_open(key: str, *values) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        before = workspace.shelf.in_use
        yield {**images.show(tab.images, workspace, values), **adapters.show(tab.shelf, workspace)}
        if workspace.viewing.page_shown() or before:
            yield from predict.show_adapter(ctx, predict_tab, workspace)
        yield from follow(workspace, before)

    def on_select(key: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        yield {**run.show(tab.run, workspace), **adapters.show(tab.shelf, workspace)}
        if workspace.busy:
            yield from follow(workspace, workspace.shelf.in_use)

    def follow(workspace: Workspace, before: str | None) -> Iterator[dict]:
        yield from run.watch(tab.run, workspace)
        yield adapters.show(tab.shelf, workspace)
        if workspace.shelf.in_use != before:
            yield from predict.show_adapter(ctx, predict_tab, workspace)

    opened.then(on_open, [ctx.session, *tab.controls.outputs], outputs, concurrency_limit=None, **QUIET)
    tab_item.select(on_select, ctx.session, outputs, concurrency_limit=None, trigger_mode="once", **QUIET)
