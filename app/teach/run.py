"""The run of the Teach tab: how to teach, progress and cancel, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr
from PIL import Image

from app.context import Context, asset_text, away, seen
from app.html import views
from app.predict import actions as reading
from app.teach import actions as teaching
from app.teach import html as teach_views
from app.teach import outcome
from app.teach.html import Thumb
from app.teach.images import is_example
from app.teach.parts import Controls, Parts, Pressed, choice_of
from app.visitor.workspace import Workspace
from nearl.errors import NearlError

PRESETS = [("Quick", "quick"), ("Balanced", "balanced"), ("Thorough", "thorough")]
AUGMENT = [("None", "none"), ("Gentle", "gentle"), ("Strong", "strong")]


@dataclass
class RunPart(Parts):
    """What shows the run and its result."""

    teach: gr.Button
    cancel: gr.Button
    message: gr.HTML
    progress: gr.HTML
    cell: gr.HTML
    details: gr.HTML
    slot: gr.DownloadButton


def build_controls() -> Controls:
    """How to teach: the length in sight, the rest folded."""
    preset = gr.Radio(PRESETS, value="balanced", label="How long", elem_id="preset")
    with gr.Accordion("Advanced", open=False, elem_classes="folded", elem_id="advanced"):
        hold_out = gr.Slider(
            0, 50, 25, step=5, label="Images kept aside to check on, per cent of every class", elem_id="hold-out",
            buttons=[],
        )  # fmt: skip
        group_by = gr.Textbox(
            label="Images that belong together, by their file names",
            info="An underscore keeps files together whose names agree up to it, such as p12_left and p12_right.",
            max_length=100, elem_id="group-by",
        )  # fmt: skip
        augment = gr.Radio(
            AUGMENT, value="gentle", label="Small changes to the images while learning", elem_id="augment",
            info="Turned, cropped, brighter or darker. Left and right are never swapped.",
        )  # fmt: skip
        flip = gr.Checkbox(
            label="Swap left and right too (only where the side does not matter)", value=False, elem_id="flip"
        )
        with gr.Row():
            steps = gr.Number(
                label="Steps (0: as “How long” says)", value=0, precision=0, minimum=0, maximum=2000,
                min_width=180, elem_id="steps",
            )  # fmt: skip
            lr = gr.Number(
                label="Learning rate (0: the usual one)", value=0, minimum=0, maximum=1, step=0.001,
                min_width=180, elem_id="lr",
            )  # fmt: skip
        early_stop = gr.Checkbox(label="Stop early when nothing more is learned", value=True, elem_id="early-stop")
    return Controls(preset, hold_out, group_by, augment, flip, steps, lr, early_stop)


def build_buttons() -> dict:
    message = gr.HTML("", js_on_load=None, elem_id="teach-message")
    with gr.Row(elem_classes="action"):
        teach = gr.Button("Teach", variant="primary", elem_id="teach")
        cancel = gr.Button("Cancel", elem_classes=away(), elem_id="cancel")
    return {"teach": teach, "cancel": cancel, "message": message}


def build_result() -> dict:
    act = asset_text("act.js")
    progress = gr.HTML(teach_views.run_empty(), js_on_load=act, elem_id="progress")
    cell = gr.HTML("", js_on_load=act, elem_id="cell")
    details = gr.HTML("", js_on_load=act, elem_id="details")
    slot = gr.DownloadButton("Download", elem_id="slot", elem_classes="slot")
    return {"progress": progress, "cell": cell, "details": details, "slot": slot}


# ----------------------------------------------------------------------------------------------------- what is shown


def show(part: RunPart, workspace: Workspace) -> dict:
    """The run as it is now: progress, result, or why it ended."""
    run = teaching.current(workspace)
    if run is None:
        return {**_buttons(part, False), part.progress: teach_views.run_empty(), part.cell: "", part.details: ""}
    if not run.finished:
        return {**_buttons(part, True), part.progress: _going_on(run), part.cell: "", part.details: ""}
    if not run.adapter_key:
        gone = teach_views.ended(run.state, run.error)
        return {**_buttons(part, False), part.progress: gone, part.cell: "", part.details: ""}
    in_use = workspace.shelf.in_use == run.adapter_key
    entry = workspace.shelf.entry(run.adapter_key)
    taught = sum(entry.support_counts.values()) if entry else 0
    losses = run.losses
    curve = {"losses": losses, "held": run.held, "steps": losses[-1][0] if losses else 1}
    return {
        **_buttons(part, False),
        part.progress: teach_views.summary(run.results, taught, in_use, run.stopped),
        part.cell: "",
        part.details: teach_views.details(run.results, curve, _mistakes(workspace, run)),
    }


def _buttons(part: RunPart, busy: bool) -> dict:
    return {part.teach: gr.update(interactive=not busy), part.cancel: seen(busy), part.message: ""}


def _going_on(run) -> str:
    if run.place > 0:
        return teach_views.waiting(run.place)
    return teach_views.progress(run.phase, run.step, run.steps, run.seconds_left, run.losses, run.held)


def _thumb(workspace: Workspace, row: dict, marks: list[str]) -> Thumb:
    try:
        picture = outcome.row_record(workspace, row["index"]).image()
    except NearlError:
        picture, marks = Image.new("RGB", (8, 8), "grey"), [*marks, "image removed since"]
    return row["index"], views.data_uri(picture, views.THUMB_SIDE), row["file"], marks


def _mistakes(workspace: Workspace, run) -> list[Thumb]:
    from nearl.measure.evaluate import mistakes  # and with it torch: not before the page is up

    found = []
    for row in mistakes(run.rows or []):
        share = f"{100 * row['after_share']:.0f} %"
        found.append(_thumb(workspace, row, [f"is {row['truth']}", f"read as {row['after']}, {share}"]))
    return found


def watch(part: RunPart, workspace: Workspace) -> Iterator[dict]:
    """Show the run until it has ended; at once if there is none or it has ended already."""
    run = teaching.current(workspace)
    if run is not None and not run.finished:
        yield {**show(part, workspace)}
        for state in run.watch():
            if not state.finished:
                yield {part.progress: _going_on(state)}
    yield show(part, workspace)


# -------------------------------------------------------------------------------------------------------------- cells


def cell(ctx: Context, part: RunPart, workspace: Workspace, pressed: Pressed) -> dict:
    """The images behind a number, a mistake, or one of them with another map."""
    try:
        return {part.cell: _cell_html(ctx, workspace, pressed)}
    except Exception as error:
        return {part.cell: views.message(reading.sentence(error), "error")}


def _cell_html(ctx: Context, workspace: Workspace, pressed: Pressed) -> str:
    run = teaching.current(workspace)
    if pressed.act == "close" or run is None or run.results is None:
        return ""
    classes, rows = run.results["classes"], run.rows
    when = "before" if pressed.data.get("when") == "before" else "after"
    if "truth" in pressed.data:
        truth, said = pressed.pick("truth", classes), pressed.pick("said", classes)
    else:
        row = pressed.pick("row", rows)
        truth, said = row["truth"], row[when]
    shown = [rows[i] for i in outcome.confusion_images(workspace, truth, said, when)]
    place = pressed.number("row", shown[0]["index"] if shown else 0)
    thumbs = [_thumb(workspace, row, [f"{100 * row[f'{when}_share']:.0f} %"]) for row in shown]
    name = pressed.pick("class", classes) if "class" in pressed.data else said
    moment = pressed.data.get("map", when if pressed.act != "cell" else "")
    picture, caption = None, ""
    if moment:
        picture, caption = outcome.row_map(ctx.engine, workspace, place, name, moment == "after")
    record = outcome.row_record(workspace, place)
    synthetic = is_example(teaching.labelled(workspace))
    drawn = views.viewer(record, synthetic, (picture, caption))
    offered = [said] if said == truth else [said, truth]
    maps = [
        (f"Map for “{c}”, {m} teaching", classes.index(c), m, moment == m and c == name)
        for m in ("before", "after")
        for c in offered
    ]
    what = "read correctly" if truth == said else f"read as {said}"
    words = f"{truth}, {what}, {when} teaching: {views.plural(len(shown), 'image')}"
    state = {"truth": classes.index(truth), "said": classes.index(said), "when": when}
    return teach_views.cell_images(words, state, thumbs, place, drawn, maps)


def report(workspace: Workspace, pressed: Pressed) -> str:
    """The file that was asked for; with the visitor's file names if that is ticked."""
    kind = pressed.data.get("kind")
    return str(outcome.report_file(workspace, kind if kind in ("html", "pdf") else "csv", names=bool(pressed.ticked)))


def start(ctx: Context, part: RunPart, workspace: Workspace, value: dict, values: tuple) -> Iterator[dict]:
    """Teach, and show the run until it has ended; a sentence where it could not begin."""
    try:
        yield {part.teach: gr.update(interactive=False), part.message: ""}
        teaching.start(ctx.engine, workspace, value, choice_of(values))
    except Exception as error:
        words = views.message(reading.sentence(error), "error")
        yield {part.teach: gr.update(interactive=True), part.message: words}
        return
    yield from watch(part, workspace)
