"""Which images the Compare tab offers, as updates of its components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr

from app.compare import actions as comparing
from app.compare import elsewhere
from app.compare import html as compare_views
from app.compare.elsewhere import OWN
from app.context import away
from app.examples import task_choices
from app.html import views
from app.visitor.workspace import Workspace
from nearl.errors import NearlError

if TYPE_CHECKING:
    from app.compare.tab import CompareTab

READY = task_choices()


def sources(tab: CompareTab, workspace: Workspace, chosen: str | None = None) -> dict:
    """The images to choose from; those in Teach come first, and are taken unless others were `chosen`."""
    data, choices = workspace.support.data, READY
    if data is not None:
        own = f"{data.name.split(', ', 1)[-1]}, as in Teach" if data.ours else "Mine, from Teach"
        choices = [(own, OWN), *READY]
    if chosen in [kind for _, kind in choices]:
        return {tab.source: gr.update(choices=choices), tab.plan: plan(workspace, chosen)}
    first = choices[0][1]
    return {tab.source: gr.update(choices=choices, value=first), tab.plan: plan(workspace, first)}


def there(tab: CompareTab, workspace: Workspace, source: str, chosen: str | None) -> dict:
    """The other sources that have the classes of this one; out of sight where there is none."""
    found = elsewhere.choices(workspace, source)
    classes = [] if len(found) > 1 else away()
    return {tab.there: gr.update(choices=found, value=offered(found, chosen or ""), elem_classes=classes)}


def offered(choices: Sequence[tuple], value: object) -> object:
    """A value that is among the choices, else the first of them; a program may have asked for another."""
    found = [key for _, key in choices]
    return value if value in found else found[0]


def plan(workspace: Workspace, source: str) -> str:
    """Which images teach and which measure, or why it cannot be done."""
    try:
        return compare_views.plan(comparing.plan(workspace, source))
    except NearlError as error:
        return views.message(str(error))
