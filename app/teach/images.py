"""The first step of the Teach tab: bring labelled images, tidy them, and see the check before teaching."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from app.context import QUIET, Context, asset_text, prompt_editor, seen
from app.examples import KIND_NAMES
from app.html import views
from app.predict import actions as reading
from app.teach import actions as teaching
from app.teach import html as teach_views
from app.teach.html import PAGE, Thumb
from app.teach.parts import Controls, Parts, Pressed, choice_of
from app.visitor.workspace import Workspace
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError

EXAMPLE, FILES, ZIP = "example", "files", "zip"
ADVICE = {
    EXAMPLE: "Choose a kind of image; half of the images show a lesion.",
    FILES: "Name a class and add its images; then the next class. You need at least two classes.",
    ZIP: "A zip with one folder per class, named after it. Or a table (CSV with the columns file and label, and "
    "patient if you have it) together with its images or a zip of them, chosen at once.",
}  # fmt: skip


@dataclass
class ImagesPart(Parts):
    """What shows the labelled set."""

    message: gr.HTML
    set: gr.HTML
    check: gr.HTML
    editor: gr.HTML
    words: gr.Column
    kind: gr.Radio
    name: gr.Textbox
    files: gr.File
    zip: gr.File


@dataclass
class Sources:
    choice: gr.Radio
    groups: dict[str, gr.Column]
    advice: gr.HTML


def build_sources() -> tuple[Sources, dict]:
    """The three ways to bring images, one of them in sight, and what shows the images that are there."""
    choice = gr.Radio(
        [("Synthetic example", EXAMPLE), ("My images, class by class", FILES), ("A zip, or a table of labels", ZIP)],
        value=EXAMPLE, label="Where they come from", elem_id="source",
    )  # fmt: skip
    advice = gr.HTML(teach_views.quiet(ADVICE[EXAMPLE]), js_on_load=None, elem_id="advice")
    with gr.Column() as example:
        kind = gr.Radio(
            [(label, kind) for kind, label in KIND_NAMES.items()],
            label="Kind of image (synthetic, made by a program)",
            info="The embedded model has seen such images; chest CT, blood and head MRI leave most to learn.",
            elem_id="kind",
        )
    with gr.Column(visible=False, elem_classes="class-rows") as by_class, gr.Row(elem_classes="class-row"):
        name = gr.Textbox(label="Name of the class", max_length=100, scale=2, min_width=140, elem_id="class-name")
        files = gr.File(
            label="Images of this class", file_count="multiple", height=96, scale=5, min_width=220,
            elem_id="class-files",
        )  # fmt: skip
    with gr.Column(visible=False) as from_zip:
        archive = gr.File(label="Zip, or table and images", file_count="multiple", height=96, elem_id="zip")
    message = gr.HTML("", js_on_load=None, elem_id="source-message")
    shown = gr.HTML("", js_on_load=asset_text("act.js"), elem_id="set")
    check = gr.HTML("", js_on_load=asset_text("act.js"), elem_id="check")
    parts = {
        "message": message, "set": shown, "check": check, "kind": kind, "name": name, "files": files, "zip": archive,
    }  # fmt: skip
    return Sources(choice, {EXAMPLE: example, FILES: by_class, ZIP: from_zip}, advice), parts


def build_editor() -> gr.HTML:
    return prompt_editor("teach", None, {}, fixed=True)


# ----------------------------------------------------------------------------------------------------- what is shown


def show(
    part: ImagesPart, workspace: Workspace, values: tuple, opened: int | None = None, page: int = 0, message: str = ""
) -> dict:
    """The labelled set as it is, with the class `opened` and its page of thumbnails, as updates by component."""
    data = teaching.labelled(workspace)
    if data is None:
        return {part.message: message, part.set: "", part.check: "", part.words: seen(False)}
    opened = opened if opened is not None and opened < len(data.classes) else None
    indices = [] if opened is None else [i for i, label in enumerate(data.labels) if label == opened]
    page = max(0, min(page, (len(indices) - 1) // PAGE))
    thumbs = _thumbs(workspace, data, indices[page * PAGE : (page + 1) * PAGE])
    found = teaching.check(workspace)
    return {
        part.message: message,
        part.set: teach_views.labelled_set(found.counts, opened, page, thumbs),
        part.check: check_html(workspace, values),
        part.editor: teaching.editor_value(workspace),
        part.words: seen(not found.blocking),
    }


def _thumbs(workspace: Workspace, data: LabelledSet, indices, with_class: bool = False) -> list[Thumb]:
    return [
        (i, src, data.records[i].name, [name] if with_class else marks)
        for i, src, name, marks in teaching.thumbs(workspace, indices)
    ]


def check_html(workspace: Workspace, values: tuple) -> str:
    """The check before teaching, with what will be kept aside under this choice."""
    data, found = teaching.labelled(workspace), teaching.check(workspace)
    aside = ""
    if not found.blocking:
        try:
            aside = teaching.plan(workspace, choice_of(values)).words
        except NearlError as error:
            aside = str(error)
    conflicts, copies, near = _groups(data, found)
    draw = lambda groups: [_thumbs(workspace, data, g, True) for g in groups[: teach_views.MOST_GROUPS]]  # noqa: E731
    groups = teach_views.equal_images(
        [*draw(conflicts), *conflicts[teach_views.MOST_GROUPS :]],
        [*draw(copies), *copies[teach_views.MOST_GROUPS :]],
        [*draw(near), *near[teach_views.MOST_GROUPS :]],
        data.classes,
    )
    return teach_views.check(found.sides, aside, found.cautions, found.blocking, groups, found.problems)


def _groups(data: LabelledSet, found) -> tuple[list, list, list]:
    """Equal images: with several labels, of one label, and nearly equal ones of one label."""

    def one_label(group) -> bool:
        return len({data.labels[i] for i in group}) == 1

    return found.conflicts, [g for g in found.duplicates if one_label(g)], [g for g in found.near if one_label(g)]


# -------------------------------------------------------------------------------------------------------------- events


def wire(ctx: Context, part: ImagesPart, sources: Sources, controls: Controls) -> None:
    session, values = ctx.session, controls.outputs
    outputs = [session, *part.outputs, *sources.groups.values(), sources.advice]

    def changed(key: str, value: dict | None, given: tuple, change, opened: int | None = None, page: int = 0) -> dict:
        """Do `change` with the workspace and show what is there then, or why it could not be done."""
        workspace = ctx.workspace(key)
        message = ""
        try:
            _keep_words(workspace, value)
            message = change(workspace) or ""
        except Exception as error:
            message = views.message(reading.sentence(error), "error")
        return {session: workspace.id, **show(part, workspace, given, opened, page, message)}

    def on_choice(source: str) -> dict:
        shown = {group: gr.update(visible=name == source) for name, group in sources.groups.items()}
        return {**shown, sources.advice: teach_views.quiet(ADVICE[source]), part.message: ""}

    def on_kind(key: str, kind: str, *given) -> dict:
        def gather(workspace: Workspace) -> None:
            data = teaching.labelled(workspace)
            if data is not None and not is_example(data):
                raise NearlError("Your own images are here; press “Forget these images” first.")
            teaching.forget_images(workspace)
            teaching.gather_example(workspace, kind)

        return changed(key, None, given, gather)

    def on_files(key: str, name: str, paths: list[str] | None, value: dict, *given) -> dict:
        name = " ".join((name or "").split())
        if not paths:
            return {part.message: ""}
        if not name:
            return {part.message: teach_views.quiet("Now name the class that these images show.")}
        update = changed(key, value, given, lambda workspace: _bring(workspace, paths, name))
        return {**update, part.files: None, part.name: ""}

    def on_zip(key: str, paths: list[str] | None, value: dict, *given) -> dict:
        if not paths:
            return {part.message: ""}
        return {**changed(key, value, given, lambda workspace: _bring(workspace, paths)), part.zip: None}

    def on_set(key: str, value: dict, event: gr.EventData, *given) -> dict:
        pressed = Pressed.of(event)
        opened, page = pressed.number("open", -1), pressed.number("page", 0)
        if pressed.act in ("open", "close"):
            opened, page = (pressed.number("class", -1) if pressed.act == "open" else -1), 0
        elif pressed.act == "page":
            page = pressed.number("to", 0)
        elif pressed.act in ("merge", "drop", "forget"):
            opened = -1
        update = changed(
            key, value, given, lambda workspace: _edit(workspace, pressed), opened if opened >= 0 else None, page
        )
        return {**update, part.kind: None} if pressed.act == "forget" else update

    def on_check(key: str, value: dict, event: gr.EventData, *given) -> dict:
        pressed = Pressed.of(event)
        return changed(key, value, given, lambda workspace: _tidy(workspace, pressed))

    def on_plan(key: str, *given) -> dict:
        workspace = ctx.workspace(key)
        if teaching.labelled(workspace) is None:
            return {part.message: ""}
        return {part.check: check_html(workspace, given)}

    once = {**QUIET, "trigger_mode": "once"}
    last = {**QUIET, "trigger_mode": "always_last"}
    sources.choice.input(on_choice, sources.choice, outputs, **last)
    part.kind.input(on_kind, [session, part.kind, *values], outputs, **last)
    by_class = [session, part.name, part.files, part.editor, *values]
    gr.on([part.files.upload, part.name.submit, part.name.blur], on_files, by_class, outputs, **once)
    part.zip.upload(on_zip, [session, part.zip, part.editor, *values], outputs, **once)
    part.set.click(on_set, [session, part.editor, *values], outputs, **once)
    part.check.click(on_check, [session, part.editor, *values], outputs, **once)
    gr.on([controls.hold_out.release, controls.group_by.blur], on_plan, [session, *values], outputs, **last)


def is_example(data: LabelledSet | None) -> bool:
    return data is not None and data.synthetic


def _bring(workspace: Workspace, paths: list[str], name: str = "") -> str:
    """Add the images, or put them in the place of a synthetic example; says what was done."""
    data = teaching.labelled(workspace)
    add = data is not None and not is_example(data)
    before = len(data) if add else 0
    teaching.bring(workspace, paths, name, add)
    more = views.plural(len(teaching.labelled(workspace)) - before, "image")
    return teach_views.quiet(f"Added {more}{f' to “{name}”. Now the next class' if name else ''}.")


def _keep_words(workspace: Workspace, value: dict | None) -> None:
    """Prompts that were edited outlive a change of the images."""
    if teaching.labelled(workspace) is not None and value and value != teaching.editor_value(workspace):
        teaching.keep_prompts(workspace, value)


def _edit(workspace: Workspace, pressed: Pressed) -> str | None:
    """What was pressed among the classes and thumbnails."""
    data = teaching.labelled(workspace)
    if pressed.act == "forget" or data is None:
        teaching.forget_images(workspace)
    elif pressed.act in ("remove", "move"):
        if not pressed.ticked:
            raise NearlError("No image is ticked; tick some first.")
        if pressed.act == "remove":
            teaching.remove_images(workspace, pressed.ticked)
        else:
            teaching.relabel(workspace, pressed.ticked, pressed.pick("to", data.classes))
    elif pressed.act == "rename":
        teaching.rename_class(workspace, pressed.pick("class", data.classes), pressed.to)
    elif pressed.act == "merge":
        name, into = pressed.pick("class", data.classes), pressed.pick("to", data.classes)
        teaching.merge_classes(workspace, [name], into)
    elif pressed.act == "drop":
        teaching.drop_class(workspace, pressed.pick("class", data.classes))


def _tidy(workspace: Workspace, pressed: Pressed) -> None:
    """What was pressed among the equal images."""
    data = teaching.labelled(workspace)
    conflicts, copies, _ = _groups(data, teaching.check(workspace))
    if pressed.act == "keep-one":
        teaching.remove_images(workspace, [i for group in copies for i in group[1:]])
    elif pressed.act == "settle":
        group = pressed.pick("group", conflicts)
        if pressed.number("to") < 0:
            teaching.remove_images(workspace, group)
        else:
            teaching.relabel(workspace, group, pressed.pick("to", data.classes))
