"""One visitor's adapters: a folder each, with the adapter as `nearl.adapters.store` writes it and entry.json."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.visitor.disk import WHOLE, listed, look_into, make_folder, read_model, write_json
from app.visitor.state import StateFile
from nearl.adapters.store import FORMERLY
from nearl.adapters.taught import taught_with
from nearl.errors import NearlError
from nearl.prompts import FINDINGS

if TYPE_CHECKING:
    from nearl.adapters.store import Adapter

ENTRY, ADAPTER = "entry.json", "adapter.json"
SHARED = {"name", "classes", "created", "method", "support_counts", "backbone"}  # fields that both files have
KEY = re.compile(r"[0-9a-f]{16}")
IDENTITY = ("name", "config_sha256", "weights")  # what tells the model that an adapter belongs to
MAX_TEXT = 200
MAX_NAME = 60
MAX_ADAPTERS = 24

MANY = 10**9

Portion = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MANY)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Figure(BaseModel):
    """A balanced accuracy, or the mean AUROC of findings; None where it was not measured."""

    value: Portion | None = None
    interval: tuple[Portion, Portion] | None = None  # 95 %


class Figures(BaseModel):
    """What was measured on `n` images that the adapter was not taught with."""

    n: Count
    before: Figure
    after: Figure


class Entry(BaseModel):
    """One adapter on the shelf: the content of entry.json, the name of its folder, and whether it is in use."""

    model_config = ConfigDict(frozen=True)

    id: Text = ""
    name: Text = "Adapter"
    classes: Annotated[list[Text], Field(max_length=1000)] = []
    several: bool = False  # whether they are findings, two classes each: present and absent
    created: Text = ""  # ISO 8601, UTC
    form: Count = 1  # 1: of a version in which some methods had other names (`nearl.adapters.store.FORMERLY`)
    method: Text = ""
    support_counts: dict[str, Count] = {}  # by class
    backbone: dict[str, Text] = {}  # IDENTITY of the model that it belongs to; empty where nothing was noted
    figures: dict | None = None  # of Figures; None where nothing was measured
    in_use: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the classes, or of the findings."""
        return self.classes[::2] if self.several else self.classes

    @property
    def taught(self) -> int:
        """How many images it was taught with."""
        kind = {"kind": FINDINGS} if self.several else {}
        return taught_with({"prompts": kind, "support_counts": self.support_counts, "classes": self.classes})

    @field_validator("figures", mode="before")
    @classmethod
    def _readable(cls, value: object) -> dict | None:
        try:
            return None if value is None else Figures.model_validate(value).model_dump()
        except ValidationError:  # in figures that are damaged nothing is believed
            raise ValueError("not figures") from None

    def today(self) -> Entry:
        """The same with the name that its method has now."""
        now = {old: new for new, old in FORMERLY.items()} if self.form == 1 else {}
        return self.model_copy(update={"method": now.get(self.method, self.method)})


class Shelf:
    """The adapters in one folder, and which of them is in use.

    `check_room` is called with the bytes that are about to be written and raises NearlError where they are too many.
    `changed` is called with the adapter that is in use from now on, or None.
    """

    def __init__(
        self,
        folder: Path,
        state: StateFile,
        lock: threading.RLock,
        check_room: Callable[[int], None],
        changed: Callable[[Adapter | None], None],
    ):
        self._folder, self._state, self._lock = folder, state, lock
        self._check_bytes, self._changed = check_room, changed
        self._adapter: Adapter | None = None
        self._adapter_read = False

    # ---- looking

    def items(self) -> list[Entry]:
        """All adapters, the newest first."""
        found = [entry for key in self._keys() if (entry := self.entry(key)) is not None]
        return sorted(found, key=lambda entry: (entry.created, entry.id), reverse=True)

    def notes(self) -> list[str]:
        """What of the shelf could not be read, in sentences."""
        found = [self._state.note()]
        for key in self._keys():
            entry, skipped = self._look(key)
            if entry is None:
                found.append("An adapter on your shelf is damaged and is not shown; teach it again or bring its file.")
            elif skipped:
                found.append(
                    f"What was noted of the adapter “{entry.name}” is damaged or of another version of this app, and "
                    f"{listed(skipped)} was left out."
                )
        if self.adapter is None and (used := self.entry(self.in_use)):
            found.append(f"The adapter in use, “{used.name}”, cannot be read, so the model answers as untaught.")
        return [note for note in found if note]

    def _keys(self) -> list[str]:
        return sorted(path.name for path in self._folder.glob("*") if KEY.fullmatch(path.name))

    def _look(self, key: str) -> tuple[Entry | None, tuple[str, ...]]:
        """What is noted of an adapter, and which keys were left out. Where nothing of it can be read, what the
        adapter's own file says."""
        found, skipped = look_into(self._folder / key / ENTRY, Entry)
        if found is not None:
            return found.today(), skipped
        own = read_model(self._folder / key / ADAPTER, Entry)
        return own and Entry.model_validate(own.model_dump(include=SHARED)), (WHOLE,)

    def entry(self, key: object) -> Entry | None:
        """One adapter by its id, or None if there is none. What is damaged of its entry.json has its default."""
        if not isinstance(key, str) or not KEY.fullmatch(key):
            return None
        entry, _ = self._look(key)
        return entry and entry.model_copy(update={"id": key, "in_use": key == self.in_use})

    @property
    def in_use(self) -> str:
        """The id of the adapter in use, or ""."""
        return self._state.read().in_use

    @property
    def adapter(self) -> Adapter | None:
        """The adapter in use; after a restart or `unload` it is read from disk when first asked for."""
        with self._lock:
            if not self._adapter_read:
                self._adapter_read = True
                try:
                    self._adapter = self.load(self.in_use) if self.in_use else None
                except NearlError:
                    self._adapter = None
            return self._adapter

    def unload(self) -> None:
        """Let the adapter in use leave memory, unless something is being done with the workspace just now."""
        if self._lock.acquire(blocking=False):
            try:
                self._adapter, self._adapter_read = None, False
            finally:
                self._lock.release()

    def load(self, key: str) -> Adapter:
        """NearlError if there is no such adapter on this shelf, or it is damaged."""
        from nearl.adapters.store import load_adapter

        self._known(key)
        return load_adapter(self._folder / key)

    def check_room(self) -> None:
        """Raises NearlError if the shelf is full."""
        if len(self.items()) >= MAX_ADAPTERS:
            raise NearlError(f"Your shelf holds {MAX_ADAPTERS} adapters; delete one of them first.")

    # ---- changing

    def put(self, adapter: Adapter, name: str = "") -> str:
        """Put an adapter on the shelf and return its id. NearlError if the shelf or the workspace is full."""
        from nearl.adapters.store import adapter_files, save_adapter

        self.check_room()
        self._check_bytes(sum(map(len, adapter_files(adapter).values())))
        key, meta = secrets.token_hex(8), adapter.meta
        several = dict(meta["prompts"]).get("kind") == FINDINGS
        entry = Entry(
            name=self._free_name(_tidy(name) or _in_short(meta["classes"][:: 1 + several])),
            classes=list(meta["classes"]),
            several=several,
            created=meta["created"],
            method=meta["method"],
            form=2,
            support_counts=dict(meta["support_counts"]),
            backbone={key: str(meta["backbone"].get(key, ""))[:MAX_TEXT] for key in IDENTITY},
            figures=_figures(meta.get("metrics")),
        )
        begun = self._folder / f".{key}"  # nobody finds half an adapter
        try:
            make_folder(begun)
            for path in save_adapter(adapter, begun).iterdir():
                path.chmod(0o600)
            write_json(begun / ENTRY, entry.model_dump(exclude={"id", "in_use"}))
            begun.rename(self._folder / key)
        except OSError:  # such as a full disk
            shutil.rmtree(begun, ignore_errors=True)
            raise
        return key

    def use(self, key: str | None, adapter: Adapter | None = None) -> None:
        """Read with this adapter from now on; None for none. `adapter`: its content, where it is loaded already.

        NearlError as of `load`; the adapter that was in use then stays.
        """
        adapter = (adapter or self.load(key)) if key else None
        with self._lock:
            self._state.change(in_use=key or "")
            self._adapter, self._adapter_read = adapter, True
            self._changed(adapter)

    def rename(self, key: str, name: str) -> None:
        entry, name = self._known(key), _tidy(name)
        if not name:
            raise NearlError("An adapter needs a name; type one.")
        name = self._free_name(name, but=key)
        changed = entry.model_copy(update={"name": name})
        write_json(self._folder / key / ENTRY, changed.model_dump(exclude={"id", "in_use"}))

    def delete(self, key: str) -> None:
        """Remove an adapter; if it is in use, the model is as it was before teaching."""
        if self._known(key).in_use:
            self.use(None)
        shutil.rmtree(self._folder / key, ignore_errors=True)

    def _known(self, key: str) -> Entry:
        entry = self.entry(key)
        if entry is None:
            raise NearlError("There is no such adapter on your shelf; choose one of those that are there.")
        return entry

    def _free_name(self, stem: str, but: str = "") -> str:
        """A name, with a number where another adapter than `but` has it."""
        taken = {entry.name for entry in self.items() if entry.id != but}
        numbers = (f" ({number})" for number in range(2, MAX_ADAPTERS + 2))
        names = [stem, *(f"{stem[: MAX_NAME - len(number)]}{number}" for number in numbers)]
        return next(name for name in names if name not in taken)


def _in_short(classes: list[str]) -> str:
    return _tidy(", ".join(classes[:3]) + (" …" if len(classes) > 3 else ""))


def _tidy(name: object) -> str:
    return " ".join(str(name or "").split())[:MAX_NAME]


def _figures(metrics: Any) -> dict | None:
    """The Figures in what `nearl.measure.evaluate.study`, or that of findings, wrote into an adapter; a stranger's may
    hold anything."""
    try:
        key = "macro_auroc" if "findings" in metrics else "balanced_accuracy"
        parts = {"before": metrics["frozen"], "after": metrics["adapted"]}
        figures = {when: {"value": part[key], "interval": part[f"{key}_interval"]} for when, part in parts.items()}
        return Figures.model_validate({"n": metrics["n"], **figures}).model_dump()
    except (KeyError, TypeError, ValidationError):
        return None
