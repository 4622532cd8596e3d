"""The Learn tab: what happens when the model is taught, in plain words, with each of the field's terms once."""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from app.context import asset_text
from app.html import render


def build() -> None:
    drawings = {name: Markup(asset_text(f"{name}.svg")) for name in ("towers", "orthogonal")}
    gr.HTML(render("learn.html", **drawings), js_on_load=asset_text("orthogonal.js"), elem_id="learn-page")
