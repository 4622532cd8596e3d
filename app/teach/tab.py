"""The Teach tab: labelled images, prompts and how to teach at the left; the run, its results and the shelf of adapters
at the right. Each part is a component with the shape of a tab."""

from __future__ import annotations

import gradio as gr

from app.context import Context
from app.events import Opening
from app.html import views
from app.teach.images import tab as images
from app.teach.images.tab import ImagesPart
from app.teach.publish import tab as publish
from app.teach.run import actions as teaching
from app.teach.run import tab as run
from app.teach.run.actions import Choice
from app.teach.run.tab import RunPart
from app.teach.shelf import tab as shelf
from app.visitor.workspace import Workspace
from app.work.run import TEACH

# After a file was put into the hidden button, press it.
DOWNLOAD = """() => {
  if (!["download", "report"].includes(document.body.dataset.act)) return;
  const button = document.querySelector("#slot");
  setTimeout(() => (button.matches("button, a") ? button : button.querySelector("button, a")).click(), 100);
}"""


def build(ctx: Context, tab_item: gr.Tab, opened: Opening) -> None:
    """The tab in `tab_item`. `opened`: the event of a page that opens, after which the session is known."""
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=1):
            images_part = images.build(ctx)
            with images_part.words:
                gr.HTML(views.section("3. Teach"), js_on_load=None)
                controls, advanced = run.build_controls()
                buttons = run.build_buttons()
        with gr.Column(elem_classes="right", min_width=280, scale=1):
            result = run.build_result()
            with gr.Column(elem_classes="own-adapters"):
                shelf_part = shelf.build(ctx.lasts)
                publish_part = publish.build() if publish.offered() else None
            slot = gr.DownloadButton("Download", elem_id="slot", elem_classes="slot")
    run_part, plan = RunPart(**buttons, **result), (controls.hold_out, controls.group_by)
    images.wire(ctx, images_part, plan)
    shown = [*images_part.shown, *run_part.outputs, ctx.badges[TEACH.name]]
    opened.first(lambda workspace: _at_once(ctx, images_part, run_part, workspace), shown)
    settled = run.wire_settings(ctx, run_part, controls, advanced, opened)
    images.wire_return(ctx, images_part, plan, settled)
    run.wire(ctx, run_part, controls, images_part.editor, slot, DOWNLOAD)
    run.wire_return(ctx, run_part, tab_item, opened)
    shelf.wire(ctx, shelf_part, slot, DOWNLOAD)
    shelf.wire_return(ctx, shelf_part, tab_item, opened)
    if publish_part is not None:
        publish.wire(ctx, publish_part, opened)


def _at_once(ctx: Context, images_part: ImagesPart, run_part: RunPart, workspace: Workspace) -> dict:
    """What is known at once when a page is reloaded: the images, unless they have to be read from disk first, and a run
    that is going on."""
    shown = run.at_once(ctx, run_part, workspace)
    if workspace.support.in_memory and workspace.support.data is not None:
        choice = teaching.chosen(workspace) or Choice()
        shown |= images.show(images_part, workspace, images.Plan(choice.hold_out, choice.group_by))
    return shown
