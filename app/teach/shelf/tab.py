"""The shelf of the Teach tab: the visitor's adapters, what can be done with them, and two of them on the same image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from app.context import DEVICE, QUIET, Context, calls
from app.events import GONE, Act, Components, Opening, Press, bump, error_html, guarded
from app.html import views
from app.teach.shelf import actions as adapting
from app.teach.shelf import html as shelf_views
from app.visitor import uploads
from app.visitor.workspace import Workspace
from nearl.errors import NearlError

SHOW = """() => {
  const act = document.body.dataset.act;
  if (act === "compare") document.querySelector("#comparison").scrollIntoView({ block: "nearest" });
  if (act === "open") document.querySelector("#progress").scrollIntoView();
}"""
ABOUT = "An adapter is what the model learned from your images, in one small file; it holds no image."

LOST = "This server keeps nothing when it restarts or sleeps: download the adapters that you want to keep."

DELETED = "This adapter is no longer on the shelf."


@dataclass
class ShelfPart(Components):
    """What shows the shelf."""

    message: gr.HTML
    shelf: gr.HTML
    comparison: gr.HTML
    upload: gr.File


def build(lasts: bool) -> ShelfPart:
    """The part. `lasts`: whether the shelf outlives a restart of the server."""
    gr.HTML(views.section("Your adapters") + views.quiet(ABOUT) + views.message("" if lasts else LOST), js_on_load=None)
    message = gr.HTML("", js_on_load=None, elem_id="shelf-message")
    items = gr.HTML(shelf_views.shelf([]), js_on_load=calls("act.js"), elem_id="shelf")
    comparison = gr.HTML("", js_on_load=calls("act.js"), elem_id="comparison")
    upload = gr.File(
        label="Put an adapter from a file on the shelf (zip)", file_count="single", height=96, elem_id="adapter-upload"
    )
    return ShelfPart(message, items, comparison, upload)


def _show(ctx: Context, part: ShelfPart, workspace: Workspace) -> dict:
    shelf, homes = workspace.shelf, adapting.homes(ctx.engine, workspace)
    return {part.shelf: shelf_views.shelf(shelf.items(), shelf.notes(), homes)}


def _there(workspace: Workspace, key: object) -> str:
    """The id of an adapter that was pressed. NearlError where another page has deleted it."""
    entry = workspace.shelf.entry(key)
    if entry is None:
        raise NearlError(DELETED)
    return entry.id


def _comparison(ctx: Context, workspace: Workspace, pressed: Press) -> str:
    """HTML of the two ticked adapters on the image that is on show in Predict."""
    if len(pressed.ticked) != 2:
        raise NearlError(f"To compare, tick two adapters; now {len(pressed.ticked) or 'none'} of them are ticked.")
    columns = adapting.compare(ctx.engine, workspace, pressed.ticked)
    record = workspace.viewing.record
    return shelf_views.comparison(views.data_uri(record.image(), 320), record.name, columns)


def wire(ctx: Context, part: ShelfPart, slot: gr.DownloadButton, download_js: str) -> None:
    """`slot`: the hidden button that a file to download is put into; `download_js` presses it."""
    session = ctx.session

    def with_item(change: Callable[[Workspace, str, Press], None]) -> Callable[[Workspace, Press], dict]:
        """Do `change` with the adapter that was pressed and let every tab show what is there then."""

        def act(workspace: Workspace, pressed: Press) -> dict:
            change(workspace, _there(workspace, pressed.data.get("item")), pressed)
            return {ctx.changed: bump(), part.message: ""}

        return act

    def download(workspace: Workspace, pressed: Press) -> dict:
        key = _there(workspace, pressed.data.get("item"))
        return {slot: str(adapting.zip_file(workspace, key)), part.message: ""}

    def compare(workspace: Workspace, pressed: Press) -> dict:
        """What is wrong is said at the button, and the shelf is left as it is ticked; unless an adapter is gone."""
        for key in pressed.ticked:
            _there(workspace, key)
        try:
            shown = _comparison(ctx, workspace, pressed)
        except NearlError as error:
            shown = error_html(error)
        return {part.comparison: shown, part.message: ""}

    acts = {
        Act.USE: with_item(lambda workspace, key, _: adapting.use(ctx.engine, workspace, key)),
        Act.OPEN: with_item(lambda workspace, key, _: setattr(workspace, "opened", key)),  # `app.teach.run` shows it
        Act.STOP: with_item(lambda workspace, *_: adapting.use(ctx.engine, workspace, None)),
        Act.RENAME: with_item(lambda workspace, key, pressed: workspace.shelf.rename(key, pressed.to)),
        Act.DELETE: with_item(lambda workspace, key, _: adapting.delete(workspace, key)),
        Act.DOWNLOAD: download,
        Act.COMPARE: compare,
    }

    @guarded(part.message, lambda key, *_: {**_show(ctx, part, ctx.workspace(key)), slot: None})
    def on_shelf(key: str, event: gr.EventData) -> dict:
        pressed = Press.of(event)
        if pressed.act not in acts:
            raise NearlError(GONE)
        return acts[pressed.act](ctx.workspace(key), pressed)

    @guarded(part.message, lambda *given: {part.upload: None})
    def on_upload(key: str, path: str | None) -> dict:
        workspace = ctx.workspace(key)
        try:
            said = adapting.take(ctx.engine, workspace, adapting.add(ctx.engine, workspace, path))
        finally:
            uploads.forget([path] if path else [])
        return {session: workspace.id, ctx.changed: bump(), part.message: views.message(said), part.upload: None}

    outputs = [session, ctx.changed, part.message]
    event = part.shelf.click(on_shelf, session, [*outputs, part.shelf, part.comparison, slot], **DEVICE)
    event.then(None, js=download_js, api_visibility="private").then(None, js=SHOW, api_visibility="private")

    @guarded(part.message)
    def on_close() -> dict:
        return {part.comparison: ""}

    part.comparison.click(on_close, None, [part.comparison, part.message], **QUIET)
    part.upload.upload(on_upload, [session, part.upload], [*outputs, part.upload], **DEVICE)


def wire_return(ctx: Context, part: ShelfPart, tab_item: gr.Tab, opened: Opening) -> None:
    """The shelf is shown again when an adapter was put on it, and on a page that is reloaded or comes back to it."""

    @guarded(part.message)
    def on_changed(key: str) -> dict:
        return _show(ctx, part, ctx.workspace(key))

    look = {"fn": on_changed, "inputs": ctx.session, "outputs": [part.shelf, part.message], **QUIET}
    opened.then(**look)
    tab_item.select(**look)
    ctx.changed.change(trigger_mode="always_last", **look)
