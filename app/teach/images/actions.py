"""The labelled images to teach with: bring, tidy and check them, and plan which are kept aside.

Every change is on disk when the function returns. Where nothing else is said, NearlError is raised with one sentence
and nothing has changed.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.events import GONE, Act, Press
from app.examples import tasks
from app.teach.images.looking import ANSWERS, checked, equal_images
from app.visitor import uploads
from app.visitor.workspace import Workspace
from nearl.data.images import Problem, base_name
from nearl.data.sandbox.request import asked_by
from nearl.data.sets import edit
from nearl.data.sets import labelled as sets
from nearl.data.sets.columns import Columns, ColumnsError
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.prompts import CLASSES, FINDINGS, PromptSet, Rule, class_key, default_findings, default_prompts

if TYPE_CHECKING:
    from nearl.data.checks import SetCheck
    from nearl.data.splits import Split

EXAMPLE_PER_CLASS = 16
MAX_IMAGES = 600
MAX_FILES = 1200
MAX_LABEL = 100  # characters, as in a prompt set
TABLES = (".csv", ".tsv")
OWN_HERE = "Your own images stay as they are; to teach with a ready task instead, press “Forget these images” first."


# ---- bringing images


def gather_example(workspace: Workspace, key: str) -> None:
    """Replace the labelled images by that ready task, with separate images to check on. NearlError where there are some
    of the visitor's own, which no ready task takes the place of by itself."""
    if workspace.support.own:
        raise NearlError(OWN_HERE)
    _keep(workspace, *ready_task(workspace, key, EXAMPLE_PER_CLASS, EXAMPLE_PER_CLASS), [])


def ready_task(workspace: Workspace, key: str, learn: int, check: int) -> tuple[LabelledSet, LabelledSet]:
    """The images of a ready task to teach with and to measure on; of a synthetic one `learn` and `check` of each
    class."""
    if key not in tasks():
        raise NearlError("There is no such ready task; choose one of those offered.")
    with asked_by(workspace.id or "", images=MAX_IMAGES):
        return tasks()[key].images(learn, check)


def bring(
    workspace: Workspace,
    paths: Sequence[str | Path],
    label: str = "",
    add: bool = True,
    columns: Columns | None = None,
) -> None:
    """Add labelled images to the visitor's own, or with `add` False replace them. The uploads are deleted.

    `label`: the class of all of them. Without it `paths` are a zip of class folders, or image files or a zip with a
    table beside or in it, of classes or findings. `columns`: those of the table to use; None finds them. What cannot be
    used is named in
    `workspace.support.problems`. NearlError if nothing can be used; the images that are there then stay. ColumnsError
    where somebody has to choose the columns; then the uploads stay too.
    """
    paths, chosen = [Path(path) for path in paths], True
    try:
        if not paths:
            raise NearlError("There is no file; choose some images or a zip.")
        if len(paths) > MAX_FILES:
            raise NearlError(f"These are {len(paths)} files; bring at most {MAX_FILES} at a time.")
        label = " ".join(label.split())
        if len(label) > MAX_LABEL:
            raise NearlError(f"A class name has at most {MAX_LABEL} characters; this one has {len(label)}.")
        with asked_by(workspace.id or "", images=MAX_IMAGES):
            if label:
                data, test = sets.from_files({label: paths}, fewest=1), None
            else:
                data, test = _with_labels(paths, columns)
    except ColumnsError:
        chosen = False
        raise
    finally:
        if chosen:
            uploads.forget(paths)
    problems = [*data.problems, *(test.problems if test is not None else [])]
    if add and workspace.support.data is not None:
        old, old_test = workspace.support.data, workspace.support.held_out
        data = edit.join(old, data)
        tests = [edit.align(part, data.classes) for part in (old_test, test) if part is not None]
        test = edit.join(*tests) if len(tests) == 2 else next(iter(tests), None)
        problems = [*workspace.support.problems, *problems]
    _keep(workspace, data, test, problems)


def _with_labels(paths: Sequence[Path], columns: Columns | None) -> tuple[LabelledSet, LabelledSet | None]:
    tables = [path for path in paths if path.suffix.lower() in TABLES]
    files = [path for path in paths if path not in tables]
    if len(tables) > 1:
        raise NearlError("These are several tables; bring one CSV file with all labels.")
    if tables:
        return _plain(sets.table_splits(files, tables[0], fewest=1, columns=columns, findings=True))
    loose = [path for path in files if not zipfile.is_zipfile(path)]
    if len(files) == 1 and loose:
        return sets.resolve_splits(files[0], 1, columns, findings=True)  # says what is wrong with it
    if loose:
        raise NearlError(
            f"{base_name(loose[0].name)} comes without a label; add it to a class, or bring a zip with a folder per "
            "class, or a CSV file with the columns file and label, or a column of 1 and 0 for each finding."
        )
    parts = [_plain(sets.resolve_splits(path, 1, columns, findings=True)) for path in files]
    data, test = parts[0]
    for more, more_test in parts[1:]:
        data = edit.join(data, more)
        tests = [part for part in (test, more_test) if part is not None]
        test = edit.join(*tests) if len(tests) == 2 else next(iter(tests), None)
    return data, test if test is None else edit.align(test, data.classes)


def _plain(found: tuple[LabelledSet, LabelledSet | None]) -> tuple[LabelledSet, LabelledSet | None]:
    """The same; one finding that is known of every image as two classes, of which the page can show more."""
    plain = [part.as_classes() if isinstance(part, FindingsSet) else part for part in found]
    return (plain[0], plain[1]) if len({type(part) for part in plain} - {type(None)}) == 1 else found


def _keep(workspace: Workspace, data: LabelledSet, test: LabelledSet | None, problems: Sequence[Problem]) -> None:
    total = len(data) + (len(test) if test is not None else 0)
    if total > MAX_IMAGES:
        raise NearlError(f"These are {total} images; on this page {MAX_IMAGES} are enough. Bring fewer.")
    workspace.support.keep(data, test, problems)


# ---- tidying


def press(workspace: Workspace, pressed: Press) -> None:
    """Do what a button among the classes, thumbnails or equal images asks for."""
    act = ACTS.get(pressed.act)
    if act is None:
        raise NearlError(GONE)
    act(workspace, pressed)


def check_current(workspace: Workspace, pressed: Press) -> None:
    """Raises NearlError if another tab of the browser has changed the images since this page showed them."""
    seen = pressed.data.get("version")
    if seen and seen != workspace.support.version and pressed.act is not Act.FORGET:
        raise NearlError("These images were changed in another tab; here they are as they are now. Press again.")


def forget_images(workspace: Workspace, _: Press | None = None) -> None:
    """Remove all labelled images, from memory and from disk. Runs and adapters stay."""
    workspace.support.forget()


def rename_class(workspace: Workspace, old: str, new: str) -> None:
    """Another name for a class or a finding, in its prompts and rules too."""

    def rename(data: LabelledSet) -> LabelledSet:
        renamed = edit.rename(data, old, new)
        entries = (data.prompts or {}).get("classes")
        if isinstance(entries, list):
            names = [{**e, "name": new} if isinstance(e, dict) and e.get("name") == old else e for e in entries]
            renamed.prompts = {**data.prompts, "classes": names, **_rules(data.prompts, old, new)}
        return renamed

    _edit(workspace, rename)


def _rules(prompts: dict, old: str, new: str) -> dict[str, list[str]]:
    """The rules of a set of findings with another name for one of them; nothing where there are none to be read."""
    try:
        found = PromptSet.from_dict(prompts)
    except NearlError:
        return {}
    now = {name: new if name == old else name for name in found.findings}
    rules = [str(Rule(now[rule.first], now[rule.second], rule.excludes)) for rule in found.rules]
    return {"rules": rules} if rules else {}


def merge_classes(workspace: Workspace, names: Sequence[str], into: str) -> None:
    _edit(workspace, lambda data: edit.merge(data, names, into))


def drop_class(workspace: Workspace, name: str) -> None:
    """Remove a class with its images, or a finding without them."""
    _edit(workspace, lambda data: edit.drop_class(data, name))


def remove_images(workspace: Workspace, indices: Iterable[int]) -> None:
    _edit(workspace, lambda data: edit.remove(data, checked(data, indices)), test_too=False)


def relabel(workspace: Workspace, indices: Iterable[int], label: str) -> None:
    _edit(workspace, lambda data: edit.relabel(data, checked(data, indices), label), test_too=False)


def _remove_ticked(workspace: Workspace, pressed: Press) -> None:
    remove_images(workspace, _ticked(pressed))


def _move_ticked(workspace: Workspace, pressed: Press) -> None:
    """Into another class, or another answer to the finding that is open."""
    ticked = _ticked(pressed)
    if not isinstance(workspace.support.needed(), FindingsSet):
        relabel(workspace, ticked, pressed.pick("to", _classes(workspace)))
        return
    finding, answer = pressed.number("open") // len(ANSWERS), (0, 1, None)[ANSWERS.index(pressed.pick("to", ANSWERS))]
    pressed.pick("open", [0] * len(ANSWERS) * len(_classes(workspace)))
    _edit(workspace, lambda data: edit.mark(data, checked(data, ticked), finding, answer), test_too=False)


def _ticked(pressed: Press) -> Sequence[int]:
    if not pressed.numbers:
        raise NearlError("No image is ticked; tick some first.")
    return pressed.numbers


def _rename(workspace: Workspace, pressed: Press) -> None:
    rename_class(workspace, pressed.pick("class", _classes(workspace)), pressed.to)


def _merge(workspace: Workspace, pressed: Press) -> None:
    classes = _classes(workspace)
    merge_classes(workspace, [pressed.pick("class", classes)], pressed.pick("to", classes))


def _drop(workspace: Workspace, pressed: Press) -> None:
    drop_class(workspace, pressed.pick("class", _classes(workspace)))


def _keep_one(workspace: Workspace, _: Press) -> None:
    """Remove all but the first of every group of copies."""
    remove_images(workspace, [i for group in equal_images(workspace).copies for i in group[1:]])


def _settle(workspace: Workspace, pressed: Press) -> None:
    """Give a group of equal images with several labels one of them, or remove the group."""
    group = pressed.pick("group", equal_images(workspace).conflicts)
    if pressed.number("to") < 0:
        remove_images(workspace, group)
    else:
        relabel(workspace, group, pressed.pick("to", _classes(workspace)))


def _look(workspace: Workspace, pressed: Press) -> None:
    """Another class or page is shown; the images stay as they are."""


ACTS: dict[Act, Callable[[Workspace, Press], None]] = {
    Act.OPEN: _look,
    Act.CLOSE: _look,
    Act.PAGE: _look,
    Act.FORGET: forget_images,
    Act.REMOVE: _remove_ticked,
    Act.MOVE: _move_ticked,
    Act.RENAME: _rename,
    Act.MERGE: _merge,
    Act.DROP: _drop,
    Act.KEEP_ONE: _keep_one,
    Act.SETTLE: _settle,
}


def _classes(workspace: Workspace) -> list[str]:
    return edit.names_of(workspace.support.needed())


def _edit(workspace: Workspace, change: Callable[[LabelledSet], LabelledSet], test_too: bool = True) -> None:
    with workspace.lock:
        data, test = workspace.support.data, workspace.support.held_out
        if data is None:
            raise NearlError("There are no images yet; bring some first.")
        data = change(data)
        if test is not None:
            test = edit.align(change(test) if test_too else test, data.classes)
        if data.classes:
            workspace.support.keep(data, test)
        else:
            workspace.support.forget()


# ---- looking


def check(workspace: Workspace) -> SetCheck:
    """The check before teaching. Its `problems` are all since the images were brought."""
    return workspace.support.check()


def plan(workspace: Workspace, hold_out: float = 0.25, group_by: str = "") -> Split:
    """What will be kept aside to measure with.

    `hold_out`: proportion of every class. `group_by`: how file names tell which images belong together, as
    `nearl.data.splits.groups_from_names` takes it; "" takes the groups that came with the images, if any.
    """
    from nearl.data import splits

    data, found, test = workspace.support.needed(), check(workspace), workspace.support.held_out
    groups = data.groups
    if group_by:
        names = [record.name for record in data.records]
        if all(re.fullmatch(r"image \d+", name) for name in names):
            raise NearlError(
                "The names of these files were forgotten when the server started again; bring the images again to "
                "keep those of one patient together."
            )
        groups = splits.groups_from_names(names, group_by)
    given = len(test) if test is not None else 0
    divide = splits.plan_findings if isinstance(data, FindingsSet) else splits.plan
    return divide(
        data.labels,
        hold_out,
        seed=0,
        groups=groups,
        duplicates=[*found.duplicates, *found.near],
        given=given,
        leaked=found.in_test if given else (),
    )


def prompts_for(workspace: Workspace | LabelledSet) -> PromptSet:
    """The prompts that came with the images or were kept with `keep_prompts`; others are made from the names of classes
    or findings.

    NearlError for names that no prompt set can have.
    """
    data = workspace if isinstance(workspace, LabelledSet) else workspace.support.needed()
    several = isinstance(data, FindingsSet)
    made = default_findings(data.findings) if several else default_prompts(data.classes)
    try:
        own = PromptSet.from_dict(data.prompts or {})
        if own.kind != (FINDINGS if several else CLASSES):
            return made
        texts = {class_key(name): tuple(group) for name, group in zip(own.classes, own.texts(), strict=True)}
        if not any(class_key(name) in texts for name in data.classes):
            return made
        if all(class_key(name) in texts for name in data.classes) and len(own.classes) == len(data.classes):
            return own.for_classes(data.classes)
        prompts = zip(data.classes, made.prompts, strict=True)
        names = set(map(class_key, made.findings))
        rules = tuple(r for r in own.rules if {class_key(r.first), class_key(r.second)} <= names)
        return replace(made, prompts=tuple(texts.get(class_key(name), text) for name, text in prompts), rules=rules)
    except NearlError:  # unusable prompts are no reason to refuse the images
        return made


def editor_value(workspace: Workspace) -> dict | None:
    """What the editor shows: `prompts_for`; None while the class names cannot be taught (`check` says why)."""
    try:
        return prompts_for(workspace).to_dict()
    except NearlError:
        return None


def unusable(workspace: Workspace) -> bool:
    """Whether the names of the classes, or their number, are such that no prompt set can have them."""
    return workspace.support.data is not None and editor_value(workspace) is None


def keep_edited(workspace: Workspace, value: dict | None) -> None:
    """Remember prompts that were edited, so that they outlive a change of the images. Where they cannot be kept, the
    change is made all the same."""
    with contextlib.suppress(NearlError):
        if workspace.support.data is not None and value and value != editor_value(workspace):
            keep_prompts(workspace, value)


def keep_prompts(workspace: Workspace, value: dict | None) -> None:
    """Remember the prompts as they stand in the editor, for a reload; what cannot be a prompt set is ignored."""
    with workspace.lock:
        data = workspace.support.data
        if data is not None and isinstance(value, dict):
            workspace.support.keep(replace(data, prompts=value), workspace.support.held_out)
