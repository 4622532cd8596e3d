"""Labelled sets: class folders, lists of files per class, or a zip of class folders -> images with labels.

Accepted layouts, for folders and zips alike: <class>/..., <anything>/<class>/..., train/<class>/... with or without
test/<class>/..., and the same under one outer folder. Hidden files are skipped. A prompts.json beside the class
folders is handed on unread. One bad file or empty class is named in `problems` and the rest goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nearl.data.archives import MAX_ENTRIES, MAX_RATIO, MAX_UNPACKED, Parts, Reader, folder_files, open_zip, zip_files
from nearl.data.images import ImageRecord, Problem, base_name, decode_one
from nearl.errors import NearlError

MAX_SIDE = 512  # pixels; larger pictures are shrunk so that a whole set fits in memory (our choice)
MAX_DECODED = 3_000_000_000  # bytes of pixels of one set, about 4,000 pictures of the largest side
PROMPTS_BYTES = 1_000_000
SPLITS = ("train", "test")


@dataclass
class LabelledSet:
    """Images with labels. labels[i] is an index into classes. problems: what was left out, and why.

    prompts: the content of the prompts.json that came with the images, unchecked, or None.
    """

    classes: list[str]
    records: list[ImageRecord]
    labels: list[int]
    problems: list[Problem] = field(default_factory=list)
    name: str = "images"
    prompts: dict | None = None

    def __len__(self) -> int:
        return len(self.records)

    def counts(self) -> dict[str, int]:
        """How many images every class has."""
        return {name: self.labels.count(index) for index, name in enumerate(self.classes)}

    def subset(self, indices: Iterable[int]) -> LabelledSet:
        """The images at `indices`, in that order, with the same classes and no problems."""
        chosen = list(indices)
        records, labels = [self.records[i] for i in chosen], [self.labels[i] for i in chosen]
        return LabelledSet(list(self.classes), records, labels, [], self.name, self.prompts)


def from_folder(path: Path | str, split: str | None = None) -> LabelledSet:
    """Class folders on disk, files in sorted order. split: "train" or "test"; None takes train where there are splits.

    Raises NearlError if there is no such folder, a class name is there twice, or fewer than two classes have images.
    """
    return _load_split(*folder_files(Path(path)), split)


def from_zip(
    path: Path | str,
    split: str | None = None,
    max_entries: int = MAX_ENTRIES,
    max_unpacked: int = MAX_UNPACKED,
    max_ratio: int = MAX_RATIO,
) -> LabelledSet:
    """Class folders in a zip, read in memory: nothing is unpacked to disk. Otherwise as from_folder.

    Links, nested archives, locked or damaged entries and entries that unpack to more than max_ratio times their size
    are named in `problems`. Raises NearlError for a zip with an entry that leads outside it, with more entries or
    unpacked bytes than allowed, or locked throughout.
    """
    with open_zip(Path(path), base_name(str(path))) as archive:
        return _load_split(*zip_files(archive, base_name(str(path)), max_entries, max_unpacked, max_ratio), split)


def from_files(per_class: dict[str, Sequence[Path | str]], name: str = "your images") -> LabelledSet:
    """Lists of image files, one per class. Raises NearlError as from_folder does."""
    files = {label: [partial(Path, path) for path in paths] for label, paths in per_class.items()}
    names = {label: [str(path) for path in paths] for label, paths in per_class.items()}
    return _decode_classes({k: list(zip(names[k], files[k], strict=True)) for k in files}, name)


def resolve_splits(path: Path | str) -> tuple[LabelledSet, LabelledSet | None]:
    """(train, test) of a folder or zip with train/ and test/; (all, None) where it holds only class folders.

    Both have the same classes in the same order, those of train. Raises NearlError as from_folder does, or if test
    holds a class that train does not.
    """
    path = Path(path)
    if path.is_file():
        label = base_name(str(path))
        with open_zip(path, label) as archive:
            return _load_both(*zip_files(archive, label, MAX_ENTRIES, MAX_UNPACKED, MAX_RATIO))
    return _load_both(*folder_files(path))


# ---- from a list of files to a set ------------------------------------------------------------------------------


@dataclass
class _Layout:
    """splits: {"train"|"test"|None: {class: [(path, reader)]}}; prompts and problems as in LabelledSet."""

    splits: dict[str | None, dict[str, list[tuple[str, Reader]]]]
    prompts: dict | None
    problems: list[Problem]


def _load_split(
    files: list[tuple[Parts, Reader]], problems: list[Problem], name: str, split: str | None
) -> LabelledSet:
    layout = _arrange(files, problems, name)
    chosen = split or (None if None in layout.splits else "train")
    if chosen not in layout.splits:
        raise NearlError(f"{name} has no {chosen} folder with class folders in it.")
    result = _decode_classes(layout.splits[chosen], name)
    return _finish(result, layout)


def _load_both(
    files: list[tuple[Parts, Reader]], problems: list[Problem], name: str
) -> tuple[LabelledSet, LabelledSet | None]:
    layout = _arrange(files, problems, name)
    if None in layout.splits:
        return _finish(_decode_classes(layout.splits[None], name), layout), None
    if "train" not in layout.splits:
        raise NearlError(f"{name} has a test folder but no train folder; add train/<class>/ folders.")
    train = _finish(_decode_classes(layout.splits["train"], name), layout)
    if "test" not in layout.splits:
        return train, None
    test = _decode_classes(layout.splits["test"], name, train.classes)
    test.prompts = layout.prompts
    return train, test


def _finish(result: LabelledSet, layout: _Layout) -> LabelledSet:
    result.problems = layout.problems + result.problems
    result.prompts = layout.prompts
    return result


def _arrange(files: list[tuple[Parts, Reader]], problems: list[Problem], name: str) -> _Layout:
    """Find the class folders among all files."""
    loose: list[tuple[str, Reader]] = []
    while True:
        loose += [(parts[0], reader) for parts, reader in files if len(parts) == 1 and parts[0]]
        files = [(parts, reader) for parts, reader in files if len(parts) > 1]
        tops = {parts[0] for parts, _ in files}
        deep = {parts[0] for parts, _ in files if len(parts) > 2}
        splits = {top for top in deep if top.lower() in SPLITS}
        if len(tops) != 1 or not deep or splits:
            break
        files = [(parts[1:], reader) for parts, reader in files]

    prompts = None
    for file_name, reader in loose:
        if file_name.lower() == "prompts.json":
            prompts = _read_prompts(reader, problems)
        elif file_name.lower().endswith((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")):
            shown = base_name(file_name)
            problems.append(Problem(shown, f"{shown} lies outside the class folders and was left out."))

    found: dict[str | None, dict[str, list[tuple[str, Reader]]]] = {}
    left_out: set[str] = set()
    for parts, reader in sorted(files, key=lambda item: item[0]):
        split = None
        if splits:
            if parts[0] not in splits:
                problem = Problem(
                    parts[0], f"The folder {base_name(parts[0])} is neither train nor test and was left out."
                )
                problems += [problem] if problem not in problems else []
                continue
            split, parts = parts[0].lower(), parts[1:]
            if len(parts) < 2:
                continue
        members = found.setdefault(split, {}).setdefault(parts[0], [])
        if parts[-1]:
            members.append(("/".join(parts), reader))
    problems += [Problem(f, f"The folder {f} is neither train nor test and was left out.") for f in sorted(left_out)]
    if not found:
        raise NearlError(f"{name} holds no class folders; put the images of each class in a folder named after it.")
    return _Layout(found, prompts, problems)


def _decode_classes(
    per_class: dict[str, list[tuple[str, Reader]]], name: str, classes: list[str] | None = None
) -> LabelledSet:
    """Decode every file. classes: the exact classes to use, even those without an image; None takes what is there."""
    _check_names(per_class, name)
    if classes is not None and (unknown := sorted(set(per_class) - set(classes))):
        raise NearlError(
            f"The test images of {name} have a class “{unknown[0]}” that is not among the training classes."
        )
    records: dict[str, list[ImageRecord]] = {}
    problems: list[Problem] = []
    decoded = 0
    for label in sorted(per_class) if classes is None else classes:
        records[label] = []
        files = per_class.get(label, [])
        for file_name, reader in files:
            try:
                records[label].append(decode_one(reader(), file_name, MAX_SIDE).still())
            except NearlError as error:
                problems.append(Problem(base_name(file_name), str(error)))
                continue
            decoded += records[label][-1].pixels.nbytes
            if decoded > MAX_DECODED:
                raise NearlError(f"{name} holds too many pictures to keep in memory; use a part of them.")
        if not records[label]:
            lack = "no image that can be read" if files else "no image"
            problems.append(Problem(label, f"The class “{label}” has {lack}."))
    filled = [label for label in records if records[label]]
    if len(filled) < (2 if classes is None else 1):
        why = f" ({problems[-1].reason})" if problems else ""
        needed = "needs at least two classes" if classes is None else "needs images to test with"
        raise NearlError(f"{name} {needed} with images that can be read, but has {len(filled)}.{why}")
    kept = filled if classes is None else classes
    return LabelledSet(
        classes=list(kept),
        records=[record for label in kept for record in records[label]],
        labels=[index for index, label in enumerate(kept) for _ in records[label]],
        problems=problems,
        name=name,
    )


def _check_names(names: Iterable[str], where: str) -> None:
    seen: dict[str, str] = {}
    for label in names:
        key = " ".join(label.split()).casefold()
        if not key:
            raise NearlError(f"A class of {where} has no name; give every class a name.")
        if key in seen:
            raise NearlError(f"{where} has the class “{label}” twice (“{seen[key]}”); rename or merge one of them.")
        seen[key] = label


def _read_prompts(reader: Reader, problems: list[Problem]) -> dict | None:
    try:
        source = reader()
        data = source if isinstance(source, bytes) else source.read_bytes()
        content = json.loads(data.decode("utf-8-sig")) if len(data) <= PROMPTS_BYTES else None
    except (NearlError, OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        problems.append(Problem("prompts.json", "prompts.json is not a valid JSON prompt set and was left out."))
        return None
    return content
