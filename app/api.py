"""The same work for programs: named endpoints for `gradio_client`. Each client has a workspace of its own.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")
    client.predict([handle_file("scan.png")], {"classes": [{"name": "glioma", "prompts": ["an MRI of a glioma"]}]},
                   api_name="/predict")
    client.predict("glioma", "relevance", api_name="/explain")  # of the first image of the last /predict
    client.predict(handle_file("task.zip"), None, "quick", api_name="/teach")
    client.predict(handle_file("task.zip"), "", "zero-shot, linear-probe, nearl", 8, 1, "quick", api_name="/compare")
    client.predict(api_name="/shelf")  # the adapters; /use, /rename and /delete take their ids

Errors come back as {"error": sentence}, so that a client need not guess at a traceback. Answers never hold a file's
name, which may be a person's: images are "image 1", "image 2" in the order in which they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import gradio as gr

from app.compare import actions as comparing
from app.context import Context
from app.events import sentence
from app.explain import actions as explaining
from app.predict import actions as reading
from app.teach.images import actions as gathering
from app.teach.run import actions as teaching
from app.teach.shelf import actions as adapting
from app.visitor import uploads
from app.visitor.workspace import Workspace
from app.work.queue import DONE, RunView
from nearl import NOTICE
from nearl.errors import NearlError

if TYPE_CHECKING:
    from app.work.comparison_view import ComparisonView

NUMBERED = re.compile(r"image \d+( and \d+ more)?")


def build(ctx: Context) -> None:
    """Add the endpoints named below; nothing of it is visible."""
    images = gr.File(label="images", file_count="multiple", visible=False)
    file = gr.File(label="zip", visible=False)
    prompts = gr.JSON(label="prompt set, as in assets/prompts; null takes that of the adapter", visible=False)
    preset = gr.Textbox("balanced", label="preset: quick, balanced or thorough", visible=False)
    answer = gr.JSON(label="answer", visible=False)
    adapter = gr.File(label="adapter", visible=False)
    about = gr.Textbox("", label="class; empty takes the closest", visible=False)
    method = gr.Textbox("gradcam", label="kind of map, a key of nearl.explain.METHODS", visible=False)
    picture = gr.File(label="picture", visible=False)
    item = gr.Textbox("", label="id of an adapter, as /shelf gives it; for /use empty takes none", visible=False)
    name = gr.Textbox("", label="name", visible=False)
    kind = gr.Textbox("", label="kind of drawn picture to compare on, where there is no zip", visible=False)
    methods = gr.Textbox(", ".join(comparing.USUAL), label="methods, with commas between them", visible=False)
    shots = gr.Number(8, label="images of each class to teach with; 0 takes all", precision=0, visible=False)
    seeds = gr.Number(1, label="how often they are drawn", precision=0, visible=False)
    trigger = gr.Button(visible=False)
    session = ctx.session

    def predict(key: str, paths: list[str] | None, value: dict | None) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        return workspace.id, _answered(lambda: _predict(ctx, workspace, paths or [], value), paths or [])

    def explain(key: str, name: str, kind: str) -> tuple[str, dict, str | None]:
        workspace = ctx.programs(key)
        found = _answered(lambda: _explain(ctx, workspace, name, kind))
        return workspace.id, found, found.pop("picture", None)

    def teach(key: str, path: str | None, value: dict | None, length: str) -> Iterator[tuple[str, dict]]:
        workspace = ctx.programs(key)
        run = _answered(lambda: _start(ctx, workspace, path, value, length), [path])
        if not isinstance(run, RunView):
            yield workspace.id, run
            return
        for state in run.watch():
            yield workspace.id, _run_facts(workspace, state)

    def compare(key: str, path: str | None, kind: str, names: str, shots: float, seeds: float, length: str):
        workspace = ctx.programs(key)
        asked = comparing.Choice(kind or comparing.OWN, _listed(names), int(shots), int(seeds), length)
        run = _answered(lambda: _compare(ctx, workspace, path, asked), [path])
        if isinstance(run, dict):
            yield workspace.id, run
            return
        for state in run.watch():
            yield workspace.id, _comparison_facts(state)

    def cancel(key: str) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        found = [work for work in (teaching.current(workspace), comparing.current(workspace)) if work is not None]
        if not found:
            return workspace.id, {"state": None}
        run = next((work for work in found if not work.finished), found[0])
        run.cancel()
        return workspace.id, {"state": run.state if run.finished else "cancelling"}

    def use_adapter(key: str, path: str | None) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        return workspace.id, _answered(lambda: _use_adapter(ctx, workspace, path), [path])

    def download_adapter(key: str) -> tuple[str, str | None]:
        workspace = ctx.programs(key)
        used = [item.id for item in workspace.shelf.items() if item.in_use]
        return workspace.id, str(adapting.zip_file(workspace, used[0])) if used else None

    def run(key: str) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        found = teaching.current(workspace)
        return workspace.id, _run_facts(workspace, found) if found else {"state": None}

    def results(key: str) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        return workspace.id, _results(workspace)

    def listed(key: str) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        return workspace.id, _shelf(workspace)

    def use(key: str, item: str) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        return workspace.id, _shelf(workspace, lambda: adapting.use(ctx.engine, workspace, item))

    def rename(key: str, item: str, name: str) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        return workspace.id, _shelf(workspace, lambda: workspace.shelf.rename(item, name))

    def delete(key: str, item: str) -> tuple[str, dict]:
        workspace = ctx.programs(key)
        return workspace.id, _shelf(workspace, lambda: workspace.shelf.delete(item))

    device = {"concurrency_id": "device", "concurrency_limit": 4}
    light = {"concurrency_limit": None}
    trigger.click(predict, [session, images, prompts], [session, answer], api_name="predict", **device)
    trigger.click(explain, [session, about, method], [session, answer, picture], api_name="explain", **device)
    trigger.click(teach, [session, file, prompts, preset], [session, answer], api_name="teach", **light)
    asked = [session, file, kind, methods, shots, seeds, preset]
    trigger.click(compare, asked, [session, answer], api_name="compare", **light)
    trigger.click(cancel, session, [session, answer], api_name="cancel", **light)
    trigger.click(use_adapter, [session, file], [session, answer], api_name="use_adapter", **device)
    trigger.click(download_adapter, session, [session, adapter], api_name="download_adapter", **light)
    trigger.click(run, session, [session, answer], api_name="run", **light)
    trigger.click(results, session, [session, answer], api_name="results", **light)
    trigger.click(listed, session, [session, answer], api_name="shelf", **light)
    trigger.click(use, [session, item], [session, answer], api_name="use", **device)
    trigger.click(rename, [session, item, name], [session, answer], api_name="rename", **light)
    trigger.click(delete, [session, item], [session, answer], api_name="delete", **light)


def _answered(work, paths: Sequence[str | None] = ()):
    """What `work` returns, or {"error": sentence}, without names; the uploaded files are deleted."""
    paths = [path for path in paths if path]
    try:
        return work()
    except Exception as error:
        return {"error": uploads.without_names(sentence(error), paths)}
    finally:
        uploads.forget(paths)


def _predict(ctx: Context, workspace: Workspace, paths: list[str], value: dict | None) -> dict:
    reading.bring(workspace, uploads.neutral(paths))
    if value is None and workspace.viewing.prompts is not None:
        value = workspace.viewing.prompts.to_dict()
    answers = []
    if workspace.viewing.records:
        reading.read(ctx.engine, workspace, value)
        p = workspace.viewing.prediction
        for i, name in enumerate(map(_number, p.files, range(1, len(p.files) + 1))):
            before = dict(zip(p.classes, map(float, p.frozen[i]), strict=True))
            after = None if p.adapted is None else dict(zip(p.classes, map(float, p.adapted[i]), strict=True))
            row = {"file": name, "frozen": before, "adapted": after, "error": None}
            answers.append(row if p.unfamiliar is None else {**row, "unfamiliar": p.unfamiliar[i]})
    for name, reason in (_unnamed(*problem) for problem in workspace.viewing.problems):
        answers.append({"file": name, "frozen": None, "adapted": None, "error": reason})
    classifier = workspace.viewing.classifier
    untaught, unknown = (classifier.untaught(), classifier.unknown_words()) if classifier else ([], [])
    return {"predictions": answers, "untaught": untaught, "unknown_words": unknown, "notice": NOTICE}


def _explain(ctx: Context, workspace: Workspace, name: str, kind: str) -> dict:
    """The maps of the first image, before and after teaching, as numbers, and the last of them as a picture."""
    from nearl.explain import METHODS

    asked = explaining.Choice(when=reading.BEFORE, class_name=name, method=kind)
    choice = explaining.settle(workspace, asked)
    if kind not in METHODS or choice.method != kind:
        raise NearlError(f"There is no map called '{kind}' here; choose one of {', '.join(METHODS)}.")
    if name and name != choice.class_name:
        raise NearlError(f"There is no class '{name}' among the prompts.")
    workspace.viewing.select(0)
    maps = []
    for when in (reading.BEFORE, reading.AFTER):
        choice = explaining.settle(workspace, replace(choice, when=when))
        if choice.when == when:
            shown = explaining.panels(ctx.engine, workspace, choice)
            heatmap = shown[0].heatmap
            facts = {"adapted": heatmap.adapted, "class": heatmap.class_name, "units": heatmap.units}
            maps.append({**facts, "blank": heatmap.blank, "values": heatmap.values.tolist()})
    picture = explaining.figure_of(workspace, shown, 0.6, {})
    return {"method": kind, "maps": maps, "notice": NOTICE, "picture": picture}


def _start(ctx: Context, workspace: Workspace, path: str | None, value: dict | None, length: str) -> RunView:
    gathering.bring(workspace, [path] if path else [], add=False)
    value = value or gathering.prompts_for(workspace).to_dict()
    return teaching.start(ctx.engine, workspace, value, teaching.Choice(preset=length))


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _compare(ctx: Context, workspace: Workspace, path: str | None, asked: comparing.Choice) -> ComparisonView:
    """NearlError for a method that is not there, which the page cannot offer."""
    known = {card.name for _, cards in comparing.cards() for card in cards}
    if wrong := [name for name in asked.methods if name not in known]:
        raise NearlError(f"There is no method called '{wrong[0]}'; choose among {', '.join(sorted(known))}.")
    if path:
        gathering.bring(workspace, [path], add=False)
    return comparing.start(ctx.engine, workspace, asked)


def _comparison_facts(run: ComparisonView) -> dict:
    """How far it is, and what came of each method so far."""
    facts = {"state": run.state, "place": run.place, "at_work": run.at_work or None, "error": run.error or None}
    return facts | {"methods": comparing.lines(run), "notice": NOTICE}


def _run_facts(workspace: Workspace, run: RunView) -> dict:
    facts = {"state": run.state, "place": run.place, "step": run.step, "steps": run.steps, "error": run.error or None}
    if losses := run.losses:
        facts |= {"loss": losses[-1][1], "seconds_left": run.seconds_left}
    if run.state == DONE and (taught := workspace.shelf.entry(run.adapter_key)):
        results = run.results or {}
        facts |= {"classes": taught.classes, "taught": taught.support_counts, "stopped": run.stopped}
        facts["held_out"] = results if results.get("n") else None
        facts["left_out"] = [_unnamed(*problem)[1] for problem in workspace.support.problems]
    return facts


def _results(workspace: Workspace) -> dict:
    """What was measured of the last run, and each image by its number."""
    found = teaching.current(workspace)
    if found is None or found.results is None:
        return {"error": "There is no result yet; teach first."}
    return {"results": found.results, "rows": found.numbered_rows}


def _shelf(workspace: Workspace, change: Callable[[], None] = lambda: None) -> dict:
    """The shelf after a change, or {"error": sentence}."""

    def changed() -> dict:
        change()
        return {"adapters": [item.model_dump() for item in workspace.shelf.items()]}

    return _answered(changed)


def _use_adapter(ctx: Context, workspace: Workspace, path: str | None) -> dict:
    adapting.use(ctx.engine, workspace, adapting.add(ctx.engine, workspace, path or ""))
    return {"prompts": workspace.viewing.prompts.to_dict()}


def _number(name: str, number: int) -> str:
    """Our own name of an uploaded file as it is; for a file within a zip its place among the answers."""
    return name if NUMBERED.fullmatch(name) else f"picture {number}"


def _unnamed(name: str, reason: str) -> tuple[str, str]:
    """A problem without the name of a file within a zip. Class names are the caller's own words and stay."""
    if NUMBERED.fullmatch(name) or not reason.startswith(name):
        return name, reason
    return "a file", f"A file{reason.removeprefix(name)}"
