"""Labelled sets: class folders, lists of files per class, or a zip of class folders -> images with labels.

Accepted layouts, for folders and zips alike: <class>/..., <anything>/<class>/..., train/<class>/... with or without
test/<class>/..., and the same under one outer folder. Hidden files are skipped. A prompts.json beside the class
folders is handed on unread. One bad file or empty class is named in `problems` and the rest goes on.
"""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nearl.data.images import MAX_BYTES, ImageRecord, Problem, base_name, decode
from nearl.errors import NearlError

MAX_SIDE = 512  # pixels; larger pictures are shrunk so that a whole set fits in memory (our choice)
MAX_ENTRIES = 5_000
MAX_UNPACKED = 600_000_000  # bytes of one zip
MAX_RATIO = 200  # unpacked / packed bytes of one entry larger than 1 MB
MAX_DEPTH = 8  # folders in folders, so that links cannot lead round in circles
MAX_DECODED = 3_000_000_000  # bytes of pixels of one set, about 4,000 pictures of the largest side
PROMPTS_BYTES = 1_000_000
SPLITS = ("train", "test")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")
_LITTER = ("__macosx", "thumbs.db", "desktop.ini")

Parts = tuple[str, ...]  # a path's parts, relative to the root; the last part is "" for a folder itself
Reader = Callable[[], "bytes | Path"]


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
    return _load_split(*_folder_files(Path(path)), split)


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
    with _open_zip(Path(path)) as archive:
        return _load_split(*_zip_files(archive, base_name(str(path)), max_entries, max_unpacked, max_ratio), split)


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
        with _open_zip(path) as archive:
            label = base_name(str(path))
            return _load_both(*_zip_files(archive, label, MAX_ENTRIES, MAX_UNPACKED, MAX_RATIO))
    return _load_both(*_folder_files(path))


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
                records[label].append(decode(reader(), file_name, MAX_SIDE))
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


# ---- where files come from --------------------------------------------------------------------------------------


def _hidden(part: str) -> bool:
    return part.startswith(".") or part.lower() in _LITTER


def _folder_files(root: Path) -> tuple[list[tuple[Parts, Reader]], list[Problem], str]:
    name = base_name(str(root.resolve()))
    if not root.is_dir():
        raise NearlError(f"The folder {name} does not exist or is not a folder; check the path.")
    files: list[tuple[Parts, Reader]] = []

    def walk(folder: Path, parts: Parts) -> None:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise NearlError(
                f"The folder {folder.name} cannot be read ({error.strerror}); check its permissions."
            ) from None
        for entry in entries:
            if _hidden(entry.name):
                continue
            if len(files) > 100_000:
                raise NearlError(f"{name} holds more than 100,000 files; choose the folder of one labelled set.")
            if entry.is_dir():
                files.append(((*parts, entry.name, ""), partial(Path, entry)))
                if len(parts) < MAX_DEPTH:
                    walk(entry, (*parts, entry.name))
            else:
                files.append(((*parts, entry.name), partial(Path, entry)))

    walk(root, ())
    return files, [], name


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise NearlError(f"{base_name(str(path))} does not exist; check the path.") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise NearlError(f"{base_name(str(path))} is not a zip file, or a damaged one; make it again.") from None


def _zip_files(
    archive: zipfile.ZipFile, name: str, max_entries: int, max_unpacked: int, max_ratio: int
) -> tuple[list[tuple[Parts, Reader]], list[Problem], str]:
    entries = archive.infolist()
    if len(entries) > max_entries:
        raise NearlError(f"{name} has {len(entries)} entries; at most {max_entries} are allowed.")
    if sum(entry.file_size for entry in entries) > max_unpacked:
        raise NearlError(f"{name} unpacks to more than {max_unpacked // 10**6} MB; send fewer or smaller images.")
    if any(entry.flag_bits & 1 for entry in entries) and all(
        entry.flag_bits & 1 or entry.is_dir() for entry in entries
    ):
        raise NearlError(f"{name} is locked with a password; make it again without one.")
    files: list[tuple[Parts, Reader]] = []
    problems: list[Problem] = []
    for entry in entries:
        parts = tuple(entry.filename.replace("\\", "/").split("/"))
        if parts[0] == "" or parts[0][1:2] == ":" or ".." in parts:
            raise NearlError(
                f"{name} has an entry that leads outside the zip ({base_name(entry.filename)}); it was refused."
            )
        parts = (*(part for part in parts[:-1] if part not in ("", ".")), parts[-1])
        if any(_hidden(part) for part in parts):
            continue
        if parts[-1] and (reason := _refusal(entry, max_ratio)):
            shown = base_name(entry.filename)
            problems.append(Problem(shown, f"{shown} {reason} and was left out."))
            continue
        files.append((parts, partial(_read_entry, archive, entry)))
    return files, problems, name


def _refusal(entry: zipfile.ZipInfo, max_ratio: int) -> str | None:
    """Why an entry must not be opened, or None."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a special file"
    if entry.filename.lower().endswith(_ARCHIVES):
        return "is an archive inside the zip"
    if entry.flag_bits & 1:
        return "is locked with a password"
    if entry.file_size > MAX_BYTES or entry.file_size > max(1_000_000, max_ratio * entry.compress_size):
        return "unpacks to far more than an image should"
    return None


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of one entry, never more than it declares. NearlError if it is damaged."""
    try:
        with archive.open(entry) as stream:
            return stream.read(entry.file_size)
    except Exception:  # four decompressors fed with untrusted bytes
        raise NearlError(f"{base_name(entry.filename)} is damaged inside the zip; make the zip again.") from None
