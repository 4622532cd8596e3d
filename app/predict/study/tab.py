"""The box for a report and its summary, beside a reading of findings."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.context import QUIET, Context, calls
from app.events import Components, Press, guarded
from app.predict.study import actions as study
from app.predict.study import html as study_views
from app.visitor.workspace import Workspace


@dataclass
class ReportPart(Components):
    """The two components; both are empty until findings are read."""

    box: gr.HTML
    summary: gr.HTML


def build(ctx: Context) -> ReportPart:
    box = gr.HTML("", js_on_load=calls("act.js"), elem_id="report")
    part = ReportPart(box, gr.HTML("", js_on_load=None, elem_id="report-summary"))

    @guarded(part.summary)
    def on_report(key: str, event: gr.EventData) -> dict:
        workspace, pressed = ctx.workspace(key), Press.of(event)
        with workspace.lock:  # the image on show is chosen under it too
            lines = study.compared(workspace, pressed.to, pressed.data.get("of", ""))
            return {part.summary: study_views.summary(workspace, lines)}

    box.click(on_report, ctx.session, [part.summary], trigger_mode="always_last", **QUIET)
    return part


def show(part: ReportPart, workspace: Workspace) -> dict:
    """The box as it is, and no summary, since it would be of an earlier reading."""
    return {part.box: study_views.box(workspace), part.summary: ""}
