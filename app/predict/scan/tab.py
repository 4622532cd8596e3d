"""What belongs to a scan under the viewer: slice, window, plane, zoom, and the reading of all slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import gradio as gr

from app.context import DEVICE, QUIET, Context, asset_text, away, calls, seen
from app.events import Components, Press, guarded
from app.predict import actions as reading
from app.predict.scan import actions as scanning
from app.predict.scan import html as scan_views
from app.predict.study import actions as study
from app.predict.study import html as study_views
from app.visitor.workspace import Workspace

AFTER_WINDOW = {"window": ("center", "width"), "center": ("window",), "width": ("window",)}  # controls that follow one
GROUP = ("map-controls", "scan-controls")


@dataclass
class ScanPart(Components):
    """What belongs to a scan: how it is drawn, and the reading of all its slices."""

    group: gr.Column
    looks: dict[str, gr.Component]  # by the keys of `scanning.LOOKS`
    all_slices: gr.Button
    together: gr.Radio
    curve: gr.HTML


def build() -> ScanPart:
    """The controls under the viewer, hidden until there is a scan."""
    with gr.Column(elem_classes=away(*GROUP)) as group:
        number = gr.Slider(1, 2, 1, step=1, label="Slice", elem_id="scan-slice", buttons=[])
        moment = gr.Slider(1, 2, 1, step=1, label="Moment", elem_id="scan-moment", buttons=[])
        curve = gr.HTML("", js_on_load=calls("pick.js"), elem_id="scan-curve")
        together = gr.Radio(
            [(words, key) for key, words in scan_views.TOGETHER.items()], value="top-k", label="All slices together",
            elem_id="scan-together", visible=False,
        )  # fmt: skip
        all_slices = gr.Button("Read all slices", elem_id="scan-all", size="sm", visible=False)
        window = gr.Radio([], label="Window", elem_id="scan-window")
        with gr.Row():
            center = gr.Number(label="Window centre", elem_id="scan-center", buttons=[], min_width=120)
            width = gr.Number(label="Window width", elem_id="scan-width", buttons=[], min_width=120)
        invert = gr.Checkbox(label="Swap black and white", elem_id="scan-invert")
        plane = gr.Radio([], label="Plane", elem_id="scan-plane")
        zoom = gr.Slider(1, 4, 1, step=0.25, label="Zoom", elem_id="scan-zoom", buttons=[])
    zoom.input(None, zoom, None, js=asset_text("zoom.js"), api_visibility="private")
    looks = {
        "window": window, "center": center, "width": width, "invert": invert, "plane": plane, "number": number,
        "moment": moment,
    }  # fmt: skip
    return ScanPart(group, looks, all_slices, together, curve)


def below(workspace: Workspace, class_name: str | None) -> str:
    """The columns under the image: the slices that fired, and the curve of all slices read one by one."""
    return study_views.slices(workspace) + scan_views.curve(workspace, class_name)


def show(part: ScanPart, workspace: Workspace, class_name: str | None = None) -> dict:
    """The controls of the scan on show, or none for another image."""
    record = scanning.selected(workspace)
    if record is None:
        return {part.group: seen(False, *GROUP)}
    windows, planes, count = scanning.windows(record), scanning.planes(record.scan), record.slices()
    film, step = scanning.is_film(record), scanning.step(record)
    moments = 1 if film else record.scan.frames
    ready = workspace.viewing.prediction is not None and count > 1
    ready = ready and workspace.viewing.studied is None  # what it says of a study holds for no slice
    which = "all" if step == 1 else f"one in {step} of the"
    limits = scanning.limits(record) or (None, None)
    curve = scan_views.curve(workspace, class_name)
    return {
        part.group: seen(True, *GROUP),
        part.looks["window"]: gr.update(choices=windows, value=scanning.window_key(record), visible=len(windows) > 1),
        part.looks["center"]: gr.update(value=limits[0], visible=limits[0] is not None),
        part.looks["width"]: gr.update(value=limits[1], visible=limits[0] is not None),
        part.looks["invert"]: gr.update(value=record.view.invert),
        part.looks["plane"]: gr.update(choices=planes, value=record.view.plane, visible=len(planes) > 1),
        part.looks["number"]: gr.update(
            maximum=max(count, 2), value=record.slice_number + 1, label="Frame" if film else "Slice", visible=count > 1
        ),
        part.looks["moment"]: gr.update(maximum=max(moments, 2), value=record.view.frame + 1, visible=moments > 1),
        part.all_slices: gr.update(
            visible=ready and not curve, value=f"Read {which} {count} {'frames' if film else 'slices'}"
        ),
        part.together: gr.update(visible=bool(curve)),
        part.curve: study_views.slices(workspace) + curve,
    }


def wire(
    ctx: Context, part: ScanPart, chosen: tuple[gr.Radio, gr.Radio], message: gr.HTML,
    drawn_again: Callable[..., Iterator[dict]], outputs: list,
) -> None:  # fmt: skip
    """Draw, read and map again what the controls change.

    `chosen`: the radios of the map, by moment and class; `drawn_again(workspace, when, about, follow)` yields the
    updates of `outputs` for a scan that is drawn in another way, with those of `part` that are in `follow`.
    """
    session, (_, about) = ctx.session, chosen

    @guarded(message)
    def on_look(key: str, when: str, about: str, value, what: str) -> Iterator[dict]:
        """One control moves alone and is not answered, so that a second one moved meanwhile is not set back."""
        workspace = ctx.workspace(key)
        if scanning.selected(workspace) is None:
            return
        scanning.look(workspace, what, value)
        follow = [] if what in ("number", "moment") else [part.all_slices, part.together, part.curve]
        follow += [part.looks[other] for other in AFTER_WINDOW.get(what, ())]
        if what == "plane":
            follow += [part.looks["number"], part.looks["moment"]]
        yield from drawn_again(workspace, when, about, follow)

    @guarded(message)
    def on_column(key: str, when: str, about: str, event: gr.EventData) -> Iterator[dict]:
        """Go to the slice of a column of the curve."""
        workspace = ctx.workspace(key)
        record = scanning.selected(workspace)
        if record is None:
            return
        workspace.viewing.redraw(study.slice_at(workspace, record, Press.of(event).number("pick")))
        yield from drawn_again(workspace, when, about, part.outputs)

    @guarded(message, lambda *given: {part.all_slices: gr.update(interactive=True)})
    def on_all(key: str, about: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        record = scanning.selected(workspace)
        if record is None or workspace.viewing.prediction is None:
            return
        name = about or reading.closest(workspace)
        yield {part.all_slices: gr.update(interactive=False)}
        for _ in scanning.read_all(ctx.engine, workspace):
            now = scanning.selected(workspace)
            if now is None or now.scan is not record.scan or workspace.viewing.prediction is None:
                yield {part.all_slices: gr.update(interactive=True)}  # another image: it is not asked about
                return
            yield {part.curve: below(workspace, name)}
        yield {
            part.all_slices: gr.update(visible=False, interactive=True),
            part.together: gr.update(visible=True),
        }

    @guarded(message)
    def on_together(key: str, about: str, together: str) -> dict:
        workspace = ctx.workspace(key)
        workspace.viewing.combine(together)
        return {part.curve: below(workspace, about)}

    last, device = ({**what, "trigger_mode": "always_last"} for what in (QUIET, DEVICE))
    for what, control in part.looks.items():
        control.input(partial(on_look, what=what), [session, *chosen, control], outputs, **device)
    part.curve.click(on_column, [session, *chosen], outputs, **device)
    part.all_slices.click(on_all, [session, about], [part.all_slices, part.together, part.curve, message], **device)
    for trigger in (part.together.input, about.input):
        trigger(on_together, [session, about, part.together], [part.curve, message], **last)
