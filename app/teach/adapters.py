"""The shelf of the Teach tab: the visitor's adapters, what can be done with them, and two on the same image."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.context import Context, asset_text
from app.html import views
from app.teach import html as teach_views
from app.teach import shelf_actions as adapting
from app.teach.parts import Parts, Pressed
from app.visitor.workspace import Workspace
from nearl.errors import NearlError

ABOUT = "An adapter is what the model learned from your images, in one small file; it holds no image."


@dataclass
class ShelfPart(Parts):
    """What shows the shelf."""

    message: gr.HTML
    shelf: gr.HTML
    comparison: gr.HTML
    upload: gr.File


def build() -> ShelfPart:
    gr.HTML(views.section("Your adapters"), js_on_load=None)
    gr.HTML(views.quiet(ABOUT), js_on_load=None)
    message = gr.HTML("", js_on_load=None, elem_id="shelf-message")
    items = gr.HTML(teach_views.shelf([]), js_on_load=asset_text("act.js"), elem_id="shelf")
    comparison = gr.HTML("", js_on_load=asset_text("act.js"), elem_id="comparison")
    upload = gr.File(
        label="Put an adapter from a file on the shelf (zip)", file_count="single", height=96, elem_id="adapter-upload"
    )
    return ShelfPart(message, items, comparison, upload)


def show(part: ShelfPart, workspace: Workspace, message: str = "") -> dict:
    return {part.shelf: teach_views.shelf(workspace.shelf.items()), part.message: message}


def do(ctx: Context, workspace: Workspace, pressed: Pressed) -> bool:
    """What was pressed on the shelf; whether another adapter is in use now. NearlError with one sentence."""
    item = pressed.pick("item", workspace.shelf.items())
    if pressed.act in ("use", "stop"):
        adapting.use(ctx.engine, workspace, item.id if pressed.act == "use" else None)
    elif pressed.act == "rename":
        workspace.shelf.rename(item.id, pressed.to)
    elif pressed.act == "delete":
        workspace.shelf.delete(item.id)
        return item.in_use
    return pressed.act in ("use", "stop")


def compare(ctx: Context, workspace: Workspace, pressed: Pressed) -> str:
    """The two ticked adapters on the image that is on show in Predict."""
    items = workspace.shelf.items()
    chosen = [items[i] for i in pressed.ticked if 0 <= i < len(items)]
    if len(chosen) != 2:
        raise NearlError(f"To compare, tick two adapters; now {len(chosen) or 'none'} of them are ticked.")
    columns = adapting.compare(ctx.engine, workspace, [item.id for item in chosen])
    record = workspace.viewing.record
    return teach_views.comparison(views.data_uri(record.image(), 320), record.name, columns)
