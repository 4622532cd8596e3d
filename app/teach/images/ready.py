"""Ready prompts of the kind of the images to teach with, offered above the editor."""

from __future__ import annotations

import gradio as gr

from app.context import DEVICE, Context, set_title
from app.events import Press, guarded
from app.teach.images import actions as gathering
from app.teach.images import html as image_views
from app.visitor.workspace import Workspace


def wire(ctx: Context, images: gr.HTML, editor: gr.HTML, ready: gr.HTML) -> None:
    """Show in `ready` what is offered for the `images`, and put what is chosen into the editor."""

    def offered(workspace: Workspace, value: dict | None) -> dict:
        names = gathering.ready_prompts(ctx.engine, workspace, value)
        return {ready: image_views.ready_prompts([(name, set_title(name)) for name in names])}

    @guarded(ready)
    def on_shown(key: str, value: dict | None) -> dict:
        return offered(ctx.workspace(key), value)

    @guarded(ready)
    def on_ready(key: str, value: dict | None, event: gr.EventData) -> dict:
        workspace = ctx.workspace(key)
        name = Press.of(event).one_of("pick", list(ctx.ready_prompts))
        value = gathering.ready_value(workspace, name)
        gathering.keep_prompts(workspace, value)
        return {editor: value, **offered(workspace, value)}

    inputs, device = [ctx.session, editor], {**DEVICE, "trigger_mode": "always_last"}
    gr.on([images.change, editor.change], on_shown, inputs, [ready], **device)
    ready.click(on_ready, inputs, [editor, ready], **device)
