"""Labelled sets: class folders, lists of files per class, files with a table, or a zip of them -> images with labels.

Accepted layouts, for folders and zips alike: <class>/..., <anything>/<class>/..., train/<class>/... with or without
test/<class>/..., and each of these under one outer folder; or images in any folders with a CSV of the columns file and
label beside them, which then decides. Hidden files are skipped. A prompts.json beside the class folders is kept as it
is. One bad file or empty class is named in `problems` and the rest is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from nearl.data.archives import Parts, Reader, folder_files, is_zip, open_zip, path_reader, zip_files
from nearl.data.images import ImageRecord, Problem, base_name, decode_one
from nearl.data.sets.layouts import File, Layout, arrange
from nearl.data.sets.tables import Table, find_table, is_table, match, same
from nearl.errors import NearlError

MAX_SIDE = 512  # pixels; larger images are shrunk so that a whole set fits in memory (our choice)
MAX_DECODED = 3_000_000_000  # bytes of pixels of one set, about 4,000 images of the largest side


@dataclass
class LabelledSet:
    """Images with labels."""

    classes: list[str]  # C names
    records: list[ImageRecord]
    labels: list[int]  # of each image, an index into classes
    problems: list[Problem] = field(default_factory=list)  # what was left out, and why
    name: str = "images"
    prompts: dict | None = None  # the content of the prompts.json that came with the images, unchecked
    groups: list[str] | None = None  # the patient or series of each image, "" for a group of its own; None: unknown
    synthetic: bool = False  # made by this project: shows no patient, and its name may be written anywhere

    def __len__(self) -> int:
        return len(self.records)

    def counts(self) -> dict[str, int]:
        """How many images every class has."""
        return {name: self.labels.count(index) for index, name in enumerate(self.classes)}

    def subset(self, indices: Iterable[int]) -> LabelledSet:
        """The images at `indices`, in that order, with the same classes and no problems."""
        chosen = list(indices)
        return replace(
            self,
            classes=list(self.classes),
            records=[self.records[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
            problems=[],
            groups=None if self.groups is None else [self.groups[i] for i in chosen],
        )


def resolve_splits(path: Path | str, fewest: int = 2) -> tuple[LabelledSet, LabelledSet | None]:
    """(train, test) of a folder or zip with train/ and test/; (all, None) where it holds only class folders or a table.

    Both have the same classes in the same order, those of train. A zip is read in memory, nothing is unpacked to disk;
    entries that must not be opened are named in `problems` (`nearl.data.archives`). fewest: so many classes must
    have images.

    Raises NearlError if there is no such folder or zip, a class name occurs twice, fewer than `fewest` classes have
    images that can be read, test holds a class that train does not, or a zip was made to harm.
    """
    path = Path(path)
    name = base_name(str(path.resolve()))
    if not path.is_file():
        return _load(*folder_files(path, name), name, fewest)
    with open_zip(path, name) as archive:
        return _load(*zip_files(archive, name), name, fewest)


def from_files(per_class: dict[str, Sequence[Path | str]], name: str = "your images", fewest: int = 2) -> LabelledSet:
    """A set from lists of image files, one per class; zips among them are opened. NearlError as resolve_splits."""
    with ExitStack() as stack:
        problems: list[Problem] = []
        classes: dict[str, list[File]] = {}
        for label, paths in per_class.items():
            files = _opened(paths, stack, problems)
            classes[label] = [File("/".join(parts), reader) for parts, reader in files]
        result = _decode_classes(classes, name, fewest=fewest)
    return replace(result, problems=problems + result.problems)


def from_table(
    files: Sequence[Path | str], table: Path | str | None = None, name: str = "your images", fewest: int = 2
) -> LabelledSet:
    """Image files, or zips of them, with a CSV of the columns file and label, and patient or group if it has one.

    table: the CSV; None takes the one among the files or in a zip. Names are matched by the path from the top of a zip,
    from a folder below it, or alone where only one file has them. Spellings of a label that differ only in case are one
    class.

    Raises NearlError as resolve_splits does, and where there is no such table, more than one, or one without the
    columns.
    """
    with ExitStack() as stack:
        problems: list[Problem] = []
        opened = _opened(files, stack, problems)
        given = opened if table is None else [((Path(table).name,), path_reader(Path(table)))]
        found, refused = find_table(given, name)
        if found is None:
            lack = f"{name} has no table of labels; add a CSV with the columns file and label."
            raise NearlError(refused[0].reason if refused else lack)
        return _from_rows(found, opened, problems, name, fewest)


def check_names(names: Iterable[str], where: str) -> None:
    """Raises NearlError for a class without a name, or a name that occurs twice."""
    seen: dict[str, str] = {}
    for label in names:
        key = same(label)
        if not key:
            raise NearlError(f"A class of {where} has no name; give every class a name.")
        if key in seen:
            raise NearlError(f"{where} has the class “{label}” twice (“{seen[key]}”); rename or merge one of them.")
        seen[key] = label


def check_memory(size: int, name: str) -> None:
    """Raises NearlError where a set of so many bytes of pixels is too large to keep in memory."""
    if size > MAX_DECODED:
        raise NearlError(f"{name} holds too many images to keep in memory; use a part of them.")


# ---- from a list of files to a set


def _opened(paths: Iterable[Path | str], stack: ExitStack, problems: list[Problem]) -> list[tuple[Parts, Reader]]:
    """Every file, including those in zips, which stay open as long as `stack`. A zip that is refused is a problem."""
    files: list[tuple[Parts, Reader]] = []
    for path in map(Path, paths):
        if not is_zip(path):
            files.append(((path.name,), path_reader(path)))
            continue
        label = base_name(path.name)
        try:
            some, others = zip_files(stack.enter_context(open_zip(path, label)), label)
        except NearlError as error:
            problems.append(Problem(label, str(error)))
            continue
        files += [(parts, reader) for parts, reader in some if parts[-1]]
        problems += others
    return files


def _load(
    files: list[tuple[Parts, Reader]], problems: list[Problem], name: str, fewest: int
) -> tuple[LabelledSet, LabelledSet | None]:
    layout = arrange(files, problems)
    table = _table_of(layout, name)
    if table is not None:
        return replace(_from_rows(table, files, problems, name, fewest), prompts=layout.prompts), None
    if None not in layout.splits and "train" not in layout.splits:
        raise NearlError(f"{name} has a test folder but no train folder; add train/<class>/ folders.")
    train = _decode_classes(layout.splits[None if None in layout.splits else "train"], name, fewest=fewest)
    train = replace(train, problems=layout.problems + train.problems, prompts=layout.prompts)
    if "test" not in layout.splits:
        return train, None
    test = _decode_classes(layout.splits["test"], name, train.classes, fewest=1)
    return train, replace(test, prompts=layout.prompts)


def _table_of(layout: Layout, name: str) -> Table | None:
    """The table that decides, unless there are train and test folders. NearlError where nothing says what is what."""
    table, refused = find_table(layout.loose, name)
    layout.problems += refused
    if table is None and not layout.splits:
        lack = f"{name} holds no class folders; put the images of each class in a folder named after it."
        why = f" ({layout.problems[0].reason})" if layout.problems else ""
        raise NearlError(refused[0].reason if refused else lack + why)
    return table if None in layout.splits or not layout.splits else None


def _from_rows(
    table: Table, files: list[tuple[Parts, Reader]], problems: list[Problem], name: str, fewest: int
) -> LabelledSet:
    images = [item for item in files if item[0][-1] and not is_table(item[0]) and item[0][-1] != "prompts.json"]
    found = match(table, images)
    classes: dict[str, list[File]] = {}
    for (path, reader), label, group in zip(found.files, found.labels, found.groups, strict=True):
        classes.setdefault(label, []).append(File(path, reader, group))
    problems = problems + found.problems
    if not classes:
        why = f" ({problems[0].reason})" if problems else ""
        raise NearlError(f"No row of {table.name} fits an image of {name}; check the file names in it.{why}")
    result = _decode_classes(classes, name, fewest=fewest)
    return replace(result, problems=problems + result.problems)


def _decode_classes(
    per_class: dict[str, list[File]], name: str, classes: list[str] | None = None, fewest: int = 2
) -> LabelledSet:
    """Decode every file. classes: the exact classes to use, even those without an image; None takes what is there."""
    check_names(per_class, name)
    if classes is not None and (unknown := sorted(set(per_class) - set(classes))):
        raise NearlError(
            f"The test images of {name} have a class “{unknown[0]}” that is not among the training classes."
        )
    decoded: dict[str, list[tuple[ImageRecord, str]]] = {}
    problems: list[Problem] = []
    size = 0
    for label in sorted(per_class) if classes is None else classes:
        decoded[label] = []
        files = per_class.get(label, [])
        for file in files:
            try:
                record = _decode(file)
            except NearlError as error:
                problems.append(Problem(base_name(file.path), str(error)))
                continue
            decoded[label].append((record, file.group))
            size += record.pixels.nbytes
            check_memory(size, name)
        if not decoded[label]:
            lack = "no image that can be read" if files else "no image"
            problems.append(Problem(label, f"The class “{label}” has {lack}."))
    filled = [label for label, found in decoded.items() if found]
    if len(filled) < fewest:
        why = f" ({problems[-1].reason})" if problems else ""
        needed = "needs at least two classes with images" if fewest > 1 else "needs images"
        raise NearlError(f"{name} {needed} that can be read, but has {len(filled)}.{why}")
    kept = filled if classes is None else classes
    rows = [(record, index, group) for index, label in enumerate(kept) for record, group in decoded[label]]
    records, labels, groups = ([row[i] for row in rows] for i in range(3))
    return LabelledSet(list(kept), records, labels, problems, name, groups=groups if any(groups) else None)


def _decode(file: File) -> ImageRecord:
    source = file.read()
    zipped = source.startswith(b"PK\x03\x04") if isinstance(source, bytes) else is_zip(source)
    if zipped:
        shown = base_name(file.path)
        raise NearlError(f"{shown} is an archive inside the set and was left out; put its images there themselves.")
    return decode_one(source, file.path, MAX_SIDE).still()
