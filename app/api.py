"""The same work for programs: named endpoints for `gradio_client`. Each client has a workspace of its own.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")
    client.predict([handle_file("scan.png")], {"classes": [{"name": "glioma", "prompts": ["an MRI of a glioma"]}]},
                   api_name="/predict")
    client.predict("glioma", "relevance", api_name="/explain")  # of the first image of the last /predict
    client.predict(handle_file("task.zip"), None, "quick", api_name="/teach")  # or ..., "quick", "lora", ...
    client.predict(handle_file("task.zip"), "", "zero-shot, linear-probe, nearl", 8, 1, "quick", api_name="/compare")
    client.predict(api_name="/shelf")  # the adapters; /use, /rename and /delete take their ids

Errors come back as {"error": sentence}, so that a client need not guess at a traceback. Answers never hold a file's
name, which may be a person's: images are "image 1", "image 2" in the order in which they were sent.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import wraps

import gradio as gr

from app.compare import actions as comparing
from app.context import Context
from app.events import sentence
from app.explain import actions as explaining
from app.explain.choice import Choice as MapChoice
from app.explain.choice import settle
from app.predict import actions as reading
from app.predict.html import doubt_of, tested
from app.predict.study.actions import WHOLE
from app.teach.images import actions as gathering
from app.teach.run import actions as teaching
from app.teach.shelf import actions as adapting
from app.visitor import uploads
from app.visitor.workspace import Workspace
from app.work import lanes
from app.work.run import RunView, Shown
from nearl import NOTICE
from nearl.errors import NearlError
from nearl.report.words import verdict
from nearl.runs.status import DONE

NUMBERED = re.compile(r"image \d+( and \d+ more)?( \(\d+ of \d+\))?")
TABLE = re.compile(  # the name of a table, at the beginning of a sentence or in it
    r"(^(?!\s|(?:\d+ |A |No )rows? of )| in | of | beside )[^“”,:()]*?\.(?:csv|tsv)\b", re.IGNORECASE
)
FILES = ("images", "file")  # the inputs that are uploads
DECODE, DEVICE, LIGHT = lanes.DECODE, lanes.DEVICE, lanes.LIGHT

# Name of an endpoint, its inputs, what it answers, and its lane. What it does is the method of that name.
ENDPOINTS = [
    ("predict", ["images", "prompts"], ["answer"], DECODE),
    ("explain", ["about", "method"], ["answer", "picture"], DEVICE),
    ("teach", ["file", "prompts", "preset"], ["answer"], LIGHT),
    ("teach_with", ["file", "prompts", "preset", "taught"], ["answer"], LIGHT),
    ("compare", ["file", "kind", "methods", "shots", "seeds", "preset"], ["answer"], LIGHT),
    ("cancel", [], ["answer"], LIGHT),
    ("use_adapter", ["file"], ["answer"], DEVICE),
    ("download_adapter", [], ["adapter"], LIGHT),
    ("run", [], ["answer"], LIGHT),
    ("results", [], ["answer"], LIGHT),
    ("shelf", [], ["answer"], LIGHT),
    ("use", ["item"], ["answer"], DEVICE),
    ("rename", ["item", "name"], ["answer"], LIGHT),
    ("delete", ["item"], ["answer"], LIGHT),
]


def build(ctx: Context) -> None:
    """Add the endpoints; nothing of it is visible."""
    fields = {
        "images": gr.File(label="images", file_count="multiple", visible=False),
        "file": gr.File(label="zip", visible=False),
        "prompts": gr.JSON(label="prompt set, as in assets/prompts; null takes that of the adapter", visible=False),
        "preset": gr.Textbox("balanced", label="preset: quick, balanced or thorough", visible=False),
        "taught": gr.Textbox(teaching.NEARL, label="method to teach", visible=False),
        "answer": gr.JSON(label="answer", visible=False),
        "adapter": gr.File(label="adapter", visible=False),
        "about": gr.Textbox("", label="class; empty takes the closest", visible=False),
        "method": gr.Textbox("gradcam", label="kind of map, a key of nearl.explain.MAPS", visible=False),
        "picture": gr.File(label="picture", visible=False),
        "item": gr.Textbox("", label="id of an adapter, as /shelf gives it; for /use empty takes none", visible=False),
        "name": gr.Textbox("", label="name", visible=False),
        "kind": gr.Textbox("", label="ready task to compare on, without a zip", visible=False),
        "methods": gr.Textbox(", ".join(comparing.USUAL), label="methods, separated by commas", visible=False),
        "shots": gr.Number(8, label="training images of each class; 0 takes all", precision=0, visible=False),
        "seeds": gr.Number(1, label="random draws of training images", precision=0, visible=False),
    }
    trigger, programs = gr.Button(visible=False), Programs(ctx)
    for name, given, answered, lane in ENDPOINTS:
        trigger.click(
            _endpoint(ctx, getattr(programs, name), given, answered),
            [ctx.session, *(fields[key] for key in given)],
            [ctx.session, *(fields[key] for key in answered)],
            api_name=name,
            concurrency_id=lane,
        )


def _endpoint(ctx: Context, work: Callable, given: list[str], answered: list[str]) -> Callable:
    """The handler of an endpoint: `work` with the client's workspace. An exception becomes {"error": sentence}, without
    the names of uploaded files, which are deleted once `work` has read them."""

    def files(values: tuple) -> list[str]:
        found = [value for key, value in zip(given, values, strict=True) if key in FILES and value]
        return [path for value in found for path in (value if isinstance(value, list) else [value])]

    def failed(error: Exception, values: tuple) -> tuple:
        if answered[0] != "answer":
            raise error
        words = uploads.without_names(sentence(error), files(values))
        return {"error": words}, *(None for _ in answered[1:])

    def outputs(workspace: Workspace, answer: object) -> tuple:
        return workspace.id, *(answer if isinstance(answer, tuple) else (answer,))

    @wraps(work)
    def once(key: str, *values: object) -> tuple:
        workspace = ctx.programs(key)
        try:
            return outputs(workspace, work(workspace, *values))
        except Exception as error:
            return outputs(workspace, failed(error, values))
        finally:
            uploads.forget(files(values))

    @wraps(work)
    async def several(key: str, *values: object) -> AsyncIterator[tuple]:
        workspace = await ctx.run(LIGHT, ctx.programs, key)
        try:
            async for answer in work(workspace, *values):
                yield outputs(workspace, answer)
        except Exception as error:
            yield outputs(workspace, failed(error, values))
        finally:
            uploads.forget(files(values))

    return several if inspect.isasyncgenfunction(work) else once


class Programs:
    """What the endpoints do. Every method takes the client's workspace, then its inputs in the order of ENDPOINTS."""

    def __init__(self, ctx: Context):
        self.ctx, self.engine = ctx, ctx.engine

    def predict(self, workspace: Workspace, paths: list[str] | None, value: dict | None) -> dict:
        reading.bring(workspace, uploads.neutral(paths or []))
        viewing, answers = workspace.viewing, []
        if value is None and viewing.prompts is not None:
            value = viewing.prompts.to_dict()
        p, fits = None, []
        if viewing.records:
            from nearl.reading.claims import NOT_THESE

            reading.recognise(self.engine, workspace, value)  # of a scan, the view
            reading.read(self.engine, workspace, value)
            p = viewing.prediction  # another request of the same visitor may bring other images meanwhile
            for i, name in enumerate(map(_number, p.files, range(1, len(p.files) + 1))):
                before = dict(zip(p.classes, map(float, p.frozen[i]), strict=True))
                after = None if p.adapted is None else dict(zip(p.classes, map(float, p.adapted[i]), strict=True))
                record = viewing.records[i]
                row: dict = {"file": name, "frozen": before, "adapted": after, "error": None}
                fits.append(tested(workspace, i))
                row["notes"] = [*record.notes, *([] if fits[-1] else [NOT_THESE])]
                row |= {"slices": record.slices()} if record.slices() > 1 else {}
                if (whole := viewing.studied_of(i)) is not None:
                    row["notes"] += [WHOLE, *whole.notes]
                row |= {} if p.unfamiliar is None else {"unfamiliar": p.unfamiliar[i]}
                if p.claims is not None:
                    row |= {"kind": p.claims[i].kind, "doubt": doubt_of(workspace, i)}
                answers.append(row)
        for name, reason in (_unnamed(*problem) for problem in viewing.problems):
            answers.append({"file": name, "frozen": None, "adapted": None, "error": reason})
        asked = viewing.classifier
        facts: dict = {"untaught": [], "unknown_words": [], "prompt_notes": []}
        if asked:
            facts = {"untaught": asked.untaught(), "unknown_words": asked.unknown_words()}
            facts["prompt_notes"] = asked.text_notes()
            if p is not None and p.claims is not None:
                facts["measured"] = p.measured if any(fits) else None
        return {"predictions": answers, **facts, "notice": NOTICE}

    def explain(self, workspace: Workspace, name: str, kind: str) -> tuple[dict, str]:
        """The maps of the first image, before and after teaching, as numbers, and the last of them as a picture."""
        from nearl.explain import MAPS

        workspace.viewing.select(0)
        choice = settle(workspace, MapChoice(when=reading.BEFORE, class_name=name, method=kind))
        if kind not in MAPS or choice.method != kind:
            raise NearlError(f"There is no map called '{kind}' here; choose one of {', '.join(MAPS)}.")
        if name and name != choice.class_name:
            raise NearlError(f"There is no class '{name}' among the prompts.")
        maps, shown = [], []
        for when in (reading.BEFORE, reading.AFTER):
            choice = settle(workspace, replace(choice, when=when))
            if choice.when == when:
                shown = explaining.panels(self.engine, workspace, choice)
                heatmap = shown[0].heatmap
                facts = {"adapted": heatmap.adapted, "class": heatmap.class_name, "units": heatmap.units}
                maps.append({**facts, "blank": heatmap.blank, "values": heatmap.values.tolist()})
        picture = explaining.figure_of(workspace, shown, 0.6, {})
        return {"method": kind, "maps": maps, "notice": NOTICE}, picture

    async def teach(
        self, workspace: Workspace, path: str | None, value: dict | None, length: str
    ) -> AsyncIterator[dict]:
        async for facts in self.teach_with(workspace, path, value, length, teaching.NEARL):
            yield facts

    async def teach_with(
        self, workspace: Workspace, path: str | None, value: dict | None, length: str, method: str
    ) -> AsyncIterator[dict]:
        def start() -> RunView:
            gathering.bring(workspace, [path] if path else [], add=False)
            prompts = value or gathering.prompts_for(workspace).to_dict()
            choice = teaching.Choice(preset=length, method=method or teaching.NEARL)
            return teaching.start(self.engine, workspace, prompts, choice)

        run = await self.ctx.run(DECODE, start)
        async for now in run.follow():
            yield await self.ctx.run(LIGHT, _run_facts, workspace, run, now)

    async def compare(
        self, workspace: Workspace, path: str | None, kind: str, names: str, shots: float, seeds: float, length: str
    ) -> AsyncIterator[dict]:
        def start() -> RunView:
            asked = comparing.Choice(kind or comparing.OWN, _listed(names), int(shots), int(seeds), length)
            known = {card.name for _, cards in comparing.cards() for card in cards}
            if wrong := [name for name in asked.methods if name not in known]:
                raise NearlError(f"There is no method called '{wrong[0]}'; choose among {', '.join(sorted(known))}.")
            if path:
                gathering.bring(workspace, [path], add=False)
            return comparing.start(self.engine, workspace, asked)

        run = await self.ctx.run(DECODE, start)
        async for now in run.follow():
            facts = {"state": now.state, "place": now.place, "at_work": now.method or None, "error": now.error or None}
            yield facts | {"methods": await self.ctx.run(LIGHT, comparing.lines, run), "notice": NOTICE}

    def cancel(self, workspace: Workspace) -> dict:
        found = [work for work in (teaching.current(workspace), comparing.current(workspace)) if work is not None]
        if not found:
            return {"state": None}
        run = next((work for work in found if not work.finished), found[0])
        run.cancel()
        now = run.look()
        return {"state": now.state if now.finished else "cancelling"}

    def use_adapter(self, workspace: Workspace, path: str | None) -> dict:
        adapting.use(self.engine, workspace, adapting.add(self.engine, workspace, path or ""))
        return {"prompts": workspace.viewing.prompts.to_dict()}

    def download_adapter(self, workspace: Workspace) -> str | None:
        used = [item.id for item in workspace.shelf.items() if item.in_use]
        return str(adapting.zip_file(workspace, used[0])) if used else None

    def run(self, workspace: Workspace) -> dict:
        found = teaching.current(workspace)
        return _run_facts(workspace, found, found.look()) if found else {"state": None}

    def results(self, workspace: Workspace) -> dict:
        """What was measured of the last run, and each image by its number."""
        found = teaching.current(workspace)
        if found is None or found.results is None:
            raise NearlError("There is no result yet; teach first.")
        return {"results": found.results, "verdict": verdict(found.results), "rows": found.numbered_rows}

    def shelf(self, workspace: Workspace) -> dict:
        notes = workspace.shelf.notes()
        found = {"adapters": [item.model_dump() for item in workspace.shelf.items()]}
        return {**found, "notes": notes} if notes else found

    def use(self, workspace: Workspace, item: str) -> dict:
        adapting.use(self.engine, workspace, item)
        return self.shelf(workspace)

    def rename(self, workspace: Workspace, item: str, name: str) -> dict:
        workspace.shelf.rename(item, name)
        return self.shelf(workspace)

    def delete(self, workspace: Workspace, item: str) -> dict:
        adapting.delete(workspace, item)
        return self.shelf(workspace)


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _run_facts(workspace: Workspace, run: RunView, now: Shown) -> dict:
    facts = {"state": now.state, "place": now.place, "step": now.step, "steps": now.steps, "error": now.error or None}
    if now.losses:
        facts |= {"loss": now.losses[-1][1], "seconds_left": now.seconds_left}
    if now.note:
        facts["note"] = now.note
    if now.state == DONE and (taught := workspace.shelf.entry(now.adapter_key)):
        results = run.results or {}
        facts |= {"classes": taught.classes, "taught": taught.support_counts, "stopped": now.stopped}
        facts["held_out"] = results if results.get("n") else None
        facts |= {"verdict": verdict(results), "in_use": taught.in_use}
        facts["left_out"] = [_unnamed(*problem)[1] for problem in workspace.support.problems]
        facts["notes"] = _notes(workspace)
    return facts


def _number(name: str, number: int) -> str:
    """Our own name of an uploaded file as it is; for a file within a zip its place among the answers."""
    return name if NUMBERED.fullmatch(name) else f"picture {number}"


def _unnamed(name: str, reason: str) -> tuple[str, str]:
    """A problem without the name of a file within a zip. Class names are the caller's own words and stay."""
    if f": {name}" in reason:  # a sentence about several files, which ends with their names
        return "some files", _of_table(reason.split(f": {name}")[0]) + "."
    if NUMBERED.fullmatch(name) or not reason.startswith(name):
        return name, reason
    return "a file", f"A file{_of_table(reason.removeprefix(name))}"


def _notes(workspace: Workspace) -> list[str]:
    """How the labelled images were understood, without the names of files."""
    parts = [part for part in (workspace.support.data, workspace.support.held_out) if part is not None]
    said = dict.fromkeys(note for part in parts for note in part.said())
    return [(text := _of_table(note))[:1].upper() + text[1:] for note in said]


def _of_table(sentence: str) -> str:
    """A sentence without the name of the table that it is about."""
    return TABLE.sub(lambda found: f"{found[1]}the table", sentence)
