"""The labelled images that one visitor teaches with, on disk: pixels as PNG, named by digest, and set.json.

An uploaded file is never kept as it came, nor its name, which may be a person's: read again, images are "image 1",
"image 2". Groups, which may be patients' names, are kept as numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, model_validator

from app.visitor.disk import json_bytes, listed, look_into, write_bytes
from nearl.data.images import ImageRecord, Problem, decode_picture
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.prompts import ABSENT

if TYPE_CHECKING:
    from nearl.data.checks import SetCheck

META, IMAGES, INDEX = "set.json", "images", "gallery.sqlite"
UNNAMED = "your images"
DIGEST = re.compile(r"[0-9a-zA-Z_-]{1,128}")
MAX_PROMPT_BYTES = 1_000_000  # as JSON; no prompt set is longer
MANY = 100_000  # entries of a list in set.json
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)

Name = Annotated[str, Field(max_length=1000)]


class Part(BaseModel):
    """One of the two sets in set.json."""

    classes: Annotated[list[Name], Field(max_length=1000)]
    images: Annotated[list[Any], Field(max_length=MANY)]  # digests of the pixels; others are left out one by one
    labels: Annotated[list[Any], Field(max_length=MANY)]  # of each image, an index into classes, or a list; likewise
    findings: bool = False  # whether labels are lists of indices, one at most of every two classes
    groups: list[str] | None = None  # of each image, a number or "" for a group of its own
    name: Name = UNNAMED
    synthetic: bool | None = None  # sets of earlier versions tell by their name alone
    ours: bool | None = None  # likewise
    prompts: dict[str, Any] | None = None  # as the editor left them, unchecked
    notes: Any = None  # by digest, what decoding noted of an image; what is no such list is ignored

    @model_validator(mode="after")
    def _agrees(self) -> Part:
        if len(self.labels) != len(self.images):
            raise ValueError("labels do not fit the images")
        if self.findings and self.classes[1::2] != [ABSENT + name for name in self.classes[::2]]:
            raise ValueError("the classes are not those of findings")
        if self.groups is not None and len(self.groups) != len(self.images):
            self.groups = None
        if self.synthetic is None:
            self.synthetic = self.name != UNNAMED
        if self.ours is None:
            self.ours = self.synthetic
        return self


class SetFile(BaseModel):
    """The content of set.json; a part that is damaged is None."""

    data: Part | None = None
    test: Part | None = None


Sets = tuple[LabelledSet | None, LabelledSet | None]  # to teach with, and separate ones to measure on


class Support:
    """The images to teach with, and separate ones to measure on where the visitor brought such.

    `check_room` is called with the bytes that are about to be written and raises NearlError where they are too many;
    `check_memory` likewise with the bytes of pixels to be kept in memory, and whether they may be refused.
    `lock` is held while the sets are replaced; hold it around a change that depends on what is there.
    """

    def __init__(
        self,
        folder: Path,
        lock: threading.RLock,
        check_room: Callable[[int], None],
        check_memory: Callable[[int, bool], None],
    ):
        self._folder, self._lock, self._check_room, self._check_memory = folder, lock, check_room, check_memory
        self.memory = 0  # bytes of pixels in memory
        self._sets: Sets | None = None
        self._packed: Sets | None = None  # the same without pixels
        self._checked: SetCheck | None = None
        self._names: dict[str, str] = {}
        self.problems: list[Problem] = []  # what could not be used of all that was brought

    @property
    def in_memory(self) -> bool:
        """Whether looking at them takes no time."""
        return self._sets is not None

    @property
    def data(self) -> LabelledSet | None:
        return self._read()[0]

    @property
    def own(self) -> bool:
        """Whether there are images that the visitor brought."""
        return self.data is not None and not self.data.ours

    @property
    def held_out(self) -> LabelledSet | None:
        """Separate test images."""
        return self._read()[1]

    @property
    def version(self) -> str:
        """Changes with the images, their order and their classes; "" without images."""
        data = self.data
        seen = None if data is None else (data.classes, data.labels, [record.digest for record in data.records])
        return "" if seen is None else hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    @property
    def index(self) -> Path:
        """The file for embeddings of these images, which is forgotten with them."""
        return self._folder / INDEX

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
            self._check_memory(_bytes(data, test) - self.memory, True)
            self._check_room(sum(map(len, files.values())))
            for record in _records(data, test):
                self._names.setdefault(record.digest, record.name)
            self._write(data, test, files)
            self._hold(data, test)
            self._checked = None
            if problems is not None:
                self.problems = list(dict.fromkeys(problems))

    def forget(self) -> None:
        """Remove all images, from memory and from disk."""
        with self._lock:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._hold(None, None)
            self._checked, self.problems = None, []

    def unload(self) -> None:
        """Give the memory of the pixels back, unless something is being done with them just now; they are read from
        disk again when they are needed."""
        if self._lock.acquire(blocking=False):
            try:
                data, test = self._sets or (None, None)
                if data is not None and all(self._picture(r.digest).is_file() for r in _records(data, test)):
                    self._packed = _without_pixels(data), None if test is None else _without_pixels(test)
                    self._sets, self.memory = None, 0
            finally:
                self._lock.release()

    def _hold(self, data: LabelledSet | None, test: LabelledSet | None) -> None:
        self._sets, self._packed = (data, test), None
        self.memory = _bytes(data, test)

    def needed(self) -> LabelledSet:
        """The images to teach with. NearlError if there are none."""
        if self.data is None:
            raise NearlError("There is nothing to learn from yet; bring images or take a ready task.")
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

    def _read(self) -> Sets:
        with self._lock:
            if self._sets is None:
                packed = self._packed or self._kept()
                data, test = (None if part is None else self._with_pixels(part) for part in packed)
                if data is not None and test is not None:
                    data.problems += test.problems
                if data is not None and not len(data):
                    self.problems, data, test = [*self.problems, *data.problems], None, None
                self._check_memory(_bytes(data, test), False)
                self._hold(data, test)
            return self._sets  # type: ignore[return-value]

    def _kept(self) -> Sets:
        """The sets as an earlier server left them, without pixels; what of set.json is damaged is named."""
        kept, skipped = look_into(self._folder / META, SetFile)
        kept = kept or SetFile()
        data, test = (None if part is None else _part_read(part) for part in (kept.data, kept.test))
        if skipped:
            then = "look through them before you teach" if data is not None else "bring them again"
            words = f"What was noted of {UNNAMED} is damaged or of another version of this app"
            found = Problem(UNNAMED, f"{words}, and {listed(skipped)} was left out; {then}.")
            (self.problems if data is None else data.problems).append(found)
        return (data, test) if data is not None else (None, None)

    def _with_pixels(self, part: LabelledSet) -> LabelledSet:
        """The set with the pixels that are on disk. A picture that is missing or damaged is left out and named among
        its problems."""
        records, kept, problems = [], [], list(part.problems)
        for place, record in enumerate(part.records):
            try:
                read = decode_picture(self._picture(record.digest), record.name)
                records.append(replace(record, pixels=read.pixels, digest=read.digest))
                kept.append(place)
            except NearlError as error:
                problems.append(Problem(record.name, str(error)))
        return replace(part.subset(kept), records=records, problems=problems, notes=part.notes)

    def _encode(self, data: LabelledSet, test: LabelledSet | None) -> dict[Path, bytes]:
        """The files that the sets need and that are not in the folder yet: pictures and, last, set.json."""
        if len(json_bytes(data.prompts)) > MAX_PROMPT_BYTES:
            raise NearlError("These prompts are too long to be kept; use fewer or shorter ones.")
        files: dict[Path, bytes] = {}
        for record in _records(data, test):
            path = self._picture(record.digest)
            if path not in files and not path.is_file():
                buffer = io.BytesIO()
                record.image().save(buffer, "PNG", compress_level=1)
                files[path] = buffer.getvalue()
        kept = SetFile(data=_part(data), test=_part(test) if test else None)
        return files | {self._folder / META: json_bytes(kept.model_dump())}

    def _write(self, data: LabelledSet, test: LabelledSet | None, files: dict[Path, bytes]) -> None:
        """First the pictures, then what they mean; then pictures that are in no set any more are deleted."""
        for path, content in files.items():
            write_bytes(path, content)
        needed = {record.digest for record in _records(data, test)}
        for path in (self._folder / IMAGES).glob("*.png"):
            if path.stem not in needed:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _picture(self, digest: str) -> Path:
        return self._folder / IMAGES / f"{digest}.png"


def _records(data: LabelledSet | None, test: LabelledSet | None) -> list[ImageRecord]:
    return [record for part in (data, test) if part is not None for record in part.records]


def _bytes(data: LabelledSet | None, test: LabelledSet | None) -> int:
    return sum(record.pixels.nbytes for record in _records(data, test))


def _without_pixels(part: LabelledSet) -> LabelledSet:
    return replace(part, records=[replace(record.still(), pixels=NO_PIXELS) for record in part.records])


def _part_read(part: Part) -> LabelledSet:
    """A part of set.json as a set without pixels. An image with a damaged entry is left out and named."""
    records, labels, kept, problems = [], [], [], []
    for place, (digest, label) in enumerate(zip(part.images, part.labels, strict=True)):
        name = f"image {place + 1}"
        read = _label(label, part)
        if read is not None and isinstance(digest, str) and DIGEST.fullmatch(digest):
            records.append(ImageRecord(name, NO_PIXELS, digest, _notes(part.notes, digest)))
            labels.append(read)
            kept.append(place)
        else:
            problems.append(Problem(name, f"What was noted of {name} is damaged, so it was left out; bring it again."))
    groups = [part.groups[i] for i in kept] if part.groups else None
    flags = bool(part.synthetic), bool(part.ours)
    kind = FindingsSet if part.findings else LabelledSet
    return kind(part.classes, records, labels, problems, part.name, part.prompts, groups, *flags)


def _label(label: Any, part: Part) -> Any:
    """A label as a set has it; None where it is damaged."""
    several = label if part.findings else [label]
    if not isinstance(several, list) or not all(type(c) is int and 0 <= c < len(part.classes) for c in several):
        return None
    if not part.findings:
        return label
    return tuple(sorted(several)) if len({c // 2 for c in several}) == len(several) else None


def _notes(content: Any, digest: str) -> tuple[str, ...]:
    found = content.get(digest) if isinstance(content, dict) else None
    return tuple(note[:300] for note in found[:20] if isinstance(note, str)) if isinstance(found, list) else ()


def _part(data: LabelledSet) -> Part:
    groups = data.groups
    numbers = {group: str(i) if group else "" for i, group in enumerate(dict.fromkeys(groups or ()))}
    return Part(
        classes=data.classes,
        images=[record.digest for record in data.records],
        labels=data.labels,
        groups=[numbers[group] for group in groups] if groups else None,
        name=data.name if data.ours else UNNAMED,
        synthetic=data.synthetic,
        ours=data.ours,
        prompts=data.prompts,
        findings=isinstance(data, FindingsSet),
        notes={record.digest: list(record.notes) for record in data.records if record.notes},
    )
