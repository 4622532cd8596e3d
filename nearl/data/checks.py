"""The check of a labelled set before teaching: what is in it, what occurs twice, and why it cannot be used, if so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from nearl.data.likeness import near_pairs
from nearl.data.records import ImageRecord, Problem
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import FEWEST, joined
from nearl.errors import NearlError
from nearl.prompts import MAX_CLASSES, default_prompts

SMALL_SIDE = 64  # pixels; of the shorter side (our choice, as are the next two)
FEW = 8  # images of a class
LOPSIDED = 4  # times as many images in one class as in another
NAMED = 3  # files named in one sentence


@dataclass(frozen=True)
class SetCheck:
    """What `check` found. Images are given by their index in the set."""

    counts: dict[str, int]  # images of each class
    problems: list[Problem]  # what was left out on reading
    duplicates: list[tuple[int, ...]]  # groups with equal pixels
    near: list[tuple[int, ...]]  # groups that show nearly the same, not all equal
    conflicts: list[tuple[int, ...]]  # groups of copies, equal or near, with more than one label
    in_test: list[int]  # also among the test images, equal or near
    small: list[int]  # shorter side below SMALL_SIDE
    sides: tuple[int, int, int, int]  # smallest and largest width, smallest and largest height, in pixels
    cautions: list[str]  # sentences for the page, the most important first
    blocking: str  # why this cannot be taught, or ""


def check(data: LabelledSet, test: LabelledSet | None = None) -> SetCheck:
    """The check of a set, and of separate test images for images that are also in the set."""
    records = data.records
    pairs = near_pairs(records)
    duplicates = _equal(records)
    copies = joined(len(records), [*duplicates, *pairs])
    near = [group for group in copies if len({records[i].digest for i in group}) > 1]
    conflicts = [group for group in copies if len({data.labels[i] for i in group}) > 1]
    in_test = [] if test is None else _leaked(records, test.records)
    small = [i for i, record in enumerate(records) if min(record.size) < SMALL_SIDE]
    widths, heights = zip(*(record.size for record in records), strict=True) if records else ((0,), (0,))
    counts = data.counts()
    said = [*data.said(), *(test.said() if test is not None else ())]
    problems = [*data.problems, *(test.problems if test is not None else [])]
    found = SetCheck(
        counts, problems, duplicates, near, conflicts, in_test, small,
        (min(widths), max(widths), min(heights), max(heights)), [],
        _lacking(data) if isinstance(data, FindingsSet) else _blocking(counts),
    )  # fmt: skip
    return replace(found, cautions=[*_cautions(found, data, test), *dict.fromkeys(said)])


def _equal(records: Sequence[ImageRecord]) -> list[tuple[int, ...]]:
    places: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        places.setdefault(record.digest, []).append(i)
    return [tuple(group) for group in places.values() if len(group) > 1]


def _leaked(records: Sequence[ImageRecord], test: Sequence[ImageRecord]) -> list[int]:
    known = {record.digest for record in test}
    equal = {i for i, record in enumerate(records) if record.digest in known}
    return sorted(equal | {i for i, _ in near_pairs(records, test)})


def _lacking(data: FindingsSet) -> str:
    """Why findings cannot be taught, in a sentence, or ""."""
    counts = list(data.counts().values())
    for name, there, away in zip(data.findings, counts[::2], counts[1::2], strict=True):
        if not there or not away:
            return (
                f"“{name}” is {'absent' if there else 'present'} in no image, so it cannot be taught; add images "
                "without it and with it, or remove its column."
            )
    return ""


def _blocking(counts: dict[str, int]) -> str:
    if len(counts) > MAX_CLASSES:
        return f"These are {len(counts)} classes; at most {MAX_CLASSES} can be taught at once. Merge or remove some."
    if empty := [name for name, count in counts.items() if not count]:
        return f"The class “{empty[0]}” has no images; add some or remove the class."
    if len(counts) < 2:
        return "Teaching needs images of at least two classes; add another class."
    try:
        default_prompts(counts)
    except NearlError as error:  # names that no prompt set can have: too long, or the same but for an underscore
        return str(error)
    return ""


def _cautions(found: SetCheck, data: LabelledSet, test: LabelledSet | None) -> Iterator[str]:
    def named(indices: Iterable[int]) -> str:
        names = [data.records[i].name for i in indices]
        return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")

    if found.conflicts:
        what = "image has" if len(found.conflicts) == 1 else "images have"
        yield (
            f"{len(found.conflicts)} {what} more than one label ({named(found.conflicts[0])}); "
            "put the copies into one class or remove them."
        )
    copies = [group for group in found.duplicates if len({data.labels[i] for i in group}) == 1]
    extra = sum(len(group) - 1 for group in copies)
    if extra:
        yield f"{_plural(extra, 'image')} {_be(extra)} in a class more than once ({named(copies[0])})."
    if found.near:
        count = sum(map(len, found.near))
        yield (
            f"{count} images look like copies of one another ({named(found.near[0])}); "
            "they are kept together, so that nothing is tested on a copy of a training image."
        )
    if found.in_test:
        count = len(found.in_test)
        yield (
            f"{_plural(count, 'image')} {_be(count)} also among the test images ({named(found.in_test)}) "
            "and will not be used to teach."
        )
    filled = {name: count for name, count in found.counts.items() if count}
    if not filled:
        return
    tested = filled if test is None else {name for name, count in test.counts().items() if count}
    if lacking := [f"“{name}”" for name in filled if name not in tested]:
        names = ", ".join(lacking[:NAMED]) + (f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else "")
        yield f"The test images show none of {names}, so nothing is measured there; bring test images of every class."
    fewest, most = min(filled, key=filled.get), max(filled, key=filled.get)
    if filled[fewest] < FEWEST and test is None:
        yield (
            f"“{fewest}” has only {_plural(filled[fewest], 'image')}, too few to keep some aside for testing; "
            f"bring at least {FEWEST} of each class."
        )
    elif filled[fewest] < FEW:
        yield f"“{fewest}” has only {_plural(filled[fewest], 'image')}; more would teach it better."
    if filled[most] >= LOPSIDED * filled[fewest]:
        yield f"There are {filled[most]} images of “{most}” and {filled[fewest]} of “{fewest}”; both count the same."
    if found.small:
        count = len(found.small)
        yield f"{_plural(count, 'image')} {_be(count)} smaller than {SMALL_SIDE} pixels ({named(found.small)})."


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
