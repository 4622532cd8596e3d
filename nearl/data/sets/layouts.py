"""Finds the class folders among all files of a folder or zip, its train and test parts, and masks beside images."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nearl.data.archives import Parts, Reader
from nearl.data.records import Problem, base_name
from nearl.data.sets.tables import content, is_table, listed, same, tidy, without_ending
from nearl.errors import NearlError

PROMPTS_BYTES = 1_000_000
TRAIN, TEST, VALID = "train", "test", "valid"
_SPLITS = {
    "train": TRAIN, "training": TRAIN, "trainset": TRAIN, "trn": TRAIN, "tr": TRAIN,
    "test": TEST, "testing": TEST, "testset": TEST, "tst": TEST,
    "valid": VALID, "validation": VALID, "val": VALID, "dev": VALID, "valset": VALID,
}  # fmt: skip
_FILLING = {"set", "data", "dataset", "image", "images", "img", "imgs", "folder", "split", "labels", "input"}
_IMAGES = {"image", "images", "img", "imgs", "original", "originals", "data", "input", "inputs", "raw"}
_MASKS = {
    "mask", "masks", "segmentation", "segmentations", "seg", "segs", "groundtruth", "gt", "annotation", "annotations",
    "label", "labels", "contour", "contours",
}  # fmt: skip
_MASK_END = re.compile(  # searched, not matched from the start: in a long name that would take its length squared
    r"(?:mask|segmentation|segmented|seg|groundtruth|ground_truth|gt|label|annotation|contour)[ _.-]*\(?\d*\)?$",
    re.IGNORECASE,
)
_MASK_START = re.compile(r"mask[ _.-]+(.+)", re.IGNORECASE)
_DOCUMENTS = (".md", ".pdf", ".html", ".htm", ".rtf", ".ini", ".log", ".py")
_LISTS = (".txt", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".mat")  # may hold labels, in many layouts
_SHEETS = (".xlsx", ".xls", ".ods")
_ABOUT = ("readme", "license", "licence", "citation", "changelog", "about", "dataset_description")


class File(NamedTuple):
    """One file of a class."""

    path: str  # to show
    read: Reader
    group: str = ""  # patient or series; "" for a group of its own


Entry = tuple[Parts, Reader]


@dataclass
class Layout:
    """What `arrange` found."""

    splits: dict[str | None, dict[str, list[File]]]  # TRAIN, TEST, or None where there are no splits -> by class
    prompts: dict | None  # the content of prompts.json, unchecked
    problems: list[Problem]
    loose: list[Entry]  # tables beside the class folders and above them
    flat: dict[str, list[Entry]] = field(default_factory=dict)  # files of TRAIN and TEST folders without class folders
    outside: list[Problem] = field(default_factory=list)  # files outside the class folders; a table may name them
    notes: list[str] = field(default_factory=list)  # what was understood of the layout, in sentences


def split_of(name: str) -> str | None:
    """TRAIN, TEST or VALID for the name of a folder, table or cell that says so: "Training", "test_images", "Val"."""
    words = [word for word in re.split(r"[\W_\d]+", name.casefold()) if word and word not in _FILLING]
    return _SPLITS.get(words[0]) if len(words) == 1 else None


def arrange(files: Sequence[Entry], problems: Sequence[Problem]) -> Layout:
    """The class folders among all files: below any number of outer folders, and below train and test."""
    found = Layout({}, None, list(problems), [])
    loose: list[Entry] = []
    while True:
        loose += [(parts, reader) for parts, reader in files if len(parts) == 1 and parts[0]]
        files = [(parts, reader) for parts, reader in files if len(parts) > 1]
        tops = {parts[0] for parts, _ in files}
        deep = {parts[0] for parts, _ in files if len(parts) > 2}
        splits = {top: word for top in tops if (word := split_of(top))}
        named = set(splits.values())
        flat = not deep & set(splits) and TRAIN in named and (set(splits) == tops or TEST in named)
        if not (named & {TRAIN, TEST} and (deep & set(splits) or flat)):
            splits, flat = {}, False
        beside = any(is_table(parts) for parts, _ in files)  # the only folder then holds images, not one class
        if len(tops) != 1 or splits or not (deep or beside):
            break
        files = [(parts[1:], reader) for parts, reader in files]
    found.loose = [item for item in loose if is_table(item[0])]
    for (name,), reader in loose:
        if name.lower() == "prompts.json":
            found.prompts = _read_prompts(reader, found.problems)
        else:
            found.outside += _loose(name)

    files = sorted(files, key=lambda item: item[0])
    if not splits and (turned := _turned(files)):
        files = sorted(turned, key=lambda item: item[0])
        splits, flat = {top: word for top in {parts[0] for parts, _ in files} if (word := split_of(top))}, False
    if splits:
        _divide(files, splits, flat, found)
    else:
        _classes(files, found.splits.setdefault(None, {}) if files else {}, found)
        _same_inside(files, found)
    return found


def _turned(files: list[Entry]) -> list[Entry]:
    """The files of class folders that each hold train and test folders, with those outside; none for other layouts."""
    inside: dict[str, set[str | None]] = {}
    for parts, _ in files:
        inside.setdefault(parts[0], set()).update(
            [split_of(parts[1])] if len(parts) > 2 else [None] if parts[-1] else []
        )
    if len(inside) < 2 or not all({TRAIN} < words and None not in words for words in inside.values()):
        return []
    return [((parts[1], parts[0], *parts[2:]), reader) for parts, reader in files if len(parts) > 2]


def _loose(name: str, where: str = "the class folders") -> list[Problem]:
    """The problem of a file outside the class folders, unless it is a table or text."""
    shown, low = base_name(name), name.lower()
    if low.endswith(_SHEETS):
        return [Problem(shown, f"{shown} is a spreadsheet, which is not read; save the table as CSV (UTF-8).")]
    if is_table((name,)) or low.endswith(_DOCUMENTS) or low.startswith(_ABOUT):
        return []
    if low.endswith(_LISTS):
        reason = f"{shown} was not read: labels are taken from folders, or from a CSV with the columns file and label."
        return [Problem(shown, reason)]
    return [Problem(shown, f"{shown} lies outside {where} and was left out.")]


def _classes(files: Iterable[Entry], into: dict[str, list[File]], found: Layout, where: str = "") -> None:
    """Sort files into classes by their first folder, in any spelling; those without one are named."""
    spelt: dict[str, str] = {same(name): name for name in into}
    for parts, reader in files:
        if len(parts) < 2:
            if parts[-1]:
                found.outside += _loose(parts[-1], f"the class folders of {where}")
            continue
        name = spelt.setdefault(same(parts[0]), tidy(parts[0]) or parts[0])
        if tidy(parts[0]) not in (name, ""):
            words = f"The folders {name} and {tidy(parts[0])} differ only in upper and lower case and are one class."
            found.notes += [words] if words not in found.notes else []
        members = into.setdefault(name, [])
        if parts[-1]:
            members.append(File("/".join(parts), reader))


def _divide(files: list[Entry], splits: dict[str, str], flat: bool, found: Layout) -> None:
    """Sort the files of train and test folders; a folder of validation images stands in for missing test images."""
    words = set(splits.values())
    as_test = VALID if TEST not in words and VALID in words and TRAIN in words else TEST
    parts_of: dict[str, list[Entry]] = {}
    left: Counter[str] = Counter()
    for parts, reader in files:
        word = splits.get(parts[0])
        if word in (TRAIN, as_test):
            parts_of.setdefault(parts[0], []).append((parts[1:], reader))
        else:
            left[parts[0]] += bool(parts[-1])
    for top, count in left.items():
        shown, size = base_name(top), f"{count} file{'' if count == 1 else 's'}"
        found.problems.append(
            Problem(shown, f"The folder {shown} ({size}) is neither train nor test and was left out.")
        )
    for top, members in parts_of.items():
        word = TRAIN if splits[top] == TRAIN else TEST
        if flat:
            found.flat.setdefault(word, []).extend(item for item in members if item[0][-1])
            continue
        while len({parts[0] for parts, _ in members}) == 1 and all(len(parts) > 2 for parts, _ in members if parts[-1]):
            inner = members[0][0][0]
            if split_of(inner) != splits[top] and same(inner) not in _IMAGES:
                break
            members = [(parts[1:], reader) for parts, reader in members if len(parts) > 2]
        _classes(members, found.splits.setdefault(word, {}), found, base_name(top))
    if as_test == VALID:
        name = next(top for top, word in splits.items() if word == VALID)
        found.notes.append(f"There is no test folder, so the images in {base_name(name)} are used as test images.")


def _same_inside(files: list[Entry], found: Layout) -> None:
    """Say so where all classes have the same subfolders: they are then probably not the classes."""
    inside: dict[str, set[str]] = {}
    for parts, _ in files:
        if len(parts) > 1:
            inside.setdefault(parts[0], set()).update({same(parts[1])} if len(parts) > 2 else ())
    often = Counter(name for names in inside.values() for name in names)
    shared = {name for name, count in often.items() if count > len(inside) / 2}
    if len(inside) < 2 or len(shared) < 2 or not all(names & shared for names in inside.values()):
        return
    if len(shared) >= len(often) / 2:
        found.notes.append(
            f"The folders {listed(sorted(inside))} were taken as the classes, but they have the same subfolders "
            f"({listed(sorted(shared))}); if those are the classes, move them up, or call the outer folders train and "
            "test."
        )


def without_masks(files: Sequence[Entry]) -> tuple[list[Entry], list[Problem]]:
    """The files but for masks that lie beside their images, and the problem that names those that were left out."""
    stems = {(*(same(part) for part in parts[:-1]), stem(parts[-1])) for parts, _ in files if parts[-1]}
    inside: dict[Parts, set[str]] = {}  # by folder, the folders in it that hold images by their name
    for key in stems:
        for place, folder in enumerate(key[:-1]):
            if folder in _IMAGES:
                inside.setdefault(key[:place], set()).add(folder)
    kept: list[Entry] = []
    masks: list[str] = []
    for parts, reader in files:
        if parts[-1] and not is_table(parts) and not is_text(parts) and _is_mask(parts, stems, inside):
            masks.append(base_name(parts[-1]))
        else:
            kept.append((parts, reader))
    if not masks:
        return kept, []
    what = "1 mask beside its image was" if len(masks) == 1 else f"{len(masks)} masks beside their images were"
    return kept, [Problem(masks[0], f"{what} left out: {listed(masks)}.")]


def is_text(parts: Parts) -> bool:
    """Whether a file is a document, a list or a spreadsheet by its ending, and so no image."""
    return parts[-1].lower().endswith((*_DOCUMENTS, *_LISTS, *_SHEETS))


def _is_mask(parts: Parts, stems: set[Parts], inside: dict[Parts, set[str]]) -> bool:
    """Whether the image that this is a mask of is there: in the same folder under the name without "mask", or in the
    folder that the folder of masks belongs to."""
    folders, name = tuple(same(part) for part in parts[:-1]), stem(parts[-1])
    plain = _without_mask(name)
    if plain and (*folders, plain) in stems:
        return True
    for place, folder in enumerate(folders):
        if re.sub(r"[\W_]+", "", folder) not in _MASKS:
            continue
        above, below = folders[:place], folders[place + 1 :]
        for middle in ((), *((word,) for word in inside.get(above, ()))):
            if any((*above, *middle, *below, base) in stems for base in {name, plain} - {""}):
                return True
    return False


def _without_mask(name: str) -> str:
    """The name of the image that a name like "1_mask" or "mask_1" belongs to; "" for other names."""
    end = _MASK_END.search(name, 1)
    plain = name[: end.start()].rstrip(" _.-") if end else ""
    start = None if plain else _MASK_START.fullmatch(name)
    return start[1] if start else plain


def stem(name: str) -> str:
    """A file's name in lower case without its ending."""
    return without_ending(name.casefold())


def _read_prompts(reader: Reader, problems: list[Problem]) -> dict | None:
    try:
        data = content(reader, "prompts.json")
        found = json.loads(data.decode("utf-8-sig")) if len(data) <= PROMPTS_BYTES else None
    except (NearlError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        problems.append(Problem("prompts.json", "prompts.json is not a valid JSON prompt set and was left out."))
        return None
    return found
