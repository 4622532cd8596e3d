"""What a workspace remembers between two servers: the model and the adapter in use, the latest run and comparison."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.visitor.disk import listed, look_into, read_model, write_json

Key = Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]


class State(BaseModel):
    """The content of state.json. A Key is the name of a folder of 16 hexadecimal digits, or "" for none."""

    model_config = ConfigDict(frozen=True)

    in_use: Key = ""  # on the shelf
    run: Key = ""  # in runs/
    comparison: Key = ""  # in comparisons/
    model: Annotated[str, Field(max_length=1000)] = ""  # the name of the one that was chosen; "" for the page's own


class StateFile:
    """A workspace's state.json. `lock` is held while it is changed."""

    def __init__(self, path: Path, lock: threading.RLock):
        self._path, self._lock = path, lock

    def read(self) -> State:
        """The state; for a new workspace, and for what is damaged, the empty one."""
        return read_model(self._path, State) or State()

    def note(self) -> str:
        """What of the state could not be read, in a sentence; "" where nothing is missing."""
        _, skipped = look_into(self._path, State)
        if not skipped:
            return ""
        return (
            f"What was noted of your work is damaged or of another version of this app, and {listed(skipped)} was left "
            "out; choose again which adapter to use."
        )

    def change(self, **changes: str) -> None:
        with self._lock:
            old = self.read()
            new = old.model_copy(update=changes)
            if new != old:  # a workspace in which nothing was kept has no folder
                write_json(self._path, new.model_dump())
