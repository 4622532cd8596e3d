"""Ready prompts of the kind of the images to teach with, offered above the editor."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import gradio as gr

from app.context import QUIET, Context, set_title
from app.engine import Engine
from app.events import Press, guarded
from app.teach.images import actions as gathering
from app.teach.images import html as image_views
from app.visitor.workspace import Workspace
from app.work import lanes
from nearl.data.sets.findings import FindingsSet
from nearl.prompts import PromptSet, class_key, ready_sets

LOOKED_AT = 12  # images, at most, by which the fitting sets are found
MOST = 2  # sets offered


def can_look(engine: Engine, workspace: Workspace) -> bool:
    """Whether there are images for which ready prompts may fit, and a model to tell."""
    data = workspace.support.data
    several = isinstance(data, FindingsSet)  # of which there are no ready sets
    usable = data is not None and not data.synthetic and not several and not gathering.unusable(workspace)
    return usable and engine.state(workspace) == "ready"


def ready_prompts(engine: Engine, workspace: Workspace, value: dict | None) -> list[str]:
    """Ready sets whose prompts are of the kind of the visitor's own images and not in the editor already, the closest
    first; where some name all of the classes, these alone. Nothing where that cannot be told now."""
    data = workspace.support.data
    if data is None or not can_look(engine, workspace):
        return []
    from nearl.backbones.familiar import fitting_sets
    from nearl.methods import Frozen
    from nearl.reading.claims import placed

    backbone = engine.backbone(workspace)
    sets = engine.ready_classes(backbone)
    some = [data.records[i] for i in range(0, len(data), -(-len(data) // LOOKED_AT))]
    with engine.device_lock:
        frozen = Frozen(backbone)
        images = frozen.embed(frozen.pooled(some))
    keys = {class_key(name) for name in data.classes}
    found = fitting_sets(images, sets, backbone.logit_scale)
    if backbone.measured is not None and backbone.familiar is not None:
        kinds = Counter(kind for kind, _ in placed(backbone.measured, backbone.familiar, images, some))
        found = [name for name in backbone.measured.fitting(kinds.most_common(1)[0][0]) if name in sets] or found
    whole = {name for name in found if keys <= set(map(class_key, PromptSet.load(ready_sets()[name]).classes))}
    guessed = backbone.familiar is not None and backbone.familiar.unlike(images).mean() > 0.5
    if whole or guessed:  # or else the kind alone decides
        found = [name for name in found if name in whole]
    now = (value or {}).get("classes")
    offered = [name for name in found if ready_value(workspace, name)["classes"] != now]
    return offered[:MOST]


def ready_value(workspace: Workspace, name: str) -> dict:
    """A ready set for the classes of the images, as the editor takes it."""
    return PromptSet.load(ready_sets()[name]).fitted_to(workspace.support.needed().classes).to_dict()


def wire(ctx: Context, images: gr.HTML, editor: gr.HTML, ready: gr.HTML) -> None:
    """Show in `ready` what is offered for the `images`, and put what is chosen into the editor, which nothing else
    changes. Until there is an answer, the same place says that the images are looked at."""

    def offered(workspace: Workspace, value: dict | None) -> dict:
        names = ready_prompts(ctx.engine, workspace, value)
        return {ready: image_views.ready_prompts([(name, set_title(name)) for name in names])}

    @guarded(ready)
    async def on_shown(key: str, value: dict | None, shown: str | None) -> AsyncIterator[dict]:
        workspace = await ctx.run(lanes.LIGHT, ctx.workspace, key)
        if not shown and await ctx.run(lanes.LIGHT, can_look, ctx.engine, workspace):
            yield {ready: image_views.looking()}
        yield await ctx.run(lanes.DEVICE, offered, workspace, value)

    @guarded(ready)
    def on_ready(key: str, event: gr.EventData) -> dict:
        workspace = ctx.workspace(key)
        name = Press.of(event).one_of("pick", list(ctx.ready_prompts))
        value = ready_value(workspace, name)
        gathering.keep_prompts(workspace, value)
        return {editor: value}

    # What is chosen does not wait for the model: somebody may press "Teach" next.
    inputs, last = [ctx.session, editor], {"trigger_mode": "always_last"}
    gr.on([images.change, editor.change], on_shown, [*inputs, ready], [ready], **QUIET, **last)
    ready.click(on_ready, ctx.session, [editor, ready], **QUIET, **last)
