"""What belongs to a scan under the viewer: slice, window, plane, zoom, and the reading of all slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import gradio as gr

from app.context import DEVICE, QUIET, Context, asset_text, away, seen
from app.events import Press
from app.html import views
from app.predict import actions as reading
from app.predict import html as viewer
from app.predict.actions import OFF, MapChoice
from app.predict.html import TOGETHER
from app.visitor.workspace import Workspace

if TYPE_CHECKING:
    from app.predict.tab import PredictTab

GROUP = ("map-controls", "scan-controls")


@dataclass
class ScanControls:
    """What belongs to a scan: how it is drawn, and the reading of all its slices."""

    group: gr.Column
    window: gr.Radio
    plane: gr.Radio
    number: gr.Slider
    moment: gr.Slider
    invert: gr.Checkbox
    all_slices: gr.Button
    together: gr.Radio
    curve: gr.HTML

    @property
    def choices(self) -> dict:
        """What viewer.look can change."""
        return {
            "window": self.window, "invert": self.invert, "plane": self.plane, "number": self.number,
            "moment": self.moment,
        }  # fmt: skip

    @property
    def outputs(self) -> list:
        return [self.group, *self.choices.values(), self.all_slices, self.together, self.curve]


def build() -> ScanControls:
    """The controls under the viewer, hidden until there is a scan."""
    with gr.Column(elem_classes=away(*GROUP)) as group:
        number = gr.Slider(1, 2, 1, step=1, label="Slice", elem_id="scan-slice", buttons=[])
        moment = gr.Slider(1, 2, 1, step=1, label="Moment", elem_id="scan-moment", buttons=[])
        curve = gr.HTML("", js_on_load=asset_text("pick.js"), elem_id="scan-curve")
        together = gr.Radio(
            [(words, key) for key, words in TOGETHER.items()], value="top-k", label="All slices together",
            elem_id="scan-together", visible=False,
        )  # fmt: skip
        all_slices = gr.Button("Read all slices", elem_id="scan-all", size="sm", visible=False)
        window = gr.Radio([], label="Window", elem_id="scan-window")
        invert = gr.Checkbox(label="Swap black and white", elem_id="scan-invert")
        plane = gr.Radio([], label="Plane", elem_id="scan-plane")
        zoom = gr.Slider(1, 4, 1, step=0.25, label="Zoom", elem_id="scan-zoom", buttons=[])
    zoom.input(None, zoom, None, js=asset_text("zoom.js").split("\n", 1)[1], api_visibility="private")
    return ScanControls(group, window, plane, number, moment, invert, all_slices, together, curve)


def show(controls: ScanControls, workspace: Workspace, class_name: str | None = None, together: str = "top-k") -> dict:
    """The controls of the scan on show, or none for a picture."""
    record = viewer.selected(workspace)
    if record is None:
        return {controls.group: seen(False, *GROUP)}
    windows, planes, count = viewer.windows(record.scan), viewer.planes(record.scan), record.slices()
    film = viewer.is_film(record)
    moments = 1 if film else record.scan.frames
    ready = workspace.viewing.prediction is not None and count > 1
    noun, step = "frames" if film else "slices", viewer.step(record)
    which = "all" if step == 1 else f"one in {step} of the"
    curve = viewer.volume_html(workspace, class_name, together)
    return {
        controls.group: seen(True, *GROUP),
        controls.window: gr.update(choices=windows, value=viewer.window_key(record), visible=len(windows) > 1),
        controls.invert: gr.update(value=record.view.invert),
        controls.plane: gr.update(choices=planes, value=record.view.plane, visible=len(planes) > 1),
        controls.number: gr.update(
            maximum=max(count, 2), value=record.slice_number + 1, label="Frame" if film else "Slice", visible=count > 1
        ),
        controls.moment: gr.update(maximum=max(moments, 2), value=record.view.frame + 1, visible=moments > 1),
        controls.all_slices: gr.update(visible=ready and not curve, value=f"Read {which} {count} {noun}"),
        controls.together: gr.update(visible=bool(curve)),
        controls.curve: curve,
    }


def wire(ctx: Context, tab: PredictTab) -> None:
    """Draw, read and map anew what the controls change."""
    controls, chosen = tab.scan, [tab.when, tab.about, tab.scan.together]

    def redraw(workspace: Workspace, choice: MapChoice, together: str, follow: list) -> Iterator[dict]:
        """First the picture and the controls that follow, then what the model says of it, then the map.

        Again where the scan was changed meanwhile: what two events draw may reach the page in either order.
        """
        drawn = None
        while drawn is not viewer.selected(workspace):
            drawn = viewer.selected(workspace)
            now = show(controls, workspace, choice.class_name, together)
            yield {tab.viewer: reading.viewer_html(workspace), **{c: now[c] for c in follow if c in now}}
            if workspace.viewing.prediction is None:
                continue
            try:
                reading.read(ctx.engine, workspace, workspace.viewing.prompts.to_dict())
                yield {
                    tab.reading: reading.reading_html(workspace),
                    tab.table: reading.table_html(workspace),
                    controls.curve: viewer.volume_html(workspace, choice.class_name, together),
                }
                if choice.when != OFF:
                    yield {tab.viewer: reading.viewer_html(workspace, reading.map_layer(ctx.engine, workspace, choice))}
            except Exception as error:
                yield {tab.message: views.message(reading.sentence(error), "error")}

    def on_look(key: str, when: str, about: str, together: str, value, what: str) -> Iterator[dict]:
        """One control moves alone and is not answered, so that a second one moved meanwhile is not set back."""
        workspace = ctx.workspace(key)
        if viewer.selected(workspace) is None:
            return
        viewer.look(workspace, what, value)
        follow = [] if what in ("number", "moment") else [controls.all_slices, controls.together, controls.curve]
        if what == "plane":
            follow += [controls.number, controls.moment]
        yield from redraw(workspace, MapChoice(when, about), together, follow)

    def on_column(key: str, when: str, about: str, together: str, event: gr.EventData) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        record = viewer.selected(workspace)
        if record is None:
            return
        workspace.viewing.redraw(record.slice_at(Press.of(event).number("pick")))
        yield from redraw(workspace, MapChoice(when, about), together, controls.outputs)

    def on_all(key: str, about: str, together: str) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        if viewer.selected(workspace) is None or workspace.viewing.prediction is None:
            return
        name = about or reading.closest(workspace)
        try:
            yield {controls.all_slices: gr.update(interactive=False)}
            for _ in viewer.read_all(ctx.engine, workspace):
                yield {controls.curve: viewer.volume_html(workspace, name, together)}
            yield {
                controls.all_slices: gr.update(visible=False, interactive=True),
                controls.together: gr.update(visible=True),
            }
        except Exception as error:
            yield {
                tab.message: views.message(reading.sentence(error), "error"),
                controls.all_slices: gr.update(interactive=True),
            }

    def on_together(key: str, about: str, together: str) -> str:
        return viewer.volume_html(ctx.workspace(key), about, together)

    last, device = ({**what, "trigger_mode": "always_last"} for what in (QUIET, DEVICE))
    for what, control in controls.choices.items():
        control.input(partial(on_look, what=what), [ctx.session, *chosen, control], tab.outputs, **device)
    controls.curve.click(on_column, [ctx.session, *chosen], tab.outputs, **device)
    controls.all_slices.click(on_all, [ctx.session, tab.about, controls.together], tab.outputs, **device)
    for trigger in (controls.together.input, tab.about.input):
        trigger(on_together, [ctx.session, tab.about, controls.together], controls.curve, **last)
