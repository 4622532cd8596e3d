"""What the Compare tab does with a workspace: plan a comparison, start it, report it, use one of its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.engine import Engine
from app.examples import KIND_NAMES
from app.html.views import plural
from app.teach.images import actions as gathering
from app.teach.run.actions import numbered
from app.teach.shelf import actions as adapting
from app.visitor.workspace import Workspace
from app.work.run import COMPARE, RunView, check_idle
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.data.sets.labelled import LabelledSet
    from nearl.data.splits import Split
    from nearl.methods import Card
    from nearl.runs import Job

OWN = "own"  # the images in Teach; other sources are kinds of synthetic image
LEARN, CHECK = 16, 32  # synthetic images of each class
MOST_RUNS = 24  # methods times draws

STEPS, PARTS_OF = "Trained step by step", "NEARL, whole or without a part"
GROUPS = {
    "No training": ["zero-shot", "tip-adapter"],
    "Probes and caches": ["linear-probe", "text-probe", "tip-adapter-f"],
    STEPS: ["clip-adapter", "coop", "prolip", "lora", "alta"],
    PARTS_OF: ["nearl", "nearl:no-orthogonality", "nearl:static-queries", "nearl:text-only", "nearl:vision-only"],
}
USUAL = ["zero-shot", "linear-probe", "tip-adapter", "lora", "nearl"]
WHOLE = "nearl"
QUESTIONS = {
    "nearl:no-orthogonality": "Does orthogonality help here?",
    "nearl:static-queries": "Do the queries (USEformer) help here?",
    "nearl:text-only": "Does the image side help here?",
    "nearl:vision-only": "Does the text side help here?",
    "nearl:no-anchor": "Does staying close to the frozen model help here?",
}
PARTS = {
    "nearl:no-orthogonality": "orthogonality",
    "nearl:static-queries": "the queries' reading of image and words",
    "nearl:text-only": "the image side",
    "nearl:vision-only": "the text side",
    "nearl:no-anchor": "staying close to the frozen model",
}


@dataclass(frozen=True)
class Choice:
    """What a visitor may choose."""

    source: str = "ct_slice"
    """OWN or a kind of synthetic image."""
    methods: Sequence[str] = tuple(USUAL)
    """Names of methods."""
    shots: int = 8
    """Images of each class to teach with, 0 for all."""
    seeds: int = 1
    """How many times they are drawn at random."""
    preset: str = "balanced"
    """"balanced" takes each method's own recipe, "quick" fewer steps."""


def groups() -> dict[str, list[str]]:
    """All methods by group; those in none of GROUPS join the methods trained step by step or the parts of NEARL."""
    from nearl.methods import names

    known = {name for found in GROUPS.values() for name in found}
    more = [name for name in names() if name not in known]
    parts = [name for name in more if name.startswith(f"{WHOLE}:")]
    steps = [name for name in more if name not in parts]
    return {title: [*found, *{STEPS: steps, PARTS_OF: parts}.get(title, [])] for title, found in GROUPS.items()}


def cards() -> list[tuple[str, list[Card]]]:
    """The cards of all methods by group."""
    from nearl.methods import card

    return [(title, [card(name) for name in names]) for title, names in groups().items()]


def sets(workspace: Workspace, source: str) -> tuple[LabelledSet, LabelledSet | None, Split]:
    """Images to teach with, separate ones to measure on where there are such, and which of them do what.

    NearlError where no image could be kept aside."""
    from nearl.data import splits

    if source != OWN:
        if source not in KIND_NAMES:
            raise NearlError("There is no such kind of synthetic image; choose one of those offered.")
        data, test = gathering.synthetic_task(source, LEARN, CHECK)
        return data, test, splits.plan(data.labels, given=len(test))
    data = workspace.support.data
    if data is None:
        raise NearlError("There are no images of yours yet; bring some in Teach, or choose synthetic images here.")
    if blocking := gathering.check(workspace).blocking:
        raise NearlError(blocking)
    split = gathering.plan(workspace)
    if split.kind not in ("given", "held-out"):
        raise NearlError(
            f"Every class needs at least {splits.FEWEST} images, so that some can be kept aside to measure on and some "
            "are left to teach with; bring more in Teach."
        )
    return data, workspace.support.held_out, split


def plan(workspace: Workspace, source: str) -> str:
    """Which images teach and which measure. NearlError where it cannot be done."""
    if source != OWN:
        return f"Synthetic: {LEARN} images of each class to learn from, {CHECK} others to measure on."
    return sets(workspace, source)[-1].words


def images(about: Job) -> str:
    """Which images a comparison taught with and measured on."""
    per = [sum(about.labels[i] == c for i in about.split.support) for c in range(len(about.classes))]
    taught = sum(min(n, about.shots or n) for n in per)
    name = about.name[:1].upper() + about.name[1:]
    draws = f", in {len(about.seeds)} random draws" if len(about.seeds) > 1 else ""
    return (
        f"{name}. Taught with {plural(taught, 'image')} in {len(per)} classes{draws}; measured on "
        f"{plural(len(about.held), 'image')} kept aside, used for neither training nor selection."
    )


def start(engine: Engine, workspace: Workspace, choice: Choice) -> RunView:
    """Queue a comparison. NearlError with one sentence where it cannot be done."""
    known = [name for names in groups().values() for name in names]
    methods = [name for name in known if name in choice.methods]
    if not methods:
        raise NearlError("No method is ticked; tick at least one.")
    if len(methods) * choice.seeds > MOST_RUNS:
        raise NearlError(
            f"{len(methods)} methods with {choice.seeds} draws each are too many; choose at most {MOST_RUNS} in all."
        )
    if choice.seeds < 1 or choice.shots < 0:
        raise NearlError("Comparing needs at least one draw, and one image of each class or more.")
    check_idle(workspace, COMPARE)
    data, test, split = sets(workspace, choice.source)
    prompt_set, backbone = gathering.prompts_for(data), engine.backbone()
    from nearl.runs import make_job

    images, held = numbered(data, "image"), numbered(test, "test image")
    seeds = list(range(choice.seeds))
    how = {"methods": methods, "seeds": seeds, "shots": choice.shots, "preset": choice.preset, "compared": True}
    with engine.device_lock:
        job = make_job(backbone, images, held, prompt_set, split, **how)
    return engine.queue.start(workspace, COMPARE, job)


def current(workspace: Workspace) -> RunView | None:
    """The comparison that is running, or the last one; also after a reload and after a restart of the server."""
    return RunView.latest(workspace, COMPARE)


def lines(view: RunView) -> list[dict]:
    """The results of each method so far, as `nearl.runs.scores` gives them."""
    from nearl.runs import scores

    return scores(view.folder.about, view.folder.rows)


def answers(view: RunView) -> list[tuple[str, dict]]:
    """(a part of NEARL, the gain by it) where NEARL was compared with and without it."""
    from nearl.runs import difference

    about, rows = view.folder.about, view.folder.rows
    found = [(words, difference(about, rows, WHOLE, name)) for name, words in PARTS.items() if name in about.methods]
    return [(words, gain) for words, gain in found if gain is not None]


def use(engine: Engine, workspace: Workspace, name: str) -> None:
    """Put the adapter of a method of the last comparison on the shelf, and read with it in Predict from now on."""
    view = current(workspace)
    if view is None or not any(row["method"] == name and "error" not in row for row in view.folder.rows):
        raise NearlError("This method has not been taught yet; wait until it is done.")
    if name == "zero-shot":
        adapting.use(engine, workspace, None)
        return
    kept = view.notes.shelf or {}
    key = kept.get(name, "")
    if workspace.shelf.entry(key) is None:
        adapter = view.folder.adapter(name)
        adapting.check_fits(engine, adapter)
        from nearl.methods import card

        key = workspace.shelf.put(adapter, f"{card(name).title}: {', '.join(adapter.meta['classes'])}")
        view.note(shelf={**kept, name: key})
    adapting.use(engine, workspace, key)
