"""The components of the Compare tab, and what is chosen in them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.compare import html as compare_views
from app.compare.actions import QUESTIONS, Choice
from app.context import asset_text, away
from app.examples import KIND_NAMES
from app.html import views

SHOTS = [("4", 4), ("8", 8), ("16", 16), ("All", 0)]
SEEDS = [("One", 1), ("Three, for an average", 3)]
LENGTHS = [("Quick", "quick"), ("Full recipe", "balanced")]
DRAWN = [(f"{label}, synthetic", kind) for kind, label in KIND_NAMES.items()]
INTRO = (
    "Every method gets the same images to learn from and the same prompts, and is measured on the same images that "
    "none of them learned from."
)


@dataclass
class ComparePart:
    source: gr.Radio
    shots: gr.Radio
    seeds: gr.Radio
    length: gr.Radio
    plan: gr.HTML
    questions: list[gr.Button]
    methods: gr.HTML
    folded: gr.Accordion
    compare: gr.Button
    cancel: gr.Button
    message: gr.HTML
    used: gr.HTML
    result: gr.HTML

    @property
    def controls(self) -> list:
        """In the order in which `choice_of` takes their values."""
        return [self.source, self.shots, self.seeds, self.length]

    @property
    def outputs(self) -> list:
        return [
            self.source, self.plan, *self.questions, self.methods, self.folded, self.compare, self.cancel, self.message,
            self.used, self.result,
        ]  # fmt: skip


def choice_of(methods: list[str], values: tuple) -> Choice:
    source, shots, seeds, preset = values
    return Choice(source, tuple(methods), int(shots or 0), int(seeds), preset)


def build() -> ComparePart:
    gr.HTML(views.section("The same images, taught in different ways") + views.quiet(INTRO), js_on_load=None)
    source = gr.Radio(DRAWN, value=None, label="Images", elem_id="compare-source")
    plan = gr.HTML("", js_on_load=None, elem_id="compare-plan")
    with gr.Row(elem_classes="compare-row"):
        shots = gr.Radio(SHOTS, value=Choice.shots, label="Images of each class to learn from", elem_id="compare-shots")
        seeds = gr.Radio(SEEDS, value=Choice.seeds, label="Random draws of training images", elem_id="compare-seeds")
        length = gr.Radio(LENGTHS, value=Choice.preset, label="How long", elem_id="compare-length")
    gr.HTML(views.section("Ask a question about NEARL"), js_on_load=None)
    with gr.Row(elem_classes="questions"):
        questions = [gr.Button(words, size="md") for words in QUESTIONS.values()]
    with gr.Accordion("Or choose methods yourself", open=True, elem_classes="folded", elem_id="choose") as folded:
        methods = gr.HTML(
            None, html_template='<div class="methods-root"></div>', js_on_load=asset_text("methods.js"),
            apply_default_css=False, elem_id="method-cards",
        )  # fmt: skip
    message = gr.HTML("", js_on_load=None, elem_id="compare-message")
    with gr.Row(elem_classes="action"):
        compare = gr.Button("Compare", variant="primary", elem_id="compare")
        cancel = gr.Button("Cancel", elem_classes=away(), elem_id="compare-cancel")
    used = gr.HTML("", js_on_load=None, elem_id="compare-used")
    result = gr.HTML(compare_views.empty(), js_on_load=asset_text("act.js"), elem_id="comparison-result")
    return ComparePart(
        source, shots, seeds, length, plan, questions, methods, folded, compare, cancel, message, used, result
    )
