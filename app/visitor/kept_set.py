"""A workspace's labelled images on disk: pixels as PNG called by their digest, and set.json with classes and labels.

Never a file as it was uploaded, nor its name, which may be a person's: read back, images are "image 1", "image 2".
Groups, which may be patients' names, are kept as numbers.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

from app.visitor.disk import read_json, write_bytes, write_json
from nearl.data.images import Problem, decode_picture
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError

META, IMAGES = "set.json", "images"
UNNAMED = "your images"


def encode(data: LabelledSet, test: LabelledSet | None, folder: Path) -> dict[Path, bytes]:
    """The picture files that the two sets need and that are not in the folder yet."""
    files = {}
    for record in [*data.records, *(test.records if test else [])]:
        path = _picture(folder, record.digest)
        if path not in files and not path.is_file():
            buffer = io.BytesIO()
            record.image().save(buffer, "PNG", compress_level=1)
            files[path] = buffer.getvalue()
    return files


def save(data: LabelledSet, test: LabelledSet | None, folder: Path, files: dict[Path, bytes]) -> None:
    """Write `files`, as `encode` made them, then what they mean, then delete pictures that are no longer in a set."""
    for path, content in files.items():
        write_bytes(path, content)
    write_json(folder / META, {"data": _meta(data), "test": _meta(test) if test else None})
    needed = {record.digest for part in (data, test) if part for record in part.records}
    for path in (folder / IMAGES).glob("*.png"):
        if path.stem not in needed:
            with contextlib.suppress(OSError):
                path.unlink()


def load(folder: Path) -> tuple[LabelledSet | None, LabelledSet | None]:
    """(images to teach with, separate test images) as they were saved; (None, None) where there are none.

    A picture that is missing or damaged is left out and named among the set's problems.
    """
    meta = read_json(folder / META)
    if not meta.get("data"):
        return None, None
    return _read(meta["data"], folder), _read(meta["test"], folder) if meta.get("test") else None


def _picture(folder: Path, digest: str) -> Path:
    return folder / IMAGES / f"{digest}.png"


def _meta(data: LabelledSet) -> dict:
    groups = data.groups
    numbers = {group: str(i) if group else "" for i, group in enumerate(dict.fromkeys(groups or ()))}
    return {
        "classes": data.classes,
        "images": [record.digest for record in data.records],
        "labels": data.labels,
        "groups": [numbers[group] for group in groups] if groups else None,
        "name": data.name if data.synthetic else UNNAMED,
        "synthetic": data.synthetic,
        "prompts": data.prompts,
    }


def _read(meta: dict, folder: Path) -> LabelledSet:
    records, kept, problems = [], [], []
    for number, digest in enumerate(meta["images"], start=1):
        name = f"image {number}"
        try:
            records.append(replace(decode_picture(_picture(folder, digest), name), name=name))
            kept.append(number - 1)
        except NearlError as error:
            problems.append(Problem(name, str(error)))
    groups = [meta["groups"][i] for i in kept] if meta.get("groups") else None
    labels = [meta["labels"][i] for i in kept]
    synthetic = meta.get("synthetic", meta["name"] != UNNAMED)  # sets of earlier versions tell by their name alone
    name, prompts = meta["name"], meta.get("prompts")
    return LabelledSet(list(meta["classes"]), records, labels, problems, name, prompts, groups, synthetic)
