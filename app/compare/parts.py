"""The components of the Compare tab, and what is chosen in them."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.compare import html as compare_views
from app.compare.actions import QUESTIONS, Choice
from app.context import asset_text, away
from app.examples import KIND_NAMES

SHOTS = [("4", 4), ("8", 8), ("16", 16), ("All", 0)]
SEEDS = [("Once", 1), ("Three times, for an average", 3)]
LENGTHS = [("Quick", "quick"), ("As each method is meant", "balanced")]
DRAWN = [(f"{label}, drawn", kind) for kind, label in KIND_NAMES.items()]
INTRO = (
    '<p class="quiet">Every method gets the same images to learn from and the same words, and is measured on the same '
    "images that none of them learnt from.</p>"
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
    gr.HTML(f'<h2 class="section">The same images, taught in different ways</h2>{INTRO}', js_on_load=None)
    source = gr.Radio(DRAWN, value=None, label="Images", elem_id="compare-source")
    plan = gr.HTML("", js_on_load=None, elem_id="compare-plan")
    with gr.Row(elem_classes="compare-row"):
        shots = gr.Radio(SHOTS, value=Choice.shots, label="Images of each class to learn from", elem_id="compare-shots")
        seeds = gr.Radio(SEEDS, value=Choice.seeds, label="How often they are drawn", elem_id="compare-seeds")
        length = gr.Radio(LENGTHS, value=Choice.preset, label="How long", elem_id="compare-length")
    gr.HTML('<h2 class="section">Ask a question about NEARL</h2>', js_on_load=None)
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
