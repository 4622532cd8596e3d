"""What every tab needs: the model, the visitors' workspaces, the ready prompts and the prompt editor."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import gradio as gr
from gradio.context import LocalContext

from app.engine import FALLBACK, Engine
from app.events import guarded
from app.html import render
from app.visitor.pages import Pages
from app.visitor.workspace import Workspace
from app.work import lanes
from nearl.backbones.measured import FILE, Measured
from nearl.errors import NearlError
from nearl.prompts import FINDINGS, PromptSet, ready_sets
from nearl.resources import ASSETS
from nearl.runs import ZERO_GPU

T = TypeVar("T")

PAGE = ASSETS / "page"

FIRST_SET = "brain_mri_tumor"  # in the editor when the page opens


@dataclass
class Context:
    """Shared by the tabs."""

    engine: Engine
    pages: Pages
    session: gr.State
    """The visitor's opaque workspace id, the only thing that Gradio keeps for a visitor."""
    changed: gr.State
    """Tells every tab that another adapter is in use or that the shelf is not as it was.

    The handler that changed either lists this among its outputs and returns `app.events.bump()` for it. Each tab
    listens to its `.change` and redraws its own components. So no event needs to list components of another tab.
    """
    ready_prompts: dict[str, dict] = field(default_factory=dict)
    """Ready prompt sets by name, as the editor takes them."""
    lasts: bool = True
    """Whether what visitors keep outlives a restart of the server."""
    badges: dict[str, gr.HTML] = field(default_factory=dict)
    """By kind of run, what the head of the page says of one that is going on; its own tab writes it."""

    def workspace(self, key: str | None) -> Workspace:
        """The workspace of the page whose event is being handled. `key`: what Gradio keeps for it.

        Waits, while the server starts, until the engine has imported what the tabs use.
        """
        return self._found(self.pages.workspace, key)

    def programs(self, key: str | None) -> Workspace:
        """The same for a program, which opens no page: its first call begins a workspace."""
        return self._found(self.pages.program, key)

    def _found(self, find: Callable[[str | None, str | None], Workspace], key: str | None) -> Workspace:
        self.engine.imported.wait()
        request = LocalContext.request.get(None)
        workspace = find(getattr(request, "session_hash", None), key)
        if request is not None and ZERO_GPU in os.environ:
            workspace.runs.request = request
        return workspace

    async def run(self, lane: str, work: Callable[..., T], *given: object) -> T:
        """What `work` returns, called in a thread when it is the visitor's turn in a lane of `app.work.lanes`.

        An event that waits for a run is asynchronous, so that it holds no thread, and does with this what takes time.
        """
        return await self.engine.lanes.run(lane, whose(LocalContext.request.get(None)), work, *given)

    @property
    def beside(self) -> dict[str, str]:
        """What is said beside each ready set: how often it is right on test images, where that was measured of a model
        that the page offers. The editor leaves it out while another one is in use."""
        return shipped_measures() if FALLBACK in self.engine.models.names else {}

    @property
    def default_prompts(self) -> dict | None:
        return self.ready_prompts.get(FIRST_SET)


def whose(request: gr.Request | None) -> str:
    """Who sent a request, for taking turns: the session of a page or program, else its address."""
    return str(getattr(request, "session_hash", None) or getattr(getattr(request, "client", None), "host", ""))


# What every event of the page has in common. `show_progress_on`: Gradio tells each of these components, and each of an
# event's outputs where it is not given, that an answer has come, and runs a clock in it until the last one has; with
# dozens of outputs and two answers a second a phone then does nothing else.
QUIET = {"show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
DEVICE = {**QUIET, "concurrency_id": lanes.DEVICE}
DECODE = {**QUIET, "concurrency_id": lanes.DECODE}  # reads files first


def away(*classes: str) -> list[str]:
    """The CSS classes of a hidden component.

    A change of Gradio's `visible` is lost while the tab is being built, which takes a second on a phone, and reaches
    the components inside; one of `elem_classes` is not lost and stays with the component.
    """
    return [*classes, "away"]


def seen(yes: object, *classes: str) -> dict:
    """The update that shows or hides a component, with its other CSS classes."""
    return gr.update(elem_classes=list(classes) if yes else away(*classes))


MARK_CUT = """() => {  // the prompts that the note below an editor tells to be too long
  for (const note of document.querySelectorAll("[data-cut]")) {
    const cut = note.dataset.cut.split(",");
    const rows = note.closest(".block.marks").parentElement.querySelectorAll(".pe-row");
    rows.forEach((row, place) => row.classList.toggle("cut", cut.includes(String(place))));
  }
}"""


def mark_prompts(ctx: Context, editor: gr.HTML) -> None:
    """While prompts are edited, mark in the editor and list below it what the model does not read of them."""
    marks = gr.HTML("", js_on_load=None, elem_classes="marks")

    @guarded(marks)
    def on_edit(key: str, value: dict | None) -> dict:
        workspace = ctx.workspace(key) if ctx.engine.models.several else None
        if ctx.engine.state(workspace) != "ready":
            return {}
        from nearl.reading.claims import Claims
        from nearl.reading.words import text_notes, unread

        try:
            prompts = PromptSet.from_dict(value or {})
        except NearlError:  # an empty line, a name that is being typed: pressing the button says it
            return {marks: render("cut.html", cut=[], notes=[], measured="")}
        backbone = ctx.engine.backbone(workspace)
        claims = Claims(backbone, prompts)
        measured = claims.words() if claims.figures is not None else ""
        long = {found.class_name for found in unread(backbone, prompts)}
        each = 2 if prompts.kind == FINDINGS else 1  # classes of a row of the editor
        cut = sorted({place // each for place, name in enumerate(prompts.classes) if name in long})
        return {marks: render("cut.html", cut=cut, notes=text_notes(backbone, prompts), measured=measured)}

    event = gr.on(
        [editor.input, editor.change],
        on_edit,
        [ctx.session, editor],
        [marks],
        trigger_mode="always_last",
        concurrency_limit=4,
        **QUIET,
    )
    event.then(None, js=MARK_CUT, api_visibility="private")


MAP_CONTROLS = "map-controls"  # CSS class
SET_STRENGTH = "(v) => { document.documentElement.style.setProperty('--map-strength', v / 100); return []; }"


def asset_text(name: str) -> str:
    """A file of the page; a script or style sheet without its comments and indentation."""
    text = (PAGE / name).read_text(encoding="utf-8")
    if name.endswith(".css"):
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        text = re.sub(r"\s*([{};])\s*", r"\1", text)
        return re.sub(r"(?<=[;{])([\w-]+):\s+", r"\1:", text)
    if not name.endswith(".js"):
        return text
    lines = (re.sub(r"(^|  )// .*", "", line.strip()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)


SHARED = ("act.js", "pick.js", "prompt_editor.js")  # scripts of several components


def shared_scripts() -> str:
    """A script for the page's head with the scripts that several components have, each once, as functions."""
    found = (f'"{name}": (element, props, trigger, watch, config) => {{\n{asset_text(name)}\n}}' for name in SHARED)
    return f"window.nearl = {{{', '.join(found)}}};"


def calls(name: str, config: str = "null") -> str:
    """The `js_on_load` of a component that has one of the shared scripts, with its `config` as JSON."""
    return f'nearl["{name}"](element, props, trigger, watch, {config})'


@lru_cache(maxsize=1)
def load_ready_prompts() -> dict[str, dict]:
    """Every ready prompt set as the editor takes it, real ones first, then those of the synthetic examples."""
    found = sorted((PromptSet.load(path) for path in ready_sets().values()), key=lambda s: (s.synthetic, s.name))
    return {s.name: s.for_classes(shown_name(c) for c in s.classes).to_dict() for s in found}


@lru_cache(maxsize=1)
def shipped_measures() -> dict[str, str]:
    """What to say beside the ready sets for the embedded model; the file is that of the weights beside it."""
    path = ASSETS / "backbone" / FILE
    return Measured.model_validate_json(path.read_bytes()).beside if path.is_file() else {}


def shown_name(name: str) -> str:
    """The name of a class or set as the page spells it: "pituitary_tumor" -> "pituitary tumour"."""
    return re.sub(r"tumor(?!\w)", "tumour", name.replace("_", " "))


TITLES = {  # of ready sets whose names do not tell what they ask
    "blood_cells_pbc": "Blood cells, eight types",
    "brain_mri_healthy": "Brain MRI, which plane",
    "brain_mri_lesions": "Brain MRI, metastasis or MS",
    "liver_ct": "CT, abdomen or chest",
    "malaria_cells_gray": "Malaria cells in grey",
    "octa_plexus": "OCTA, which plexus",
    "ultrasound_anatomy": "Ultrasound, neck or fetal head",
}


def set_title(name: str) -> str:
    """A ready set's name as it is shown: "knee_xray_oa" -> "Knee X-ray OA"."""
    if name in TITLES:
        return TITLES[name]
    words = shown_name(re.sub("^phantom_", "synthetic ", name)).replace("xray", "X-ray").replace("isic", "ISIC ")
    words = re.sub(r"\b(aml|ct|ddsm|mias|mri|oa|wbc)\b", lambda found: found[0].upper(), words)
    return words[:1].upper() + words[1:]


def prompt_editor(
    uid: str, value: dict | None, sets: dict[str, dict], fixed: bool = False, beside: Mapping[str, str] | None = None
) -> gr.HTML:
    """The editable table of classes and prompts. Its value is a prompt set in the layout of the JSON file.

    `sets`: ready ones to start from. `fixed`: the classes are given, only their prompts can be edited. `beside`: what
    to say beside the names of the ready ones.
    """
    titles, measured = {name: set_title(name) for name in sets}, {k: v for k, v in (beside or {}).items() if k in sets}
    config = {"uid": uid, "sets": sets, "titles": titles, "beside": measured, "fixed": fixed}
    return gr.HTML(
        value,
        html_template='<div class="pe-root"></div>',
        js_on_load=calls("prompt_editor.js", json.dumps(config, separators=(",", ":"))),
        apply_default_css=False,
        elem_id=f"{uid}-prompts",
    )
