"""The About tab: what this is, what it is not, where it comes from."""

from __future__ import annotations

import gradio as gr

from app.html import render
from nearl import NOTICE, __version__


def build() -> None:
    gr.HTML(render("about.html", notice=NOTICE, version=__version__), js_on_load=None, elem_id="about-page")
