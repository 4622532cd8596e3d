"""The Teach tab: labelled images at the left, in three steps; progress, result and the adapter at the right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from app import reading, teaching, views
from app.context import Context, prompt_editor
from app.examples import KIND_NAMES
from app.jobs import watch
from app.reading import AFTER, MapChoice
from app.tabs import predict
from app.workspace import Workspace

EXAMPLE, FILES, ZIP = "example", "files", "zip"
MAX_ROWS = 8
PRESETS = [("Quick", "quick"), ("Balanced", "balanced"), ("Thorough", "thorough")]
ADVICE = {
    EXAMPLE: "Choose a kind of picture; half of the pictures show a lesion.",
    FILES: "Name at least two classes and add their images.",
    ZIP: "A zip with one folder per class, named after it. Folders train and test around them are understood.",
}

SHOW_PROGRESS = "() => { document.getElementById('progress').scrollIntoView({ block: 'nearest' }); }"


@dataclass
class TeachTab:
    """The tab's components, by what they show."""

    check: gr.HTML
    editor: gr.HTML
    words: gr.Column
    teach: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    adapter: gr.HTML
    download: gr.DownloadButton
    drop: gr.Button

    @property
    def outputs(self) -> list:
        return [
            self.check, self.editor, self.words, self.teach, self.cancel, self.progress, self.adapter, self.download,
            self.drop,
        ]  # fmt: skip


@dataclass
class Sources:
    """The three ways to bring images, one of them in sight."""

    choice: gr.Radio
    groups: dict[str, gr.Column]
    kind: gr.Radio
    rows: list[gr.Row]
    names: list[gr.Textbox]
    files: list[gr.File]
    add: gr.Button
    zip: gr.File


def build(ctx: Context, predict_tab: predict.PredictTab) -> TeachTab:
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="left", min_width=280, scale=11):
            gr.HTML('<h2 class="section">1. Images to learn from</h2>', js_on_load=None)
            sources = _sources()
            check = gr.HTML(views.check_empty(ADVICE[EXAMPLE]), js_on_load=None, elem_id="check")
            with gr.Column(visible=False) as words:
                gr.HTML('<h2 class="section">2. The classes, in your words</h2>', js_on_load=None)
                editor = prompt_editor("teach", None, {}, fixed=True)
                gr.HTML('<h2 class="section">3. Teach</h2>', js_on_load=None)
                preset = gr.Radio(PRESETS, value="balanced", label="How long", elem_id="preset")
                with gr.Row(elem_classes="action"):
                    teach = gr.Button("Teach", variant="primary", elem_id="teach")
                    cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
        with gr.Column(elem_classes="right", min_width=280, scale=9):
            progress = gr.HTML(views.teach_empty(), js_on_load=None, elem_id="progress")
            gr.HTML('<h2 class="section">What is in use</h2>', js_on_load=None)
            adapter = gr.HTML(views.adapter_empty(), js_on_load=None, elem_id="adapter")
            with gr.Row(elem_classes="action"):
                download = gr.DownloadButton("Download the adapter", visible=False, elem_id="download")
                drop = gr.Button("Stop using it", visible=False, elem_id="drop")
            upload = gr.File(
                label="Use an adapter from a file (zip)", file_count="single", height=96, elem_id="adapter-upload"
            )
    tab = TeachTab(check, editor, words, teach, cancel, progress, adapter, download, drop)
    _wire_sources(ctx, tab, sources)
    _wire_runs(ctx, tab, predict_tab, preset)
    _wire_adapter(ctx, tab, predict_tab, upload)
    return tab


def _sources() -> Sources:
    choice = gr.Radio(
        [("Synthetic example", EXAMPLE), ("My images, class by class", FILES), ("A zip of class folders", ZIP)],
        value=EXAMPLE, label="Where they come from", elem_id="source",
    )  # fmt: skip
    with gr.Column() as example:
        kinds = [(label, kind) for kind, label in KIND_NAMES.items()]
        kind = gr.Radio(
            kinds,
            label="Kind of picture (drawn by a program)",
            info="The embedded model has seen drawings like these; it has most to learn on chest CT and chest X-ray.",
            elem_id="kind",
        )
    rows, names, files = [], [], []
    with gr.Column(visible=False, elem_classes="class-rows") as by_class:
        for i in range(MAX_ROWS):
            with gr.Row(visible=i < 2, elem_classes="class-row") as row:
                names.append(gr.Textbox(label=f"Name of class {i + 1}", max_length=100, scale=2, min_width=140))
                files.append(
                    gr.File(
                        label=f"Images of class {i + 1}",
                        file_count="multiple",
                        height=96,
                        scale=5,
                        min_width=220,
                        elem_id=f"class-files-{i + 1}",
                    )
                )
            rows.append(row)
        add = gr.Button("Add a class", size="sm", elem_classes="text-button")
    with gr.Column(visible=False) as from_zip:
        archive = gr.File(label="Zip file", file_count="single", file_types=[".zip"], height=96, elem_id="zip")
    return Sources(choice, {EXAMPLE: example, FILES: by_class, ZIP: from_zip}, kind, rows, names, files, add, archive)


def _gathered(tab: TeachTab, workspace: Workspace) -> dict:
    labelled = workspace.teaching_set
    return {
        tab.check: teaching.check_html(workspace),
        tab.editor: teaching.prompts_for(labelled).to_dict(),
        tab.words: gr.update(visible=True),
    }


def _not_gathered(tab: TeachTab, words: str, error: bool = False) -> dict:
    text = views.message(words, "error") if error else views.check_empty(words)
    return {tab.check: text, tab.words: gr.update(visible=False)}


def _wire_sources(ctx: Context, tab: TeachTab, sources: Sources) -> None:
    session = ctx.session

    def gather(key: str, collect, *arguments) -> dict:
        workspace = ctx.registry.get(key)
        teaching.forget_images(workspace)
        try:
            collect(workspace, *arguments)
            return {session: workspace.id, **_gathered(tab, workspace)}
        except Exception as error:
            return {session: workspace.id, **_not_gathered(tab, reading.sentence(error), error=True)}

    def on_choice(key: str, source: str) -> dict:
        workspace = ctx.registry.get(key)
        teaching.forget_images(workspace)
        shown = {group: gr.update(visible=name == source) for name, group in sources.groups.items()}
        cleared = {c: None for c in (sources.kind, sources.zip, *sources.files)}
        return {session: workspace.id, **shown, **cleared, **_not_gathered(tab, ADVICE[source])}

    def on_kind(key: str, kind: str) -> dict:
        return gather(key, teaching.gather_example, kind)

    def on_files(key: str, *values) -> dict:
        names, files = values[:MAX_ROWS], values[MAX_ROWS:]
        if sum(bool(name and paths) for name, paths in zip(names, files, strict=True)) < 2:
            return _not_gathered(tab, ADVICE[FILES])
        return gather(key, teaching.gather_files, names, files)

    def on_zip(key: str, path: str | None) -> dict:
        return gather(key, teaching.gather_zip, path) if path else _not_gathered(tab, ADVICE[ZIP])

    def on_add(shown: int) -> list:
        shown = min(shown + 1, MAX_ROWS)
        return [shown, *(gr.update(visible=i < shown) for i in range(MAX_ROWS)), gr.update(visible=shown < MAX_ROWS)]

    quiet = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    found = [session, tab.check, tab.editor, tab.words]
    all_sources = [*sources.groups.values(), sources.kind, sources.zip, *sources.files]
    sources.choice.input(on_choice, [session, sources.choice], [*found, *all_sources], **quiet)
    sources.kind.input(on_kind, [session, sources.kind], found, **quiet)
    sources.zip.upload(on_zip, [session, sources.zip], found, **quiet)
    sources.zip.clear(lambda: _not_gathered(tab, ADVICE[ZIP]), None, found, **quiet)
    by_class = [session, *sources.names, *sources.files]
    for name, files in zip(sources.names, sources.files, strict=True):
        name.blur(on_files, by_class, found, **quiet)
        gr.on([files.upload, files.clear, files.delete], on_files, by_class, found, **quiet)
    shown = gr.State(2)
    sources.add.click(on_add, shown, [shown, *sources.rows, sources.add], **quiet)


def _idle(tab: TeachTab, workspace: Workspace) -> dict:
    """The buttons and the adapter's card while nothing is being taught."""
    in_use = workspace.adapter is not None
    return {
        tab.teach: gr.update(interactive=True),
        tab.cancel: gr.update(visible=False),
        tab.adapter: teaching.adapter_html(workspace),
        tab.download: gr.update(visible=in_use, value=teaching.adapter_file(workspace)),
        tab.drop: gr.update(visible=in_use),
    }


def _use_in_predict(ctx: Context, predict_tab: predict.PredictTab, workspace: Workspace) -> Iterator[dict]:
    """Show what the adapter in use, or its absence, does to the images of the Predict tab."""
    value = workspace.prompt_set.to_dict() if workspace.prompt_set else ctx.default_prompts
    yield {predict_tab.editor: value, **predict.show(predict_tab, workspace)}
    if workspace.records:
        yield from predict.read_and_show(ctx, predict_tab, workspace, value, MapChoice(AFTER))


def _wire_runs(ctx: Context, tab: TeachTab, predict_tab: predict.PredictTab, preset: gr.Radio) -> None:
    session = ctx.session

    def on_teach(key: str, value: dict, length: str) -> Iterator[dict]:
        workspace = ctx.registry.get(key)
        try:
            job = teaching.start(ctx.engine, workspace, value, length)
        except Exception as error:
            yield {session: workspace.id, tab.progress: views.message(reading.sentence(error), "error")}
            return
        yield {session: workspace.id, tab.teach: gr.update(interactive=False), tab.cancel: gr.update(visible=True)}
        for state in watch(job):
            yield {tab.progress: teaching.job_html(state)}
        yield _idle(tab, workspace)
        if workspace.adapter is not None:
            yield from _use_in_predict(ctx, predict_tab, workspace)

    def on_cancel(key: str) -> None:
        workspace = ctx.registry.get(key)
        if workspace.job is not None:
            workspace.job.cancel()

    outputs = [session, *tab.outputs, *predict_tab.outputs]
    quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    tab.teach.click(on_teach, [session, tab.editor, preset], outputs, **quiet)
    tab.teach.click(None, js=SHOW_PROGRESS, api_visibility="private")
    tab.cancel.click(on_cancel, session, None, **quiet)


def _wire_adapter(ctx: Context, tab: TeachTab, predict_tab: predict.PredictTab, upload: gr.File) -> None:
    session = ctx.session

    def on_upload(key: str, path: str | None) -> Iterator[dict]:
        workspace = ctx.registry.get(key)
        try:
            teaching.take_adapter(ctx.engine, workspace, path)
        except Exception as error:
            yield {session: workspace.id, tab.adapter: views.message(reading.sentence(error), "error")}
            return
        yield {session: workspace.id, **_idle(tab, workspace)}
        yield from _use_in_predict(ctx, predict_tab, workspace)

    def on_drop(key: str) -> Iterator[dict]:
        workspace = ctx.registry.get(key)
        workspace.set_adapter(None, "")
        yield {session: workspace.id, **_idle(tab, workspace)}
        yield from _use_in_predict(ctx, predict_tab, workspace)

    outputs = [session, *tab.outputs, *predict_tab.outputs]
    device = {
        "show_progress": "hidden", "api_visibility": "private", "concurrency_id": "device", "concurrency_limit": 4,
    }  # fmt: skip
    upload.upload(on_upload, [session, upload], outputs, **device)
    tab.drop.click(on_drop, session, outputs, **device)
