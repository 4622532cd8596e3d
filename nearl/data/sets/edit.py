"""Changes of a labelled set. Each gives a new set with the same records; the one it was given stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nearl.data.records import Problem
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet, check_memory, check_names
from nearl.data.sets.tables import same, tidy
from nearl.errors import NearlError
from nearl.prompts import class_key, default_findings


def join(a: LabelledSet, b: LabelledSet) -> LabelledSet:
    """The images of both, those of `a` first. Class names that differ only in case and spaces are one class; a finding
    that one of both does not have is unknown of its images.

    Raises NearlError where both together would be too large to keep in memory, and for classes beside findings.
    """
    if isinstance(a, FindingsSet) and isinstance(b, FindingsSet):
        known = set(map(class_key, a.findings))
        names = [*a.findings, *(name for name in b.findings if class_key(name) not in known)]
        a, b = a.aligned(names), b.aligned(names)
    elif isinstance(a, FindingsSet) or isinstance(b, FindingsSet):
        here, there = ("findings", "classes") if isinstance(a, FindingsSet) else ("classes", "findings")
        raise NearlError(
            f"These images come with {there}, and those that are here have {here}; forget those, or bring these "
            f"with {here} too."
        )
    records = a.records + b.records
    check_memory(sum(record.pixels.nbytes for record in records), a.name)
    classes = list(a.classes)
    places = {same(name): index for index, name in enumerate(classes)}
    for label in b.classes:
        if same(label) not in places:
            places[same(label)] = len(classes)
            classes.append(label)
    groups = None
    if a.groups is not None or b.groups is not None:
        groups = [*(a.groups or [""] * len(a)), *(b.groups or [""] * len(b))]
    return replace(
        a,
        classes=classes,
        records=records,
        labels=a.labels + (b.labels if isinstance(b, FindingsSet) else [places[same(b.classes[i])] for i in b.labels]),
        problems=a.problems + b.problems,
        notes=list(dict.fromkeys(a.notes + b.notes)),
        prompts=a.prompts or b.prompts,
        groups=groups,
        synthetic=a.synthetic and b.synthetic,
        ours=a.ours and b.ours,
    )


def rename(data: LabelledSet, old: str, new: str) -> LabelledSet:
    """Another name for a class or a finding. NearlError if there is no class `old`, if `new` is empty or another
    class's name, and for a finding that no prompt set can have, such as “without nodule” beside “nodule”."""
    names = names_of(data)
    names[_class(data, old)] = tidy(new)
    check_names(names, data.name)
    if not isinstance(data, FindingsSet):
        return replace(data, classes=names)
    default_findings(names)
    return data.renamed(names)


def merge(data: LabelledSet, names: Sequence[str], into: str) -> LabelledSet:
    """Several classes as one, in the place of the first of them. NearlError as `rename`, or for an unknown name."""
    _check_classes(data)
    chosen = {_class(data, name) for name in names}
    if not chosen:
        raise NearlError("Choose the classes to merge.")
    first = min(chosen)
    kept = [index for index in range(len(data.classes)) if index == first or index not in chosen]
    classes = [tidy(into) if index == first else data.classes[index] for index in kept]
    check_names(classes, data.name)
    labels = [kept.index(first if label in chosen else label) for label in data.labels]
    return replace(data, classes=classes, labels=labels)


def remove(data: LabelledSet, indices: Iterable[int]) -> LabelledSet:
    """The set without these images; a class without images stays. NearlError for an image that is not there."""
    gone = _indices(data, indices)
    return replace(data.subset(i for i in range(len(data)) if i not in gone), problems=data.problems, notes=data.notes)


def relabel(data: LabelledSet, indices: Iterable[int], label: str) -> LabelledSet:
    """These images in another class, which is added if there is none of that name. NearlError as `remove`."""
    _check_classes(data)
    chosen = _indices(data, indices)
    classes, label = list(data.classes), tidy(label)
    if same(label) not in map(same, classes):
        classes.append(label)
        check_names(classes, data.name)
    place = [same(name) for name in classes].index(same(label))
    labels = [place if i in chosen else old for i, old in enumerate(data.labels)]
    return replace(data, classes=classes, labels=labels)


def mark(data: LabelledSet, indices: Iterable[int], finding: int, answer: int | None) -> LabelledSet:
    """The set with a finding, by its number, present (0), absent (1) or unknown (None) in these images. NearlError as
    `remove`, and for a set of classes."""
    if not isinstance(data, FindingsSet):
        raise NearlError("These images have classes; move them to another class instead.")
    return data.marked(_indices(data, indices), finding, answer)


def drop_class(data: LabelledSet, name: str) -> LabelledSet:
    """The set without a class and its images, or without a finding. NearlError if there is no such class."""
    index = _class(data, name)
    if isinstance(data, FindingsSet):
        return data.aligned([one for k, one in enumerate(data.findings) if k != index])
    part = data.subset(i for i, label in enumerate(data.labels) if label != index)
    classes = data.classes[:index] + data.classes[index + 1 :]
    labels = [label - (label > index) for label in part.labels]
    return replace(part, classes=classes, labels=labels, problems=data.problems, notes=data.notes)


def align(test: LabelledSet, classes: Sequence[str]) -> LabelledSet:
    """Test images with the classes that are taught, in their order; those of other classes are left out and named. Of
    findings the images stay, and what is not known of one is unknown."""
    if isinstance(test, FindingsSet):
        return test.aligned(classes[::2])
    index = {class_key(name): i for i, name in enumerate(classes)}
    index |= {name: i for i, name in enumerate(classes)}  # two classes may differ by an underscore until one is renamed
    place = [index.get(name, index.get(class_key(name))) for name in test.classes]
    kept = [i for i, label in enumerate(test.labels) if place[label] is not None]
    missing = [name for name, found in zip(test.classes, place, strict=True) if found is None]
    problems = [Problem(n, f"The test images of “{n}” were left out: no such class is taught.") for n in missing]
    part = test.subset(kept)
    labels = [place[test.labels[i]] for i in kept]
    return replace(part, classes=list(classes), labels=labels, problems=[*test.problems, *problems])


def names_of(data: LabelledSet) -> list[str]:
    """The names of what images are labelled with: classes, or findings."""
    return list(data.findings if isinstance(data, FindingsSet) else data.classes)


def _check_classes(data: LabelledSet) -> None:
    if isinstance(data, FindingsSet):
        raise NearlError("These images have findings, which are marked one by one and have no classes to move to.")


def _class(data: LabelledSet, name: str) -> int:
    """The number of a class or finding: by its exact name, else by one that differs only in case and spaces."""
    names = names_of(data)
    if name in names:
        return names.index(name)
    for index, known in enumerate(names):
        if same(known) == same(name):
            return index
    what = "finding" if isinstance(data, FindingsSet) else "class"
    raise NearlError(f"There is no {what} “{tidy(name)}”; choose one of {', '.join(names[:12]) or 'none yet'}.")


def _indices(data: LabelledSet, indices: Iterable[int]) -> set[int]:
    chosen = {int(i) for i in indices}
    if any(not 0 <= i < len(data) for i in chosen):
        raise NearlError("An image that was chosen is no longer in the set; choose again.")
    return chosen
