"""The Find tab: a sentence, or the image of Predict, finds the closest of the images to teach with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import gradio as gr

from app.context import DEVICE, QUIET, Context, calls, seen
from app.events import INPUT, Components, guarded
from app.find import actions as finding
from app.find import html as find_views
from app.find.actions import Going
from app.html import views
from app.visitor.workspace import Workspace

INTRO = "Similar here means similar to this model. It says nothing about a disease."
SHOW = """() => {  // on a phone the answer is below the fold
  document.getElementById("find-result").scrollIntoView({ block: "nearest" });
}"""


@dataclass
class FindTab(Components):
    """The tab's components, by what they show."""

    gallery: gr.HTML
    sentence: gr.Textbox = field(metadata=INPUT)
    find: gr.Button
    query: gr.HTML
    like: gr.Button
    message: gr.HTML
    result: gr.HTML


def build(ctx: Context, tab_item: gr.Tab) -> None:
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=5):
            gr.HTML(views.section("Find images") + views.quiet(INTRO), js_on_load=None)
            gallery = gr.HTML("", js_on_load=None, elem_id="find-gallery")
            sentence = gr.Textbox(
                label="Describe what to find", placeholder="a chest X-ray with pneumonia", max_lines=3,
                max_length=finding.LONGEST, elem_id="find-sentence",
            )  # fmt: skip
            find = gr.Button("Find", variant="primary", elem_id="find-button", interactive=False)
            message = gr.HTML("", js_on_load=None, elem_id="find-message")
            query = gr.HTML(find_views.query(None), js_on_load=None, elem_id="find-query")
            like = gr.Button("Find images like this one", elem_id="find-like", elem_classes="away")
        with gr.Column(elem_classes="right", min_width=280, scale=13):
            result = gr.HTML(find_views.empty(), js_on_load=calls("pick.js"), elem_id="find-result")
    tab = FindTab(gallery, sentence, find, query, like, message, result)
    _wire(ctx, tab, tab_item)


def _about(tab: FindTab, workspace: Workspace) -> dict:
    """What is searched, and with what image it can be searched."""
    record = workspace.viewing.record
    words = finding.about(workspace)
    return {
        tab.gallery: find_views.gallery(words),
        tab.find: gr.update(interactive=bool(words)),
        tab.query: find_views.query(record),
        tab.like: seen(record is not None and words),
    }


def _wire(ctx: Context, tab: FindTab, tab_item: gr.Tab) -> None:
    session = ctx.session

    def search(key: str, sentence: str | None, anyway: bool = False) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        yield {session: workspace.id, tab.message: "", tab.result: find_views.going(Going(0, 0))}
        for now in finding.search(ctx.engine, workspace, sentence, anyway):
            shown = find_views.going(now) if isinstance(now, Going) else find_views.found(now)
            yield {tab.result: shown}
        yield _about(tab, workspace)

    def cleared(*_) -> dict:
        return {tab.result: find_views.empty()}

    @guarded(tab.message, cleared)
    def on_sentence(key: str, sentence: str) -> Iterator[dict]:
        yield from search(key, sentence or "")

    @guarded(tab.message, cleared)
    def on_like(key: str) -> Iterator[dict]:
        yield from search(key, None)

    @guarded(tab.message, cleared)
    def on_anyway(key: str) -> Iterator[dict]:
        yield from search(key, None, anyway=True)

    @guarded(tab.message)
    def on_select(key: str) -> dict:
        return _about(tab, ctx.workspace(key))

    @guarded(tab.message)
    def on_changed(key: str) -> dict:
        """What was found with another adapter is not shown any longer."""
        return {**_about(tab, ctx.workspace(key)), tab.result: find_views.empty()}

    outputs, last = [session, *tab.outputs], {"trigger_mode": "always_last"}
    asked = [tab.find.click, tab.sentence.submit]
    found = (
        gr.on(asked, on_sentence, [session, tab.sentence], outputs, **last, **DEVICE),
        tab.like.click(on_like, session, outputs, **last, **DEVICE),
    )
    for event in found:
        event.then(None, js=SHOW, api_visibility="private")
    tab.result.click(on_anyway, session, outputs, **last, **DEVICE)
    tab_item.select(on_select, session, tab.outputs, **last, **QUIET)
    ctx.changed.change(on_changed, session, tab.outputs, **last, **QUIET)
