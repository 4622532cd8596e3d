"""What the Compare tab does with a workspace: plan a comparison, start it, report it, use one of its adapters."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.compare import elsewhere
from app.compare.elsewhere import CHECK, LEARN, OWN
from app.engine import Engine
from app.examples import tasks
from app.html.views import plural
from app.teach.images import actions as gathering
from app.teach.run.actions import digests, numbered
from app.teach.shelf import actions as adapting
from app.visitor.workspace import Workspace
from app.work.run import COMPARE, RunView, check_idle
from nearl.errors import NearlError
from nearl.report.words import points
from nearl.runs.status import CANCELLED

if TYPE_CHECKING:
    from nearl.data.sets.labelled import LabelledSet
    from nearl.data.splits import Split
    from nearl.methods import Card
    from nearl.runs import Job

MOST_RUNS = 24  # methods times draws
AGAIN = "This is a new comparison; the one before is in the list below it."
THERE = "These images, methods and settings are compared below already, so nothing was done again; choose others."
GOING_ON = "Your comparison is going on already, so this press began no other."

STEPS, PARTS_OF = "Trained step by step", "NEARL, whole or without a part"
GROUPS = {
    "No training": ["zero-shot", "tip-adapter"],
    "Probes and caches": ["linear-probe", "text-probe", "tip-adapter-f"],
    STEPS: ["clip-adapter", "coop", "prolip", "lora", "alta-vision"],
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
    "nearl:no-partner": "Does the closed-form classifier help here?",
}
PARTS = {
    "nearl:no-orthogonality": "orthogonality",
    "nearl:static-queries": "the queries' reading of image and words",
    "nearl:text-only": "the image side",
    "nearl:vision-only": "the text side",
    "nearl:no-anchor": "staying close to the frozen model",
    "nearl:no-partner": "the closed-form classifier",
}


@dataclass(frozen=True)
class Choice:
    """What a visitor may choose."""

    source: str = field(default_factory=lambda: next(iter(tasks())))
    """OWN or the key of a ready task."""
    methods: Sequence[str] = tuple(USUAL)
    """Names of methods."""
    shots: int = 8
    """Images of each class to teach with, 0 for all."""
    seeds: int = 1
    """How many times they are drawn at random."""
    preset: str = "balanced"
    """"balanced" takes each method's own recipe, "quick" fewer steps."""
    there: str = ""
    """Another source with the same classes, to be read too; "" for none."""


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
    """Images to teach with, separate ones to measure on (None if there are none), and the split of both.

    Raises NearlError if no image could be held out."""
    from nearl.data import splits

    if source != OWN:
        data, test = gathering.ready_task(workspace, source, LEARN, CHECK)
        return data, test, splits.plan(data.labels, given=len(test))
    data = workspace.support.data
    if data is None:
        raise NearlError("There are no images of yours yet; bring some in Teach, or choose a ready task here.")
    elsewhere.check_classes(data)
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
        return tasks()[source].about(LEARN, CHECK)
    return sets(workspace, source)[-1].words


def images(about: Job) -> str:
    """Which images a comparison taught with and measured on."""
    per = [sum(about.labels[i] == c for i in about.split.support) for c in range(len(about.classes))]
    taught = sum(min(n, about.shots or n) for n in per)
    name = about.name[:1].upper() + about.name[1:]
    draws = f", in {len(about.seeds)} random draws" if len(about.seeds) > 1 else ""
    other = f" Read too: {plural(len(about.there), 'image')} of {about.there_name}." if about.there else ""
    return (
        f"{name}. Taught with {plural(taught, 'image')} in {len(per)} classes{draws}; measured on "
        f"{plural(len(about.held), 'image')} kept aside, used for neither training nor selection.{other}"
    )


def start(engine: Engine, workspace: Workspace, choice: Choice, question: bool = False) -> RunView:
    """Queue a comparison: a new one, or more methods of the one on show, whose results stay in the table.

    Methods are added where the one on show is of the same images and settings and a `question` is asked, or all its
    methods are chosen again and more. Where it has all that is asked for, nothing is queued, and it is returned.
    NearlError with one sentence where it cannot be done, Busy while one is going on.
    """
    methods, earlier = _checked(choice), extended(engine, workspace, choice)
    check_idle(workspace, COMPARE)
    there = set(_finished(earlier) if earlier else ())
    data, test, split = sets(workspace, choice.source)
    prompt_set, backbone = gathering.prompts_for(data), engine.backbone(workspace)
    from nearl.runs import make_job

    images, held = numbered(data, "image"), numbered(test, "test image")
    how = {"seeds": list(range(choice.seeds)), "shots": choice.shots, "preset": choice.preset, "compared": True}
    other = numbered(elsewhere.images(workspace, choice.source, choice.there, data.classes), "other image")
    with engine.device_lock:
        job = make_job(backbone, images, held, prompt_set, split, other, methods=methods, **how)
    of = {"data": digests(data), "test": digests(test), "other": digests(other)}
    about = {"source": choice.source, "there": choice.there, **of}
    same = earlier is not None and _same(earlier, job, about)
    if same and (there == set(methods) or (question and there.issuperset(methods))):
        return earlier
    if same and (question or there < set(methods)):
        job.methods = [name for names in groups().values() for name in names if name in there.union(methods)]
    else:
        earlier = None
    return engine.queue.start(workspace, COMPARE, job, instead=earlier, **about)


def said(before: RunView | None, view: RunView) -> str:
    """What `start` has done, in a sentence, where that may be a surprise. `before`: what was on show."""
    if before is None or not before.has_results:  # which is so too where it was taken over
        return ""
    return THERE if view.key == before.key else AGAIN


def _checked(choice: Choice) -> list[str]:
    """The methods of a choice in the order of the table. NearlError for a choice that cannot be compared."""
    methods = [name for names in groups().values() for name in names if name in choice.methods]
    if not methods:
        raise NearlError("No method is ticked; tick at least one.")
    if len(methods) * choice.seeds > MOST_RUNS:
        raise NearlError(
            f"{len(methods)} methods with {choice.seeds} draws each are too many; choose at most {MOST_RUNS} in all."
        )
    if choice.seeds < 1 or choice.shots < 0:
        raise NearlError("Comparing needs at least one draw, and one image of each class or more.")
    return methods


def extended(engine: Engine, workspace: Workspace, choice: Choice) -> RunView | None:
    """The comparison on show, where it is of the same model, images, prompts and settings as a choice, so that methods
    can be added."""
    view = current(workspace)
    if view is None or not view.finished or not view.notes.source or not _finished(view):
        return None
    about, notes = view.folder.about, view.notes
    same = (notes.source, notes.there, notes.model, about.shots, len(about.seeds), about.preset) == (
        choice.source, choice.there, engine.chosen(workspace), choice.shots, choice.seeds, choice.preset,
    )  # fmt: skip
    try:
        return view if same and _unchanged(view, choice) else None
    except NearlError:  # they cannot be taught now
        return None


def _unchanged(view: RunView, choice: Choice) -> bool:
    """Whether the visitor's own images that a choice is of, with their classes, split and prompts, are those of a
    comparison. Ready tasks stay as they are."""
    workspace, about, notes = view.workspace, view.folder.about, view.notes
    if choice.source == OWN:
        data, test, split = sets(workspace, OWN)
        found = (digests(data), digests(test), list(data.labels), split, gathering.prompts_for(data).to_dict())
        if (notes.data, notes.test, about.labels[: len(data)], about.split, about.prompts) != found:
            return False
    if choice.there == OWN:
        other = elsewhere.images(workspace, choice.source, OWN, about.classes)
        return (notes.other, [about.labels[i] for i in about.there]) == (digests(other), list(other.labels))
    return bool(notes.other) == bool(choice.there)  # earlier versions did not note them


def _finished(view: RunView) -> list[str]:
    """The methods of which it has all results."""
    todo = {name for name, _ in view.folder.todo()} | {row["method"] for row in view.folder.rows if "error" in row}
    return [name for name in view.folder.about.methods if name not in todo]


def _same(view: RunView, job: Job, noted: Mapping) -> bool:
    """Whether a comparison is of the same model, images, prompts and settings as a job and what is noted of it."""
    theirs, ours = view.folder.about.to_plain(), job.to_plain()
    if any(getattr(view.notes, key) != value for key, value in noted.items()):  # digests: a job has no pixels here
        return False
    return all(theirs[key] == ours[key] for key in ours if key not in ("methods", "decode_seconds", "form"))


def cost(engine: Engine, workspace: Workspace, choice: Choice) -> str:
    """What a question about NEARL takes with this choice, in a sentence."""
    earlier = extended(engine, workspace, choice)
    there = _finished(earlier) if earlier else []
    draws = f", {choice.seeds} times{'' if WHOLE in there else ' each'}" if choice.seeds > 1 else ""
    what = "NEARL without the part in question" if WHOLE in there else "NEARL whole and without the part in question"
    runs = choice.seeds * (1 if WHOLE in there else 2)
    seconds = _seconds(workspace, choice)
    time = f"about {_duration(runs * seconds)}" if seconds else "each as long as teaching with it in Teach"
    where = "Its rows are added to the comparison below." if earlier else "It begins a new comparison."
    return f"A question teaches {what}{draws}: {time}. {where}"


def _seconds(workspace: Workspace, choice: Choice) -> float | None:
    """How long NEARL took to teach here, in the latest comparison of the same length that has it."""
    for view in RunView.kept(workspace, COMPARE):
        try:
            about, rows = view.folder.about, view.folder.rows
        except NearlError:
            continue
        found = [row["fit_seconds"] for row in rows if row["method"].startswith(WHOLE) and "fit_seconds" in row]
        if found and about.preset == choice.preset:
            return max(found)
    return None


def _duration(seconds: float) -> str:
    return f"{5 * max(1, round(seconds / 5))} seconds" if seconds < 90 else f"{round(seconds / 60)} minutes"


def current(workspace: Workspace) -> RunView | None:
    """The comparison that is running, or the last one; also after a reload and after a restart of the server. One that
    was cancelled before anything of it was finished does not take the place of an earlier one with results."""
    view = RunView.latest(workspace, COMPARE)
    if view is None or not _empty(view):
        return view
    return next((one for one in RunView.kept(workspace, COMPARE) if one.has_results), view)


def cancelled_since(view: RunView) -> bool:
    """Whether the last comparison is another one, of which there is nothing to show."""
    latest = RunView.latest(view.workspace, COMPARE)
    return latest is not None and latest.key != view.key


def _empty(view: RunView) -> bool:
    """Whether it was cancelled before anything was finished."""
    return view.look().state == CANCELLED and not view.has_results


@dataclass(frozen=True)
class Kept:
    """One comparison of the history."""

    title: str
    """Its images."""
    key: str
    """The id of its run."""
    facts: str
    """Methods, images of each class, draws and when."""
    shown: bool
    """Whether it is the one on show."""
    empty: bool = False
    """Whether there is nothing to show of it."""


def asked(view: RunView | None) -> Choice | None:
    """What a comparison was asked for; None where it is damaged or of an earlier version."""
    if view is None or not view.notes.source:
        return None
    try:
        about = view.folder.about
    except NearlError:
        return None
    return Choice(
        view.notes.source, tuple(about.methods), about.shots, len(about.seeds), about.preset, view.notes.there
    )


def history(workspace: Workspace) -> list[Kept]:
    """The comparisons that are kept, the newest first."""
    shown = current(workspace)
    return [
        _kept(view, shown is not None and view.key == shown.key, _empty(view))
        for view in RunView.kept(workspace, COMPARE)
    ]


def _kept(view: RunView, shown: bool, empty: bool) -> Kept:
    when = datetime.datetime.fromtimestamp(view.began, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    try:
        about, found = view.folder.about, lines(view)
    except NearlError:
        return Kept("Damaged", view.key, f"cannot be shown · {when}", shown)
    shots = plural(about.shots, "image") + " of each class" if about.shots else "all images"
    done = sum(bool(line["done"]) for line in found)
    methods = plural(done, "method") if done == len(found) else f"{done} of {plural(len(found), 'method')}"
    methods += ", cancelled" if view.look().state == CANCELLED else ""
    title = about.name[:1].upper() + about.name[1:]
    return Kept(title, view.key, f"{methods} · {shots} · {plural(len(about.seeds), 'draw')} · {when}", shown, empty)


def named(workspace: Workspace, key: object) -> RunView:
    """The comparison that a button belongs to, which need not be the one on show. NearlError if it is gone."""
    found = next((view for view in RunView.kept(workspace, COMPARE) if view.key == key), None)
    if found is None:
        raise NearlError("This comparison is no longer kept; reload the page to see those that are.")
    return found


def show(workspace: Workspace, key: object) -> None:
    """Show an earlier comparison again. Raises NearlError while another one is running, or if it is no longer there."""
    check_idle(workspace, COMPARE)
    view = named(workspace, key)
    workspace.runs.keep(COMPARE.name, view, view.key)


def gain_words(part: str, gain: Mapping) -> str:
    """What NEARL gains by a part of it, in a sentence that says when it may be chance."""
    value, (low, high) = gain["value"], gain["interval"]
    interval = f"95 % interval {points(low)} to {points(high)}"
    if value is None:
        return f"Whether {part} helps cannot be told from so few images ({interval} points)."
    chance = ", so this may be chance" if low <= 0 <= high else ""
    return f"{part[:1].upper()}{part[1:]} changes what NEARL gets right by {points(value)} points ({interval}){chance}."


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


def use(engine: Engine, view: RunView, name: str) -> None:
    """Put the adapter of a method of a comparison on the shelf, and read with it in Predict from now on."""
    workspace = view.workspace
    if not any(row["method"] == name and "error" not in row for row in view.folder.rows):
        raise NearlError("This method has not been taught yet; wait until it is done.")
    if name == "zero-shot":
        adapting.use(engine, workspace, None)
        return
    kept = view.notes.shelf or {}
    key = kept.get(name, "")
    if workspace.shelf.entry(key) is None:
        adapter = view.folder.adapter(name)
        adapting.check_fits(engine, workspace, adapter)
        from nearl.methods import card

        key = workspace.shelf.put(adapter, f"{card(name).title}: {', '.join(adapter.meta['classes'])}")
        view.note(shelf={**kept, name: key})
    adapting.use(engine, workspace, key)
