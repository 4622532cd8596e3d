"""The same image, several models: the image that is open in Predict, read by every model that the page offers."""

from __future__ import annotations

from collections.abc import Iterator

import gradio as gr

from app.compare.models import actions as comparing
from app.compare.models import html as model_views
from app.context import DEVICE, QUIET, Context, calls
from app.events import guarded
from app.html import views

INTRO = (
    "The image that is open in Predict, with the prompts it was last read with, before teaching. Shares are relative "
    "to your prompts, and how sure a model looks differs from one to the next: compare the order of the classes rather "
    "than the figures. No model is downloaded for this."
)


def build(ctx: Context) -> None:
    """The part, below the comparison of methods."""
    gr.HTML(views.section("The same image, different models") + views.quiet(INTRO), js_on_load=None)
    with gr.Row(elem_classes="questions"):
        button = gr.Button("Read it with every model", size="md", elem_id="compare-models")
    message = gr.HTML("", js_on_load=None, elem_id="compare-models-message")
    result = gr.HTML("", js_on_load=calls("act.js"), elem_id="models-result")

    @guarded(message)
    def on_press(key: str) -> Iterator[dict]:
        workspace, picture = ctx.workspace(key), ""
        for record, prompts, found in comparing.columns(ctx.engine, workspace):
            picture = picture or views.data_uri(record.image(), 320)
            classes = tuple(prompts.classes)
            said = comparing.agreement(classes, found)
            yield {message: "", result: model_views.columns(picture, record.name, classes, found, said)}

    @guarded(message)
    def on_close() -> dict:
        return {result: "", message: ""}

    button.click(on_press, ctx.session, [result, message], trigger_mode="once", **DEVICE)
    result.click(on_close, None, [result, message], **QUIET)
