"""The Explain tab: where the model looked and what teaching changed, with a control and a measure for every map."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import gradio as gr

from app.context import DEVICE, MAP_CONTROLS, QUIET, SET_STRENGTH, Context, away, calls, seen
from app.events import INPUT, Components, Press, bump, guarded
from app.explain import actions as explaining
from app.explain import choice as choosing
from app.explain import drawing
from app.explain import html as map_views
from app.explain.choice import CLASSES, COMPARE, DEFAULT, IMAGES, ONE, Choice
from app.html import views
from app.models.memory import label
from app.predict import findings
from app.predict.actions import AFTER, BEFORE, read
from app.predict.html import filmstrip_html
from app.visitor.workspace import Workspace
from app.work import lanes

SIDE = ("right", "plain-controls")
WHENS = {BEFORE: "Before teaching", AFTER: "After teaching"}
VIEW_NAMES = {ONE: "This map", COMPARE: "Before and after", CLASSES: "All classes", IMAGES: "All images"}
COLOURS = [("Fire", "inferno"), ("Green", "viridis"), ("Blue to yellow", "cividis")]
LOOKED_AT = """() => {  // whether this tab is open
  const open = document.querySelector("#tabs [role=tab][aria-selected=true]");
  return [open?.textContent.trim() === "Explain" ? "yes" : ""];
}"""
NOT_DRAWN = "No map was drawn."
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
            "class_name", choices=findings.offered(workspace), visible=card.by_class and choice.view != CLASSES
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
    explaining.complete(ctx.engine, workspace, choice)
    with workspace.lock:  # the image on show is chosen under it too
        shown = explaining.panels(ctx.engine, workspace, choice)
        of = _of(workspace, choice)
    opacity, how = _look(look)
    path = explaining.figure_of(workspace, shown, opacity, how, choice.view)
    name, known = explaining.file_name(workspace, choice, shown), explaining.plausible(workspace, choice.method)
    return {
        tab.stage: map_views.stage(shown, choice.view, workspace.viewing.synthetic, how, name, of, known),
        tab.download: gr.update(value=path, interactive=True),
    }


def _of(workspace: Workspace, choice: Choice) -> str:
    """What a view shows, in the names and values of the page's controls, as JSON."""
    viewing = workspace.viewing
    of = {**asdict(choice), "class": choice.class_name, "image": viewing.selected}
    return json.dumps({**of, "seen": viewing.record.digest[:12], "model": label(viewing.classifier.backbone.name)})


def _waiting(tab: ExplainTab, workspace: Workspace, choice: Choice) -> dict:
    """The image alone, and what is drawn of it; nothing of an earlier map."""
    viewing, name = workspace.viewing, _name(choice)
    return {
        tab.stage: map_views.waiting(viewing.record, name, viewing.synthetic, _of(workspace, choice)),
        tab.message: map_views.busy(name),
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
    """All that is drawn is drawn by one event, which begins again at its end if something was changed meanwhile, with
    the values that the controls then have: what is on show at the end is what was chosen last."""
    session, count = ctx.session, len(tab.choices)
    asked = gr.State(0)  # changes with what no control holds: another image, a class of one's own choice, a drawn map

    @guarded(tab.message, lambda *given: {tab.cancel: seen(False), tab.stage: map_views.empty(NOT_DRAWN)})
    def show(key: str, *given) -> Iterator[dict]:
        """The whole tab, for what is chosen; the model is asked only for what has not been drawn yet. A slow map is
        begun, and `follow` watches it."""
        workspace = ctx.workspace(key)
        viewing = workspace.viewing
        yield {session: workspace.id}
        fits = viewing.found is None or viewing.found.fits  # else these are the classes of other images
        if viewing.prediction is None and viewing.records and viewing.prompts is not None and fits:
            read(ctx.engine, workspace, viewing.prompts.to_dict())  # another adapter is in use since it was read
        if viewing.prediction is None:
            hidden = {tab.controls: seen(False, MAP_CONTROLS), tab.side: seen(False, *SIDE)}
            yield {tab.stage: map_views.empty(), tab.message: "", tab.filmstrip: "", **hidden}
            return
        wanted = _choice(given[:count])
        choice = _settled(workspace, wanted)
        controls = {**_controls(tab, workspace, wanted, choice), tab.filmstrip: filmstrip_html(workspace)}
        if drawing.waits(workspace, choice):
            going = drawing.begin(ctx.engine, workspace, choice)
            told = {tab.message: map_views.progress(_name(choice), going.share), tab.cancel: seen(True)}
            yield {**controls, **_waiting(tab, workspace, choice), **told}
            return
        drawing.stop(workspace)
        left = drawing.left(workspace)  # that was cancelled
        said = views.quiet(f"Stopped: {_name(left.choice)} was not drawn.") if left else ""
        controls[tab.cancel] = seen(False)
        if drawing.missing(workspace, choice):
            yield {**controls, **_waiting(tab, workspace, choice)}
            controls = {}  # once, so that what is chosen while it is drawn stays
        prediction = viewing.prediction
        try:
            drawn = {**_draw(ctx, tab, workspace, choice, given[count:]), tab.details: _details(ctx, workspace, choice)}
        except Exception:
            if viewing.prediction is prediction:
                raise
            return  # another model or adapter, or other images, since it began: the page asks again
        yield {**controls, **drawn, tab.message: said}

    @guarded(tab.message)
    def on_class(key: str, about: str) -> dict:
        ctx.workspace(key).maps.pick(about or "")
        return {asked: bump()}

    @guarded(tab.message)
    def on_pick(key: str, event: gr.EventData) -> dict:
        viewing = ctx.workspace(key).viewing
        viewing.select(Press.of(event).pick("pick", range(len(viewing.records))))
        return {asked: bump()}

    @guarded(tab.message)
    def on_changed(looked_at: str) -> dict:
        return {asked: bump()} if looked_at else {}

    last = {"trigger_mode": "always_last", **QUIET}
    if ctx.engine.models.several:  # another one can be chosen while this tab is open
        ctx.changed.change(on_changed, gr.Textbox(visible=False), [asked, tab.message], js=LOOKED_AT, **last)
    tab.about.input(on_class, [session, tab.about], [asked, tab.message], **last)
    tab.filmstrip.click(on_pick, session, [asked, tab.message], **last)
    # Another kind of map begins with the layer and head of its own choice; instead of a slow map there is a quick one.
    # The page sets these by itself, before it sends what is chosen.
    tab.method.input(None, None, [tab.layer, tab.head], js="() => [0, 0]", api_visibility="private")
    quick = [tab.method, tab.layer, tab.head]
    tab.cancel.click(None, None, quick, js=f"() => ['{DEFAULT}', 0, 0]", api_visibility="private")
    ended = [tab.message, tab.cancel, tab.card, tab.details]
    on_cancel, on_left = _leavers(ctx, tab)
    tab.cancel.click(on_cancel, [session, tab.method], ended, **last)
    tab.method.input(on_left, [session, tab.method], ended, **last)
    controls = (tab.view, tab.when, tab.method, tab.layer, tab.head, tab.control, *tab.look)
    triggers = [tab_item.select, tab.cancel.click, asked.change, *(part.input for part in controls)]
    values = [session, *tab.choices, *tab.look]
    event = gr.on(triggers, show, values, [session, *tab.outputs], trigger_mode="always_last", **DEVICE)
    event.then(None, js="() => nearl.came('maps')", api_visibility="private")
    event.then(_follower(ctx, tab, asked), session, [asked, tab.message, tab.cancel], trigger_mode="multiple", **QUIET)


def _leavers(ctx: Context, tab: ExplainTab) -> tuple[Callable, Callable]:
    """The handlers that end a slow map at once, while `show` may have to wait for the device: when it is cancelled,
    which is said until another is asked for, and when another kind is chosen."""

    def ended(workspace: Workspace, method: str, said: str) -> dict:
        from nearl.explain import MAPS

        return {
            tab.message: said,
            tab.cancel: seen(False),
            tab.card: map_views.card(MAPS[method], explaining.measured(workspace, method)) if method in MAPS else "",
            tab.details: "",
        }

    @guarded(tab.message)
    def on_cancel(key: str, method: str) -> dict:
        workspace = ctx.workspace(key)
        if (going := drawing.stop(workspace, told=True)) is None:
            return {}
        return ended(workspace, method, views.quiet(f"Stopped: {_name(going.choice)} was not drawn."))

    @guarded(tab.message)
    def on_left(key: str, method: str) -> dict:
        workspace = ctx.workspace(key)
        going = drawing.current(workspace)
        other = going is not None and going.choice.method != method and drawing.stop(workspace) is not None
        return ended(workspace, method, "") if other else {}

    return on_cancel, on_left


def _follower(ctx: Context, tab: ExplainTab, asked: gr.State) -> Callable:
    """The handler that says how far a slow map is, and at its end asks for it to be shown."""

    @guarded(tab.message, lambda *given: {tab.cancel: seen(False)})
    async def follow(key: str) -> AsyncIterator[dict]:
        workspace = await ctx.run(lanes.LIGHT, ctx.workspace, key)
        going = drawing.current(workspace)
        if going is None or going.followed:
            return
        going.followed = True
        while not going.ended and not going.stopped:
            yield {tab.message: map_views.progress(_name(going.choice), going.share)}
            await asyncio.sleep(POLL_SECONDS)
        if going.error is not None:
            raise going.error
        if not going.stopped or drawing.current(workspace) is None:  # its adapter, model or images are no longer in use
            yield {asked: bump()}

    return follow
