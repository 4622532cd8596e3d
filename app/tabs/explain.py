"""The Explain tab: where the model looked and what teaching changed, with a control and a measure for every map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr

from app import explaining, map_views, views
from app.context import Context, asset_text
from app.explaining import CLASSES, COMPARE, IMAGES, ONE, Choice
from app.reading import AFTER, BEFORE, filmstrip_html, read, sentence
from app.tabs.predict import SET_STRENGTH
from app.workspace import Workspace

VIEW_NAMES = {ONE: "This map", COMPARE: "Before and after", CLASSES: "All classes", IMAGES: "All images"}
COLOURS = [("Fire", "inferno"), ("Green", "viridis"), ("Blue to yellow", "cividis")]
CONTOURS = [("None", 0.0), ("Highest tenth", 0.9), ("Highest quarter", 0.75)]


@dataclass
class ExplainTab:
    """The tab's components, by what they show."""

    stage: gr.HTML
    controls: gr.Column
    side: gr.Column
    view: gr.Radio
    when: gr.Radio
    about: gr.Radio
    method: gr.Radio
    card: gr.HTML
    layer: gr.Slider
    head: gr.Slider
    control: gr.Checkbox
    details: gr.HTML
    message: gr.HTML
    filmstrip: gr.HTML
    download: gr.DownloadButton
    strength: gr.Slider
    colours: gr.Radio
    smooth: gr.Checkbox
    contour: gr.Radio

    @property
    def choices(self) -> list:
        """What ``_choice`` is made of, in its order."""
        return [self.view, self.when, self.about, self.method, self.layer, self.head, self.control]

    @property
    def look(self) -> list:
        """What changes the drawing and never asks the model."""
        return [self.strength, self.colours, self.smooth, self.contour]

    @property
    def outputs(self) -> list:
        return [
            self.stage, self.controls, self.side, *self.choices, self.card, self.details, self.message, self.filmstrip,
            self.download,
        ]  # fmt: skip


def build(ctx: Context, tab_item: gr.Tab) -> ExplainTab:
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=12):
            with gr.Column(elem_classes="lightbox"):
                stage = gr.HTML(map_views.empty(), js_on_load=None, elem_id="maps")
                with gr.Column(elem_classes="map-controls", visible=False) as controls:
                    view = gr.Radio([(VIEW_NAMES[ONE], ONE)], value=ONE, label="Show", elem_id="explain-view")
                    with gr.Row():
                        when = gr.Radio(
                            [("Before teaching", BEFORE)], value=BEFORE, label="Of the model", elem_id="explain-when"
                        )
                        about = gr.Radio([], label="For the class", elem_id="explain-class")
                    strength = gr.Slider(
                        0, 100, 55, step=1, label="Strength of the map, per cent", elem_id="explain-strength",
                        buttons=[],
                    )  # fmt: skip
                filmstrip = gr.HTML("", js_on_load=asset_text("pick.js"), elem_id="explain-filmstrip")
            message = gr.HTML("", js_on_load=None, elem_id="explain-message")
            gr.HTML(f'<p class="quiet">{map_views.CAN_TELL}</p>', js_on_load=None)
        with gr.Column(elem_classes="right plain-controls", min_width=280, scale=8, visible=False) as side:
            method = gr.Radio([], label="Kind of map", elem_id="explain-method")
            card = gr.HTML("", js_on_load=None, elem_id="explain-card")
            layer = gr.Slider(0, 8, 0, step=1, label="Layer (0: its own choice)", elem_id="explain-layer", buttons=[])
            head = gr.Slider(0, 3, 0, step=1, label="Head (0: mean of all)", elem_id="explain-head", buttons=[])
            control = gr.Checkbox(
                label="Beside it, the control: the same map of a scrambled model", elem_id="explain-control"
            )
            details = gr.HTML("", js_on_load=None, elem_id="explain-details")
            gr.HTML('<h2 class="section">How it is drawn</h2>', js_on_load=None)
            colours = gr.Radio(COLOURS, value="inferno", label="Colours", elem_id="explain-colours")
            contour = gr.Radio(CONTOURS, value=0.0, label="Line around", elem_id="explain-contour")
            smooth = gr.Checkbox(label="Smooth between patches", value=True, elem_id="explain-smooth")
            with gr.Row(elem_classes="action"):
                download = gr.DownloadButton("Download as a picture", variant="primary", elem_id="explain-download")
    tab = ExplainTab(
        stage, controls, side, view, when, about, method, card, layer, head, control, details, message, filmstrip,
        download, strength, colours, smooth, contour,
    )  # fmt: skip
    strength.input(None, strength, None, js=SET_STRENGTH, api_visibility="private")
    _wire(ctx, tab, tab_item)
    return tab


def _choice(values: tuple) -> Choice:
    view, when, about, method, layer, head, control = values
    return Choice(view, when, about or "", method or "gradcam", int(layer or 0), int(head or 0), bool(control))


def _look(values: tuple) -> tuple[float, dict]:
    strength, colours, smooth, contour = values
    return float(strength) / 100, {"colours": colours, "smooth": bool(smooth), "contour": float(contour) or None}


def _controls(tab: ExplainTab, workspace: Workspace, choice: Choice) -> dict:
    """What can be chosen now, and what is."""
    from nearl.explain import METHODS

    card = METHODS[choice.method]
    whens = [("Before teaching", BEFORE)]
    if workspace.prediction.adapted is not None:
        whens = [*whens, ("After teaching", AFTER)] if not card.adapter else [("After teaching", AFTER)]
    cards = explaining.offered(workspace)
    names = [(f"{c.name} (slow)" if c.slow else c.name, c.key) for c in cards]
    tower = workspace.classifier.backbone.vision
    shown = [(VIEW_NAMES[v], v) for v in explaining.views_of(workspace, card)]
    compared = choice.view == COMPARE
    return {
        tab.controls: gr.update(visible=True),
        tab.side: gr.update(visible=True),
        tab.view: gr.update(choices=shown, value=choice.view),
        tab.when: gr.update(choices=whens, value=choice.when, visible=not compared),
        tab.about: gr.update(
            choices=list(workspace.prediction.classes), value=choice.class_name,
            visible=card.by_class and choice.view != CLASSES,
        ),
        tab.method: gr.update(choices=names, value=choice.method),
        tab.card: map_views.card(card, explaining.measured(workspace, choice.method)),
        tab.layer: gr.update(maximum=tower.depth, value=choice.layer, visible=card.layers),
        tab.head: gr.update(maximum=explaining.heads(workspace), value=choice.head, visible=card.heads),
        tab.control: gr.update(value=choice.control, visible=choice.view == ONE),
    }  # fmt: skip


def _details(ctx: Context, workspace: Workspace, choice: Choice) -> str:
    if choice.method == "relevance" and choice.view == ONE:
        return map_views.words_line(explaining.word_shares(ctx.engine, workspace, choice))
    if choice.method in ("novelty", "parallel"):
        return map_views.profile(explaining.layer_profile(ctx.engine, workspace))
    return ""


def _wire(ctx: Context, tab: ExplainTab, tab_item: gr.Tab) -> None:
    session = ctx.session
    values = [*tab.choices, *tab.look]

    def show(key: str, *given) -> Iterator[dict]:
        """The whole tab, for what is chosen; the model is asked only for what has not been drawn yet."""
        workspace = ctx.registry.get(key)
        yield {session: workspace.id}
        try:
            if workspace.prediction is None and workspace.records and workspace.prompt_set is not None:
                read(ctx.engine, workspace, workspace.prompt_set.to_dict())  # taught since it was read
        except Exception as error:
            yield {tab.message: views.message(sentence(error), "error")}
        if workspace.prediction is None:
            hidden = {part: gr.update(visible=False) for part in (tab.controls, tab.side)}
            yield {tab.stage: map_views.empty(), tab.message: "", tab.filmstrip: "", **hidden}
            return
        count = len(tab.choices)
        try:
            choice = explaining.settle(workspace, _choice(given[:count]))
            yield {
                **_controls(tab, workspace, choice),
                tab.filmstrip: filmstrip_html(workspace),
                tab.message: _wait(choice),
            }
            drawn = _draw(workspace, choice, given[count:])
            yield {**drawn, tab.details: _details(ctx, workspace, choice), tab.message: ""}
        except Exception as error:
            yield {tab.message: views.message(sentence(error), "error")}

    def redraw(key: str, *given) -> dict:
        """The same maps in another look."""
        workspace = ctx.registry.get(key)
        if workspace.prediction is None:
            return {tab.message: ""}
        count = len(tab.choices)
        try:
            return _draw(workspace, explaining.settle(workspace, _choice(given[:count])), given[count:])
        except Exception as error:
            return {tab.message: views.message(sentence(error), "error")}

    def _draw(workspace: Workspace, choice: Choice, look: tuple) -> dict:
        shown = explaining.panels(ctx.engine, workspace, choice)
        opacity, how = _look(look)
        path = explaining.figure_of(workspace, shown, opacity, how)
        return {
            tab.stage: map_views.stage(shown, choice.view, workspace.synthetic, how),
            tab.download: gr.update(value=path),
        }

    def _wait(choice: Choice) -> str:
        from nearl.explain import METHODS

        return map_views.busy(METHODS[choice.method].slow)

    def on_pick(key: str, event: gr.EventData, *given) -> Iterator[dict]:
        workspace = ctx.registry.get(key)
        workspace.selected = int(event.index) % max(len(workspace.records), 1)
        yield from show(key, *given)

    def wire(trigger: Callable, fn: Callable, **queue) -> None:
        trigger(
            fn, [session, *values], [session, *tab.outputs], show_progress="hidden", trigger_mode="always_last",
            api_visibility="private", **(queue or {"concurrency_id": "device", "concurrency_limit": 4}),
        )  # fmt: skip

    wire(tab_item.select, show)
    for part in (tab.view, tab.when, tab.about, tab.method, tab.control):
        wire(part.input, show)
    for slider in (tab.layer, tab.head):
        wire(slider.release, show)
    wire(tab.filmstrip.click, on_pick)
    for trigger in (tab.colours.input, tab.smooth.input, tab.contour.input, tab.strength.release):
        wire(trigger, redraw, concurrency_limit=None)
