"""The About tab: what this is, what it is not, where it comes from."""

from __future__ import annotations

import gradio as gr

from app.html import render
from app.html.views import plural
from app.visitor.registry import KEEP_SECONDS, UPLOAD_SECONDS
from app.visitor.workspace import GRACE_SECONDS, IDLE_SECONDS
from nearl import NOTICE, __version__


def build(lasts: bool) -> None:
    gr.HTML(about(lasts), js_on_load=None, elem_id="about-page")


def about(lasts: bool = True) -> str:
    """What the tab shows. How long things are kept stands here alone, and is what the code does. `lasts`: whether they
    outlive a restart of the server."""
    kept = {
        "read": _duration(IDLE_SECONDS), "closed": _duration(GRACE_SECONDS), "taught": _duration(KEEP_SECONDS),
        "uploads": _duration(UPLOAD_SECONDS),
    }  # fmt: skip
    return render("about.html", notice=NOTICE, version=__version__, kept=kept, lasts=lasts)


def _duration(seconds: float) -> str:
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return plural(round(seconds / length), unit)
    return plural(round(seconds), "second")
