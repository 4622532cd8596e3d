"""What the Compare tab shows of a workspace, as updates by component."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import gradio as gr

from app.compare import actions as comparing
from app.compare import html as compare_views
from app.compare.actions import OWN, USUAL
from app.compare.parts import DRAWN, ComparePart
from app.context import seen
from app.html import views
from app.visitor.workspace import Workspace
from app.work.comparison_view import ComparisonView
from app.work.queue import CANCELLED, FAILED
from nearl.errors import NearlError


def all_of(part: ComparePart, workspace: Workspace) -> dict:
    """The comparison as it is now, and the buttons that go with it."""
    view = comparing.current(workspace)
    html = compare_views.empty() if view is None else result(view)
    return {**buttons(part, workspace), part.result: html}


def buttons(part: ComparePart, workspace: Workspace) -> dict:
    view = comparing.current(workspace)
    busy = view is not None and not view.finished
    idle = {button: gr.update(interactive=not busy) for button in (part.compare, *part.questions)}
    return {**idle, part.cancel: seen(busy)}


def methods(ticked: Sequence[str] = USUAL) -> dict:
    """The value of the cards: what they look like, and which are ticked."""
    return {"html": _cards(), "ticked": list(ticked)}


@lru_cache(maxsize=1)
def _cards() -> str:
    return compare_views.cards(comparing.cards())


def result(view: ComparisonView) -> str:
    about, lines = view.folder.about, comparing.lines(view)
    lines = [{**line, "place": place} for place, line in enumerate(lines)]
    total = sum(1 if line["method"] == "zero-shot" else about["seeds"] for line in lines)
    done = sum(line["done"] for line in lines)
    title = next((line["title"] for line in lines if line["method"] == view.at_work), "")
    busy = not view.finished
    step = f"step {view.step} of {view.steps}" if view.steps else "at work"
    head = compare_views.going_on(view.place, done, total, title, view.seconds_left) if busy else _ended(view, done)
    return compare_views.comparison(
        lines,
        compare_views.Status(head, view.at_work if busy else "", step, busy),
        _images(about),
        comparing.answers(view),
        about["seeds"],
        about["classes"],
    )


def _ended(view: ComparisonView, done: int) -> str:
    if view.state == FAILED:
        return views.message(view.error, "error")
    if view.state == CANCELLED:
        kept = "Nothing was finished yet."
        if done:
            kept = f"{views.plural(done, 'finished result')} {'is' if done == 1 else 'are'} kept."
        return views.message(f"Cancelled. {kept}")
    return compare_views.headline(f"{views.plural(len(view.folder.about['methods']), 'method')} compared.")


def _images(about: dict) -> str:
    split = about["split"]
    held = about["test"] if split["kind"] == "given" else split["held"]
    per = [sum(about["labels"][i] == c for i in split["support"]) for c in range(len(about["classes"]))]
    taught = sum(min(n, about["shots"] or n) for n in per)
    name = about["name"][:1].upper() + about["name"][1:]
    draws = f", in {about['seeds']} random draws" if about["seeds"] > 1 else ""
    return (
        f"{name}. Taught with {views.plural(taught, 'image')} in {len(per)} classes{draws}; measured on "
        f"{views.plural(len(held), 'image')} kept aside, used for neither training nor selection."
    )


def plan(workspace: Workspace, source: str) -> str:
    """Which images would teach and which would measure, or why it cannot be done."""
    try:
        if source != OWN:
            learn, check = comparing.LEARN, comparing.CHECK
            words = f"Synthetic: {learn} images of each class to learn from, {check} others to measure on."
            return compare_views.plan(words)
        *_, split = comparing.sets(workspace, source)
        return compare_views.plan(split.words)
    except NearlError as error:
        return views.message(str(error))


def sources(part: ComparePart, workspace: Workspace, chosen: str | None = None) -> dict:
    """The images that can be chosen; those in Teach first, if there are any, and then taken unless another is.

    A choice that still stands is left alone: a visitor may be about to change it.
    """
    data = workspace.support.data
    choices = DRAWN
    if data is not None:
        own = f"{data.name.split(', ')[-1]}, as in Teach" if data.synthetic else "Mine, from Teach"
        choices = [(own, OWN), *DRAWN]
    if chosen in [kind for _, kind in choices]:
        return {part.source: gr.update(choices=choices), part.plan: plan(workspace, chosen)}
    first = choices[0][1]
    return {part.source: gr.update(choices=choices, value=first), part.plan: plan(workspace, first)}


def used(name: str) -> str:
    from nearl.methods import card

    return compare_views.used(
        "Predict now reads with the model as it is, before teaching."
        if name == "zero-shot"
        else f"{card(name).title} is now in use, and on your shelf in Teach."
    )
