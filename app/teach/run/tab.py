"""The run of the Teach tab: how to teach, progress and cancel, and the results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import gradio as gr
from PIL import Image

from app.context import DEVICE, QUIET, Context, away, calls, seen
from app.events import Act, Components, Opening, Press, bump, guarded
from app.html import views
from app.teach.images.html import Thumb
from app.teach.run import actions as teaching
from app.teach.run import html as run_views
from app.teach.run.actions import AFTER, MOMENTS, NEARL, REPORTS, Choice
from app.visitor.workspace import Workspace
from app.work import lanes
from app.work.run import TEACH, RunView, Shown
from nearl.errors import NearlError

if TYPE_CHECKING:
    from app.visitor.shelf import Entry
    from nearl.methods import Card

PRESETS = [("Quick", "quick"), ("Balanced", "balanced"), ("Thorough", "thorough")]
AUGMENT = [("None", "none"), ("Gentle", "gentle"), ("Strong", "strong")]
SHOW_PROGRESS = """() => {  // on a phone it is further down, and grows
  const progress = document.getElementById("progress");
  if (progress.getBoundingClientRect().top > innerHeight / 2) progress.scrollIntoView({ block: "start" });
}"""
SHOW_CELL = "() => { document.querySelector('#cell section, #cell .note')?.scrollIntoView({ block: 'nearest' }); }"


@dataclass
class Controls(Components):
    """How to teach, in the order in which `_choice` takes the values."""

    preset: gr.Radio
    method: gr.Radio
    hold_out: gr.Slider
    group_by: gr.Textbox
    augment: gr.Radio
    flip: gr.Checkbox
    steps: gr.Number
    lr: gr.Number
    early_stop: gr.Checkbox


@dataclass
class RunPart(Components):
    """What shows the run and its results."""

    teach: gr.Button
    cancel: gr.Button
    message: gr.HTML
    progress: gr.HTML
    cell: gr.HTML
    details: gr.HTML


def build_controls() -> tuple[Controls, gr.Accordion]:
    """How to teach: the length in sight, the rest in what is folded."""
    preset = gr.Radio(PRESETS, value="balanced", label="How long", elem_id="preset")
    with gr.Accordion("Advanced", open=False, elem_classes="folded", elem_id="advanced") as advanced:
        method = gr.Radio([("NEARL", NEARL)], value=NEARL, label="How to teach", elem_id="teach-method")
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
            AUGMENT, value="gentle", label="Small changes to the images while teaching", elem_id="augment",
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
        early_stop = gr.Checkbox(label="Stop early when the error no longer falls", value=True, elem_id="early-stop")
    return Controls(preset, method, hold_out, group_by, augment, flip, steps, lr, early_stop), advanced


def build_buttons() -> dict[str, gr.Component]:
    """Components of RunPart below the controls."""
    message = gr.HTML("", js_on_load=None, elem_id="teach-message")
    with gr.Row(elem_classes="action"):
        teach = gr.Button("Teach", variant="primary", elem_id="teach")
        cancel = gr.Button("Cancel", elem_classes=away(), elem_id="cancel")
    return {"teach": teach, "cancel": cancel, "message": message}


def build_result() -> dict[str, gr.Component]:
    """Components of RunPart for progress and results."""
    act = calls("act.js")
    progress = gr.HTML(run_views.run_empty(), js_on_load=act, elem_id="progress")
    cell = gr.HTML("", js_on_load=act, elem_id="cell")
    details = gr.HTML("", js_on_load=act, elem_id="details")
    return {"progress": progress, "cell": cell, "details": details}


def one_line(card: Card) -> str:
    """A method in one line."""
    return f"{card.title}: {card.idea.partition('. ')[0].rstrip('.')}"


def _choice(values: tuple) -> Choice:
    """The values of Controls as a choice; 0 stands for the preset's own."""
    preset, method, hold_out, group_by, augment, flip, steps, lr, early_stop = values
    return Choice(
        preset=preset,
        method=method,
        hold_out=float(hold_out or 0) / 100,
        group_by=(group_by or "").strip(),
        augment=augment,
        flip=bool(flip),
        steps=int(steps) if steps else None,
        lr=float(lr) if lr else None,
        early_stop=bool(early_stop),
    )


def _values(controls: Controls, choice: Choice) -> dict:
    """The reverse of `_choice`, as updates by component."""
    values = {
        **asdict(choice), "hold_out": 100 * choice.hold_out, "steps": choice.steps or 0, "lr": choice.lr or 0,
    }  # fmt: skip
    return {getattr(controls, name): value for name, value in values.items()}


# ---- what is shown


def show(part: RunPart, workspace: Workspace) -> dict:
    """The run as it is now: progress, results, or why it ended. Where an adapter's result was opened, that instead."""
    run, entry = teaching.current(workspace), teaching.opened(workspace)
    shown = {part.cell: "", part.details: ""}
    if entry is not None:
        now = None if run is None else run.look()
        busy = now is not None and not now.finished
        buttons = _buttons(part, busy, busy and now.cancelling)
        return {**shown, **buttons, **_result(part, workspace, teaching.run_of(workspace, entry.id), entry, busy)}
    if run is None:
        return {**shown, **_buttons(part, False), part.progress: run_views.run_empty()}
    now = run.look()
    if not now.finished:
        return {**shown, **_buttons(part, True, now.cancelling), part.progress: _progress(now)}
    if not now.adapter_key:
        return {**shown, **_buttons(part, False), part.progress: run_views.ended(now.state, now.error)}
    entry = workspace.shelf.entry(now.adapter_key)
    return {**shown, **_buttons(part, False), **_result(part, workspace, run, entry)}


def _result(part: RunPart, workspace: Workspace, run: RunView | None, entry: Entry | None, busy: bool = False) -> dict:
    """The result of a run, or what an adapter says of itself. `entry`: the adapter, None where it was deleted; `busy`:
    whether another run is going on meanwhile."""
    now = Shown() if run is None else run.look()
    report = teaching.report_of(workspace, None, entry) if run is None else None
    results = run.results if report is None else report.results
    taught = None if entry is None else teaching.taught_with(run, entry) if report is None else report.taught_with
    of = {"run": "" if run is None else run.key, "item": "" if entry is None else entry.id}
    curve = {"losses": now.losses, "held": now.held, "steps": now.losses[-1][0] if now.losses else 1}
    aside = 0 if run is None else teaching.kept_aside(run)
    opened = ""
    if teaching.opened(workspace) is not None:
        opened = run_views.opened(entry.name, busy, teaching.ended_since(workspace))
    summary = run_views.summary(results, taught, bool(entry and entry.in_use), now.stopped, aside, opened, of)
    thumbs = None if run is None else _mistakes(run)
    return {part.progress: summary, part.details: run_views.details(results, curve, thumbs, of)}


def _buttons(part: RunPart, busy: bool, cancelling: bool = False) -> dict:
    return {part.teach: gr.update(interactive=not busy), part.cancel: seen(busy and not cancelling), part.message: ""}


def _going_on(part: RunPart, workspace: Workspace, now: Shown, first: bool) -> dict:
    """A run that has not ended, where no adapter's result is open; with `first` the buttons that go with it, too."""
    shown = {} if teaching.opened(workspace) is not None else {part.progress: _progress(now)}
    if first:
        shown |= {part.cell: "", part.details: ""} if shown else {}  # of the run before
        shown |= _buttons(part, True, now.cancelling)
    return shown


def at_once(ctx: Context, part: RunPart, workspace: Workspace) -> dict:
    """A run that is going on, for the first answer to a page that opens; {} without one."""
    run = teaching.current(workspace)
    if run is None or (now := run.look()).finished:
        return {}
    return {ctx.badges[TEACH.name]: run_views.badge(now), **_going_on(part, workspace, now, True)}


def _progress(now: Shown) -> str:
    if now.cancelling:
        return run_views.cancelling(bool(now.losses))
    if now.place > 0:
        return run_views.waiting(now.place)
    return run_views.progress(now.phase, now.step, now.steps, now.seconds_left, now.losses, now.held, now.note)


def _thumb(run: RunView, row: dict, marks: list[str]) -> Thumb:
    try:
        picture = teaching.row_record(run, row["index"]).image()
    except NearlError:
        picture, marks = Image.new("RGB", (8, 8), "grey"), [*marks, "image removed since"]
    return row["index"], views.data_uri(picture, views.THUMB_SIDE), row["file"], marks


def _mistakes(run: RunView) -> list[Thumb]:
    from nearl.measure import findings
    from nearl.measure.evaluate import mistakes  # and with it torch: not before the page is up

    found = []
    if "findings" in (run.results or {}):
        for one in findings.mistakes(run.rows or [], run.results):
            true, said = one.words
            found.append(_thumb(run, one.row, [true, f"read as {said}, {views.per_cent(one.share)}"]))
        return found
    for row in mistakes(run.rows or []):
        share = views.per_cent(row["after_share"])
        found.append(_thumb(run, row, [f"is {row['truth']}", f"read as {row['after']}, {share}"]))
    return found


async def _follow(ctx: Context, part: RunPart, workspace: Workspace) -> AsyncIterator[dict]:
    """Show the run until it has ended, and tell the other tabs of its adapter; at once if there is no run."""

    def state() -> tuple[RunView | None, str]:
        return teaching.current(workspace), workspace.shelf.in_use

    run, in_use = await ctx.run(lanes.LIGHT, state)
    first, news, badge = True, {}, ctx.badges[TEACH.name]
    if run is not None:
        async for now in run.follow():
            if not now.finished:
                yield {badge: run_views.badge(now), **_going_on(part, workspace, now, first)}
            elif not first and (now.adapter_key or (await ctx.run(lanes.LIGHT, state))[1] != in_use):
                news = {ctx.changed: bump()}
            first = False
    # The news at once with the result: what they let other events draw of it is drawn later, and stays.
    yield {**await ctx.run(lanes.LIGHT, show, part, workspace), badge: "", **news}


def _cell(ctx: Context, workspace: Workspace, pressed: Press) -> str:
    """HTML of the images behind a number, with one of them and its map."""
    run, entry = teaching.pressed_result(workspace, pressed)
    run = teaching.measured(run)
    cell = teaching.cell(run, pressed)
    record = teaching.row_record(run, cell.row)
    picture, caption = None, ""
    if cell.map_when:
        picture, caption = teaching.row_map(ctx.engine, run, cell.row, cell.class_name, cell.map_when == AFTER)
    data = workspace.support.data
    synthetic = data is not None and data.synthetic
    drawn = views.viewer(record, synthetic, (picture, caption))
    classes, several = run.results["classes"], "findings" in run.results
    offered = [cell.class_name] if several else list(dict.fromkeys((cell.said, cell.truth)))
    maps = [
        (f"Map for “{name}”, {m} teaching", classes.index(name), m, cell.map_when == m and name == cell.class_name)
        for m in MOMENTS
        for name in offered
    ]
    what = "read correctly" if cell.truth == cell.said else f"read as {cell.said}"
    words = f"{cell.truth}, {what}, {cell.when} teaching"
    state = {"run": run.key, "item": "" if entry is None else entry.id, "when": cell.when}
    if several:
        shares = [row[cell.when][cell.class_name] for row in cell.rows]
    else:
        words += f": {views.plural(len(cell.rows), 'image')}"
        state |= {"truth": classes.index(cell.truth), "said": classes.index(cell.said)}
        shares = [row[f"{cell.when}_share"] for row in cell.rows]
    thumbs = [_thumb(run, row, [views.per_cent(share)]) for row, share in zip(cell.rows, shares, strict=True)]
    return run_views.cell_images(words, state, thumbs, cell.row, drawn, maps)


# ---- events


def wire(
    ctx: Context, part: RunPart, controls: Controls, editor: gr.HTML, slot: gr.DownloadButton, download_js: str
) -> None:
    """`slot`: the hidden button that a file to download is put into; `download_js` presses it."""
    session = ctx.session

    @guarded(part.message, lambda *given: {part.teach: gr.update(interactive=True)})
    async def on_teach(key: str, value: dict, *values) -> AsyncIterator[dict]:
        workspace = await ctx.run(lanes.LIGHT, ctx.workspace, key)
        workspace.opened = ""
        yield {session: workspace.id, part.teach: gr.update(interactive=False), part.message: ""}
        await ctx.run(lanes.DEVICE, teaching.start, ctx.engine, workspace, value, _choice(values))
        async for shown in _follow(ctx, part, workspace):
            yield shown

    @guarded(part.message)
    def on_cancel(key: str) -> dict:
        run = teaching.current(ctx.workspace(key))
        if run is not None:
            run.cancel()
        return {part.cancel: seen(False)}

    @guarded(part.cell)
    def on_cell(key: str, event: gr.EventData) -> dict:
        pressed = Press.of(event)
        return {part.cell: "" if pressed.act is Act.CLOSE else _cell(ctx, ctx.workspace(key), pressed)}

    @guarded(part.cell)
    def on_result(key: str, event: gr.EventData) -> dict:
        """A number of the result, or the button that puts the adapter to use or leaves the result of an adapter."""
        workspace, pressed = ctx.workspace(key), Press.of(event)
        if pressed.act is Act.CLOSE:
            workspace.opened = ""
            return {part.cell: "", ctx.changed: bump()}
        if pressed.act is Act.USE:
            teaching.use(ctx.engine, workspace, teaching.pressed_result(workspace, pressed)[1])
            return {part.cell: "", ctx.changed: bump()}
        return {part.cell: _cell(ctx, workspace, pressed)}

    @guarded(part.cell, lambda *given: {slot: None})
    def on_details(key: str, event: gr.EventData) -> dict:
        """A number or a mistake; or a file, with file names (1) and with pictures of mistakes (2) if ticked."""
        workspace, pressed = ctx.workspace(key), Press.of(event)
        if pressed.act is not Act.REPORT:
            return {part.cell: _cell(ctx, workspace, pressed)}
        result, kind = teaching.pressed_result(workspace, pressed), pressed.one_of("kind", REPORTS)
        return {slot: str(teaching.report_file(workspace, *result, kind, *(n in pressed.numbers for n in (1, 2))))}

    outputs = [session, ctx.changed, ctx.badges[TEACH.name], *part.outputs]
    part.teach.click(None, js=SHOW_PROGRESS, api_visibility="private")  # first: the other one ends with the run
    part.teach.click(on_teach, [session, editor, *controls.outputs], outputs, **QUIET)
    part.cancel.click(on_cancel, session, [part.cancel, part.message], **QUIET)
    part.cell.click(on_cell, session, [part.cell], **DEVICE).then(None, js=SHOW_CELL, api_visibility="private")
    event = part.progress.click(on_result, session, [part.cell, ctx.changed], **DEVICE)
    event.then(None, js=SHOW_CELL, api_visibility="private")
    event = part.details.click(on_details, session, [part.cell, slot], **DEVICE)
    event.then(None, js=download_js, api_visibility="private").then(None, js=SHOW_CELL, api_visibility="private")


def wire_settings(ctx: Context, part: RunPart, controls: Controls, advanced: gr.Accordion, opened: Opening) -> Opening:
    """A page that opens offers the methods, and shows how the run that is at work, or the last one, was to teach:
    unfolded where it was not in the usual way."""

    @guarded(part.message)
    def on_settings(key: str) -> dict:
        offered = {"choices": [(one_line(card), card.name) for card in teaching.methods()]}
        choice = teaching.chosen(ctx.workspace(key))
        if choice is None:
            return {controls.method: gr.update(**offered)}
        shown = {**_values(controls, choice), controls.method: gr.update(value=choice.method, **offered)}
        return {**shown, advanced: gr.update(open=choice != Choice(choice.preset))}

    return opened.then(on_settings, ctx.session, [*controls.outputs, advanced, part.message], **QUIET)


def wire_return(ctx: Context, part: RunPart, tab_item: gr.Tab, opened: Opening) -> None:
    """A page that is reloaded, or a second one, shows the run as it is and goes on watching it."""
    outputs = [*part.outputs, ctx.changed, ctx.badges[TEACH.name]]

    @guarded(part.message)
    async def on_open(key: str) -> AsyncIterator[dict]:
        workspace = await ctx.run(lanes.LIGHT, ctx.workspace, key)
        async for shown in _follow(ctx, part, workspace):
            yield shown

    @guarded(part.message)
    async def on_select(key: str) -> AsyncIterator[dict]:
        async for shown in _follow(ctx, part, await ctx.run(lanes.LIGHT, ctx.workspace, key)):
            yield shown

    @guarded(part.message)
    def on_changed(key: str) -> dict:
        """The summary says whether the adapter is in use; another one may have been opened, or left."""
        return show(part, ctx.workspace(key))

    opened.then(on_open, ctx.session, outputs, **QUIET)
    tab_item.select(on_select, ctx.session, outputs, trigger_mode="once", **QUIET)
    ctx.changed.change(on_changed, ctx.session, part.outputs, trigger_mode="always_last", **QUIET)
