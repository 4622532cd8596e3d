"""What the Teach tab shows of the labelled images: the classes with their thumbnails, and the check before teaching.

Buttons carry `data-act` and what they are about as numbers, never as names; assets/page/act.js sends them to the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.html import render
from app.teach.images.looking import ANSWERS

PAGE = 24  # thumbnails shown at a time
MOST_GROUPS = 6  # groups of equal images shown with their thumbnails
MOST_PROBLEMS = 40  # files named one by one

Thumb = tuple[int, str, str, Sequence[str]]  # index in the set, data address, file, marks such as "copy"


def labelled_set(
    counts: Mapping[str, int], opened: int | None, page: int, thumbs: Sequence[Thumb], version: str = ""
) -> str:
    """The classes with their numbers of images and, of the class `opened`, a page of thumbnails to tick."""
    return render(
        "teach/set.html", classes=list(counts), counts=list(counts.values()), page=page, per_page=PAGE, thumbs=thumbs,
        opened=opened if opened is not None and opened < len(counts) else None, version=version,
    )  # fmt: skip


def findings_set(
    counts: Mapping[str, Sequence[int]], total: int, opened: int | None, page: int, thumbs: Sequence[Thumb],
    version: str = "",
) -> str:  # fmt: skip
    """The findings with the numbers of images, of `total`, in which each is present, absent and unknown and, of the one
    of these parts that is `opened`, a page of thumbnails to tick."""
    parts = [n for each in counts.values() for n in each]
    return render(
        "teach/findings_set.html", findings=list(counts), parts=parts, answers=ANSWERS, total=total, page=page,
        per_page=PAGE, thumbs=thumbs, opened=opened if opened is not None and opened < len(parts) else None,
        version=version,
    )  # fmt: skip


def check(
    sides: Sequence[int],
    aside: str,
    cautions: Sequence[str],
    blocking: str = "",
    groups: str = "",
    problems: Sequence = (),
    version: str = "",
) -> str:
    """What was found before teaching.

    `sides`: least and greatest width, least and greatest height, in pixels; `aside`: what will be kept aside and why;
    `blocking`: why it cannot be taught, or ""; `groups`: of `equal_images`.
    """
    return render(
        "teach/check.html", sides=sides, aside=aside, cautions=cautions, blocking=blocking, groups=groups,
        problems=problems, most=MOST_PROBLEMS, version=version,
    )  # fmt: skip


def left_out(problems: Sequence) -> str:
    """The files that could not be used, by name and reason."""
    return render("teach/left_out.html", problems=problems, most=MOST_PROBLEMS)


def equal_images(
    conflicts: Sequence[Sequence[Thumb]],
    copies: Sequence[Sequence[Thumb]],
    near: Sequence[Sequence[Thumb]],
    classes: Sequence[str] | None,
) -> str:
    """Groups of equal images with their thumbnails (marks: their class): those with several labels, copies of one
    label, and images that are nearly the same. A group's number in `data-group` is its place in its own list.
    `classes`: None where the images have findings instead."""
    if not (conflicts or copies or near):
        return ""
    shown = [[(*thumb[:3], tuple(thumb[3])) for thumb in group] for group in conflicts[:MOST_GROUPS]]
    return render(
        "teach/equal.html", conflicts=[*shown, *conflicts[MOST_GROUPS:]], copies=copies, near=near,
        classes=list(classes or ()), findings=classes is None, most=MOST_GROUPS,
    )  # fmt: skip


def looking() -> str:
    """That it is not known yet which ready prompts fit."""
    return render("teach/ready.html", offered=())


def ready_prompts(offered: Sequence[tuple[str, str]]) -> str:
    """Ready prompts to take for these images: (name, title) of their sets; "" for none."""
    return render("teach/ready.html", offered=offered) if offered else ""
