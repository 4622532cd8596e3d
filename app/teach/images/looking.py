"""What of the labelled images is looked at: groups of them, their thumbnails, and those that are equal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app.html import views
from app.visitor.workspace import Workspace
from nearl.data.checks import excluding
from nearl.data.sets.edit import names_of
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError

ANSWERS = ("present", "absent", "unknown")  # of a finding; with the numbers 0 to 2 on the page


class Equal(NamedTuple):
    """Groups of equal images, as indices into the labelled set."""

    conflicts: list[list[int]]  # with labels that exclude each other
    copies: list[list[int]]  # of one label
    near: list[list[int]]  # nearly equal, of one label


def equal_images(workspace: Workspace) -> Equal:
    data, found = workspace.support.needed(), workspace.support.check()

    def one_label(groups: Sequence[Sequence[int]]) -> list[list[int]]:
        return [list(group) for group in groups if not excluding(data, group)]

    return Equal([list(group) for group in found.conflicts], one_label(found.duplicates), one_label(found.near))


def parts(data: LabelledSet) -> list[tuple[str, list[int]]]:
    """What can be opened, (name, indices of its images): each class, or of each finding in turn the images in which it
    is present, absent and unknown."""
    if isinstance(data, FindingsSet):
        return [
            (f"{name}, {word}", part)
            for k, name in enumerate(data.findings)
            for word, part in zip(ANSWERS, data.by_answer(k), strict=True)
        ]
    return [(name, [i for i, label in enumerate(data.labels) if label == c]) for c, name in enumerate(data.classes)]


def counts(data: LabelledSet) -> dict[str, list[int]]:
    """Of each class how many images it has; of each finding in how many it is present, absent and unknown."""
    each = iter(len(part) for _, part in parts(data))
    number = len(ANSWERS) if isinstance(data, FindingsSet) else 1
    return {name: [next(each) for _ in range(number)] for name in names_of(data)}


def label_of(data: LabelledSet, i: int) -> str:
    """The class of an image, or the findings that are present in it."""
    if not isinstance(data, FindingsSet):
        return data.classes[data.labels[i]]
    return ", ".join(data.classes[c] for c in data.labels[i] if c % 2 == 0) or "none present"


def checked(data: LabelledSet, indices: Iterable[int]) -> list[int]:
    """These indices, sorted. NearlError for one that the set does not have."""
    found = sorted({int(i) for i in indices})
    if any(not 0 <= i < len(data) for i in found):
        raise NearlError("One of these images is no longer there; choose again.")
    return found


def thumbs(workspace: Workspace, indices: Iterable[int]) -> list[tuple[int, str, str, list[str]]]:
    """(index, data address, class or findings, marks) of these images. Marks: "same image", "nearly the same", "two
    labels", "also in the test images", "small"."""
    data, found = workspace.support.needed(), workspace.support.check()
    groups = {"two labels": found.conflicts, "same image": found.duplicates, "nearly the same": found.near}
    flat = {word: {i for group in members for i in group} for word, members in groups.items()}
    flat |= {"also in the test images": set(found.in_test), "small": set(found.small)}
    return [
        (
            i,
            views.data_uri(data.records[i].image(), views.THUMB_SIDE),
            label_of(data, i),
            [word for word, members in flat.items() if i in members],
        )
        for i in checked(data, indices)
    ]
