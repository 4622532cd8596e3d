"""The Explain tab: where the model looked and what teaching changed, with a control and a measure for every map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr

from app.context import DEVICE, MAP_CONTROLS, QUIET, SET_STRENGTH, Context, asset_text, away, seen
from app.events import Press, sentence
from app.explain import actions as explaining
from app.explain import html as map_views
from app.explain.actions import CLASSES, COMPARE, IMAGES, ONE, Choice
from app.html import views
from app.predict.actions import AFTER, BEFORE, read
from app.predict.html import filmstrip_html
from app.visitor.workspace import Workspace

SIDE = ("right", "plain-controls")
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
                with gr.Column(elem_classes=away(MAP_CONTROLS)) as controls:
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
            gr.HTML(views.quiet(map_views.CAN_TELL), js_on_load=None)
        with gr.Column(elem_classes=away(*SIDE), min_width=280, scale=8) as side:
            method = gr.Radio([], label="Kind of map", elem_id="explain-method")
            card = gr.HTML("", js_on_load=None, elem_id="explain-card")
            layer = gr.Slider(0, 8, 0, step=1, label="Layer (0: its own choice)", elem_id="explain-layer", buttons=[])
            head = gr.Slider(0, 3, 0, step=1, label="Head (0: mean of all)", elem_id="explain-head", buttons=[])
            control = gr.Checkbox(
                label="Beside it, the control: the same map of a scrambled model", elem_id="explain-control"
            )
            details = gr.HTML("", js_on_load=None, elem_id="explain-details")
            gr.HTML(views.section("How it is drawn"), js_on_load=None)
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
    return Choice(view, when, about or "", method or "", int(layer or 0), int(head or 0), bool(control))


def _look(values: tuple) -> tuple[float, dict]:
    strength, colours, smooth, contour = values
    return float(strength) / 100, {"colours": colours, "smooth": bool(smooth), "contour": float(contour) or None}


def _controls(tab: ExplainTab, workspace: Workspace, asked: Choice, choice: Choice) -> dict:
    """What can be chosen now. A control's value is sent only where it could not be had as ``asked``, so that whoever
    clicks faster than the maps are drawn is not put back."""
    from nearl.explain import METHODS

    card = METHODS[choice.method]
    whens = [("Before teaching", BEFORE)]
    if workspace.viewing.prediction.adapted is not None and workspace.viewing.classifier.mapped:
        whens = [*whens, ("After teaching", AFTER)] if not card.adapter else [("After teaching", AFTER)]
    cards = explaining.offered(workspace)
    names = [(f"{c.name} (slow)" if c.slow else c.name, c.key) for c in cards]
    shown = [(VIEW_NAMES[v], v) for v in explaining.views_of(workspace, card)]

    def update(name: str, **more) -> dict:
        changed = getattr(asked, name) != getattr(choice, name)
        return gr.update(**more, **({"value": getattr(choice, name)} if changed else {}))

    return {
        tab.controls: seen(True, MAP_CONTROLS),
        tab.side: seen(True, *SIDE),
        tab.view: update("view", choices=shown),
        tab.when: update("when", choices=whens, visible=choice.view != COMPARE),
        tab.about: update(
            "class_name",
            choices=list(workspace.viewing.prediction.classes),
            visible=card.by_class and choice.view != CLASSES,
        ),
        tab.method: update("method", choices=names),
        tab.card: map_views.card(card, explaining.measured(workspace, choice.method)),
        tab.layer: update("layer", maximum=workspace.viewing.classifier.backbone.vision.depth, visible=card.layers),
        tab.head: update("head", maximum=explaining.heads(workspace), visible=card.heads),
        tab.control: gr.update(visible=choice.view == ONE),
    }


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
        workspace = ctx.workspace(key)
        question = workspace.maps.ask()
        yield {session: workspace.id}
        try:
            if (
                workspace.viewing.prediction is None
                and workspace.viewing.records
                and workspace.viewing.prompts is not None
            ):
                read(ctx.engine, workspace, workspace.viewing.prompts.to_dict())  # taught since it was read
        except Exception as error:
            yield {tab.message: views.message(sentence(error), "error")}
        if workspace.viewing.prediction is None:
            hidden = {tab.controls: seen(False, MAP_CONTROLS), tab.side: seen(False, *SIDE)}
            yield {tab.stage: map_views.empty(), tab.message: "", tab.filmstrip: "", **hidden}
            return
        count = len(tab.choices)
        try:
            asked = _choice(given[:count])
            choice = explaining.settle(workspace, asked)
            yield {
                **_controls(tab, workspace, asked, choice),
                tab.filmstrip: filmstrip_html(workspace),
                tab.message: _wait(choice),
            }
            drawn = _draw(workspace, choice, given[count:])
            if workspace.maps.is_latest(question):  # else what was asked for later has been drawn
                yield {**drawn, tab.details: _details(ctx, workspace, choice), tab.message: ""}
        except Exception as error:
            yield {tab.message: views.message(sentence(error), "error")}

    def on_method(key: str, view, when, about, method, layer, head, *rest) -> Iterator[dict]:
        """Another kind of map begins with the layer and head of its own choice."""
        yield {tab.layer: 0, tab.head: 0}
        yield from show(key, view, when, about, method, 0, 0, *rest)

    def redraw(key: str, *given) -> dict:
        """The same maps in another look."""
        workspace = ctx.workspace(key)
        if workspace.viewing.prediction is None:
            return {tab.message: ""}
        count = len(tab.choices)
        try:
            return _draw(workspace, explaining.settle(workspace, _choice(given[:count])), given[count:])
        except Exception as error:
            return {tab.message: views.message(sentence(error), "error")}

    def resave(key: str, *given) -> dict:
        """The strength is changed in the page; only the picture to download is made anew."""
        drawn = redraw(key, *given)
        drawn.pop(tab.stage, None)
        return drawn

    def _draw(workspace: Workspace, choice: Choice, look: tuple) -> dict:
        shown = explaining.panels(ctx.engine, workspace, choice)
        opacity, how = _look(look)
        path = explaining.figure_of(workspace, shown, opacity, how)
        return {
            tab.stage: map_views.stage(shown, choice.view, workspace.viewing.synthetic, how),
            tab.download: gr.update(value=path),
        }

    def _wait(choice: Choice) -> str:
        from nearl.explain import METHODS

        return map_views.busy(METHODS[choice.method].slow)

    def on_pick(key: str, event: gr.EventData, *given) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        workspace.viewing.select(Press.of(event).pick("pick", range(len(workspace.viewing.records))))
        yield from show(key, *given)

    def wire(trigger: Callable, fn: Callable, **queue) -> None:
        trigger(
            fn, [session, *values], [session, *tab.outputs], trigger_mode="always_last",
            **(QUIET | queue if queue else DEVICE),
        )  # fmt: skip

    wire(tab_item.select, show)
    for part in (tab.view, tab.when, tab.about, tab.control):
        wire(part.input, show)
    wire(tab.method.input, on_method)
    for slider in (tab.layer, tab.head):
        wire(slider.input, show)
    wire(tab.filmstrip.click, on_pick)
    for part in (tab.colours, tab.smooth, tab.contour):
        wire(part.input, redraw, concurrency_limit=None)
    wire(tab.strength.input, resave, concurrency_limit=None)
