"""The same work for programs: named endpoints for `gradio_client`. Each client has a workspace of its own.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")
    client.predict([handle_file("scan.png")], {"classes": [{"name": "glioma", "prompts": ["an MRI of a glioma"]}]},
                   api_name="/predict")
    client.predict("glioma", "relevance", api_name="/explain")  # of the first image of the last /predict
    client.predict(handle_file("task.zip"), None, "quick", api_name="/teach")

Errors come back as {"error": sentence}, so that a client need not guess at a traceback. Answers never hold a file's
name, which may be a person's: images are "image 1", "image 2" in the order in which they were sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import gradio as gr

from app import explaining, reading, teaching, uploads
from app.context import Context
from app.jobs import watch
from app.thread_job import DONE, TeachJob
from app.workspace import Workspace
from nearl import NOTICE
from nearl.errors import NearlError

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
    trigger = gr.Button(visible=False)
    session = ctx.session

    def predict(key: str, paths: list[str] | None, value: dict | None) -> tuple[str, dict]:
        workspace = ctx.registry.get(key)
        return workspace.id, _answered(lambda: _predict(ctx, workspace, paths or [], value), paths or [])

    def explain(key: str, name: str, kind: str) -> tuple[str, dict, str | None]:
        workspace = ctx.registry.get(key)
        found = _answered(lambda: _explain(ctx, workspace, name, kind))
        return workspace.id, found, found.pop("picture", None)

    def teach(key: str, path: str | None, value: dict | None, length: str) -> Iterator[tuple[str, dict]]:
        workspace = ctx.registry.get(key)
        job = _answered(lambda: _start(ctx, workspace, path, value, length), [path])
        if not isinstance(job, TeachJob):
            yield workspace.id, job
            return
        for state in watch(job):
            yield workspace.id, _job_facts(state)

    def cancel(key: str) -> tuple[str, dict]:
        workspace = ctx.registry.get(key)
        if workspace.run is None:
            return workspace.id, {"state": None}
        workspace.run.cancel()
        return workspace.id, {"state": "cancelling" if workspace.busy else workspace.run.state}

    def use_adapter(key: str, path: str | None) -> tuple[str, dict]:
        workspace = ctx.registry.get(key)
        return workspace.id, _answered(
            lambda: {"prompts": teaching.take_adapter(ctx.engine, workspace, path or "").to_dict()}, [path]
        )

    def download_adapter(key: str) -> tuple[str, str | None]:
        workspace = ctx.registry.get(key)
        return workspace.id, teaching.adapter_file(workspace)

    device = {"concurrency_id": "device", "concurrency_limit": 4}
    light = {"concurrency_limit": None}
    trigger.click(predict, [session, images, prompts], [session, answer], api_name="predict", **device)
    trigger.click(explain, [session, about, method], [session, answer, picture], api_name="explain", **device)
    trigger.click(teach, [session, file, prompts, preset], [session, answer], api_name="teach", **light)
    trigger.click(cancel, session, [session, answer], api_name="cancel", **light)
    trigger.click(use_adapter, [session, file], [session, answer], api_name="use_adapter", **device)
    trigger.click(download_adapter, session, [session, adapter], api_name="download_adapter", **light)


def _answered(work, paths: Sequence[str | None] = ()):
    """What `work` returns, or {"error": sentence}, without names; the uploaded files are deleted."""
    paths = [path for path in paths if path]
    try:
        return work()
    except Exception as error:
        return {"error": uploads.without_names(reading.sentence(error), paths)}
    finally:
        uploads.forget(paths)


def _predict(ctx: Context, workspace: Workspace, paths: list[str], value: dict | None) -> dict:
    reading.bring(workspace, uploads.neutral(paths))
    if value is None and workspace.prompt_set is not None:
        value = workspace.prompt_set.to_dict()
    answers = []
    if workspace.records:
        reading.read(ctx.engine, workspace, value)
        p = workspace.prediction
        for i, name in enumerate(map(_number, p.files, range(1, len(p.files) + 1))):
            before = dict(zip(p.classes, map(float, p.frozen[i]), strict=True))
            after = None if p.adapted is None else dict(zip(p.classes, map(float, p.adapted[i]), strict=True))
            answers.append({"file": name, "frozen": before, "adapted": after, "error": None})
    for name, reason in (_unnamed(*problem) for problem in workspace.problems):
        answers.append({"file": name, "frozen": None, "adapted": None, "error": reason})
    classifier = workspace.classifier
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
    workspace.selected, maps = 0, []
    for when in (reading.BEFORE, reading.AFTER):
        choice = explaining.settle(workspace, replace(choice, when=when))
        if choice.when == when:
            shown = explaining.panels(ctx.engine, workspace, choice)
            heatmap = shown[0].heatmap
            facts = {"adapted": heatmap.adapted, "class": heatmap.class_name, "units": heatmap.units}
            maps.append({**facts, "blank": heatmap.blank, "values": heatmap.values.tolist()})
    picture = explaining.figure_of(workspace, shown, 0.6, {})
    return {"method": kind, "maps": maps, "notice": NOTICE, "picture": picture}


def _start(ctx: Context, workspace: Workspace, path: str | None, value: dict | None, length: str) -> TeachJob:
    teaching.gather_zip(workspace, path or "")
    value = value or teaching.prompts_for(workspace.teaching_set).to_dict()
    return teaching.start(ctx.engine, workspace, value, length)


def _job_facts(job: TeachJob) -> dict:
    facts = {"state": job.state, "step": job.step, "steps": job.steps, "error": job.error or None}
    if job.losses:
        facts["loss"] = job.losses[-1][1]
        facts["seconds_left"] = job.seconds_left
    if job.state == DONE:
        facts |= {"classes": job.support.classes, "taught": job.support.counts(), "held_out": job.scores}
        facts["left_out"] = [_unnamed(*problem)[1] for problem in job.support.problems]
    return facts


def _number(name: str, number: int) -> str:
    """Our own name of an uploaded file as it is; for a file within a zip its place among the answers."""
    return name if NUMBERED.fullmatch(name) else f"picture {number}"


def _unnamed(name: str, reason: str) -> tuple[str, str]:
    """A problem without the name of a file within a zip. Class names are the caller's own words and stay."""
    if NUMBERED.fullmatch(name) or not reason.startswith(name):
        return name, reason
    return "a file", f"A file{reason.removeprefix(name)}"
