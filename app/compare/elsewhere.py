"""Taught on one source, read on another: which sources go together, and the images of the other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.context import load_ready_prompts
from app.examples import task_choices, tasks
from app.teach.images import actions as gathering
from app.visitor.workspace import Workspace
from nearl.data.sets.findings import FindingsSet
from nearl.errors import NearlError
from nearl.prompts import class_key

if TYPE_CHECKING:
    from nearl.data.sets.labelled import LabelledSet

OWN = "own"  # the images in Teach; other sources are ready tasks
LEARN, CHECK = 16, 32  # synthetic images of each class
NONE = ("No other images", "")
FINDINGS = (
    "The images in Teach have findings, and a comparison is of classes: teach one method after another in Teach, where "
    "all results stay on the shelf, or choose a ready task here."
)


def choices(workspace: Workspace, source: str) -> list[tuple[str, str]]:
    """(label, key) of none, and of the other sources that have all classes of this one."""
    needed = _classes(workspace, source)
    own = [("Mine, from Teach", OWN)] if workspace.support.data is not None else []
    fits = lambda key: bool(needed) and key != source and needed <= _classes(workspace, key)  # noqa: E731
    return [NONE, *((label, key) for label, key in [*own, *task_choices()] if fits(key))]


def _classes(workspace: Workspace, source: str) -> set[str]:
    """The keys of the classes of a source; none where it has no images."""
    if source == OWN:
        data = workspace.support.data
        return set() if data is None or isinstance(data, FindingsSet) else set(map(class_key, data.classes))
    task = tasks().get(source)
    if task is None:
        return set()
    ready = load_ready_prompts()[task.prompts or f"phantom_{source}"]
    return {class_key(one["name"]) for one in ready["classes"]}


def check_classes(data: LabelledSet) -> None:
    """Raises NearlError for images with findings."""
    if isinstance(data, FindingsSet):
        raise NearlError(FINDINGS)


def images(workspace: Workspace, source: str, there: str, classes: Sequence[str]) -> LabelledSet | None:
    """The images of the source ``there`` that are of these classes, in this order of classes: its test images, or all
    where it has none. None without another source; NearlError where it lacks a class."""
    if not there:
        return None
    from nearl.measure.elsewhere import restricted

    if there not in {key for _, key in choices(workspace, source)}:
        raise NearlError("The other images do not have the same classes; choose others to read too, or none.")
    if there == OWN:
        found = workspace.support.held_out or workspace.support.needed()
    else:
        found = gathering.ready_task(workspace, there, LEARN, CHECK)[1]
    own = {class_key(known): known for known in found.classes}
    return restricted(found, [own[class_key(name)] for name in classes], classes)
