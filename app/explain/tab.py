"""The Explain tab: where the model looked and what teaching changed, with a control and a measure for every map."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import gradio as gr

from app.context import DEVICE, MAP_CONTROLS, QUIET, SET_STRENGTH, Context, away, calls, seen
from app.events import INPUT, Components, Press, guarded
from app.explain import actions as explaining
from app.explain import choice as choosing
from app.explain import drawing
from app.explain import html as map_views
from app.explain.choice import CLASSES, COMPARE, DEFAULT, IMAGES, ONE, Choice
from app.html import views
from app.predict.actions import AFTER, BEFORE, read
from app.predict.html import filmstrip_html
from app.visitor.workspace import Workspace
from app.work import lanes

SIDE = ("right", "plain-controls")
WHENS = {BEFORE: "Before teaching", AFTER: "After teaching"}
VIEW_NAMES = {ONE: "This map", COMPARE: "Before and after", CLASSES: "All classes", IMAGES: "All images"}
COLOURS = [("Fire", "inferno"), ("Green", "viridis"), ("Blue to yellow", "cividis")]
POLL_SECONDS = 0.4  # between two looks at a slow map
CONTOURS = [("None", 0.0), ("Highest tenth", 0.9), ("Highest quarter", 0.75)]


@dataclass
class ExplainTab(Components):
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
    cancel: gr.Button
    filmstrip: gr.HTML
    download: gr.DownloadButton
    strength: gr.Slider = field(metadata=INPUT)
    colours: gr.Radio = field(metadata=INPUT)
    smooth: gr.Checkbox = field(metadata=INPUT)
    contour: gr.Radio = field(metadata=INPUT)

    @property
    def choices(self) -> list:
        """What makes a Choice, in the order of `_choice`."""
        return [self.view, self.when, self.about, self.method, self.layer, self.head, self.control]

    @property
    def look(self) -> list:
        """What changes the drawing and never asks the model, in the order of `_look`."""
        return [self.strength, self.colours, self.smooth, self.contour]


def build(ctx: Context, tab_item: gr.Tab) -> ExplainTab:
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=12):
            with gr.Column(elem_classes="lightbox"):
                stage = gr.HTML(map_views.empty(), js_on_load=None, elem_id="maps")
                message = gr.HTML("", js_on_load=None, elem_id="explain-message")
                cancel = gr.Button("Cancel", size="sm", elem_classes=away(), elem_id="explain-cancel")
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
                filmstrip = gr.HTML("", js_on_load=calls("pick.js"), elem_id="explain-filmstrip")
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
                download = gr.DownloadButton("Download as an image", variant="primary", elem_id="explain-download")
    tab = ExplainTab(
        stage, controls, side, view, when, about, method, card, layer, head, control, details, message, cancel,
        filmstrip, download, strength, colours, smooth, contour,
    )  # fmt: skip
    strength.input(None, strength, None, js=SET_STRENGTH, api_visibility="private")
    _wire(ctx, tab, tab_item)
    return tab


def _choice(values: Sequence) -> Choice:
    view, when, about, method, layer, head, control = values
    return Choice(view, when, about or "", method or "", int(layer or 0), int(head or 0), bool(control))


def _look(values: Sequence) -> tuple[float, dict]:
    """Opacity of the map 0..1, and how it is drawn as `nearl.explain.heat_layer` takes it."""
    strength, colours, smooth, contour = values
    return float(strength) / 100, {"colours": colours, "smooth": bool(smooth), "contour": float(contour) or None}


# ---- what is shown


def _controls(tab: ExplainTab, workspace: Workspace, asked: Choice, choice: Choice) -> dict:
    """What can be chosen now. A control's value is sent only where it could not be had as ``asked``, so that whoever
    clicks faster than the maps are drawn is not put back."""
    from nearl.explain import MAPS

    card, viewing = MAPS[choice.method], workspace.viewing
    whens = [(WHENS[when], when) for when in choosing.whens_of(workspace, card)]
    names = [(f"{c.name} (slow)" if c.slow else c.name, c.key) for c in choosing.offered(workspace)]
    shown = [(VIEW_NAMES[v], v) for v in choosing.views_of(workspace, card)]

    def update(name: str, **more) -> dict:
        changed = getattr(asked, name) != getattr(choice, name)
        return gr.update(**more, **({"value": getattr(choice, name)} if changed else {}))

    about = map_views.card(card, explaining.measured(workspace, choice.method))
    return {
        tab.controls: seen(True, MAP_CONTROLS),
        tab.side: seen(True, *SIDE),
        tab.view: update("view", choices=shown),
        tab.when: update("when", choices=whens, visible=choice.view != COMPARE),
        tab.about: update(
            "class_name", choices=list(viewing.prediction.classes), visible=card.by_class and choice.view != CLASSES
        ),
        tab.method: update("method", choices=names),
        tab.card: about + views.message(choosing.missing(workspace, card)),
        tab.layer: update("layer", maximum=viewing.classifier.backbone.vision.depth, visible=card.layers),
        tab.head: update("head", maximum=choosing.heads(workspace), visible=card.heads),
        tab.control: gr.update(visible=choice.view == ONE),
    }


def _details(ctx: Context, workspace: Workspace, choice: Choice) -> str:
    """What stands below the card of some maps: the words of the prompts, or the layers that teaching changed."""
    from nearl.explain import MAPS
    from nearl.methods.shows import Shows

    if choice.method == "relevance" and choice.view == ONE:
        return map_views.words_line(explaining.word_shares(ctx.engine, workspace, choice))
    if Shows.UPDATES in MAPS[choice.method].needs:
        return map_views.profile(explaining.layer_profile(ctx.engine, workspace))
    return ""


def _draw(ctx: Context, tab: ExplainTab, workspace: Workspace, choice: Choice, look: Sequence) -> dict:
    shown = explaining.panels(ctx.engine, workspace, choice)
    opacity, how = _look(look)
    path = explaining.figure_of(workspace, shown, opacity, how, choice.view)
    name = explaining.file_name(workspace, choice, shown)
    return {
        tab.stage: map_views.stage(shown, choice.view, workspace.viewing.synthetic, how, name),
        tab.download: gr.update(value=path, interactive=True),
    }


def _waiting(tab: ExplainTab, workspace: Workspace, going: drawing.Drawing) -> dict:
    """The image alone and how far its map is; nothing of an earlier map."""
    viewing, name = workspace.viewing, _name(going.choice)
    return {
        tab.stage: map_views.waiting(viewing.record, name, viewing.synthetic),
        tab.message: map_views.progress(name, going.share),
        tab.cancel: seen(True),
        tab.details: "",
        tab.download: gr.update(value=None, interactive=False),
    }


def _name(choice: Choice) -> str:
    """A map and its class in words."""
    from nearl.explain import MAPS

    card = MAPS[choice.method]
    of_class = f" for “{choice.class_name}”" if card.by_class and choice.view != CLASSES else ""
    return card.name + of_class


def _settled(workspace: Workspace, asked: Choice) -> Choice:
    """What can be shown of it; the class is that of the answer on show until the visitor chooses one."""
    return choosing.settle(workspace, replace(asked, class_name=workspace.maps.picked))


# ---- events


def _wire(ctx: Context, tab: ExplainTab, tab_item: gr.Tab) -> None:
    session, count = ctx.session, len(tab.choices)
    values = [*tab.choices, *tab.look]

    @guarded(tab.message, lambda *given: {tab.cancel: seen(False)})
    def show(key: str, *given) -> Iterator[dict]:
        """The whole tab, for what is chosen; the model is asked only for what has not been drawn yet. A slow map is
        begun, and `follow` shows it."""
        workspace = ctx.workspace(key)
        viewing, question = workspace.viewing, workspace.maps.ask()
        yield {session: workspace.id}
        if viewing.prediction is None and viewing.records and viewing.prompts is not None:
            read(ctx.engine, workspace, viewing.prompts.to_dict())  # another adapter is in use since it was read
        if viewing.prediction is None:
            hidden = {tab.controls: seen(False, MAP_CONTROLS), tab.side: seen(False, *SIDE)}
            yield {tab.stage: map_views.empty(), tab.message: "", tab.filmstrip: "", **hidden}
            return
        asked = _choice(given[:count])
        choice = _settled(workspace, asked)
        controls = {**_controls(tab, workspace, asked, choice), tab.filmstrip: filmstrip_html(workspace)}
        if drawing.waits(workspace, choice):
            yield {**controls, **_waiting(tab, workspace, drawing.begin(ctx.engine, workspace, choice))}
            return
        drawing.stop(workspace)
        yield {**controls, tab.message: map_views.busy(), tab.cancel: seen(False)}
        drawn = _draw(ctx, tab, workspace, choice, given[count:])
        if workspace.maps.is_latest(question):  # else what was asked for later has been drawn
            yield {**drawn, tab.details: _details(ctx, workspace, choice), tab.message: ""}

    @guarded(tab.message)
    def on_method(key: str, view, when, about, method, layer, head, *rest) -> Iterator[dict]:
        """Another kind of map begins with the layer and head of its own choice."""
        yield {tab.layer: 0, tab.head: 0}
        yield from show(key, view, when, about, method, 0, 0, *rest)

    @guarded(tab.message)
    def on_class(key: str, view, when, about, *rest) -> Iterator[dict]:
        ctx.workspace(key).maps.pick(about or "")
        yield from show(key, view, when, about, *rest)

    @guarded(tab.message)
    def on_cancel(key: str, view, when, about, method, layer, head, *rest) -> Iterator[dict]:
        """A quick map instead of the slow one."""
        workspace = ctx.workspace(key)
        going = drawing.current(workspace)
        drawing.stop(workspace)
        yield {tab.method: DEFAULT, tab.layer: 0, tab.head: 0}
        yield from show(key, view, when, about, DEFAULT, 0, 0, *rest)
        if going is not None:
            yield {tab.message: views.quiet(f"Cancelled: {_name(going.choice)} was not drawn.")}

    @guarded(tab.message)
    def on_pick(key: str, event: gr.EventData, *given) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        workspace.viewing.select(Press.of(event).pick("pick", range(len(workspace.viewing.records))))
        yield from show(key, *given)

    follow = _follower(ctx, tab)

    def wire(trigger: Callable, fn: Callable) -> None:
        event = trigger(fn, [session, *values], [session, *tab.outputs], trigger_mode="always_last", **DEVICE)
        shown = [tab.stage, tab.message, tab.cancel, tab.download]
        event.then(follow, [session, *values], shown, trigger_mode="multiple", **QUIET)

    wire(tab_item.select, show)
    for part in (tab.view, tab.when, tab.control, tab.layer, tab.head):
        wire(part.input, show)
    wire(tab.about.input, on_class)
    wire(tab.method.input, on_method)
    wire(tab.cancel.click, on_cancel)
    wire(tab.filmstrip.click, on_pick)
    _wire_look(ctx, tab)


def _follower(ctx: Context, tab: ExplainTab) -> Callable:
    """The handler that shows a slow map while it is drawn."""
    count = len(tab.choices)

    @guarded(tab.message, lambda *given: {tab.cancel: seen(False)})
    async def follow(key: str, *given) -> AsyncIterator[dict]:
        """A slow map while it is drawn, and at its end; nothing where something else was asked for."""
        workspace = await ctx.run(lanes.LIGHT, ctx.workspace, key)
        going = drawing.current(workspace)
        if going is None or going.stopped or going.shown:
            return
        while not going.ended:
            yield {tab.message: map_views.progress(_name(going.choice), going.share)}
            await asyncio.sleep(POLL_SECONDS)
        if going.stopped:
            return
        going.shown = True
        if going.error is not None:
            raise going.error
        drawn = await ctx.run(lanes.DEVICE, _draw, ctx, tab, workspace, going.choice, given[count:])
        if drawing.current(workspace) is going and not going.stopped:
            yield {**drawn, tab.message: "", tab.cancel: seen(False)}

    return follow


def _wire_look(ctx: Context, tab: ExplainTab) -> None:
    """Draw the same maps again when colours, smoothing, contour or strength change."""
    values, count = [*tab.choices, *tab.look], len(tab.choices)

    @guarded(tab.message)
    def redraw(key: str, *given) -> dict:
        """The same maps in another look."""
        workspace = ctx.workspace(key)
        if workspace.viewing.prediction is None:
            return {tab.message: ""}
        choice = _settled(workspace, _choice(given[:count]))
        return {} if drawing.waits(workspace, choice) else _draw(ctx, tab, workspace, choice, given[count:])

    @guarded(tab.message)
    def resave(key: str, *given) -> dict:
        """The strength is changed in the page; only the image to download is drawn again."""
        return {part: value for part, value in redraw(key, *given).items() if part is not tab.stage}

    drawing_again = {"trigger_mode": "always_last", **QUIET}
    for part in (tab.colours, tab.smooth, tab.contour):
        part.input(redraw, [ctx.session, *values], [tab.stage, tab.download, tab.message], **drawing_again)
    tab.strength.input(resave, [ctx.session, *values], [tab.download, tab.message], **drawing_again)
