"""The first steps of the Teach tab: bring labelled images, tidy and check them, edit their prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import gradio as gr

from app.context import DECODE, QUIET, Context, away, calls, mark_prompts, prompt_editor, seen
from app.events import INPUT, Act, Components, Opening, Press, error_html, guarded
from app.examples import task_choices, tasks
from app.html import views
from app.teach.images import actions as gathering
from app.teach.images import html as image_views
from app.teach.images import looking, ready
from app.teach.images.html import MOST_GROUPS, PAGE, Thumb
from app.visitor.workspace import Workspace
from nearl.data.sets.columns import Columns, ColumnsError
from nearl.data.sets.findings import FindingsSet
from nearl.errors import NearlError

EXAMPLE, FILES, ZIP = "example", "files", "zip"
ADVICE = {
    EXAMPLE: "Choose a task: real, public images with their labels, or synthetic ones, half of which show a lesion.",
    FILES: "Name a class and add its images; then the next class. You need at least two classes.",
    ZIP: "A zip with one folder per class, named after it; train and test folders are kept apart. Or a table (CSV with "
    "a column of files and one of labels, and patient if you have it) together with its images or a zip of them. For "
    "findings, of which an image may show several, a column each: 1 present, 0 absent, empty unknown.",
}  # fmt: skip


@dataclass
class ImagesPart(Components):
    """What shows the labelled set and the ways to bring it."""

    choice: gr.Radio = field(metadata=INPUT)
    kind: gr.Radio
    name: gr.Textbox
    files: gr.File
    zip: gr.File
    columns: gr.Column  # to choose the columns of a table
    file_column: gr.Dropdown
    label_column: gr.Dropdown
    message: gr.HTML
    set: gr.HTML
    check: gr.HTML
    words: gr.Column
    ready: gr.HTML  # ready prompts that fit
    editor: gr.HTML
    use_columns: gr.Button = field(metadata=INPUT)

    @property
    def shown(self) -> list:
        """What `show` draws."""
        return [self.message, self.kind, self.set, self.check, self.words, self.editor]


def build(ctx: Context) -> ImagesPart:
    """The ways to bring images, one of them in sight; the images that are there; `words`, hidden until there are any,
    with the editor of their prompts."""
    gr.HTML(views.section("1. Images to teach with"), js_on_load=None)
    choice = gr.Radio(
        [("A ready task", EXAMPLE), ("My images, class by class", FILES), ("A zip, or a table of labels", ZIP)],
        value=EXAMPLE, label="Where they come from", elem_id="source",
    )  # fmt: skip
    with _way(EXAMPLE):
        kind = gr.Radio(
            task_choices(),
            label="Task",
            info="The embedded model has never seen photographs of skin or grey blood cells: they leave most to learn.",
            elem_id="kind",
        )
    with _way(FILES), gr.Row(elem_classes="class-row"):
        name = gr.Textbox(label="Name of the class", max_length=100, scale=2, min_width=140, elem_id="class-name")
        files = gr.File(
            label="Images of this class", file_count="multiple", height=96, scale=5, min_width=220,
            elem_id="class-files",
        )  # fmt: skip
    with _way(ZIP):
        archive = gr.File(label="Zip, or table and images", file_count="multiple", height=96, elem_id="zip")
        with gr.Column(elem_classes=away(), elem_id="columns") as columns:
            file_column = gr.Dropdown([], label="Column with the file names", elem_id="file-column")
            label_column = gr.Dropdown([], label="Column with the labels (none for findings)", elem_id="label-column")
            use = gr.Button("Use these columns", elem_id="use-columns")
    message = gr.HTML("", js_on_load=None, elem_id="source-message")
    shown = gr.HTML("", js_on_load=calls("act.js"), elem_id="set")
    check = gr.HTML("", js_on_load=calls("act.js"), elem_id="check")
    with gr.Column(elem_classes=away(), elem_id="teach-words") as words:
        gr.HTML(views.section("2. Prompts"), js_on_load=None)
        offered = gr.HTML("", js_on_load=calls("pick.js"), elem_id="ready-prompts")
        with gr.Column():
            editor = prompt_editor("teach", None, {}, fixed=True)
            mark_prompts(ctx, editor)
    return ImagesPart(
        choice, kind, name, files, archive, columns, file_column, label_column, message, shown, check, words, offered,
        editor, use,
    )  # fmt: skip


@contextlib.contextmanager
def _way(source: str) -> Iterator[None]:
    """One of the ways to bring images, with its advice. The page shows it while that source is chosen (style.css): no
    answer of the server can come between a visitor's choice and what is in sight."""
    with gr.Column(elem_classes=["way", f"way-{source}"]):
        gr.HTML(views.quiet(ADVICE[source]), js_on_load=None)
        yield


# ---- what is shown


@dataclass(frozen=True)
class Plan:
    """What decides which images are kept aside, as the controls of the run give it."""

    hold_out: float
    group_by: str

    @classmethod
    def of(cls, hold_out: float | None, group_by: str | None) -> Plan:
        return cls(float(hold_out or 0) / 100, (group_by or "").strip())


def show(
    part: ImagesPart, workspace: Workspace, plan: Plan, opened: int | None = None, page: int = 0, message: str = ""
) -> dict:
    """The labelled set as it is, with the class `opened` and its page of thumbnails, as updates by component.

    A set that cannot be taught with is shown with the sentence why, so that it can be mended or forgotten.
    """
    try:
        return {part.message: message, **_drawn(part, workspace, plan, opened, page, message)}
    except Exception as error:  # whatever it is, the classes stay in sight, so that they can be mended or forgotten
        return {
            part.message: message,
            part.set: _set(workspace, None, 0, []),
            part.check: error_html(error),
            part.words: seen(False),
        }


def _set(workspace: Workspace, opened: int | None, page: int, thumbs: Sequence[Thumb], version: str = "") -> str:
    try:
        data = workspace.support.needed()
        counts = looking.counts(data)
    except Exception:  # then they can only be forgotten
        return image_views.labelled_set({}, None, 0, [])
    if isinstance(data, FindingsSet):
        return image_views.findings_set(counts, len(data), opened, page, thumbs, version)
    return image_views.labelled_set({name: n for name, (n,) in counts.items()}, opened, page, thumbs, version)


def _drawn(part: ImagesPart, workspace: Workspace, plan: Plan, opened: int | None, page: int, message: str) -> dict:
    data = workspace.support.data
    if data is None:
        left = {} if message else {part.message: views.problem_list(workspace.support.problems)}
        return {**left, part.set: "", part.check: "", part.words: seen(False)}
    parts = looking.parts(data)
    opened = opened if opened is not None and opened < len(parts) else None
    indices = [] if opened is None else parts[opened][1]
    page = max(0, min(page, (len(indices) - 1) // PAGE))
    thumbs = _thumbs(workspace, indices[page * PAGE : (page + 1) * PAGE])
    found = gathering.check(workspace)
    version = workspace.seen_set = workspace.support.version
    return {
        # a task is ticked as long as its images are the ones to teach with
        part.kind: next((key for key, task in tasks().items() if data.ours and task.name == data.name), None),
        part.set: _set(workspace, opened, page, thumbs, version),
        part.check: _check(workspace, plan),
        part.editor: gathering.editor_value(workspace),
        part.words: seen(not found.blocking),
    }


def _thumbs(workspace: Workspace, indices: Sequence[int], with_class: bool = False) -> list[Thumb]:
    records = workspace.support.needed().records
    return [
        (i, src, records[i].name, [name] if with_class else marks)
        for i, src, name, marks in looking.thumbs(workspace, indices)
    ]


def _check(workspace: Workspace, plan: Plan) -> str:
    """The check before teaching, with what will be kept aside under this plan."""
    found, aside = gathering.check(workspace), ""
    if not found.blocking:
        try:
            aside = gathering.plan(workspace, plan.hold_out, plan.group_by).words
        except NearlError as error:
            aside = str(error)

    def drawn(groups: list[list[int]]) -> list:
        """With thumbnails as far as they are shown; the rest is only counted."""
        return [*(_thumbs(workspace, g, with_class=True) for g in groups[:MOST_GROUPS]), *groups[MOST_GROUPS:]]

    equal, data = looking.equal_images(workspace), workspace.support.needed()
    classes = None if isinstance(data, FindingsSet) else data.classes
    groups = image_views.equal_images(*map(drawn, equal), classes)  # type: ignore[call-arg]
    version, why = workspace.support.version, found.blocking
    cautions = [why, *found.cautions] if len(found.counts) < 2 else found.cautions  # the next class is still to come
    why = why if len(found.counts) > 1 else ""
    return image_views.check(found.sides, aside, cautions, why, groups, found.problems, version)


# ---- events

# Where the images come from is remembered by the tab of the browser, so that a reload finds it as it was. Choosing
# clears the message about another source.
REMEMBER_SOURCE = "(source) => { try { sessionStorage.setItem('nearl-source', source); } catch {} return ''; }"
RECALL_SOURCE = """(...given) => {  // the last of the inputs is the source
  let kept = null;
  try { kept = sessionStorage.getItem("nearl-source"); } catch {}
  return [...given.slice(0, -1), kept ?? given.at(-1)];
}"""
ONCE = {**QUIET, "trigger_mode": "once"}
LAST = {**QUIET, "trigger_mode": "always_last"}
FILES_ONCE = {**DECODE, "trigger_mode": "once"}


@dataclass(frozen=True)
class _Changes:
    """Changes of a visitor's set, and what the page then shows."""

    ctx: Context
    part: ImagesPart

    def make(
        self, key: str, value: dict | None, plan: Plan, change: Callable[[Workspace], str | None],
        opened: tuple[int | None, int] = (None, 0),
    ) -> dict:  # fmt: skip
        """Do `change` and show what is there then; what `change` returns is the message."""
        workspace = self.ctx.workspace(key)
        gathering.keep_edited(workspace, value)
        message = change(workspace) or ""
        shown = show(self.part, workspace, plan, *opened, message)
        return {self.ctx.session: workspace.id, self.part.kind: None, **shown}

    def none(self, key: str, *given) -> dict:
        """What is there after a change that failed; the message stays."""
        workspace = self.ctx.workspace(key)
        shown = show(self.part, workspace, Plan.of(*given[-2:]))
        shown.pop(self.part.message)
        return {self.ctx.session: workspace.id, self.part.kind: None, **shown}


def wire(ctx: Context, part: ImagesPart, plan: Sequence[gr.Component]) -> None:
    """`plan`: the controls whose values make a Plan."""
    changes = _Changes(ctx, part)
    _wire_sources(ctx, part, plan, changes)
    _wire_table(ctx, part, plan, changes)
    _wire_set(ctx, part, plan, changes)
    ready.wire(ctx, part.set, part.editor, part.ready)


def _wire_sources(ctx: Context, part: ImagesPart, plan: Sequence[gr.Component], changes: _Changes) -> None:
    """The example, and images class by class."""
    session, outputs = ctx.session, [ctx.session, *part.outputs]

    @guarded(part.message, changes.none)
    def on_kind(key: str, kind: str, *plan) -> Iterator[dict]:
        """Until its images are there, nothing of the set before, which could be taught by mistake."""
        if ctx.workspace(key).support.own:
            yield {**changes.none(key, *plan), part.message: views.quiet(gathering.OWN_HERE)}
            return
        reading = views.quiet("Reading the images of this task.")
        yield {part.message: reading, part.set: "", part.check: "", part.words: seen(False)}
        update = changes.make(key, None, Plan.of(*plan), lambda workspace: gathering.gather_example(workspace, kind))
        update.pop(part.kind)  # another one may have been chosen meanwhile
        yield {**update, part.message: views.quiet(tasks()[kind].credit)}

    @guarded(part.message, lambda *given: {**changes.none(*given), part.files: None, part.name: ""})
    def on_files(key: str, name: str, paths: list[str] | None, value: dict, *plan) -> dict:
        name = " ".join((name or "").split())
        if not paths:
            return {part.message: ""}
        if not name:
            return {part.message: views.quiet("Now name the class that these images show.")}
        update = changes.make(key, value, Plan.of(*plan), lambda workspace: _bring(workspace, paths, name))
        return {**update, part.files: None, part.name: ""}

    part.choice.input(None, part.choice, part.message, js=REMEMBER_SOURCE, api_visibility="private")
    part.kind.input(on_kind, [session, part.kind, *plan], outputs, **LAST)
    by_class = [session, part.name, part.files, part.editor, *plan]
    gr.on([part.files.upload, part.name.submit, part.name.blur], on_files, by_class, outputs, **FILES_ONCE)


def _wire_table(ctx: Context, part: ImagesPart, plan: Sequence[gr.Component], changes: _Changes) -> None:
    """A zip or a table; where its columns are not plain, they are asked for, and the uploads kept until then."""

    def bring(key: str, paths: list[str] | None, value: dict, plan: Plan, columns: Columns | None) -> dict:
        if not paths:
            return {part.message: "", part.columns: seen(False)}
        try:
            update = changes.make(key, value, plan, lambda workspace: _bring(workspace, paths, columns=columns))
        except ColumnsError as error:
            header = [name for name in error.header if name]
            return {
                part.message: views.message(str(error)),
                part.columns: seen(True),
                part.file_column: gr.update(choices=header, value=error.file or None),
                part.label_column: gr.update(choices=header, value=None),
            }
        return {**update, part.zip: None, part.columns: seen(False)}

    brought = guarded(part.message, lambda *given: {**changes.none(*given), part.zip: None, part.columns: seen(False)})

    @brought
    def on_zip(key: str, paths: list[str] | None, value: dict, *plan) -> dict:
        return bring(key, paths, value, Plan.of(*plan), None)

    @brought
    def on_columns(key: str, paths: list[str] | None, value: dict, file: str, label: str, *plan) -> dict:
        if not file:
            return {part.message: views.message("Choose the column of the file names, and that of the labels.")}
        return bring(key, paths, value, Plan.of(*plan), Columns(file, label or ""))

    table, outputs = [ctx.session, part.zip, part.editor], [ctx.session, *part.outputs]
    part.zip.upload(on_zip, [*table, *plan], outputs, **FILES_ONCE)
    part.use_columns.click(on_columns, [*table, part.file_column, part.label_column, *plan], outputs, **FILES_ONCE)


def _wire_set(ctx: Context, part: ImagesPart, plan: Sequence[gr.Component], changes: _Changes) -> None:
    """What is pressed among the images that are there."""
    session, outputs = ctx.session, [ctx.session, *part.outputs]

    @guarded(part.message)
    def on_press(key: str, value: dict, event: gr.EventData, *plan) -> dict:
        """A button among the classes and thumbnails or among the equal images; the class that was open stays so."""
        pressed = Press.of(event)

        def press(workspace: Workspace) -> str:
            try:
                gathering.check_current(workspace, pressed)
                gathering.press(workspace, pressed)
            except NearlError as error:
                return views.message(str(error), "error")
            return ""

        return changes.make(key, value, Plan.of(*plan), press, _opened(pressed))

    @guarded(part.message)
    def on_plan(key: str, *plan) -> dict:
        workspace = ctx.workspace(key)
        return {part.message: ""} if workspace.support.data is None else {part.check: _check(workspace, Plan.of(*plan))}

    gr.on([part.set.click, part.check.click], on_press, [session, part.editor, *plan], outputs, **ONCE)
    gr.on([plan[0].release, plan[1].blur], on_plan, [session, *plan], [part.check, part.message], **LAST)


def wire_return(ctx: Context, part: ImagesPart, plan: Sequence[gr.Component], opened: Opening) -> None:
    """A page that is reloaded, or a second one, shows the images as they are and where they came from."""

    @guarded(part.message)
    def on_open(key: str, *given) -> dict:
        workspace, (*plan, there, source) = ctx.workspace(key), given
        was, held = _as_it_was(part, workspace, source), workspace.support
        if held.data is not None and f'data-version="{held.version}"' in (there or ""):
            return was  # drawn with the page's first answer; what was opened in it since stays
        return {**was, **show(part, workspace, Plan.of(*plan))}

    opened.then(None, part.choice, part.choice, js=RECALL_SOURCE, api_visibility="private")
    given, outputs = [ctx.session, *plan, part.set, part.choice], [*part.outputs, part.choice]
    opened.then(on_open, given, outputs, js=RECALL_SOURCE, **QUIET)


def _as_it_was(part: ImagesPart, workspace: Workspace, source: str) -> dict:
    """Where the images that are there came from. `source`: what the browser remembers of it. Without images nothing is
    set: a visitor may be choosing just now."""
    data = workspace.support.data
    if data is None:
        return {}
    return {part.choice: EXAMPLE if data.ours else FILES if source == EXAMPLE else source}


def _opened(pressed: Press) -> tuple[int | None, int]:
    """The class whose images are open after a press, if any, and the page of its thumbnails."""
    opened, page = pressed.number("open", -1), pressed.number("page", 0)
    if pressed.act is Act.OPEN:
        opened, page = pressed.number("class"), 0
    elif pressed.act is Act.PAGE:
        page = pressed.number("to")
    elif pressed.act in (Act.CLOSE, Act.MERGE, Act.DROP, Act.FORGET):
        opened = -1
    return (opened if opened >= 0 else None), page


def _bring(workspace: Workspace, paths: list[str], name: str = "", columns: Columns | None = None) -> str:
    """Add the images, or put them in the place of a ready task or, where they come with their classes, of a set
    whose classes cannot be taught; says what was done."""
    data = workspace.support.data
    unusable = not name and gathering.unusable(workspace)
    add = data is not None and not data.ours and not unusable
    before = len(data) if add else 0
    gathering.bring(workspace, paths, name, add, columns)
    more = views.plural(len(workspace.support.needed()) - before, "image")
    if unusable:
        return views.quiet(f"Brought {more}, in the place of those whose classes could not be taught.")
    return views.quiet(f"Added {more}{f' to “{name}”. Now the next class' if name else ''}.")
