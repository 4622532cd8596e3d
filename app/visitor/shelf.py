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

from app.visitor.disk import read_model, write_json
from app.visitor.state import StateFile
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.adapters.store import Adapter

ENTRY = "entry.json"
KEY = re.compile(r"[0-9a-f]{16}")
MAX_NAME = 60
MAX_ADAPTERS = 24

Portion = Annotated[float, Field(ge=0, le=1)]


class Figure(BaseModel):
    """A balanced accuracy; None where it was not measured."""

    value: Portion | None = None
    interval: tuple[Portion, Portion] | None = None  # 95 %


class Figures(BaseModel):
    """What was measured on `n` images that the adapter was not taught with."""

    n: int
    before: Figure
    after: Figure


class Entry(BaseModel):
    """One adapter on the shelf: the content of entry.json, the name of its folder, and whether it is in use."""

    model_config = ConfigDict(frozen=True)

    id: str = ""
    name: str = "Adapter"
    classes: list[str] = []
    created: str = ""  # ISO 8601, UTC
    method: str = ""
    support_counts: dict[str, int] = {}  # by class
    figures: dict | None = None  # of Figures; None where nothing was measured
    in_use: bool = False

    @field_validator("figures", mode="before")
    @classmethod
    def _readable(cls, value: object) -> dict | None:
        return None if value is None else Figures.model_validate(value).model_dump()


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
        found = [entry for path in self._folder.glob("*") if (entry := self.entry(path.name)) is not None]
        return sorted(found, key=lambda entry: (entry.created, entry.id), reverse=True)

    def entry(self, key: object) -> Entry | None:
        """One adapter by its id, or None if there is none. What is damaged of its entry.json has its default."""
        if not isinstance(key, str) or not KEY.fullmatch(key):
            return None
        entry = read_model(self._folder / key / ENTRY, Entry)
        return entry and entry.model_copy(update={"id": key, "in_use": key == self.in_use})

    @property
    def in_use(self) -> str:
        """The id of the adapter in use, or ""."""
        return self._state.read().in_use

    @property
    def adapter(self) -> Adapter | None:
        """The adapter in use; after a restart it is read from disk when first asked for."""
        with self._lock:
            if not self._adapter_read:
                self._adapter_read = True
                try:
                    self._adapter = self.load(self.in_use) if self.in_use else None
                except NearlError:
                    self._adapter = None
            return self._adapter

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
        from nearl.adapters.store import save_adapter

        self.check_room()
        self._check_bytes(sum(value.nbytes for value in adapter.state.values()))
        key, meta = secrets.token_hex(8), adapter.meta
        entry = Entry(
            name=_tidy(name) or self._free_name(meta["classes"]),
            classes=list(meta["classes"]),
            created=meta["created"],
            method=meta["method"],
            support_counts=dict(meta["support_counts"]),
            figures=_figures(meta.get("metrics")),
        )
        save_adapter(adapter, self._folder / key)
        write_json(self._folder / key / ENTRY, entry.model_dump(exclude={"id", "in_use"}))
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

    def _free_name(self, classes: list[str]) -> str:
        """The classes in short, with a number where that name is taken."""
        stem = _tidy(", ".join(classes[:3]) + (" …" if len(classes) > 3 else ""))
        taken = {entry.name for entry in self.items()}
        names = [stem, *(f"{stem} ({number})" for number in range(2, MAX_ADAPTERS + 2))]
        return next(name for name in names if name not in taken)


def _tidy(name: object) -> str:
    return " ".join(str(name or "").split())[:MAX_NAME]


def _figures(metrics: Any) -> dict | None:
    """The Figures in what `nearl.measure.evaluate.study` wrote into an adapter; a stranger's may hold anything."""
    try:
        parts = {"before": metrics["frozen"], "after": metrics["adapted"]}
        figures = {
            when: {"value": part["balanced_accuracy"], "interval": part["balanced_accuracy_interval"]}
            for when, part in parts.items()
        }
        return Figures.model_validate({"n": metrics["n"], **figures}).model_dump()
    except (KeyError, TypeError, ValidationError):
        return None
