"""What one visitor has brought and made: images to read, labelled images, adapters and runs.

Labelled images, runs and adapters are on disk and outlive the server; what is read in Predict is in memory alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from app.visitor import uploads
from app.visitor.disk import folder_bytes
from app.visitor.maps import Maps
from app.visitor.runs import Runs
from app.visitor.shelf import Shelf
from app.visitor.state import StateFile
from app.visitor.support import Support
from app.visitor.viewing import Viewing
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from nearl.adapters.store import Adapter

IDLE_SECONDS = 3600.0  # in memory
GRACE_SECONDS = 600.0  # in memory after the page was closed; a reload may come back within it
MAX_BYTES = 2**30  # of one workspace on disk
MIN_FREE = 2**30  # bytes to leave on the disk


class Workspace:
    """The parts of one visitor's work. Each part changes its own attributes, all under the same `lock`.

    `path` is its folder on disk, made when first written to. `id` is None for one that a restarted server found there
    and whose visitor has not come back yet.
    """

    def __init__(self, key: str | None, path: Path, now: float = 0.0):
        self.id, self.path, self.touched = key, path, now
        self.closed_at: float | None = None
        self.lock = threading.RLock()
        state = StateFile(path / "state.json", self.lock)
        self.maps = Maps(self.lock)
        self.shelf = Shelf(path / "shelf", state, self.lock, self.check_room, self._adapter_changed)
        self.viewing = Viewing(self.lock, self.maps, self.shelf)
        self.support = Support(path / "set", self.lock, self.check_room)
        self.runs = Runs(self.lock, state)
        self._downloads = uploads.root() / f"out-{secrets.token_hex(16)}"

    @property
    def busy(self) -> bool:
        """Whether a run or a comparison is going on or waits for its turn."""
        return self.runs.busy

    def download(self, name: str) -> Path:
        """The path for a file to download, in a new folder with a random name: Gradio serves it to whoever knows the
        path, and whoever is given one cannot guess another. Removed after an hour, or with the workspace."""
        folder = self._downloads / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        return folder / name

    def check_room(self, more: int) -> None:
        """Raises NearlError if so many bytes more would be too many, for this workspace or for the disk."""
        if folder_bytes(self.path) + more > MAX_BYTES:
            raise NearlError(
                f"Your workspace is full ({MAX_BYTES >> 20} MB); remove images or adapters from it, then try again."
            )
        if shutil.disk_usage(self.path.parent).free < more + MIN_FREE:
            raise NearlError("The server's disk is nearly full; try again tomorrow, or tell whoever runs it.")

    def _adapter_changed(self, adapter: Adapter | None) -> None:
        self.viewing.forget_reading(None if adapter is None else PromptSet.from_dict(adapter.meta["prompts"]))

    # ---- expiry

    def use(self, key: str | None, now: float) -> None:
        """The visitor is here. `key`: the id they came with."""
        self.id, self.touched, self.closed_at = key, now, None
        if self.path.exists():
            self.stamp(now)

    def leave(self, now: float) -> None:
        """The page was closed."""
        self.closed_at = now

    def expired(self, now: float) -> bool:
        """Whether it is to leave memory; what is on disk stays longer."""
        if self.busy:
            return False
        if self.closed_at is not None and now - self.closed_at > GRACE_SECONDS:
            return True
        return now - self.touched > IDLE_SECONDS

    def close(self) -> None:
        """Leave memory; what is on disk stays."""
        shutil.rmtree(self._downloads, ignore_errors=True)

    def stamp(self, now: float) -> None:
        """Keep the time of the last use on disk, for a server that starts later."""
        with contextlib.suppress(OSError):
            os.utime(self.path, (now, now))
