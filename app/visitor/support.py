"""The labelled images that one visitor teaches with, on disk: pixels as PNG, named by digest, and set.json.

An uploaded file is never kept as it came, nor its name, which may be a person's: read again, images are "image 1",
"image 2". Groups, which may be patients' names, are kept as numbers.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, model_validator

from app.visitor.disk import read_model, write_bytes, write_json
from nearl.data.images import ImageRecord, Problem, decode_picture
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.data.checks import SetCheck

META, IMAGES = "set.json", "images"
UNNAMED = "your images"


class Part(BaseModel):
    """One of the two sets in set.json."""

    classes: list[str]
    images: list[Annotated[str, Field(pattern=r"^[0-9a-zA-Z_-]+$")]]  # digests of the pixels
    labels: list[int]  # of each image, an index into classes
    groups: list[str] | None = None  # of each image, a number or "" for a group of its own
    name: str = UNNAMED
    synthetic: bool | None = None  # sets of earlier versions tell by their name alone
    prompts: dict[str, Any] | None = None  # as the editor left them, unchecked

    @model_validator(mode="after")
    def _agrees(self) -> Part:
        if len(self.labels) != len(self.images) or any(not 0 <= i < len(self.classes) for i in self.labels):
            raise ValueError("labels do not fit the images")
        if self.groups is not None and len(self.groups) != len(self.images):
            self.groups = None
        if self.synthetic is None:
            self.synthetic = self.name != UNNAMED
        return self


class SetFile(BaseModel):
    """The content of set.json; a part that is damaged is None."""

    data: Part | None = None
    test: Part | None = None


class Support:
    """The images to teach with, and separate ones to measure on where the visitor brought such.

    `check_room` is called with the bytes that are about to be written and raises NearlError where they are too many.
    `lock` is held while the sets are replaced; hold it around a change that depends on what is there.
    """

    def __init__(self, folder: Path, lock: threading.RLock, check_room: Callable[[int], None]):
        self._folder, self._lock, self._check_room = folder, lock, check_room
        self._sets: tuple[LabelledSet | None, LabelledSet | None] | None = None
        self._checked: SetCheck | None = None
        self._names: dict[str, str] = {}
        self.problems: list[Problem] = []  # what could not be used of all that was brought

    @property
    def data(self) -> LabelledSet | None:
        return self._read()[0]

    @property
    def held_out(self) -> LabelledSet | None:
        """Separate test images."""
        return self._read()[1]

    def name(self, digest: str) -> str | None:
        """The visitor's own name of an image, as long as this server knows it; it is never written to disk."""
        return self._names.get(digest)

    def keep(
        self, data: LabelledSet, test: LabelledSet | None = None, problems: Iterable[Problem] | None = None
    ) -> None:
        """Teach with these from now on, also after a restart. `problems`: None leaves those that are known.

        NearlError, and nothing has changed, if they do not fit into the workspace.
        """
        test = test if test is not None and len(test) else None
        with self._lock:
            files = self._encode(data, test)
            self._check_room(sum(map(len, files.values())))
            for record in _records(data, test):
                self._names.setdefault(record.digest, record.name)
            self._write(data, test, files)
            self._sets, self._checked = (data, test), None
            if problems is not None:
                self.problems = list(dict.fromkeys(problems))

    def forget(self) -> None:
        """Remove all images, from memory and from disk."""
        with self._lock:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._sets, self._checked, self.problems = (None, None), None, []

    def needed(self) -> LabelledSet:
        """The images to teach with. NearlError if there are none."""
        if self.data is None:
            raise NearlError("There is nothing to learn from yet; bring images or take the synthetic example.")
        return self.data

    def check(self) -> SetCheck:
        """The check before teaching, made once for the images that are there. NearlError if there are none."""
        from nearl.data import checks

        with self._lock:
            data = self.needed()
            if self._checked is None:
                self._checked = checks.check(data, self.held_out)
            return replace(self._checked, problems=list(self.problems or data.problems))

    # ---- files

    def _read(self) -> tuple[LabelledSet | None, LabelledSet | None]:
        with self._lock:
            if self._sets is None:
                kept = read_model(self._folder / META, SetFile) or SetFile()
                data = self._load(kept.data)
                self._sets = (data, self._load(kept.test) if data is not None else None)
            return self._sets

    def _load(self, part: Part | None) -> LabelledSet | None:
        """The set as it was kept. A picture that is missing or damaged is left out and named among its problems."""
        if part is None:
            return None
        records, kept, problems = [], [], []
        for place, digest in enumerate(part.images):
            name = f"image {place + 1}"
            try:
                records.append(replace(decode_picture(self._picture(digest), name), name=name))
                kept.append(place)
            except NearlError as error:
                problems.append(Problem(name, str(error)))
        groups = [part.groups[i] for i in kept] if part.groups else None
        labels = [part.labels[i] for i in kept]
        return LabelledSet(
            part.classes, records, labels, problems, part.name, part.prompts, groups, bool(part.synthetic)
        )

    def _encode(self, data: LabelledSet, test: LabelledSet | None) -> dict[Path, bytes]:
        """The picture files that the sets need and that are not in the folder yet."""
        files: dict[Path, bytes] = {}
        for record in _records(data, test):
            path = self._picture(record.digest)
            if path not in files and not path.is_file():
                buffer = io.BytesIO()
                record.image().save(buffer, "PNG", compress_level=1)
                files[path] = buffer.getvalue()
        return files

    def _write(self, data: LabelledSet, test: LabelledSet | None, files: dict[Path, bytes]) -> None:
        """First the pictures, then what they mean; then pictures that are in no set any more are deleted."""
        for path, content in files.items():
            write_bytes(path, content)
        kept = SetFile(data=_part(data), test=_part(test) if test else None)
        write_json(self._folder / META, kept.model_dump())
        needed = {record.digest for record in _records(data, test)}
        for path in (self._folder / IMAGES).glob("*.png"):
            if path.stem not in needed:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _picture(self, digest: str) -> Path:
        return self._folder / IMAGES / f"{digest}.png"


def _records(data: LabelledSet, test: LabelledSet | None) -> list[ImageRecord]:
    return [*data.records, *(test.records if test else [])]


def _part(data: LabelledSet) -> Part:
    groups = data.groups
    numbers = {group: str(i) if group else "" for i, group in enumerate(dict.fromkeys(groups or ()))}
    return Part(
        classes=data.classes,
        images=[record.digest for record in data.records],
        labels=data.labels,
        groups=[numbers[group] for group in groups] if groups else None,
        name=data.name if data.synthetic else UNNAMED,
        synthetic=data.synthetic,
        prompts=data.prompts,
    )
