"""The Compare tab: several methods on the same images, a table that fills in, and the one to read with in Predict.

The comparison belongs to the workspace: a page that comes back, or a second one, finds it again.
"""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from app.compare import actions as comparing
from app.compare import parts, show
from app.compare.actions import QUESTIONS, USUAL, WHOLE, Choice
from app.context import DEVICE, QUIET, Context, seen
from app.html import views
from app.predict import actions as reading
from app.predict import tab as predict
from app.teach.parts import Pressed
from app.visitor.workspace import Workspace

SHOW = "() => { document.getElementById('comparison-result').scrollIntoView({ block: 'start' }); }"


def build(ctx: Context, predict_tab: predict.PredictTab, tab_item: gr.Tab, opened: gr.events.Dependency) -> None:
    """The tab in `tab_item`. `opened`: the event of a page that opens, after which the session is known."""
    part = parts.build()
    _wire_run(ctx, part)
    _wire_use(ctx, part, predict_tab)
    _wire_return(ctx, part, tab_item, opened)


def _follow(part: parts.ComparePart, workspace: Workspace) -> Iterator[dict]:
    """Show the comparison until it has ended; at once if there is none or it has ended already."""
    view = comparing.current(workspace)
    if view is not None and not view.finished:
        for state in view.watch():
            if not state.finished:
                yield show.all_of(part, workspace)
    yield show.all_of(part, workspace)


def _wire_run(ctx: Context, part: parts.ComparePart) -> None:
    session = ctx.session

    def begin(key: str, choice: Choice) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        yield {session: workspace.id, part.message: "", part.compare: gr.update(interactive=False)}
        try:
            comparing.start(ctx.engine, workspace, choice)
        except Exception as error:
            words = views.message(reading.sentence(error), "error")
            yield {**show.buttons(part, workspace), part.message: words}
            return
        yield {part.folded: gr.update(open=False)}
        yield from _follow(part, workspace)

    def on_compare(key: str, cards: dict | None, *values) -> Iterator[dict]:
        yield from begin(key, parts.choice_of((cards or {}).get("ticked", []), values))

    def asker(ablation: str):
        def on_question(key: str, _: dict | None, *values) -> Iterator[dict]:
            methods = [WHOLE, ablation]
            yield {part.methods: show.methods(methods)}
            yield from begin(key, parts.choice_of(methods, values))

        return on_question

    def on_cancel(key: str) -> dict:
        going_on = comparing.current(ctx.workspace(key))
        if going_on is not None:
            going_on.cancel()
        return {part.cancel: seen(False)}

    def on_source(key: str, source: str) -> dict:
        return {part.plan: show.plan(ctx.workspace(key), source), part.message: ""}

    inputs, outputs = [session, part.methods, *part.controls], [session, *part.outputs]
    part.compare.click(on_compare, inputs, outputs, concurrency_limit=None, **QUIET)
    for name, button in zip(QUESTIONS, part.questions, strict=True):
        button.click(asker(name), inputs, outputs, concurrency_limit=None, **QUIET)
    for button in (part.compare, *part.questions):
        button.click(None, js=SHOW, api_visibility="private")
    part.cancel.click(on_cancel, session, [part.cancel], concurrency_limit=None, **QUIET)
    part.source.input(on_source, [session, part.source], [part.plan, part.message], **QUIET)


def _wire_use(ctx: Context, part: parts.ComparePart, predict_tab: predict.PredictTab) -> None:
    def on_use(key: str, event: gr.EventData) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        try:
            name = Pressed.of(event).pick("method", comparing.current(workspace).folder.about["methods"])
            comparing.use(ctx.engine, workspace, name)
        except Exception as error:
            yield {part.used: views.message(reading.sentence(error), "error")}
            return
        yield {part.used: show.used(name)}
        yield from predict.show_adapter(ctx, predict_tab, workspace)

    part.result.click(on_use, ctx.session, [part.used, *predict_tab.outputs], **DEVICE)


def _wire_return(ctx: Context, part: parts.ComparePart, tab_item: gr.Tab, opened: gr.events.Dependency) -> None:
    """A page that is loaded again, or a second one, shows the comparison as it is and goes on watching it."""

    def on_open(key: str) -> Iterator[dict]:
        """The cards of methods are in sight until there is a comparison; then they are folded, ticked as they were."""
        workspace = ctx.workspace(key)
        view = comparing.current(workspace)
        had = view.folder.about["methods"] if view is not None else USUAL
        cards = {part.methods: show.methods(had), part.folded: gr.update(open=view is None)}
        yield {**show.sources(part, workspace), **cards}
        yield from _follow(part, workspace)

    def on_select(key: str, source: str) -> Iterator[dict]:
        """What may have changed in other tabs; nothing that a visitor may be about to change in this one."""
        workspace = ctx.workspace(key)
        view = comparing.current(workspace)
        yield {**show.sources(part, workspace, source), **show.all_of(part, workspace)}
        if view is not None and not view.finished:
            yield from _follow(part, workspace)

    opened.then(on_open, ctx.session, part.outputs, concurrency_limit=None, **QUIET)
    tab_item.select(
        on_select, [ctx.session, part.source], part.outputs, concurrency_limit=None, trigger_mode="once",
        **QUIET,
    )  # fmt: skip
