"""Labelled sets: class folders, lists of files per class, files with a table, or a zip of them -> images with labels.

Accepted layouts, for folders and zips alike: <class>/..., <anything>/<class>/..., train/<class>/... with or without
test/<class>/..., and the same under one outer folder; or images in any folders with a CSV of the columns file and
label beside them, which then decides. Hidden files are skipped. A prompts.json beside the class folders is handed on
unread. One bad file or empty class is named in `problems` and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from nearl.data.images import ImageRecord, Problem, base_name, decode_one
from nearl.data.sets import archives
from nearl.data.sets.archives import (
    MAX_ENTRIES,
    MAX_RATIO,
    MAX_UNPACKED,
    Parts,
    Reader,
    folder_files,
    is_zip,
    path_reader,
)
from nearl.data.sets.layouts import File, Layout, arrange
from nearl.data.sets.tables import Table, find_table, is_table, match, same, tidy
from nearl.errors import NearlError

MAX_SIDE = 512  # pixels; larger pictures are shrunk so that a whole set fits in memory (our choice)
MAX_DECODED = 3_000_000_000  # bytes of pixels of one set, about 4,000 pictures of the largest side


@dataclass
class LabelledSet:
    """Images with labels. labels[i] is an index into classes. problems: what was left out, and why.

    prompts: the content of the prompts.json that came with the images, unchecked, or None. groups: the patient or
    series of each image, "" for one of its own; None where nothing is known of them.
    """

    classes: list[str]
    records: list[ImageRecord]
    labels: list[int]
    problems: list[Problem] = field(default_factory=list)
    name: str = "images"
    prompts: dict | None = None
    groups: list[str] | None = None
    synthetic: bool = False  # made by this project: shows no patient, and its name may be written anywhere

    def __len__(self) -> int:
        return len(self.records)

    def counts(self) -> dict[str, int]:
        """How many images every class has."""
        return {name: self.labels.count(index) for index, name in enumerate(self.classes)}

    def subset(self, indices: Iterable[int]) -> LabelledSet:
        """The images at `indices`, in that order, with the same classes and no problems."""
        chosen = list(indices)
        records, labels = [self.records[i] for i in chosen], [self.labels[i] for i in chosen]
        groups = None if self.groups is None else [self.groups[i] for i in chosen]
        classes = list(self.classes)
        return replace(self, classes=classes, records=records, labels=labels, problems=[], groups=groups)


def from_folder(path: Path | str, split: str | None = None, fewest: int = 2) -> LabelledSet:
    """Class folders on disk, files in sorted order. split: "train" or "test"; None takes train where there are splits.

    Raises NearlError if there is no such folder, a class name is there twice, or fewer than `fewest` classes have
    images that can be read.
    """
    return _load_split(*folder_files(Path(path)), split, fewest)


def from_zip(
    path: Path | str,
    split: str | None = None,
    fewest: int = 2,
    max_entries: int = MAX_ENTRIES,
    max_unpacked: int = MAX_UNPACKED,
    max_ratio: int = MAX_RATIO,
) -> LabelledSet:
    """Class folders in a zip, read in memory: nothing is unpacked to disk. Otherwise as from_folder.

    Links, nested archives, locked or damaged entries and entries that unpack to more than max_ratio times their size
    are named in `problems`. Raises NearlError for a zip with an entry that leads outside it, with entries that overlap,
    with more entries or unpacked bytes than allowed, or locked throughout.
    """
    label = base_name(str(path))
    with archives.open_zip(Path(path), label) as archive:
        return _load_split(*archives.zip_files(archive, label, max_entries, max_unpacked, max_ratio), split, fewest)


def from_files(per_class: dict[str, Sequence[Path | str]], name: str = "your images", fewest: int = 2) -> LabelledSet:
    """Lists of image files, one per class; a zip among them stands for the images in it. NearlError as from_folder."""
    with ExitStack() as stack:
        problems: list[Problem] = []
        classes: dict[str, list[File]] = {}
        for label, paths in per_class.items():
            files = _opened(paths, stack, problems)
            classes[label] = [File("/".join(parts), reader) for parts, reader in files]
        result = _decode_classes(classes, name, fewest=fewest)
    result.problems = problems + result.problems
    return result


def from_table(
    files: Sequence[Path | str], table: Path | str | None = None, name: str = "your images", fewest: int = 2
) -> LabelledSet:
    """Image files, or zips of them, with a CSV of the columns file and label, and patient or group if it has one.

    table: the CSV; None takes the one among the files or in a zip. Names fit by the path from the top of a zip, from a
    folder below it, or alone where only one file has them. Spellings of a label that differ only in case are one class.

    Raises NearlError as from_folder does, and where there is no such table, more than one, or one without the columns.
    """
    with ExitStack() as stack:
        problems: list[Problem] = []
        opened = _opened(files, stack, problems)
        given = opened if table is None else [((Path(table).name,), path_reader(Path(table)))]
        found, refused = find_table([(parts, reader) for parts, reader in given], name)
        if found is None:
            lack = f"{name} has no table of labels; add a CSV with the columns file and label."
            raise NearlError(refused[0].reason if refused else lack)
        return _from_rows(found, opened, problems, name, fewest)


def resolve_splits(path: Path | str, fewest: int = 2) -> tuple[LabelledSet, LabelledSet | None]:
    """(train, test) of a folder or zip with train/ and test/; (all, None) where it holds only class folders or a table.

    Both have the same classes in the same order, those of train. Raises NearlError as from_folder does, or if test
    holds a class that train does not.
    """
    path = Path(path)
    if path.is_file():
        label = base_name(str(path))
        with archives.open_zip(path, label) as archive:
            return _load_both(*archives.zip_files(archive, label, MAX_ENTRIES, MAX_UNPACKED, MAX_RATIO), fewest)
    return _load_both(*folder_files(path), fewest)


# ---- changing a set: each gives a new one, with the same images ---------------------------------------------------


def join(a: LabelledSet, b: LabelledSet) -> LabelledSet:
    """The images of both, those of `a` first. Classes are the same whatever the case and spaces of their names.

    Raises NearlError where both together would be too large to keep in memory.
    """
    _check_memory(sum(record.pixels.nbytes for record in a.records + b.records), a.name)
    classes = list(a.classes)
    places = {same(name): index for index, name in enumerate(classes)}
    for label in b.classes:
        if same(label) not in places:
            places[same(label)] = len(classes)
            classes.append(label)
    labels = a.labels + [places[same(b.classes[label])] for label in b.labels]
    groups = None
    if a.groups is not None or b.groups is not None:
        groups = [*(a.groups or [""] * len(a)), *(b.groups or [""] * len(b))]
    return LabelledSet(
        classes, a.records + b.records, labels, a.problems + b.problems, a.name, a.prompts or b.prompts, groups,
        a.synthetic and b.synthetic,
    )  # fmt: skip


def rename(data: LabelledSet, old: str, new: str) -> LabelledSet:
    """Another name for a class. NearlError if there is no class `old`, or `new` is empty or another class's name."""
    index, new = _class(data, old), tidy(new)
    _check_names([*data.classes[:index], new, *data.classes[index + 1 :]], data.name)
    return replace(data, classes=[*data.classes[:index], new, *data.classes[index + 1 :]])


def merge(data: LabelledSet, names: Sequence[str], into: str) -> LabelledSet:
    """Several classes as one, in the place of the first of them. NearlError as `rename`, or for an unknown name."""
    chosen = {_class(data, name) for name in names}
    if not chosen:
        raise NearlError("Choose the classes to merge.")
    first = min(chosen)
    kept = [index for index in range(len(data.classes)) if index == first or index not in chosen]
    classes = [tidy(into) if index == first else data.classes[index] for index in kept]
    _check_names(classes, data.name)
    return replace(
        data, classes=classes, labels=[kept.index(first if label in chosen else label) for label in data.labels]
    )


def remove(data: LabelledSet, indices: Iterable[int]) -> LabelledSet:
    """The set without these images; a class without images stays. NearlError for an image that is not there."""
    gone = _indices(data, indices)
    return replace(data.subset(i for i in range(len(data)) if i not in gone), problems=data.problems)


def relabel(data: LabelledSet, indices: Iterable[int], label: str) -> LabelledSet:
    """These images in another class, which is added if there is none of that name. NearlError as `remove`."""
    chosen = _indices(data, indices)
    classes, label = list(data.classes), tidy(label)
    if same(label) not in map(same, classes):
        classes.append(label)
        _check_names(classes, data.name)
    place = [same(name) for name in classes].index(same(label))
    labels = [place if i in chosen else old for i, old in enumerate(data.labels)]
    return replace(data, classes=classes, labels=labels)


def drop_class(data: LabelledSet, name: str) -> LabelledSet:
    """The set without a class and its images. NearlError if there is no such class."""
    index = _class(data, name)
    part = data.subset(i for i, label in enumerate(data.labels) if label != index)
    classes = data.classes[:index] + data.classes[index + 1 :]
    labels = [label - (label > index) for label in part.labels]
    return replace(part, classes=classes, labels=labels, problems=data.problems)


def _class(data: LabelledSet, name: str) -> int:
    for index, known in enumerate(data.classes):
        if same(known) == same(name):
            return index
    raise NearlError(f"There is no class “{tidy(name)}”; choose one of {', '.join(data.classes[:12]) or 'none yet'}.")


def _indices(data: LabelledSet, indices: Iterable[int]) -> set[int]:
    chosen = {int(i) for i in indices}
    if any(not 0 <= i < len(data) for i in chosen):
        raise NearlError("An image that was chosen is no longer in the set; choose again.")
    return chosen


# ---- from a list of files to a set ------------------------------------------------------------------------------


def _opened(paths: Iterable[Path | str], stack: ExitStack, problems: list[Problem]) -> list[tuple[Parts, Reader]]:
    """Every file, those in zips too; the zips stay open as long as `stack`. A zip that is refused is a problem."""
    files: list[tuple[Parts, Reader]] = []
    for path in map(Path, paths):
        if not is_zip(path):
            files.append(((path.name,), path_reader(path)))
            continue
        label = base_name(path.name)
        try:
            archive = stack.enter_context(archives.open_zip(path, label))
            some, others, _ = archives.zip_files(archive, label, MAX_ENTRIES, MAX_UNPACKED, MAX_RATIO)
        except NearlError as error:
            problems.append(Problem(label, str(error)))
            continue
        files += [(parts, reader) for parts, reader in some if parts[-1]]
        problems += others
    return files


def _load_split(
    files: list[tuple[Parts, Reader]], problems: list[Problem], name: str, split: str | None, fewest: int
) -> LabelledSet:
    layout = arrange(files, problems)
    table = _table_of(layout, name)
    if table is not None and split is None:
        return replace(_from_rows(table, files, problems, name, fewest), prompts=layout.prompts)
    chosen = split or (None if None in layout.splits else "train")
    if chosen not in layout.splits:
        raise NearlError(f"{name} has no {chosen} folder with class folders in it.")
    return _finish(_decode_classes(layout.splits[chosen], name, fewest=fewest), layout)


def _load_both(
    files: list[tuple[Parts, Reader]], problems: list[Problem], name: str, fewest: int
) -> tuple[LabelledSet, LabelledSet | None]:
    layout = arrange(files, problems)
    table = _table_of(layout, name)
    if table is not None:
        return replace(_from_rows(table, files, problems, name, fewest), prompts=layout.prompts), None
    if None in layout.splits:
        return _finish(_decode_classes(layout.splits[None], name, fewest=fewest), layout), None
    if "train" not in layout.splits:
        raise NearlError(f"{name} has a test folder but no train folder; add train/<class>/ folders.")
    train = _finish(_decode_classes(layout.splits["train"], name, fewest=fewest), layout)
    if "test" not in layout.splits:
        return train, None
    test = _decode_classes(layout.splits["test"], name, train.classes, fewest=1)
    test.prompts = layout.prompts
    return train, test


def _table_of(layout: Layout, name: str) -> Table | None:
    """The table that decides, unless there are train and test folders. NearlError where there is nothing to go by."""
    table, refused = find_table(layout.loose, name)
    layout.problems += refused
    if table is None and not layout.splits:
        lack = f"{name} holds no class folders; put the images of each class in a folder named after it."
        why = f" ({layout.problems[0].reason})" if layout.problems else ""
        raise NearlError(refused[0].reason if refused else lack + why)
    return table if None in layout.splits or not layout.splits else None


def _finish(result: LabelledSet, layout: Layout) -> LabelledSet:
    return replace(result, problems=layout.problems + result.problems, prompts=layout.prompts)


def _from_rows(
    table: Table, files: list[tuple[Parts, Reader]], problems: list[Problem], name: str, fewest: int
) -> LabelledSet:
    pictures = [item for item in files if item[0][-1] and not is_table(item[0]) and item[0][-1] != "prompts.json"]
    found = match(table, pictures)
    classes: dict[str, list[File]] = {}
    for (path, reader), label, group in zip(found.files, found.labels, found.groups, strict=True):
        classes.setdefault(label, []).append(File(path, reader, group))
    problems = problems + found.problems
    if not classes:
        why = f" ({problems[0].reason})" if problems else ""
        raise NearlError(f"No row of {table.name} fits an image of {name}; check the file names in it.{why}")
    result = _decode_classes(classes, name, fewest=fewest, grouped=table.grouped)
    return replace(result, problems=problems + result.problems)


def _decode_classes(
    per_class: dict[str, list[File]],
    name: str,
    classes: list[str] | None = None,
    fewest: int = 2,
    grouped: bool = False,
) -> LabelledSet:
    """Decode every file. classes: the exact classes to use, even those without an image; None takes what is there."""
    _check_names(per_class, name)
    if classes is not None and (unknown := sorted(set(per_class) - set(classes))):
        raise NearlError(
            f"The test images of {name} have a class “{unknown[0]}” that is not among the training classes."
        )
    records: dict[str, list[ImageRecord]] = {}
    groups: dict[str, list[str]] = {}
    problems: list[Problem] = []
    decoded = 0
    for label in sorted(per_class) if classes is None else classes:
        records[label], groups[label] = [], []
        files = per_class.get(label, [])
        for file in files:
            try:
                records[label].append(_decode(file))
            except NearlError as error:
                problems.append(Problem(base_name(file.path), str(error)))
                continue
            groups[label].append(file.group)
            decoded += records[label][-1].pixels.nbytes
            _check_memory(decoded, name)
        if not records[label]:
            lack = "no image that can be read" if files else "no image"
            problems.append(Problem(label, f"The class “{label}” has {lack}."))
    filled = [label for label in records if records[label]]
    if len(filled) < fewest:
        why = f" ({problems[-1].reason})" if problems else ""
        needed = "needs at least two classes with images" if fewest > 1 else "needs images"
        raise NearlError(f"{name} {needed} that can be read, but has {len(filled)}.{why}")
    kept = filled if classes is None else classes
    return LabelledSet(
        classes=list(kept),
        records=[record for label in kept for record in records[label]],
        labels=[index for index, label in enumerate(kept) for _ in records[label]],
        problems=problems,
        name=name,
        groups=[group for label in kept for group in groups[label]] if grouped else None,
    )


def _decode(file: File) -> ImageRecord:
    source = file.read()
    zipped = source.startswith(b"PK\x03\x04") if isinstance(source, bytes) else is_zip(source)
    if zipped:
        shown = base_name(file.path)
        raise NearlError(f"{shown} is an archive inside the set and was left out; put its images there themselves.")
    return decode_one(source, file.path, MAX_SIDE).still()


def _check_memory(size: int, name: str) -> None:
    if size > MAX_DECODED:
        raise NearlError(f"{name} holds too many pictures to keep in memory; use a part of them.")


def _check_names(names: Iterable[str], where: str) -> None:
    seen: dict[str, str] = {}
    for label in names:
        key = same(label)
        if not key:
            raise NearlError(f"A class of {where} has no name; give every class a name.")
        if key in seen:
            raise NearlError(f"{where} has the class “{label}” twice (“{seen[key]}”); rename or merge one of them.")
        seen[key] = label
