"""Finds the class folders among all files of a folder or zip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nearl.data.archives import Parts, Reader
from nearl.data.records import Problem, base_name
from nearl.data.sets.tables import content, is_table
from nearl.errors import NearlError

PROMPTS_BYTES = 1_000_000
SPLITS = ("train", "test")
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")


class File(NamedTuple):
    """One file of a class."""

    path: str  # to show
    read: Reader
    group: str = ""  # patient or series; "" for a group of its own


@dataclass
class Layout:
    """What `arrange` found."""

    splits: dict[str | None, dict[str, list[File]]]  # "train", "test", or None where there are no splits -> by class
    prompts: dict | None  # the content of prompts.json, unchecked
    problems: list[Problem]
    loose: list[tuple[Parts, Reader]]  # tables beside the class folders and above them


def arrange(files: Sequence[tuple[Parts, Reader]], problems: Sequence[Problem]) -> Layout:
    """The class folders among all files: below any number of outer folders, and below train and test."""
    problems = list(problems)
    loose: list[tuple[Parts, Reader]] = []
    while True:
        loose += [(parts, reader) for parts, reader in files if len(parts) == 1 and parts[0]]
        files = [(parts, reader) for parts, reader in files if len(parts) > 1]
        tops = {parts[0] for parts, _ in files}
        deep = {parts[0] for parts, _ in files if len(parts) > 2}
        splits = {top for top in deep if top.lower() in SPLITS}
        if len(tops) != 1 or not deep or splits:
            break
        files = [(parts[1:], reader) for parts, reader in files]

    prompts = None
    for (file_name,), reader in loose:
        if file_name.lower() == "prompts.json":
            prompts = _read_prompts(reader, problems)
        elif file_name.lower().endswith(_PICTURES):
            shown = base_name(file_name)
            problems.append(Problem(shown, f"{shown} lies outside the class folders and was left out."))

    found: dict[str | None, dict[str, list[File]]] = {}
    for parts, reader in sorted(files, key=lambda item: item[0]):
        split = None
        if splits:
            if parts[0] not in splits:
                shown = base_name(parts[0])
                problem = Problem(shown, f"The folder {shown} is neither train nor test and was left out.")
                problems += [problem] if problem not in problems else []
                continue
            split, parts = parts[0].lower(), parts[1:]
            if len(parts) < 2:
                continue
        members = found.setdefault(split, {}).setdefault(parts[0], [])
        if parts[-1]:
            members.append(File("/".join(parts), reader))
    return Layout(found, prompts, problems, [item for item in loose if is_table(item[0])])


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
