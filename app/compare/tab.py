"""The Compare tab: several methods on the same images, a table that fills in, and one of them to read with in Predict.

The comparison belongs to the workspace: a page that is reloaded, or a second one, finds it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import gradio as gr

from app.compare import actions as comparing
from app.compare import html as compare_views
from app.compare.actions import OWN, QUESTIONS, USUAL, WHOLE, Choice
from app.compare.elsewhere import NONE
from app.compare.exports import EXPORTS, export
from app.compare.sources import READY, offered, plan, sources, there
from app.context import DEVICE, QUIET, Context, asset_text, away, calls, seen
from app.events import INPUT, Act, Components, Opening, Press, bump, guarded
from app.html import views
from app.visitor.workspace import Workspace
from app.work import lanes
from app.work.run import COMPARE, Busy, RunView, Shown
from nearl.runs.status import CANCELLED, FAILED

SHOW = """() => {  // the choice of methods folds first, since what is below it moves up then
  document.querySelector("#choose .label-wrap.open")?.click();
  setTimeout(() => document.querySelector("#comparison-result").scrollIntoView(), 100);
}"""
COMPARE_WORDS = {False: "Compare", True: "Comparing …"}  # on the button, by whether a comparison is going on
DOWNLOAD = """() => {  // press the hidden button after a file was put into it
  if (document.body.dataset.act !== "report") return;
  const button = document.querySelector("#compare-slot");
  setTimeout(() => (button.matches("button, a") ? button : button.querySelector("button, a")).click(), 100);
}"""
TAKE = """(source, offer) => {  // images that came since, unless somebody has chosen others by now
  const [from, to] = offer.split("|");
  return to && source === from ? to : source;
}"""
SHOTS = [("4", 4), ("8", 8), ("16", 16), ("All", 0)]
SEEDS = [("One", 1), ("Three, for an average", 3)]
CANCELLED_SINCE = "Cancelled before a result was finished; this is the comparison before it."
LENGTHS = [("Quick", "quick"), ("Full recipe", "balanced")]
INTRO = (
    "Every method gets the same images to learn from and the same prompts, and is measured on the same images that "
    "none of them learned from."
)


@dataclass
class CompareTab(Components):
    """The tab's components, by what they show."""

    source: gr.Radio
    shots: gr.Radio = field(metadata=INPUT)
    seeds: gr.Radio = field(metadata=INPUT)
    length: gr.Radio = field(metadata=INPUT)
    there: gr.Radio
    plan: gr.HTML
    questions: dict[str, gr.Button]  # by the ablation that answers it
    cost: gr.HTML
    methods: gr.HTML
    folded: gr.Accordion
    compare: gr.Button
    cancel: gr.Button
    message: gr.HTML
    used: gr.HTML
    result: gr.HTML
    history: gr.HTML
    offer: gr.Textbox  # "from|to": the images to take instead of those that the page chose before; never seen
    untouched: gr.State  # the images that the page has chosen by itself; "" once a visitor has chosen
    again: gr.State  # changes when what a question takes is to be said again, with the settings of that moment
    slot: gr.DownloadButton = field(metadata=INPUT)  # the hidden button that a file to download is put into

    @property
    def controls(self) -> list:
        """In the order in which `_choice` takes their values."""
        return [self.source, *self.settings]

    @property
    def settings(self) -> list:
        return [self.shots, self.seeds, self.length, self.there]


def build(ctx: Context, tab_item: gr.Tab, opened: Opening) -> None:
    """The tab in `tab_item`. `opened`: the event of a page that opens, after which the session is known."""
    tab = _components()
    _wire_run(ctx, tab)
    _wire_use(ctx, tab)
    _wire_return(ctx, tab, tab_item, opened)


def _components() -> CompareTab:
    gr.HTML(views.section("The same images, taught in different ways") + views.quiet(INTRO), js_on_load=None)
    source = gr.Radio(READY, value=READY[0][1], label="Images", elem_id="compare-source")
    about = gr.HTML("", js_on_load=None, elem_id="compare-plan")
    with gr.Row(elem_classes="compare-row"):
        shots = gr.Radio(SHOTS, value=Choice.shots, label="Images of each class to learn from", elem_id="compare-shots")
        seeds = gr.Radio(SEEDS, value=Choice.seeds, label="Random draws of training images", elem_id="compare-seeds")
        length = gr.Radio(LENGTHS, value=Choice.preset, label="How long", elem_id="compare-length")
    other = gr.Radio(
        [NONE], value="", label="Read images of another source too", elem_classes=away(), elem_id="compare-there"
    )
    gr.HTML(views.section("Ask a question about NEARL"), js_on_load=None)
    with gr.Row(elem_classes="questions"):
        questions = {name: gr.Button(words, size="md") for name, words in QUESTIONS.items()}
    cost = gr.HTML("", js_on_load=None, elem_id="compare-cost")
    with gr.Accordion("Or choose methods yourself", open=True, elem_classes="folded", elem_id="choose") as folded:
        methods = gr.HTML(
            None, html_template='<div class="methods-root"></div>', js_on_load=asset_text("methods.js"),
            apply_default_css=False, elem_id="method-cards",
        )  # fmt: skip
    with gr.Row(elem_classes="action"):
        compare = gr.Button(COMPARE_WORDS[False], variant="primary", elem_id="compare")
        cancel = gr.Button("Cancel", elem_classes=away(), elem_id="compare-cancel")
    message = gr.HTML("", js_on_load=None, elem_id="compare-message")
    used = gr.HTML("", js_on_load=None, elem_id="compare-used")
    result = gr.HTML(compare_views.empty(), js_on_load=calls("act.js"), elem_id="comparison-result")
    history = gr.HTML("", js_on_load=calls("act.js"), elem_id="compare-history")
    offer = gr.Textbox("", label="Offer", elem_classes=away(), elem_id="compare-offer")
    untouched, again = gr.State(""), gr.State(0)
    slot = gr.DownloadButton("Download", elem_id="compare-slot", elem_classes="slot")
    return CompareTab(
        source, shots, seeds, length, other, about, questions, cost, methods, folded, compare, cancel, message, used,
        result, history, offer, untouched, again, slot,
    )  # fmt: skip


def _choice(methods: Sequence[str], values: tuple) -> Choice:
    source, shots, seeds, preset, other = values
    return Choice(source, tuple(methods), int(shots or 0), int(seeds), preset, other or "")


# ---- what is shown


def _show(tab: CompareTab, workspace: Workspace) -> dict:
    """The comparison as it is now, and the buttons that go with it."""
    view = comparing.current(workspace)
    if view is None:
        return {**_buttons(tab, False), tab.result: compare_views.empty(), tab.history: ""}
    return _shown(tab, view, view.look())


def _shown(tab: CompareTab, view: RunView, now: Shown) -> dict:
    kept = comparing.history(view.workspace) if now.finished else []
    return {
        **_buttons(tab, not now.finished, now.cancelling),
        tab.result: _result(view, now),
        tab.history: compare_views.history(kept),
    }


def _going_on(ctx: Context, tab: CompareTab, view: RunView, now: Shown) -> dict:
    """A comparison that has not ended, in the tab and in the head of the page."""
    done = sum(bool(line["done"]) for line in comparing.lines(view))
    badge = compare_views.badge(now.place, done, len(view.folder.about.methods))
    return {**_shown(tab, view, now), ctx.badges[COMPARE.name]: badge}


def _cost(ctx: Context, tab: CompareTab, workspace: Workspace, values: tuple) -> dict:
    """What a question takes with the settings as they stand."""
    return {tab.cost: views.quiet(comparing.cost(ctx.engine, workspace, _choice([], values)))}


def _buttons(tab: CompareTab, busy: bool, cancelling: bool = False) -> dict:
    idle = {button: gr.update(interactive=not busy) for button in tab.questions.values()}
    return {**idle, tab.compare: _compare(busy), tab.cancel: seen(busy and not cancelling)}


def _compare(busy: bool) -> dict:
    return gr.update(interactive=not busy, value=COMPARE_WORDS[busy])


def _methods(ticked: Sequence[str]) -> dict:
    """The value of the cards: their HTML, and which are ticked."""
    return {"html": _cards(), "ticked": list(ticked)}


@lru_cache(maxsize=1)
def _cards() -> str:
    return compare_views.cards(comparing.cards())


def _result(view: RunView, now: Shown) -> str:
    about, busy = view.folder.about, not now.finished
    lines = comparing.lines(view)
    done = sum(line["done"] for line in lines)
    title = next((line["title"] for line in lines if line["method"] == now.method), "")
    step = f"step {now.step} of {now.steps}" if now.steps else "in progress"
    doing = compare_views.at_work(now.method, title)
    head = compare_views.going_on(now.place, done, len(about.pairs), doing, now.seconds_left, now.note)
    head = compare_views.headline("Cancelling; what is finished is kept.") if now.cancelling else head
    head = head if busy else _ended(view, now, done)
    return compare_views.comparison(
        lines,
        compare_views.Status(head, now.method if busy else "", step, busy),
        comparing.images(about),
        [comparing.gain_words(*answer) for answer in comparing.answers(view)],
        len(about.seeds),
        about.classes,
        view.key,
    )


def _ended(view: RunView, now: Shown, done: int) -> str:
    if now.state == FAILED:
        return views.message(now.error, "error")
    if now.state == CANCELLED:
        kept = "No result was finished."
        if done:
            kept = f"{views.plural(done, 'finished result')} {'is' if done == 1 else 'are'} kept."
        return views.message(f"Cancelled. {kept}")
    after = views.message(CANCELLED_SINCE) if comparing.cancelled_since(view) else ""
    return after + compare_views.headline(f"{views.plural(len(view.folder.about.methods), 'method')} compared.")


# ---- events


async def _follow(ctx: Context, tab: CompareTab, workspace: Workspace) -> AsyncIterator[dict]:
    """Show the comparison until it has ended; at once if there is none or it has ended already."""
    view = await ctx.run(lanes.LIGHT, comparing.current, workspace)
    if view is None:
        yield await ctx.run(lanes.LIGHT, _show, tab, workspace)
        return
    async for now in view.follow():
        if now.finished:
            yield {**await ctx.run(lanes.LIGHT, _show, tab, workspace), ctx.badges[COMPARE.name]: ""}
            return
        yield await ctx.run(lanes.LIGHT, _going_on, ctx, tab, view, now)


def _wire_run(ctx: Context, tab: CompareTab) -> None:
    session = ctx.session

    def again(key: str, *_) -> dict:
        view = comparing.current(ctx.workspace(key))
        return _buttons(tab, view is not None and not view.finished)

    async def begin(key: str, methods: Sequence[str], values: tuple, question: bool) -> AsyncIterator[dict]:
        workspace = await ctx.run(lanes.LIGHT, ctx.workspace, key)
        yield {session: workspace.id, tab.message: "", tab.untouched: "", tab.compare: _compare(True)}
        before = await ctx.run(lanes.LIGHT, comparing.current, workspace)
        try:
            choice = _choice(methods, values)
            view = await ctx.run(lanes.DEVICE, comparing.start, ctx.engine, workspace, choice, question)
            said = await ctx.run(lanes.LIGHT, comparing.said, before, view)
        except Busy:  # begun in another tab, or by a press a moment ago
            said = comparing.GOING_ON
        yield {tab.folded: gr.update(open=False), tab.message: views.quiet(said) if said else ""}
        async for shown in _follow(ctx, tab, workspace):
            yield shown
        yield {tab.again: bump()}

    @guarded(tab.message, again)
    async def on_compare(key: str, cards: dict | None, *values) -> AsyncIterator[dict]:
        async for shown in begin(key, (cards or {}).get("ticked", []), values, False):
            yield shown

    def asker(ablation: str) -> Callable:
        @guarded(tab.message, again)
        async def on_question(key: str, _: dict | None, *values) -> AsyncIterator[dict]:
            async for shown in begin(key, [WHOLE, ablation], values, True):
                yield shown

        return on_question

    @guarded(tab.message)
    def on_cancel(key: str) -> dict:
        view = comparing.current(ctx.workspace(key))
        if view is not None:
            view.cancel()
        return {tab.cancel: seen(False)}

    @guarded(tab.message)
    def on_source(key: str, source: str, *values) -> dict:
        workspace = ctx.workspace(key)
        shown = {tab.plan: plan(workspace, source), **_cost(ctx, tab, workspace, (source, *values))}
        return {**shown, **there(tab, workspace, source, values[-1]), tab.message: "", tab.untouched: ""}

    @guarded(tab.message)
    def on_settings(key: str, *values) -> dict:
        return _cost(ctx, tab, ctx.workspace(key), values)

    inputs, outputs = [session, tab.methods, *tab.controls], [session, ctx.badges[COMPARE.name], *tab.outputs]
    presses = [button.click for button in (tab.compare, *tab.questions.values())]
    gr.on(presses, None, js=SHOW, api_visibility="private")  # first: the other events end with the run
    tab.compare.click(on_compare, inputs, outputs, **QUIET)
    for name, button in tab.questions.items():
        button.click(asker(name), inputs, outputs, **QUIET)
    tab.cancel.click(on_cancel, session, [tab.cancel, tab.message], **QUIET)
    last = {"trigger_mode": "always_last", **QUIET}
    tab.source.input(
        on_source, [session, *tab.controls], [tab.plan, tab.message, tab.cost, tab.untouched, tab.there], **last
    )
    for changed in (tab.again.change, *(control.input for control in tab.settings)):
        changed(on_settings, [session, *tab.controls], [tab.cost, tab.message], **last)


def _wire_use(ctx: Context, tab: CompareTab) -> None:
    """What is pressed in a result: a method to read with, a file; or an earlier comparison."""

    @guarded(tab.used, lambda *given: {tab.slot: None})
    def on_press(key: str, event: gr.EventData) -> dict:
        pressed = Press.of(event)
        view = comparing.named(ctx.workspace(key), pressed.data.get("run"))
        if pressed.act is Act.REPORT:
            return {tab.slot: str(export(view, pressed.one_of("kind", EXPORTS))), tab.used: ""}
        name = pressed.one_of("method", view.folder.about.methods)
        comparing.use(ctx.engine, view, name)
        return {tab.used: compare_views.used(name), ctx.changed: bump()}

    @guarded(tab.used, lambda key, *_: _show(tab, ctx.workspace(key)))
    def on_history(key: str, event: gr.EventData, *values) -> dict:
        workspace = ctx.workspace(key)
        comparing.show(workspace, Press.of(event).data.get("kept"))
        return {**_show(tab, workspace), **_cost(ctx, tab, workspace, values), tab.used: "", tab.message: ""}

    event = tab.result.click(on_press, ctx.session, [tab.used, tab.slot, ctx.changed], **DEVICE)
    event.then(None, js=DOWNLOAD, api_visibility="private")
    inputs = [ctx.session, *tab.controls]
    tab.history.click(on_history, inputs, tab.outputs, **QUIET).then(None, js=SHOW, api_visibility="private")


def _wire_return(ctx: Context, tab: CompareTab, tab_item: gr.Tab, opened: Opening) -> None:
    """A page that is reloaded, or a second one, shows the comparison as it is and goes on watching it."""

    def at_once(workspace: Workspace) -> dict:
        view = comparing.current(workspace)
        if view is None or (now := view.look()).finished:
            return {}
        return {**_going_on(ctx, tab, view, now), tab.folded: gr.update(open=False)}

    @guarded(tab.message)
    def at_first(key: str) -> tuple[Workspace, dict]:
        workspace = ctx.workspace(key)
        view = comparing.current(workspace)
        ticked = view.folder.about.methods if view is not None else USUAL
        cards = {tab.methods: _methods(ticked), tab.folded: gr.update(open=view is None)}
        asked = comparing.asked(view) or Choice(OWN if workspace.support.data is not None else READY[0][1])
        found = sources(tab, workspace, asked.source)
        source = found[tab.source].setdefault("value", asked.source)
        found[tab.untouched] = source if view is None else ""
        values = [offered(SHOTS, asked.shots), offered(SEEDS, asked.seeds), offered(LENGTHS, asked.preset)]
        settings = dict(zip(tab.settings[:-1], values, strict=True)) | there(tab, workspace, source, asked.there)
        return workspace, {**found, **settings, **cards, **_cost(ctx, tab, workspace, (source, *values, asked.there))}

    @guarded(tab.message)
    def on_select(key: str, untouched: str, source: str) -> dict:
        """What may have changed elsewhere; nothing that a visitor may be about to change in this tab."""
        workspace = ctx.workspace(key)
        found = sources(tab, workspace, None if source == untouched else source)
        found.pop(tab.plan)  # `on_settled` shows it, of what is chosen by then
        first = found[tab.source].pop("value", source)
        if source not in [key for _, key in found[tab.source]["choices"]]:
            found[tab.source]["value"] = first  # those chosen were forgotten in Teach
        found[tab.offer] = f"{source}|{first}" if source == untouched else ""
        if source == untouched:
            found[tab.untouched] = first
        return {**found, **_show(tab, workspace)}

    @guarded(tab.message)
    def on_settled(key: str, source: str, *values) -> dict:
        """Which images teach and what a question takes, with the settings as they are now."""
        workspace = ctx.workspace(key)
        shown = {tab.plan: plan(workspace, source), **_cost(ctx, tab, workspace, (source, *values))}
        return {**shown, **there(tab, workspace, source, values[-1])}

    @guarded(tab.message)
    async def on_open(key: str) -> AsyncIterator[dict]:
        """The cards of methods are unfolded until there is a comparison; then they are folded, ticked as they were."""
        workspace, shown = await ctx.run(lanes.LIGHT, at_first, key)
        yield shown
        async for shown in _follow(ctx, tab, workspace):
            yield shown

    def going_on(key: str) -> Workspace | None:
        view = comparing.current(ctx.workspace(key))
        return None if view is None or view.finished else view.workspace

    @guarded(tab.message)
    async def on_selected(key: str) -> AsyncIterator[dict]:
        if workspace := await ctx.run(lanes.LIGHT, going_on, key):
            async for shown in _follow(ctx, tab, workspace):
                yield shown

    outputs = [*tab.outputs, *tab.settings, ctx.badges[COMPARE.name]]
    shown = [*_buttons(tab, False), tab.result, tab.history, tab.folded, ctx.badges[COMPARE.name]]
    opened.first(at_once, shown)
    opened.then(on_open, ctx.session, outputs, **QUIET)
    event = tab_item.select(on_select, [ctx.session, tab.untouched, tab.source], outputs, trigger_mode="once", **QUIET)
    event = event.then(None, [tab.source, tab.offer], tab.source, js=TAKE, api_visibility="private")
    inputs, settled = [ctx.session, *tab.controls], [tab.plan, tab.cost, tab.message, tab.there]
    event = event.then(on_settled, inputs, settled, **QUIET)
    event.then(on_selected, ctx.session, outputs, trigger_mode="once", **QUIET)
