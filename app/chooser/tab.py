"""The models that the page offers, below its head: what each is, and a button to read with it. With one model alone
there is no such part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from app.chooser import actions as choosing
from app.chooser import html as chooser_views
from app.context import QUIET, Context, away, calls, seen
from app.engine import FALLBACK, Engine
from app.events import GONE, Act, Components, Opening, Press, bump, guarded
from app.html import views
from app.models.memory import label
from app.visitor.workspace import Workspace
from app.work import lanes
from nearl.errors import NearlError

TICK_SECONDS = 0.5
INTRO = (
    "You read, teach and compare with one of them at a time; other visitors have a choice of their own. An adapter "
    "belongs to the model that it was taught on."
)
PUT_ASIDE = (
    "The adapter “{}” belongs to the model before, so it was put aside: put it back here, or find it on your shelf in "
    "Teach."
)
TELL_EDITORS = """() => {  // which measured figures may be said beside the ready sets
  document.querySelectorAll(".pe-root").forEach((root) => root.dispatchEvent(new Event("model", { bubbles: true })));
}"""


@dataclass
class Chooser(Components):
    """The components of the part."""

    message: gr.HTML
    progress: gr.HTML
    cancel: gr.Button
    offers: gr.HTML
    timer: gr.Timer  # ticks while this visitor waits for a download


def header(engine: Engine, workspace: Workspace | None = None) -> str:
    """The strip at the top of the page, with the visitor's model."""
    measured = not engine.models.several or engine.chosen(workspace) == FALLBACK
    return views.header(engine.label(workspace), engine.state(workspace), engine.notice, measured, _aside(workspace))


def build(engine: Engine) -> Chooser:
    """The part, for more than one model."""
    words = f"Models: choose among {len(engine.models.names)}"
    with gr.Accordion(words, open=False, elem_classes="folded", elem_id="models"):
        gr.HTML(views.quiet(INTRO), js_on_load=None)
        message = gr.HTML("", js_on_load=None, elem_id="models-message")
        progress = gr.HTML("", js_on_load=None, elem_id="models-progress")
        with gr.Row(elem_classes="questions"):
            cancel = gr.Button("Cancel the download", size="md", elem_classes=away(), elem_id="models-cancel")
        offers = gr.HTML(_offers(engine), js_on_load=calls("act.js"), elem_id="model-offers")
    return Chooser(message, progress, cancel, offers, gr.Timer(TICK_SECONDS, active=False))


def _offers(engine: Engine, workspace: Workspace | None = None) -> str:
    return chooser_views.offers(choosing.offers(engine, workspace), _aside(workspace))


def _aside(workspace: Workspace | None) -> str:
    """The name of the adapter that was put aside with its model; "" where there is none."""
    entry = choosing.aside(workspace)
    return "" if entry is None else entry.name


def _chosen(workspace: Workspace, said: str = "") -> str:
    """What to say of another model in use: `said`, and that an adapter was put aside."""
    name = _aside(workspace)
    words = " ".join(filter(None, (said, PUT_ASIDE.format(name) if name else "")))
    return views.quiet(words) if words else ""


def _show(ctx: Context, part: Chooser, workspace: Workspace) -> dict:
    """The models, and the download that the visitor waits for."""
    return {part.offers: _offers(ctx.engine, workspace), **_progress(ctx, part, workspace)}


def _progress(ctx: Context, part: Chooser, workspace: Workspace) -> dict:
    found = ctx.engine.downloads.of(workspace)
    if found is None or found.ended:
        return {part.progress: "", part.cancel: seen(False), part.timer: gr.Timer(active=False)}
    html = chooser_views.progress(label(found.name), found.done, found.total, found.arrived)
    return {part.progress: html, part.cancel: seen(not found.arrived), part.timer: gr.Timer(active=True)}


def wire(ctx: Context, part: Chooser, top: gr.HTML, opened: Opening) -> None:
    """`top`: the head of the page, which names the model in use; `opened`: the event of a page that opens."""

    @guarded(part.message, lambda key, *_: _show(ctx, part, ctx.workspace(key)))
    def on_press(key: str, event: gr.EventData) -> Iterator[dict]:
        workspace, pressed = ctx.workspace(key), Press.of(event)
        if pressed.act is not Act.USE:
            raise NearlError(GONE)
        if "aside" in pressed.data:
            choosing.put_back(ctx.engine, workspace)
            yield {ctx.session: workspace.id, ctx.changed: bump(), part.message: ""}
            return
        name = pressed.pick("model", ctx.engine.models.names)
        if name not in ctx.engine.models.kept() and ctx.engine.models.here(name):
            yield {part.message: views.quiet(f"Loading “{label(name)}”.")}
        before = ctx.engine.chosen(workspace)
        choosing.choose(ctx.engine, workspace, name)
        said = _chosen(workspace) if ctx.engine.chosen(workspace) != before else ""
        yield {ctx.session: workspace.id, ctx.changed: bump(), part.message: said}

    @guarded(part.message)
    def on_tick(key: str | None) -> dict:
        workspace = ctx.pages.known(key)
        found = workspace and ctx.engine.downloads.of(workspace)
        if not found:
            return {part.timer: gr.Timer(active=False)}
        if not found.ended:
            return _progress(ctx, part, workspace)
        if found.error:
            return {part.message: views.message(found.error, "error"), **_show(ctx, part, workspace)}
        said = _chosen(workspace, f"“{label(found.name)}” is here now, and you read with it.")
        return {part.message: said, ctx.changed: bump(), **_show(ctx, part, workspace)}

    @guarded(part.message)
    def on_cancel(key: str) -> dict:
        workspace = ctx.workspace(key)
        ctx.engine.downloads.cancel(workspace)
        return {part.message: views.quiet("The download was cancelled."), **_show(ctx, part, workspace)}

    @guarded(part.message)
    def on_changed(key: str) -> dict:
        workspace = ctx.workspace(key)
        return {top: header(ctx.engine, workspace), **_show(ctx, part, workspace)}

    part.offers.click(
        on_press, ctx.session, [ctx.session, ctx.changed, *part.outputs], **QUIET, concurrency_id=lanes.HUB
    )
    part.timer.tick(on_tick, ctx.session, [ctx.changed, *part.outputs], **QUIET)
    part.cancel.click(on_cancel, ctx.session, part.outputs, **QUIET)
    look = {"fn": on_changed, "inputs": ctx.session, "outputs": [top, *part.outputs], **QUIET}
    for event in (ctx.changed.change(trigger_mode="always_last", **look), opened.then(**look)):
        event.then(None, js=TELL_EDITORS, api_visibility="private")
