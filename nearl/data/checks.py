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
from nearl.prompts import MAX_CLASSES, MAX_FINDINGS, default_findings, default_prompts

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
    conflicts: list[tuple[int, ...]]  # groups of copies, equal or near, whose labels exclude each other
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
    conflicts = [group for group in copies if excluding(data, group)]
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
    few = _few_answers(data, test) if isinstance(data, FindingsSet) else _few(found, test)
    return replace(found, cautions=[*_copies(found, data), *few, *_small(found, data), *dict.fromkeys(said)])


def excluding(data: LabelledSet, group: Iterable[int]) -> bool:
    """Whether these images, which show the same, have labels that exclude each other: several classes, or a finding
    that is present in one and absent in another."""
    if isinstance(data, FindingsSet):
        said = {c for i in group for c in data.labels[i]}
        return any(c ^ 1 in said for c in said)
    return len({data.labels[i] for i in group}) > 1


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
    if len(data.findings) > MAX_FINDINGS:
        return f"These are {len(data.findings)} findings; at most {MAX_FINDINGS} can be taught at once. Remove some."
    for k, name in enumerate(data.findings):
        there, away, _ = data.by_answer(k)
        if not there or not away:
            return (
                f"“{name}” is {'absent' if there else 'present'} in no image, so it cannot be taught; add images "
                "without it and with it, or remove it."
            )
    try:
        default_findings(data.findings)
    except NearlError as error:  # names that no prompt set can have
        return str(error)
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


def _named(data: LabelledSet, indices: Iterable[int]) -> str:
    return _first([data.records[i].name for i in indices])


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _copies(found: SetCheck, data: LabelledSet) -> Iterator[str]:
    """What is to be said of images that occur more than once."""
    if found.conflicts:
        one, which = len(found.conflicts) == 1, _named(data, found.conflicts[0])
        said, what = f"{len(found.conflicts)} {'image' if one else 'images'}", "has" if one else "have"
        if isinstance(data, FindingsSet):
            yield f"{said} {what} copies with opposite marks ({which}); remove the wrong ones."
        else:
            yield f"{said} {what} more than one label ({which}); put the copies into one class or remove them."
    copies = [group for group in found.duplicates if not excluding(data, group)]
    extra = sum(len(group) - 1 for group in copies)
    if extra:
        where = "" if isinstance(data, FindingsSet) else " in a class"
        yield f"{_plural(extra, 'image')} {_be(extra)}{where or ' here'} more than once ({_named(data, copies[0])})."
    if found.near:
        count = sum(map(len, found.near))
        yield (
            f"{count} images look like copies of one another ({_named(data, found.near[0])}); "
            "they are kept together, so that nothing is tested on a copy of a training image."
        )
    if found.in_test:
        count = len(found.in_test)
        yield (
            f"{_plural(count, 'image')} {_be(count)} also among the test images ({_named(data, found.in_test)}) "
            "and will not be used to teach."
        )


def _few_answers(data: FindingsSet, test: LabelledSet | None) -> Iterator[str]:
    """What is to be said of findings that are known, present or absent in few images."""
    parts = {name: data.by_answer(k) for k, name in enumerate(data.findings)}
    few = [
        f"“{name}” is {word} in {len(part)}"
        for name, answers in parts.items()
        for word, part in zip(("present", "absent"), answers[:2], strict=True)
        if 0 < len(part) < FEW
    ]
    if few:
        yield f"Few images to learn from: {_first(few)}. More would teach {'it' if len(few) == 1 else 'them'} better."
    unknown = [f"“{name}” in {len(answers[2])}" for name, answers in parts.items() if answers[2]]
    if unknown:
        yield (
            f"Unknown in some of the {len(data)} images: {_first(unknown)}. What is unknown counts nowhere, neither in "
            "teaching nor in figures."
        )
    if empty := [i for i, label in enumerate(data.labels) if not label]:
        yield f"{_plural(len(empty), 'image')} {_be(len(empty))} marked with no finding at all ({_named(data, empty)})."
    if isinstance(test, FindingsSet):
        tested = test.aligned(data.findings)
        lacking = [f"“{name}”" for k, name in enumerate(data.findings) if not all(tested.by_answer(k)[:2])]
        if lacking:
            yield f"Nothing is measured for {_first(lacking)}: the test images do not show both with it and without it."


def _few(found: SetCheck, test: LabelledSet | None) -> Iterator[str]:
    """What is to be said of classes with few images."""
    filled = {name: count for name, count in found.counts.items() if count}
    if not filled:
        return
    tested = filled if test is None else {name for name, count in test.counts().items() if count}
    if lacking := [f"“{name}”" for name in filled if name not in tested]:
        yield (
            f"The test images show none of {_first(lacking)}, so nothing is measured there; bring test images of every "
            "class."
        )
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


def _small(found: SetCheck, data: LabelledSet) -> Iterator[str]:
    if found.small:
        count = len(found.small)
        yield f"{_plural(count, 'image')} {_be(count)} smaller than {SMALL_SIDE} pixels ({_named(data, found.small)})."


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
